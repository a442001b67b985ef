//! Removes what computes nothing: dead nodes, values made twice, operations that change nothing.
//!
//! Every result keeps its bits. So `x + 0` stays (it makes -0 into 0), while `x - 0`, `x + -0`, `x · 1` and `x / 1` go.
//! Values made twice are joined within a block only, because a block is recomputed as a whole: a value joined across
//! blocks would widen the cut. No gradient changes but for the order of its sums.

use std::collections::HashMap;

use crate::ir::{Binary, Graph, Node, Op, Param, Type, Value};
use crate::text;

/// The same results from fewer nodes. Parameters no node uses are dropped; scopes, blocks and streams stay as they are.
/// `graph` must be valid ([`crate::verify`]); the result is.
pub fn simplify(graph: &Graph) -> Graph {
    let mut out = Graph { nodes: Vec::new(), params: Vec::new(), outputs: Vec::new(), ..graph.clone() };
    // Where the value of each old node is found in the new graph.
    let mut new: Vec<Value> = Vec::with_capacity(graph.nodes.len());
    let mut made: HashMap<String, Value> = HashMap::new();
    for node in &graph.nodes {
        let mut node = Node { inputs: node.inputs.iter().map(|v| new[v.index()]).collect(), ..node.clone() };
        let value = match shortcut(&out.nodes, &mut node) {
            Some(same) => same,
            None => *made.entry(key(graph, &node)).or_insert_with(|| {
                out.nodes.push(node);
                Value(out.nodes.len() as u32 - 1)
            }),
        };
        new.push(value);
    }
    out.outputs = graph.outputs.iter().map(|(name, v)| (name.clone(), new[v.index()])).collect();
    drop_dead_nodes(&mut out);
    drop_unused_params(&mut out, graph);
    out
}

/// Two nodes with equal keys make the same value in the same block.
fn key(graph: &Graph, node: &Node) -> String {
    let block = graph.scopes[node.scope as usize].block;
    let options = text::options(&node.op, &|p| p.0.to_string());
    format!("{block:?} {} {:?} {options:?} {:?}", node.op.name(), node.inputs, node.ty)
}

/// The value that `node` equals, if it computes nothing; otherwise `node` may be made more direct. `made` are the nodes
/// so far, which `node` refers to.
fn shortcut(made: &[Node], node: &mut Node) -> Option<Value> {
    match &node.op {
        Op::Reshape => {
            // Nodes so far hold no reshape of a reshape, so one step reaches the origin.
            let inner = &made[node.inputs[0].index()];
            if inner.op == Op::Reshape {
                node.inputs = inner.inputs.clone();
            }
            same_type(made, node.inputs[0], &node.ty)
        }
        Op::Slice { .. } => same_type(made, node.inputs[0], &node.ty),
        Op::Concat { .. } if node.inputs.len() == 1 => Some(node.inputs[0]),
        Op::Binary(function) => {
            let [a, b] = [node.inputs[0], node.inputs[1]];
            let is = |value: Value, number: f64| matches!(made[value.index()].op, Op::Scalar(x) if x.to_bits() == number.to_bits());
            let kept = match function {
                Binary::Mul if is(b, 1.0) => a,
                Binary::Mul if is(a, 1.0) => b,
                Binary::Div if is(b, 1.0) => a,
                Binary::Sub if is(b, 0.0) => a,
                Binary::Add if is(b, -0.0) => a,
                Binary::Add if is(a, -0.0) => b,
                _ => return None,
            };
            same_type(made, kept, &node.ty)
        }
        _ => None,
    }
}

fn same_type(made: &[Node], value: Value, ty: &Type) -> Option<Value> {
    (made[value.index()].ty == *ty).then_some(value)
}

fn drop_dead_nodes(graph: &mut Graph) {
    let mut live = vec![false; graph.nodes.len()];
    graph.outputs.iter().for_each(|(_, v)| live[v.index()] = true);
    for index in (0..live.len()).rev() {
        if live[index] {
            graph.nodes[index].inputs.iter().for_each(|v| live[v.index()] = true);
        }
    }
    let mut moved: Vec<Value> = Vec::with_capacity(live.len());
    let mut kept = 0;
    for &live in &live {
        moved.push(Value(kept));
        kept += u32::from(live);
    }
    let mut index = 0;
    graph.nodes.retain(|_| {
        index += 1;
        live[index - 1]
    });
    let uses = graph.nodes.iter_mut().flat_map(|n| &mut n.inputs).chain(graph.outputs.iter_mut().map(|(_, v)| v));
    uses.for_each(|v| *v = moved[v.index()]);
}

/// Fills `graph.params` with those of `before` that a node uses, in the order they had.
fn drop_unused_params(graph: &mut Graph, before: &Graph) {
    let mut used = vec![false; before.params.len()];
    graph.nodes.iter().flat_map(|n| n.op.params()).for_each(|p| used[p.index()] = true);
    let mut moved: Vec<Param> = Vec::with_capacity(used.len());
    for (info, used) in before.params.iter().zip(&used) {
        moved.push(Param(graph.params.len() as u32));
        if *used {
            graph.params.push(info.clone());
        }
    }
    graph.nodes.iter_mut().for_each(|n| n.op.map_params(|p| moved[p.index()]));
}
