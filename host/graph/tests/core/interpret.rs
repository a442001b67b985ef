//! Every op against numbers worked out by hand, and the properties the whole house rests on.

use std::collections::BTreeMap;

use swift_graph::interpret::{
    Feed, InterpretError, cross_entropy, dropout_keeps, finite_difference, parameter_difference, run,
};
use swift_graph::ir::{MaskRule, Op, Unary};
use swift_graph::{Arg, Builder, DataType, Graph, Param, Value};

use crate::support::{LAYER, Layer, Random, checkpoint, decoder, outputs, push, two_blocks, weights};

/// A graph of a few calls and what goes into it.
#[derive(Default)]
struct Case<'a> {
    lengths: &'a [u32],
    reals: &'a [(&'a str, &'a [u32], &'a [f64])],
    integers: &'a [(&'a str, &'a [i64])],
    params: &'a [(&'a str, &'a [u32], &'a [f64])],
}

impl Case<'_> {
    /// Inputs (reals, then integers) and parameters in the order given.
    fn trace(&self, build: impl FnOnce(&mut Builder, &[Value], &[Param]) -> Value) -> Graph {
        let tensors: Vec<(&str, &[u32])> = self.params.iter().map(|(name, shape, _)| (*name, *shape)).collect();
        let mut b = Builder::new(&checkpoint(&tensors));
        let text = b.rows("text").unwrap();
        let mut inputs = Vec::new();
        for (name, tail, _) in self.reals {
            inputs.push(b.input(name, text, DataType::Compute, tail).unwrap());
        }
        for (name, _) in self.integers {
            inputs.push(b.input(name, text, DataType::Int32, &[]).unwrap());
        }
        let params: Vec<Param> = tensors.iter().map(|(name, shape)| b.load(name, shape).unwrap()).collect();
        let y = build(&mut b, &inputs, &params);
        b.output("y", y).unwrap();
        b.finish().unwrap()
    }

    fn feed(&self) -> Feed {
        Feed {
            sequence_lengths: self.lengths.to_vec(),
            integers: self.integers.iter().map(|(name, x)| (name.to_string(), x.to_vec())).collect(),
            reals: self.reals.iter().map(|(name, _, x)| (name.to_string(), x.to_vec())).collect(),
            dropout_key: None,
        }
    }

    fn numbers(&self, graph: &Graph, feed: &Feed) -> Result<Vec<f64>, InterpretError> {
        let params = |p: Param| self.params.iter().find(|(n, ..)| *n == graph.param(p).name).unwrap().2.to_vec();
        let y = graph.output("y").unwrap();
        run(graph, &params, feed, &[y]).map(|mut values| values.remove(&y).unwrap())
    }

    fn run(&self, build: impl FnOnce(&mut Builder, &[Value], &[Param]) -> Value) -> Vec<f64> {
        self.numbers(&self.trace(build), &self.feed()).unwrap()
    }
}

#[track_caller]
fn near(got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{got:?} is not {want:?}");
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() <= 1e-12 * w.abs().max(1.0), "{got:?} is not {want:?}");
    }
}

#[test]
fn embed_linear_and_logits() {
    let table = &[("t", &[3, 2][..], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0][..]), ("b", &[3], &[0.5, -0.5, 100.0])];
    let ids = Case { lengths: &[2], integers: &[("ids", &[2, 0])], params: table, ..Case::default() };
    near(&ids.run(|b, x, p| b.embed(x[0], p[0]).unwrap()), &[5.0, 6.0, 1.0, 2.0]);

    let x = Case { lengths: &[1], reals: &[("x", &[2, 2], &[1.0, 0.0, -1.0, 2.0])], params: table, ..Case::default() };
    near(&x.run(|b, x, p| b.linear(x[0], p[0], None).unwrap()), &[1.0, 3.0, 5.0, 3.0, 5.0, 7.0]);
    near(&x.run(|b, x, p| b.linear(x[0], p[0], Some(p[1])).unwrap()), &[1.5, 2.5, 105.0, 3.5, 4.5, 107.0]);

    let x = Case { lengths: &[1], reals: &[("x", &[2], &[1.0, -1.0])], params: table, ..Case::default() };
    let options = [("scale".to_owned(), Arg::Num(0.5)), ("soft-cap".to_owned(), Arg::Num(2.0))];
    near(&x.run(|b, x, p| b.logits(x[0], p[0], &options[..1]).unwrap()), &[-0.5; 3]);
    near(&x.run(|b, x, p| b.logits(x[0], p[0], &options).unwrap()), &[2.0 * (-0.25f64).tanh(); 3]);

    // Only rewrites make linear-add.
    let case = Case { reals: &[("base", &[3], &[10.0, 20.0, 30.0]), ("x", &[2], &[1.0, -1.0])], ..x };
    let mut graph = case.trace(|_, x, _| x[1]);
    let ty = graph.ty(Value(0)).clone();
    let y = push(&mut graph, Op::LinearAdd { weight: Param(0), scale: 2.0 }, vec![Value(0), Value(1)], ty);
    graph.outputs[0].1 = y;
    near(&case.numbers(&graph, &case.feed()).unwrap(), &[8.0, 18.0, 28.0]);
}

#[test]
fn norms_and_softmax() {
    let case = Case {
        lengths: &[2],
        reals: &[("x", &[2], &[3.0, 4.0, 0.0, 2.0])],
        params: &[("w", &[2], &[1.0, 10.0]), ("b", &[2], &[0.5, -0.5])],
        ..Case::default()
    };
    // mean of squares: 12.5 and 2, with eps 0.5: 13 and 2.5.
    let (a, c) = (13f64.sqrt(), 2.5f64.sqrt());
    near(&case.run(|b, x, p| b.rms_norm(x[0], Some(p[0]), 0.5, &[]).unwrap()), &[3.0 / a, 40.0 / a, 0.0, 20.0 / c]);
    near(&case.run(|b, x, _| b.rms_norm(x[0], None, 0.5, &[]).unwrap()), &[3.0 / a, 4.0 / a, 0.0, 2.0 / c]);
    let offset = [("offset".to_owned(), Arg::Num(1.0))];
    near(&case.run(|b, x, p| b.rms_norm(x[0], Some(p[0]), 0.5, &offset).unwrap()), &[6.0 / a, 44.0 / a, 0.0, 22.0 / c]);
    // variances 0.25 and 1, with eps 0.75: 1 and 1.75.
    let d = 1.75f64.sqrt();
    near(&case.run(|b, x, _| b.layer_norm(x[0], None, None, 0.75).unwrap()), &[-0.5, 0.5, -1.0 / d, 1.0 / d]);
    near(
        &case.run(|b, x, p| b.layer_norm(x[0], Some(p[0]), Some(p[1]), 0.75).unwrap()),
        &[0.0, 4.5, 0.5 - 1.0 / d, 10.0 / d - 0.5],
    );
    // sums of squares: 25 and 4, with eps 0 and 5.
    near(&case.run(|b, x, _| b.l2_norm(x[0], 0.0).unwrap()), &[0.6, 0.8, 0.0, 1.0]);
    near(&case.run(|b, x, _| b.l2_norm(x[0], 5.0).unwrap())[2..], &[0.0, 2.0 / 3.0]);
    let e = 1f64.exp();
    near(&case.run(|b, x, _| b.softmax(x[0]).unwrap())[..2], &[1.0 / (1.0 + e), e / (1.0 + e)]);
    let far = Case { lengths: &[1], reals: &[("x", &[3], &[1000.0, 1000.0, -1000.0])], ..Case::default() };
    near(&far.run(|b, x, _| b.softmax(x[0]).unwrap()), &[0.5, 0.5, 0.0]);
}

#[test]
fn rope_rotates_pairs_by_the_position() {
    let x: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0];
    let case = Case { lengths: &[1], reals: &[("x", &[1, 5], x)], integers: &[("p", &[1])], ..Case::default() };
    // theta 10^4 and four dims: frequencies 1 and 1/100; 0.01 is what f32 makes of it.
    let ((c, s), (d, t)) = ((1f64.cos(), 1f64.sin()), (f64::from(0.01f32).cos(), f64::from(0.01f32).sin()));
    let interleaved = [("interleaved".to_owned(), Arg::Flag(true))];
    let half = case.run(|b, x, _| b.rope(x[0], x[1], 4, 1e4, &[]).unwrap());
    near(&half, &[c - 3.0 * s, 2.0 * d - 4.0 * t, 3.0 * c + s, 4.0 * d + 2.0 * t, 5.0]);
    let pairs = case.run(|b, x, _| b.rope(x[0], x[1], 4, 1e4, &interleaved).unwrap());
    near(&pairs, &[c - 2.0 * s, 2.0 * c + s, 3.0 * d - 4.0 * t, 4.0 * d + 3.0 * t, 5.0]);
    let start = Case { integers: &[("p", &[0])], ..case };
    assert_eq!(start.run(|b, x, _| b.rope(x[0], x[1], 4, 1e4, &[]).unwrap()), x);
}

#[test]
fn dynamic_rope_looks_at_the_row_s_own_sequence() {
    let options = [
        ("scaling".to_owned(), Arg::Text("dynamic".into())),
        ("factor".to_owned(), Arg::Num(2.0)),
        ("max-position".to_owned(), Arg::Num(2.0)),
    ];
    let rotated = |lengths: &[u32], positions: &[i64]| {
        let x = [1.0, 0.5, -1.0, 2.0].repeat(positions.len());
        let case = Case { lengths, reals: &[("x", &[1, 4], &x)], integers: &[("p", positions)], ..Case::default() };
        case.run(|b, x, _| b.rope(x[0], x[1], 4, 1e4, &options).unwrap())
    };
    let (short, long) = (rotated(&[2], &[0, 1]), rotated(&[3], &[0, 1, 2]));
    assert_ne!(short[4..8], long[4..8], "three rows stretch the base");
    assert_eq!(rotated(&[2, 3], &[0, 1, 0, 1, 2]), [short, long].concat());
}

const Q: &[f64] = &[0.0, 0.0, 0.0, 0.0];
const V: &[f64] = &[1.0, 2.0, 4.0, 8.0];

fn attend(lengths: &[u32], mask: MaskRule) -> Vec<f64> {
    // Equal scores: every row is the mean of what it sees.
    let tail: &[u32] = &[1, 1];
    let case = Case { lengths, reals: &[("q", tail, Q), ("k", tail, V), ("v", tail, V)], ..Case::default() };
    case.run(|b, x, _| {
        let mask = match mask {
            MaskRule::All => b.mask_all(),
            MaskRule::Causal => b.mask_causal(),
            MaskRule::Window { left, right } => b.mask_window(left, right),
        };
        b.attention(x[0], x[1], x[2], mask, 1.0, &[]).unwrap()
    })
}

#[test]
fn attention_sees_its_mask_within_its_sequence() {
    near(&attend(&[4], MaskRule::All), &[3.75; 4]);
    near(&attend(&[4], MaskRule::Causal), &[1.0, 1.5, 7.0 / 3.0, 3.75]);
    near(&attend(&[4], MaskRule::Window { left: 1, right: 0 }), &[1.0, 1.5, 3.0, 6.0]);
    near(&attend(&[4], MaskRule::Window { left: 0, right: 2 }), &[7.0 / 3.0, 14.0 / 3.0, 6.0, 8.0]);
    near(&attend(&[1, 3], MaskRule::All), &[1.0, 14.0 / 3.0, 14.0 / 3.0, 14.0 / 3.0]);
    near(&attend(&[2, 0, 2], MaskRule::Causal), &[1.0, 1.5, 4.0, 6.0]);
    near(&attend(&[2, 2], MaskRule::Window { left: 3, right: 3 }), &[1.5, 1.5, 6.0, 6.0]);
}

#[test]
fn attention_scores_heads_and_groups() {
    // Four query heads on two key heads; head size 2, value size 1; two rows.
    let q = [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0];
    let q = [q, q].concat();
    let k = [1.0, 2.0, 3.0, 4.0, -1.0, 0.5, 2.0, 1.0];
    let v = [1.0, 10.0, 2.0, 20.0];
    let tails: [&[u32]; 3] = [&[4, 2], &[2, 2], &[2, 1]];
    let case = Case {
        lengths: &[2],
        reals: &[("q", tails[0], &q), ("k", tails[1], &k), ("v", tails[2], &v)],
        ..Case::default()
    };
    let mix = |first: f64, second: f64, a: f64, b: f64| {
        let (first, second) = (first.exp(), second.exp());
        (first * a + second * b) / (first + second)
    };
    for (cap, options) in [(None, vec![]), (Some(1.5), vec![("soft-cap".to_owned(), Arg::Num(1.5))])] {
        let y = case.run(|b, x, _| {
            let mask = b.mask_all();
            b.attention(x[0], x[1], x[2], mask, 0.5, &options).unwrap()
        });
        let score = |product: f64| cap.map_or(0.5 * product, |cap: f64| cap * (0.5 * product / cap).tanh());
        let row = [
            mix(score(1.0), score(-1.0), 1.0, 2.0),
            mix(score(2.0), score(0.5), 1.0, 2.0),
            mix(score(7.0), score(3.0), 10.0, 20.0),
            mix(score(0.0), score(0.0), 10.0, 20.0),
        ];
        near(&y, &[row, row].concat());
    }
}

#[test]
fn pointwise_functions() {
    let expected: &[(&str, f64, f64)] = &[
        ("silu", -3.0, -0.14227761953270035),
        ("silu", 0.7, 0.46773144051771626),
        ("gelu", -6.0, -5.919525870226207e-09),
        ("gelu", -3.0, -0.004049694094890287),
        ("gelu", -1.0, -0.15865525393145707),
        ("gelu", -0.5, -0.15426876936299344),
        ("gelu", 0.7, 0.5306254434438489),
        ("gelu", 3.9, 3.8998124242583314),
        ("gelu", 5.0, 4.99999856674214),
        ("gelu-tanh", -1.0, -0.15880800939172324),
        ("gelu-tanh", 0.7, 0.5305701347051167),
        ("relu", -2.0, 0.0),
        ("relu", 2.0, 2.0),
        ("relu2", -2.0, 0.0),
        ("relu2", 3.0, 9.0),
        ("sigmoid", 0.0, 0.5),
        ("sigmoid", -800.0, 0.0),
        ("sigmoid", 800.0, 1.0),
        ("tanh", 0.5, 0.46211715726000973),
        ("exp", 1.0, std::f64::consts::E),
        ("log", 2.0, std::f64::consts::LN_2),
        ("square", -3.0, 9.0),
        ("sqrt", 2.0, std::f64::consts::SQRT_2),
        ("rsqrt", 2.0, std::f64::consts::FRAC_1_SQRT_2),
        ("neg", 1.5, -1.5),
        ("softplus", -3.0, 0.04858735157374206),
        ("softplus", 0.7, 1.103186048885458),
        ("softplus", 800.0, 800.0),
    ];
    for &(name, x, y) in expected {
        let case = Case { lengths: &[1], reals: &[("x", &[], &[x])], ..Case::default() };
        let got = case.run(|b, x, _| b.unary(name, x[0]).unwrap())[0];
        assert!((got - y).abs() <= 4e-15 * y.abs(), "{name}({x}) is {got:e}, not {y:e}");
    }
    for (name, _) in Unary::ALL {
        assert!(expected.iter().any(|(n, ..)| n == name), "{name} has no number here");
    }
    let case =
        Case { lengths: &[1], reals: &[("gate", &[2], &[-3.0, 0.7]), ("up", &[2], &[2.0, 10.0])], ..Case::default() };
    near(
        &case.run(|b, x, _| b.glu(x[0], x[1], "silu").unwrap()),
        &[2.0 * -0.14227761953270035, 10.0 * 0.46773144051771626],
    );
}

#[test]
fn operands_broadcast() {
    let x: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let case = Case {
        lengths: &[2],
        reals: &[("x", &[2, 2], x), ("head", &[2, 1], &[1.0, 2.0, 3.0, 4.0]), ("row", &[1], &[10.0, 20.0])],
        params: &[("w", &[2], &[1.0, 10.0])],
        ..Case::default()
    };
    near(&case.run(|b, x, _| b.binary("add", x[0], x[0]).unwrap()), &x.iter().map(|x| x + x).collect::<Vec<_>>());
    // Repeated for rows and heads: a parameter, a scalar; in either order.
    let sub = |parameter_first: bool| {
        case.run(|b, x, p| {
            let w = b.read(p[0]).unwrap();
            let (first, second) = if parameter_first { (w, x[0]) } else { (x[0], w) };
            b.binary("sub", first, second).unwrap()
        })
    };
    near(&sub(false), &[0.0, -8.0, 2.0, -6.0, 4.0, -4.0, 6.0, -2.0]);
    near(&sub(true), &[0.0, 8.0, -2.0, 6.0, -4.0, 4.0, -6.0, 2.0]);
    let divided = case.run(|b, x, _| {
        let two = b.scalar(2.0).unwrap();
        b.binary("div", two, x[0]).unwrap()
    });
    near(&divided, &x.iter().map(|x| 2.0 / x).collect::<Vec<_>>());
    // Spanning: one number a head, one number a row.
    near(&case.run(|b, x, _| b.binary("mul", x[0], x[1]).unwrap()), &[1.0, 2.0, 6.0, 8.0, 15.0, 18.0, 28.0, 32.0]);
    near(
        &case.run(|b, x, _| b.binary("maximum", x[2], x[0]).unwrap()),
        &[10.0, 10.0, 10.0, 10.0, 20.0, 20.0, 20.0, 20.0],
    );
    near(&case.run(|b, x, _| b.binary("minimum", x[0], x[2]).unwrap()), x);
}

#[test]
fn tails_are_cut_joined_and_renamed() {
    let x: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0];
    let case = Case { lengths: &[2], reals: &[("x", &[2, 3], x)], integers: &[("ids", &[7, 9])], ..Case::default() };
    near(&case.run(|b, x, _| b.reshape(x[0], &[6]).unwrap()), x);
    near(&case.run(|b, x, _| b.split(x[0], 0, &[1, 1]).unwrap()[1]), &[4.0, 5.0, 6.0, 10.0, 11.0, 12.0]);
    near(&case.run(|b, x, _| b.split(x[0], 1, &[1, 2]).unwrap()[1]), &[2.0, 3.0, 5.0, 6.0, 8.0, 9.0, 11.0, 12.0]);
    let joined = case.run(|b, x, _| {
        let parts = b.split(x[0], 1, &[1, 2]).unwrap();
        b.concat(&[parts[1], parts[0], parts[0]], 1).unwrap()
    });
    near(&joined, &[2.0, 3.0, 1.0, 1.0, 5.0, 6.0, 4.0, 4.0, 8.0, 9.0, 7.0, 7.0, 11.0, 12.0, 10.0, 10.0]);
    let stacked = case.run(|b, x, _| b.concat(&[x[0], x[0]], 0).unwrap());
    near(&stacked, &[&x[..6], &x[..6], &x[6..], &x[6..]].concat());
    let integers = case.run(|b, x, _| {
        let ids = b.reshape(x[1], &[1, 1]).unwrap();
        let twice = b.concat(&[ids, ids], 1).unwrap();
        let parts = b.split(twice, 1, &[1, 1]).unwrap();
        b.concat(&parts, 0).unwrap()
    });
    near(&integers, &[7.0, 7.0, 9.0, 9.0]);
}

#[test]
fn dropout_is_a_pure_function_of_key_salt_and_element() {
    let x = vec![1.0; 40_000];
    let case = Case { lengths: &[40], reals: &[("x", &[1000], &x)], ..Case::default() };
    let graph = |probability: f64, salt: u64| {
        let mut graph = case.trace(|_, x, _| x[0]);
        let ty = graph.ty(Value(0)).clone();
        graph.outputs[0].1 = push(&mut graph, Op::Dropout { probability, salt }, vec![Value(0)], ty);
        graph
    };
    let drop = |probability, salt, key| {
        case.numbers(&graph(probability, salt), &Feed { dropout_key: key, ..case.feed() }).unwrap()
    };
    assert_eq!(drop(0.25, 1, None), x, "evaluation drops nothing");
    assert_eq!(drop(0.0, 1, Some(5)), x);
    assert_eq!(drop(1.0, 1, Some(5)), vec![0.0; x.len()]);
    let y = drop(0.25, 1, Some(5));
    assert!(y.iter().enumerate().all(|(e, &y)| y == if dropout_keeps(5, 1, e as u64, 0.25) { 4.0 / 3.0 } else { 0.0 }));
    let share = |y: &[f64]| y.iter().filter(|&&y| y != 0.0).count() as f64 / y.len() as f64;
    assert!((share(&y) - 0.75).abs() < 0.011, "{}", share(&y));
    for other in [drop(0.25, 2, Some(5)), drop(0.25, 1, Some(6))] {
        let both: Vec<f64> = y.iter().zip(&other).map(|(a, b)| a * b).collect();
        assert!(
            (share(&both) - 0.5625).abs() < 0.013,
            "masks of other keys and salts are independent: {}",
            share(&both)
        );
    }
}

#[test]
fn feeds_that_do_not_fit_are_errors() {
    let case = Case {
        lengths: &[2],
        reals: &[("x", &[2], &[1.0; 4])],
        integers: &[("ids", &[0, 1])],
        params: &[("t", &[2, 2], &[0.0; 4])],
    };
    let graph = case.trace(|b, x, p| {
        b.enter("model.embed", "").unwrap();
        let y = b.embed(x[1], p[0]).unwrap();
        b.exit().unwrap();
        b.binary("add", y, x[0]).unwrap()
    });
    assert!(case.numbers(&graph, &case.feed()).is_ok());
    let error = |change: &dyn Fn(&mut Feed)| {
        let mut feed = case.feed();
        change(&mut feed);
        case.numbers(&graph, &feed).unwrap_err().to_string()
    };
    assert_eq!(
        error(&|f| f.integers.get_mut("ids").unwrap()[1] = -100),
        "in `model.embed`: id -100 in row 1 is not below the table's 2 rows; hint: do the tokenizer and the model belong together?"
    );
    assert_eq!(error(&|f| f.reals.clear()), "the input `x` (compute) is not fed; hint: put it into the feed's `reals`");
    assert_eq!(
        error(&|f| f.integers.clear()),
        "the input `ids` (int32) is not fed; hint: put it into the feed's `integers`"
    );
    assert_eq!(
        error(&|f| f.sequence_lengths.push(1)),
        "the input `x` has 4 elements, expected 6; hint: rows times the elements of a row"
    );
    let wrong = run(&graph, &|_| vec![0.0; 3], &case.feed(), &[Value(2)]).unwrap_err();
    assert_eq!(wrong, InterpretError::ParamLength { name: "t".into(), got: 3, want: 4 });
    assert_eq!(run(&graph, &|_| vec![0.0; 4], &case.feed(), &[Value(9)]), Err(InterpretError::UnknownValue(9)));
    // What is not needed need not be fed.
    assert!(run(&graph, &|_| vec![0.0; 4], &Feed { reals: BTreeMap::new(), ..case.feed() }, &[Value(2)]).is_ok());
}

#[test]
fn cross_entropy_and_differences() {
    let logits = [0.0, 0.0, 1.0, 3.0, 5.0, 5.0];
    let loss = cross_entropy(&logits, 2, &[0, 1, -100], &[0.5, 1.0, 0.0]);
    let second = (1.0 + (-2f64).exp()).ln();
    assert!((loss - (0.5 * 2f64.ln() + second)).abs() < 1e-15);
    assert_eq!(cross_entropy(&[1000.0, 0.0], 2, &[1], &[1.0]), 1000.0);

    // Its gradient is weight * (softmax - one-hot).
    let gradient = finite_difference(&logits, |x| cross_entropy(x, 2, &[0, 1, -100], &[0.5, 1.0, 0.0]));
    let p = 1.0 / (1.0 + 2f64.exp());
    for (g, w) in gradient.iter().zip([-0.25, 0.25, p, -p, 0.0, 0.0]) {
        assert!((g - w).abs() < 1e-9, "{gradient:?}");
    }
    // A large element moves by a step in proportion.
    assert!((finite_difference(&[1e8], |x| x[0] * x[0])[0] - 2e8).abs() < 1.0);
}

#[test]
fn a_parameter_s_gradient_by_differences() {
    // d/dW of r·(W x) is r xᵀ.
    let case = Case {
        lengths: &[1],
        reals: &[("x", &[2], &[3.0, -2.0])],
        params: &[("w", &[2, 2], &[0.1, 0.2, 0.3, 0.4])],
        ..Case::default()
    };
    let graph = case.trace(|b, x, p| b.linear(x[0], p[0], None).unwrap());
    let y = graph.output("y").unwrap();
    let params = |_: Param| vec![0.1, 0.2, 0.3, 0.4];
    let loss = |values: &BTreeMap<Value, Vec<f64>>| 5.0 * values[&y][0] - values[&y][1];
    let gradient = parameter_difference(&graph, &params, &case.feed(), &[y], Param(0), &loss).unwrap();
    for (g, w) in gradient.iter().zip([15.0, -10.0, -3.0, 2.0]) {
        assert!((g - w).abs() < 1e-8, "{gradient:?}");
    }
    assert!(parameter_difference(&graph, &params, &Feed::default(), &[y], Param(0), &loss).is_err());
}

#[test]
fn packed_sequences_equal_separate_ones_to_the_bit() {
    let graph = two_blocks();
    let sequences: [&[i64]; 3] = [&[1, 5, 2, 9, 11, 3], &[7], &[4, 4, 0, 15]];
    let packed = outputs(&graph, &Feed::tokens(&sequences));
    let separate: Vec<Vec<Vec<f64>>> = sequences.iter().map(|s| outputs(&graph, &Feed::tokens(&[s]))).collect();
    for output in 0..2 {
        let joined: Vec<f64> = separate.iter().flat_map(|s| s[output].clone()).collect();
        assert_eq!(packed[output], joined);
    }
    assert_eq!(packed[1].len(), 11 * 16);
}

#[test]
fn later_tokens_do_not_reach_earlier_rows_and_windows_end() {
    let layer = Layer { window: Some(2), ..LAYER };
    let graph = decoder(&[layer]);
    let tokens = [1, 5, 2, 9, 11, 3];
    let base = outputs(&graph, &Feed::tokens(&[&tokens])).remove(0);
    for changed in 0..tokens.len() {
        let mut other = tokens;
        other[changed] = 14;
        let rows = outputs(&graph, &Feed::tokens(&[&other])).remove(0);
        for row in 0..tokens.len() {
            let same = rows[row * 8..][..8] == base[row * 8..][..8];
            assert_eq!(same, row < changed || row > changed + 2, "row {row}, token {changed} changed");
        }
    }
}

#[test]
fn f32_is_f64_rounded() {
    let graph = two_blocks();
    let feed = Feed::tokens(&[&[1, 5, 2, 9, 11, 3]]);
    let logits = graph.output("logits").unwrap();
    let exact = run(&graph, &weights(&graph), &feed, &[logits]).unwrap().remove(&logits).unwrap();
    let rounded = |p: Param| weights(&graph)(p).into_iter().map(|x| x as f32).collect::<Vec<f32>>();
    let single = run(&graph, &rounded, &feed, &[logits]).unwrap().remove(&logits).unwrap();
    let scale = exact.iter().fold(0.0f64, |a, x| a.max(x.abs()));
    let worst = exact.iter().zip(&single).map(|(a, b)| (a - f64::from(*b)).abs()).fold(0.0, f64::max) / scale;
    assert!(worst < 1e-5 && worst > 0.0, "{worst}");
}

#[test]
fn random_numbers_are_spread() {
    // The tests' own source: a constant one would make them pass for nothing.
    let x = Random(3).reals(10_000);
    let (mean, square) = (x.iter().sum::<f64>() / 1e4, x.iter().map(|x| x * x).sum::<f64>() / 1e4);
    assert!(mean.abs() < 0.03 && (square - 1.0 / 3.0).abs() < 0.02 && x.iter().all(|x| x.abs() <= 1.0));
}
