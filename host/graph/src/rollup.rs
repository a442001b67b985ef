//! Finds repetition: blocks that are the same computation up to the names of their own parameters.
//!
//! Repetition is found, not declared: a plugin unrolls its layers in its own loop, and equal blocks fold here, so that
//! plans and printed models hold one of each kind. Everything that changes what a block computes stands in its digest:
//! ops, literals, masks, rotary numbers, types, wiring, and parameter shapes.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use crate::ir::{Graph, Op, Param, Value};
use crate::text;

/// Blocks that are one computation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockKind {
    /// SHA-256 of the block's body. Stable within a version of the text form.
    pub digest: [u8; 32],
    /// The blocks of this kind, in order: indices into [`Graph::blocks`]. They differ only in which parameters they
    /// read, which values come in, and the salts of their dropouts.
    pub members: Vec<u32>,
}

/// Values that cross a block's edge: the cut for recomputation and pipelines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockEdges {
    /// Made outside, used inside; in order of first use.
    pub inputs: Vec<Value>,
    /// Made inside, used outside or published; in order of making.
    pub outputs: Vec<Value>,
}

/// The cut of each block of the graph.
pub fn block_edges(graph: &Graph) -> Vec<BlockEdges> {
    let mut edges = vec![BlockEdges::default(); graph.blocks.len()];
    let mut leaves = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        let block = graph.block_of(Value(index as u32));
        for &input in &node.inputs {
            if graph.block_of(input) == block {
                continue;
            }
            leaves[input.index()] = true;
            if let Some(block) = block
                && !edges[block as usize].inputs.contains(&input)
            {
                edges[block as usize].inputs.push(input);
            }
        }
    }
    graph.outputs.iter().for_each(|(_, value)| leaves[value.index()] = true);
    for index in (0..graph.nodes.len()).filter(|&index| leaves[index]) {
        let value = Value(index as u32);
        if let Some(block) = graph.block_of(value) {
            edges[block as usize].outputs.push(value);
        }
    }
    edges
}

/// The kinds of blocks, in order of their first member.
///
/// A parameter that no node outside the block reads counts by its shape and its name below the block's path (or, if it
/// is named elsewhere, by its order of use); one that is shared counts by its whole name, since a block tied to another
/// is another computation to train. Dropout salts count by which dropouts of the block share one.
pub fn block_kinds(graph: &Graph) -> Vec<BlockKind> {
    let owners = param_owners(graph);
    let mut members: Vec<Vec<Value>> = vec![Vec::new(); graph.blocks.len()];
    for index in 0..graph.nodes.len() {
        let value = Value(index as u32);
        if let Some(block) = graph.block_of(value) {
            members[block as usize].push(value);
        }
    }
    let mut kinds: Vec<BlockKind> = Vec::new();
    let mut by_digest: HashMap<[u8; 32], usize> = HashMap::new();
    for (block, (nodes, edges)) in members.iter().zip(block_edges(graph)).enumerate() {
        let body = Body { graph, block: block as u32, owners: &owners }.text(nodes, &edges);
        let digest: [u8; 32] = Sha256::digest(body.as_bytes()).into();
        let kind = *by_digest.entry(digest).or_insert_with(|| {
            kinds.push(BlockKind { digest, members: Vec::new() });
            kinds.len() - 1
        });
        kinds[kind].members.push(block as u32);
    }
    kinds
}

/// Who reads a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    Nobody,
    Block(u32),
    /// Several blocks, or a node outside of all.
    Shared,
}

fn param_owners(graph: &Graph) -> Vec<Owner> {
    let mut owners = vec![Owner::Nobody; graph.params.len()];
    for (index, node) in graph.nodes.iter().enumerate() {
        let here = graph.block_of(Value(index as u32)).map_or(Owner::Shared, Owner::Block);
        for param in node.op.params() {
            let owner = &mut owners[param.index()];
            *owner = if *owner == Owner::Nobody || *owner == here { here } else { Owner::Shared };
        }
    }
    owners
}

struct Body<'a> {
    graph: &'a Graph,
    block: u32,
    owners: &'a [Owner],
}

impl Body<'_> {
    /// The block's computation as text: equal for equal computations.
    fn text(&self, nodes: &[Value], edges: &BlockEdges) -> String {
        let graph = self.graph;
        let mut body = format!("block {}\n", text::VERSION);
        let mut names: HashMap<Value, String> = HashMap::new();
        for (index, &input) in edges.inputs.iter().enumerate() {
            names.insert(input, format!("in{index}"));
            body.push_str(&format!("in{index} : {}\n", text::type_text(graph, graph.ty(input))));
        }
        let mut params: Vec<Param> = Vec::new();
        let mut salts: Vec<u64> = Vec::new();
        for (index, &value) in nodes.iter().enumerate() {
            names.insert(value, format!("%{index}"));
            let node = graph.node(value);
            for param in node.op.params() {
                if !params.contains(&param) {
                    params.push(param);
                }
            }
            let mut op = node.op.clone();
            if let Op::Dropout { salt, .. } = &mut op {
                let local = salts.iter().position(|s| s == salt).unwrap_or_else(|| {
                    salts.push(*salt);
                    salts.len() - 1
                });
                *salt = local as u64;
            }
            let inputs: Vec<&str> = node.inputs.iter().map(|v| names[v].as_str()).collect();
            let options = text::options(&op, &|p| self.param(p, &params));
            let ty = text::type_text(graph, &node.ty);
            body.push_str(&format!("%{index} = {} {inputs:?} {options:?} : {ty}\n", op.name()));
        }
        let outputs: Vec<&str> = edges.outputs.iter().map(|v| names[v].as_str()).collect();
        body.push_str(&format!("out {outputs:?}\n"));
        body
    }

    /// A parameter as the block knows it. `used` are the block's parameters in order of first use.
    fn param(&self, param: Param, used: &[Param]) -> String {
        let info = self.graph.param(param);
        let path = &self.graph.blocks[self.block as usize];
        let own = self.owners[param.index()] == Owner::Block(self.block);
        let below = info.name.strip_prefix(path.as_str()).and_then(|rest| rest.strip_prefix('.'));
        let name = match (own, below) {
            (false, _) => format!("shared {}", info.name),
            (true, Some(below)) => format!("own {below}"),
            (true, None) => format!("own number {}", used.iter().position(|p| *p == param).unwrap_or(used.len())),
        };
        format!("{name} {:?} checkpoint={}", info.shape, info.in_checkpoint)
    }
}
