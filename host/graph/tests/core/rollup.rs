//! Equal blocks fold, different ones do not, and the cuts are right.

use swift_graph::ir::{Op, Type};
use swift_graph::rollup::{block_edges, block_kinds};
use swift_graph::{Graph, Value};

use crate::support::{LAYER, Layer, decoder, push};

fn members(graph: &Graph) -> Vec<Vec<u32>> {
    block_kinds(graph).into_iter().map(|kind| kind.members).collect()
}

#[test]
fn equal_layers_fold_into_one_kind() {
    assert_eq!(members(&decoder(&[LAYER; 4])), [[0, 1, 2, 3]]);
    // The digest is of the block, not of the model around it.
    assert_eq!(block_kinds(&decoder(&[LAYER; 2]))[0].digest, block_kinds(&decoder(&[LAYER; 3]))[0].digest);
}

#[test]
fn masks_and_literals_tell_layers_apart() {
    for other in [Layer { window: Some(3), ..LAYER }, Layer { theta: 10000.0, ..LAYER }, Layer { eps: 1e-5, ..LAYER }] {
        assert_eq!(members(&decoder(&[LAYER, other, LAYER, other])), [[0, 2], [1, 3]], "{other:?}");
    }
    let [three, four] = [3, 4].map(|left| Layer { window: Some(left), ..LAYER });
    assert_eq!(members(&decoder(&[three, four])), [[0], [1]]);
}

#[test]
fn a_parameter_shared_with_another_block_matters() {
    let graph = decoder(&[LAYER, LAYER, LAYER, Layer { borrows: true, ..LAYER }]);
    // Lender and borrower read the same query weight, the others one of their own.
    assert_eq!(members(&graph), [[0, 3], [1, 2]]);
    // A node outside of all blocks that reads it sets its block apart as well.
    let mut tied = decoder(&[LAYER; 3]);
    let query = tied.params.iter().position(|p| p.name == "model.layers.1.self_attn.q_proj.weight").unwrap();
    let ty = Type { rows: None, tail: vec![8, 8], dtype: swift_graph::DataType::Compute };
    push(&mut tied, Op::Read(swift_graph::Param(query as u32)), Vec::new(), ty);
    assert_eq!(members(&tied), [vec![0, 2], vec![1]]);
}

#[test]
fn names_outside_the_block_path_count_by_order_of_use_and_shape() {
    let mut graph = decoder(&[LAYER; 2]);
    for param in &mut graph.params {
        param.name = param.name.replace("model.layers.", "h_");
    }
    assert_eq!(members(&graph), [[0, 1]]);
    // Another wiring of the same parts is another kind: layer 1 with gate and up exchanged.
    let glu = graph.nodes.iter().rposition(|node| matches!(node.op, Op::Glu(_))).unwrap();
    graph.nodes[glu].inputs.reverse();
    assert_eq!(members(&graph), [[0], [1]]);
}

#[test]
fn salts_count_by_which_dropouts_share_one() {
    let with_dropouts = |salts: [[u64; 2]; 2]| {
        let mut graph = decoder(&[LAYER; 2]);
        for (block, salts) in salts.into_iter().enumerate() {
            for salt in salts {
                let scope = graph.scopes.iter().position(|s| s.block == Some(block as u32)).unwrap() as u32;
                let x = block_edges(&graph)[block].inputs[0];
                let ty: Type = graph.ty(x).clone();
                let op = Op::Dropout { probability: 0.1, salt };
                graph.nodes.push(swift_graph::ir::Node { op, inputs: vec![x], ty, scope });
            }
        }
        members(&graph)
    };
    assert_eq!(with_dropouts([[1, 2], [3, 4]]), [[0, 1]]);
    assert_eq!(with_dropouts([[1, 2], [3, 3]]), [[0], [1]]);
}

#[test]
fn edges_are_the_values_that_cross() {
    let graph = decoder(&[LAYER; 2]);
    let edges = block_edges(&graph);
    let (positions, embedded) = (Value(1), Value(2));
    assert_eq!(edges[0].inputs, [embedded, positions]);
    assert_eq!(edges[0].outputs.len(), 1);
    let between = edges[0].outputs[0];
    assert_eq!(edges[1].inputs, [between, positions]);
    assert_eq!(graph.ty(between), graph.ty(embedded));

    // What is published crosses too, though no node outside uses it.
    let mut published = graph.clone();
    let inside = Value(edges[0].outputs[0].0 - 1);
    published.outputs.push(("inside".into(), inside));
    assert_eq!(block_edges(&published)[0].outputs, [inside, between]);
    assert_eq!(members(&published), [[0], [1]]);
}
