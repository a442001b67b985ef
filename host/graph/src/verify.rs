//! Checks that a graph is one: every node's type is what its shape rule says, every reference points backwards.
//!
//! Run after the trace and after every rewrite.

use crate::error::BuildError;
use crate::ir::{Graph, Op, Value};
use crate::shape;

/// Sizes of rows and parameters: more elements are an attack or a mistake (and sums of sizes stay far from overflowing),
/// and an empty axis computes nothing.
const ELEMENTS: std::ops::RangeInclusive<usize> = 1..=1 << 40;

/// Checks the whole graph.
///
/// # Errors
/// The first rule broken, with the node's scope and op.
pub fn verify(graph: &Graph) -> Result<(), BuildError> {
    for (i, node) in graph.nodes.iter().enumerate() {
        let value = Value(i as u32);
        let fail = |mut error: BuildError| {
            error.op = node.op.name().to_owned();
            error.scope = graph.scopes.get(node.scope as usize).map_or_else(String::new, |s| s.path.clone());
            error
        };
        let Some(scope) = graph.scopes.get(node.scope as usize) else {
            return Err(fail(BuildError::new(format!("node {i} names scope {}, which does not exist", node.scope))));
        };
        if scope.block.is_some_and(|b| b as usize >= graph.blocks.len()) {
            return Err(fail(BuildError::new("the scope names a block that does not exist")));
        }
        if let Some(bad) = node.inputs.iter().find(|v| **v >= value) {
            return Err(fail(BuildError::new(format!("node {i} uses value {}, which is not made before it", bad.0))));
        }
        if let Some(bad) = node.op.params().iter().find(|p| p.index() >= graph.params.len()) {
            return Err(fail(BuildError::new(format!("node {i} uses parameter {}, which does not exist", bad.0))));
        }
        if node.ty.rows.is_some_and(|r| r.index() >= graph.streams.len()) {
            return Err(fail(BuildError::new(format!("node {i} lies on a stream that does not exist"))));
        }
        if !ELEMENTS.contains(&node.ty.width()) {
            return Err(fail(BuildError::new(format!(
                "node {i} has an empty axis or rows of more than 2^40 elements"
            ))));
        }
        let inputs: Vec<_> = node.inputs.iter().map(|v| graph.ty(*v)).collect();
        match &node.op {
            Op::Input { .. } => {
                if node.ty.rows.is_none() || !inputs.is_empty() {
                    return Err(fail(BuildError::new("an input lies on a stream and takes no operands")));
                }
            }
            Op::Reshape => {
                let ok = inputs.len() == 1
                    && inputs[0].rows == node.ty.rows
                    && inputs[0].dtype == node.ty.dtype
                    && inputs[0].width() == node.ty.width();
                if !ok {
                    return Err(fail(BuildError::new(
                        "a reshape must keep rows, element type and the elements of a row",
                    )));
                }
            }
            op => {
                let ty = shape::infer(graph, op, &inputs).map_err(fail)?;
                if ty != node.ty {
                    return Err(fail(BuildError::new(format!(
                        "node {i} is declared as {:?} but its rule gives {ty:?}",
                        node.ty
                    ))));
                }
            }
        }
    }
    let mut names = std::collections::HashSet::new();
    for info in &graph.params {
        if !names.insert(info.name.as_str()) {
            return Err(BuildError::new(format!("parameter `{}` stands twice", info.name)));
        }
        if !ELEMENTS.contains(&info.elements()) {
            return Err(BuildError::new(format!(
                "parameter `{}` has an empty axis or more than 2^40 elements",
                info.name
            )));
        }
    }
    let mut names = std::collections::HashSet::new();
    for (name, value) in &graph.outputs {
        if !names.insert(name.as_str()) {
            return Err(BuildError::new(format!("output `{name}` stands twice")));
        }
        if value.index() >= graph.nodes.len() {
            return Err(BuildError::new(format!("output `{name}` is value {}, which does not exist", value.0)));
        }
    }
    Ok(())
}
