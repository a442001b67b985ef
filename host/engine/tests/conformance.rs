//! Every op on this backend against the reference interpreter: logits directly, gradients by finite differences of the
//! interpreter in f64, so the gradient table, the program and the kernels are checked at once, with and without
//! recomputation.
//!
//! Tolerances: f32 has 24 bits; sums of some tens of products keep about 1e-6 of the largest value, and gradients pass
//! through a few such sums. 1e-5 and 1e-4 leave room for that and none for a wrong term. `SWIFT_TEST_DEVICE=cuda:0` runs
//! the same on a GPU in f32, where 1e-4 is the bound of both.

mod common;

use std::sync::Arc;

use common::{bound, build, decoder, placement, relative, tokens};
use swift_engine::{AdamWOptions, Batch, InferSession, MemoryWeights, TrainOptions, TrainSession, Tuner};
use swift_graph::interpret::{Feed, cross_entropy, parameter_difference, run};
use swift_graph::ir::{Graph, Op};
use swift_graph::lora::{LoraConfig, LoraInit};
use swift_graph::{Arg, Builder, Param, Value};

const SEQUENCES: [&[u32]; 3] = [&[3, 1, 4, 1, 5], &[9, 2, 6, 5, 3, 5, 8], &[7]];

fn batch() -> Batch {
    let mut batch = Batch::of_sequences(&SEQUENCES);
    let rows = batch.rows();
    for i in 0..rows {
        batch.targets[i] = (i as u32 * 5 + 2) % 17;
        batch.weights[i] = [1.0, 0.5, 0.0][i % 3];
    }
    batch
}

fn feed(dropout_key: Option<u64>) -> Feed {
    let sequences: Vec<Vec<i64>> = SEQUENCES.iter().map(|s| s.iter().map(|t| i64::from(*t)).collect()).collect();
    let refs: Vec<&[i64]> = sequences.iter().map(Vec::as_slice).collect();
    Feed { dropout_key, ..Feed::tokens(&refs) }
}

fn options(tuner: Tuner, recompute_blocks: bool) -> TrainOptions {
    TrainOptions { tuner, recompute_blocks, seed: 3, optimizer: AdamWOptions::default(), placement: placement() }
}

/// Logits, loss and all gradients of a graph against the interpreter.
fn check(graph: &Graph, weights: &MemoryWeights) {
    let values = |p: Param| {
        weights.values(&graph.param(p).name).expect("a weight").iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()
    };
    let logits = graph.output("logits").expect("logits");
    let vocabulary = graph.ty(logits).last();
    let expected = run::<f64>(graph, &values, &feed(None), &[logits]).expect("the interpreter runs");
    let source = Arc::new(weights.clone());
    let mut session = InferSession::new(graph.clone(), source.clone(), &placement()).expect("a session");
    let got = session.logits(&batch()).expect("logits");
    let error = relative(&got, &expected[&logits]);
    assert!(error < bound(1e-5), "logits differ by {error:e}");

    let b = batch();
    let targets: Vec<i64> = b.targets.iter().map(|t| i64::from(*t)).collect();
    let row_weights: Vec<f64> = b.weights.iter().map(|w| f64::from(*w)).collect();
    let scale = 0.37;
    for recompute in [false, true] {
        let mut train =
            TrainSession::new(graph.clone(), source.clone(), options(Tuner::Full, recompute)).expect("a session");
        let loss = train.accumulate(&b, scale, 1).expect("a step");
        let reference = cross_entropy(&expected[&logits], vocabulary, &targets, &row_weights);
        assert!((loss.loss - reference).abs() < bound(1e-5) * reference, "loss {} against {reference}", loss.loss);
        for i in 0..graph.params.len() {
            let param = Param(i as u32);
            let name = &graph.param(param).name;
            let wanted = parameter_difference(graph, &values, &feed(None), &[logits], param, &|v| {
                f64::from(scale) * cross_entropy(&v[&logits], vocabulary, &targets, &row_weights)
            })
            .expect("differences");
            let gradient = train.gradient(name).expect("a gradient");
            assert!(wanted.iter().any(|g| g.abs() > 1e-9), "the test of {name} would pass with a zero gradient");
            let error = relative(&gradient, &wanted);
            assert!(error < bound(1e-4), "gradient of {name} differs by {error:e} (recompute {recompute})");
        }
    }
}

/// A model of one op: embedding [17, 12], the op, a head.
fn one_op(extra: &[(&str, &[usize])], width: u32, op: impl FnOnce(&mut Builder, Value, Value) -> Value) {
    let mut tensors: Vec<(&str, &[usize])> = vec![("embed", &[17, 12])];
    tensors.extend_from_slice(extra);
    let shape = [17, width as usize];
    tensors.push(("head", &shape));
    let (graph, weights) = build(&tensors, |b| {
        let (t, p) = tokens(b);
        let table = b.load("embed", &[17, 12]).unwrap();
        let x = b.embed(t, table).unwrap();
        b.enter("layers.0", "block").unwrap();
        let y = op(b, x, p);
        // Used twice, so that gradients meet; and through a square, so that its own gradient matters.
        let z = b.unary("tanh", y).unwrap();
        let y = b.binary("add", y, z).unwrap();
        b.exit().unwrap();
        let tail = b.shape(y).unwrap();
        let y = if tail == [width] { y } else { b.reshape(y, &[width]).unwrap() };
        let head = b.load("head", &[17, width]).unwrap();
        let l = b.logits(y, head, &[]).unwrap();
        b.output("logits", l).unwrap();
    });
    check(&graph, &weights);
}

#[test]
fn a_whole_decoder() {
    for window in [None, Some(2)] {
        let (graph, weights) = decoder(window);
        check(&graph, &weights);
    }
}

#[test]
fn linear_with_bias() {
    one_op(&[("w", &[10, 12]), ("b", &[10])], 10, |b, x, _| {
        let (w, bias) = (b.load("w", &[10, 12]).unwrap(), b.load("b", &[10]).unwrap());
        b.linear(x, w, Some(bias)).unwrap()
    });
}

#[test]
fn norms() {
    one_op(&[("w", &[12])], 12, |b, x, _| {
        let w = b.load("w", &[12]).unwrap();
        b.rms_norm(x, Some(w), 1e-5, &[("offset".into(), Arg::Num(1.0))]).unwrap()
    });
    one_op(&[("w", &[4])], 12, |b, x, _| {
        let w = b.load("w", &[4]).unwrap();
        let x = b.reshape(x, &[3, 4]).unwrap();
        b.rms_norm(x, Some(w), 1e-6, &[]).unwrap()
    });
    one_op(&[("w", &[12]), ("b", &[12])], 12, |b, x, _| {
        let (w, bias) = (b.load("w", &[12]).unwrap(), b.load("b", &[12]).unwrap());
        b.layer_norm(x, Some(w), Some(bias), 1e-5).unwrap()
    });
    one_op(&[], 12, |b, x, _| b.l2_norm(x, 1e-6).unwrap());
}

#[test]
fn softmax_over_the_last_axis() {
    one_op(&[], 12, |b, x, _| {
        let x = b.reshape(x, &[3, 4]).unwrap();
        b.softmax(x).unwrap()
    });
}

#[test]
fn rope_in_every_form() {
    let text = |t: &str| Arg::Text(t.into());
    let forms: Vec<(u32, Vec<(String, Arg)>)> = vec![
        (6, vec![]),
        (4, vec![("interleaved".into(), Arg::Flag(true))]),
        (6, vec![("scaling".into(), text("linear")), ("factor".into(), Arg::Num(2.0))]),
        (
            6,
            vec![
                ("scaling".into(), text("dynamic")),
                ("factor".into(), Arg::Num(2.0)),
                ("max-position".into(), Arg::Num(4.0)),
            ],
        ),
        (
            6,
            vec![
                ("scaling".into(), text("yarn")),
                ("factor".into(), Arg::Num(4.0)),
                ("original-max-position".into(), Arg::Num(64.0)),
            ],
        ),
    ];
    for (dims, options) in forms {
        one_op(&[], 12, |b, x, p| {
            let x = b.reshape(x, &[2, 6]).unwrap();
            b.rope(x, p, dims, 100.0, &options).unwrap()
        });
    }
}

#[test]
fn attention_in_every_form() {
    for (form, cap) in [("causal", None), ("all", None), ("window", None), ("causal", Some(2.0))] {
        one_op(&[("q", &[12, 12]), ("k", &[6, 12]), ("v", &[8, 12])], 16, |b, x, _| {
            let (wq, wk, wv) =
                (b.load("q", &[12, 12]).unwrap(), b.load("k", &[6, 12]).unwrap(), b.load("v", &[8, 12]).unwrap());
            let (q, k, v) =
                (b.linear(x, wq, None).unwrap(), b.linear(x, wk, None).unwrap(), b.linear(x, wv, None).unwrap());
            let (q, k, v) =
                (b.reshape(q, &[4, 3]).unwrap(), b.reshape(k, &[2, 3]).unwrap(), b.reshape(v, &[2, 4]).unwrap());
            let mask = match form {
                "causal" => b.mask_causal(),
                "all" => b.mask_all(),
                _ => b.mask_window(2, 1),
            };
            let options: Vec<_> = cap.iter().map(|c| ("soft-cap".to_string(), Arg::Num(*c))).collect();
            b.attention(q, k, v, mask, 0.7, &options).unwrap()
        });
    }
}

#[test]
fn every_unary_and_glu() {
    for (name, _) in swift_graph::ir::Unary::ALL {
        one_op(&[], 12, |b, x, _| {
            // Roots and logarithms want positive numbers.
            let x = if matches!(*name, "sqrt" | "rsqrt" | "log") {
                let s = b.unary("square", x).unwrap();
                let half = b.scalar(0.5).unwrap();
                b.binary("add", s, half).unwrap()
            } else {
                x
            };
            b.unary(name, x).unwrap()
        });
    }
    for name in ["silu", "gelu", "gelu-tanh", "sigmoid"] {
        one_op(&[("u", &[12, 12])], 12, |b, x, _| {
            let w = b.load("u", &[12, 12]).unwrap();
            let u = b.linear(x, w, None).unwrap();
            b.glu(x, u, name).unwrap()
        });
    }
}

#[test]
fn every_binary_in_every_broadcast() {
    for (name, _) in swift_graph::ir::Binary::ALL {
        for swapped in [false, true] {
            let pair = |b: &mut Builder, x: Value, y: Value| {
                let (l, r) = if swapped { (y, x) } else { (x, y) };
                b.binary(name, l, r).unwrap()
            };
            // Away from zero, so that quotients stay tame.
            let lift = |b: &mut Builder, x: Value| {
                let s = b.unary("square", x).unwrap();
                let one = b.scalar(1.0).unwrap();
                b.binary("add", s, one).unwrap()
            };
            one_op(&[("w", &[12, 12])], 12, |b, x, _| {
                let w = b.load("w", &[12, 12]).unwrap();
                let y = b.linear(x, w, None).unwrap();
                let (x, y) = (lift(b, x), lift(b, y));
                pair(b, x, y)
            });
            one_op(&[("w", &[4])], 12, |b, x, _| {
                let w = b.load("w", &[4]).unwrap();
                let w = b.read(w).unwrap();
                let x = lift(b, x);
                let x = b.reshape(x, &[3, 4]).unwrap();
                pair(b, x, w)
            });
            one_op(&[], 12, |b, x, _| {
                let x = lift(b, x);
                let c = b.scalar(1.05).unwrap();
                pair(b, x, c)
            });
            one_op(&[("w", &[3, 12])], 12, |b, x, _| {
                let w = b.load("w", &[3, 12]).unwrap();
                let g = b.linear(x, w, None).unwrap();
                let g = lift(b, g);
                let g = b.reshape(g, &[3, 1]).unwrap();
                let x = lift(b, x);
                let x = b.reshape(x, &[3, 4]).unwrap();
                pair(b, x, g)
            });
        }
    }
}

#[test]
fn split_and_concat() {
    one_op(&[], 12, |b, x, _| {
        let x = b.reshape(x, &[3, 4]).unwrap();
        let parts = b.split(x, 1, &[1, 3]).unwrap();
        let rows = b.split(parts[1], 0, &[2, 1]).unwrap();
        let back = b.concat(&[rows[1], rows[0]], 0).unwrap();
        b.concat(&[back, parts[0]], 1).unwrap()
    });
}

#[test]
fn capped_and_scaled_logits() {
    let (graph, weights) = build(&[("embed", &[17, 12])], |b| {
        let (t, _) = tokens(b);
        let table = b.load("embed", &[17, 12]).unwrap();
        let x = b.embed(t, table).unwrap();
        let x = b.unary("tanh", x).unwrap();
        // Tied: the table gathers gradients from both ends.
        let l = b.logits(x, table, &[("soft-cap".into(), Arg::Num(3.0)), ("scale".into(), Arg::Num(2.0))]).unwrap();
        b.output("logits", l).unwrap();
    });
    check(&graph, &weights);
}

#[test]
fn lora_and_dropout() {
    let (graph, weights) = decoder(None);
    let config = LoraConfig { rank: 3, alpha: 6.0, dropout: 0.25, init: LoraInit::Random, ..LoraConfig::default() };
    let b = batch();
    let targets: Vec<i64> = b.targets.iter().map(|t| i64::from(*t)).collect();
    let row_weights: Vec<f64> = b.weights.iter().map(|w| f64::from(*w)).collect();
    let key = 0x1234_5678_9abc;
    for recompute in [false, true] {
        let mut train = TrainSession::new(
            graph.clone(),
            Arc::new(weights.clone()),
            options(Tuner::Lora(config.clone()), recompute),
        )
        .expect("a session");
        assert_eq!(train.adapters().len(), 14, "seven matrices in two blocks");
        let loss = train.accumulate(&b, 0.5, key).expect("a step");
        let lora = train.graph().clone();
        assert!(lora.nodes.iter().any(|n| matches!(n.op, Op::Dropout { .. })));
        let values = |p: Param| {
            let name = &lora.param(p).name;
            let data = train.values(name).or_else(|| weights.values(name).map(Into::into)).expect("a weight");
            data.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()
        };
        let logits = lora.output("logits").expect("logits");
        let expected = run::<f64>(&lora, &values, &feed(Some(key)), &[logits]).expect("the interpreter runs");
        let reference = cross_entropy(&expected[&logits], 17, &targets, &row_weights);
        assert!((loss.loss - reference).abs() < bound(1e-5) * reference, "loss {} against {reference}", loss.loss);
        for adapter in train.adapters() {
            for param in [adapter.a, adapter.b] {
                let wanted = parameter_difference(&lora, &values, &feed(Some(key)), &[logits], param, &|v| {
                    0.5 * cross_entropy(&v[&logits], 17, &targets, &row_weights)
                })
                .expect("differences");
                let name = &lora.param(param).name;
                let gradient = train.gradient(name).expect("a gradient");
                assert!(gradient.iter().any(|g| *g != 0.0), "{name} learns nothing");
                let error = relative(&gradient, &wanted);
                assert!(error < bound(1e-4), "gradient of {name} differs by {error:e}");
            }
        }
        assert!(train.gradient("layers.0.q.weight").is_none(), "a frozen matrix has no gradient");
    }
}
