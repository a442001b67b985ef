//! Simplification keeps every bit and removes what it says.

use swift_graph::ir::{Binary, Op};
use swift_graph::simplify::simplify;
use swift_graph::verify::verify;
use swift_graph::{Builder, DataType, Graph, Value};

use crate::support::{checkpoint, outputs, random_graph, two_blocks};

fn bits(values: &[Vec<f64>]) -> Vec<Vec<u64>> {
    values.iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn random_graphs_keep_their_results_to_the_bit() {
    let (mut before, mut after) = (0, 0);
    for seed in 0..400 {
        let (mut graph, feed) = random_graph(seed, 30);
        // All nodes matter here: publish some more, so that not nearly everything is dead.
        for index in (0..graph.nodes.len()).step_by(3) {
            graph.outputs.push((format!("more {index}"), Value(index as u32)));
        }
        let simple = simplify(&graph);
        verify(&simple).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(bits(&outputs(&graph, &feed)), bits(&outputs(&simple, &feed)), "seed {seed}");
        assert_eq!(simplify(&simple), simple, "seed {seed}: a second pass finds more");
        assert_eq!((&simple.scopes, &simple.blocks, &simple.streams), (&graph.scopes, &graph.blocks, &graph.streams));
        before += graph.nodes.len();
        after += simple.nodes.len();
    }
    assert!(after * 10 < before * 9, "{before} nodes became {after}: the graphs hold too little to simplify");
}

#[test]
fn a_model_without_waste_stays_as_it_is() {
    assert_eq!(simplify(&two_blocks()), two_blocks());
}

fn small(build: impl FnOnce(&mut Builder, Value)) -> Graph {
    let mut b = Builder::new(&checkpoint(&[("w", &[4, 4]), ("unused", &[4]), ("dead", &[4, 4])]));
    let text = b.rows("text").unwrap();
    let x = b.input("x", text, DataType::Compute, &[4]).unwrap();
    build(&mut b, x);
    simplify(&b.finish().unwrap())
}

fn ops(graph: &Graph) -> Vec<&'static str> {
    graph.nodes.iter().map(|node| node.op.name()).collect()
}

#[test]
fn dead_nodes_and_their_parameters_go() {
    let graph = small(|b, x| {
        let (dead, w) = (b.load("dead", &[4, 4]).unwrap(), b.load("w", &[4, 4]).unwrap());
        b.load("unused", &[4]).unwrap();
        b.linear(x, dead, None).unwrap();
        let y = b.linear(x, w, None).unwrap();
        b.output("y", y).unwrap();
    });
    assert_eq!(ops(&graph), ["input", "linear"]);
    assert_eq!(graph.params.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["w"]);
}

#[test]
fn values_made_twice_are_joined_within_a_block_only() {
    let graph = small(|b, x| {
        for block in ["a", "b"] {
            b.enter(block, "block").unwrap();
            let [one, two] = [x, x].map(|x| b.unary("silu", x).unwrap());
            b.enter("inner", "").unwrap();
            let three = b.unary("silu", x).unwrap();
            let other = b.unary("relu", x).unwrap();
            b.exit().unwrap();
            let sum = b.binary("add", one, two).unwrap();
            let sum = b.binary("mul", sum, three).unwrap();
            let sum = b.binary("sub", sum, other).unwrap();
            b.exit().unwrap();
            b.output(block, sum).unwrap();
        }
    });
    let block = ["unary", "unary", "binary", "binary", "binary"];
    assert_eq!(ops(&graph), [&["input"][..], &block, &block].concat());
}

#[test]
fn what_changes_nothing_goes() {
    let graph = small(|b, x| {
        let y = b.reshape(x, &[2, 2]).unwrap();
        let y = b.reshape(y, &[4, 1]).unwrap();
        let y = b.reshape(y, &[4]).unwrap();
        let y = b.split(y, 0, &[4]).unwrap()[0];
        let y = b.concat(&[y], 0).unwrap();
        let (one, minus_zero, zero) = (b.scalar(1.0).unwrap(), b.scalar(-0.0).unwrap(), b.scalar(0.0).unwrap());
        let y = b.binary("mul", one, y).unwrap();
        let y = b.binary("div", y, one).unwrap();
        let y = b.binary("add", y, minus_zero).unwrap();
        let y = b.binary("sub", y, zero).unwrap();
        b.output("y", y).unwrap();
    });
    assert_eq!(ops(&graph), ["input"]);
    assert_eq!(graph.output("y"), Some(Value(0)));
}

#[test]
fn what_changes_a_bit_stays() {
    let graph = small(|b, x| {
        let (zero, one) = (b.scalar(0.0).unwrap(), b.scalar(1.0).unwrap());
        // -0 + 0 is 0; 1 / x and 0 - x are others; 1 * 1-row scalars keep the larger shape.
        let a = b.binary("add", x, zero).unwrap();
        let c = b.binary("div", one, x).unwrap();
        let d = b.binary("sub", zero, x).unwrap();
        let y = b.concat(&[a, c, d], 0).unwrap();
        b.output("y", y).unwrap();
    });
    assert_eq!(ops(&graph).iter().filter(|op| **op == "binary").count(), 3);
    assert!(graph.nodes.iter().any(|node| node.op == Op::Binary(Binary::Add)));
}
