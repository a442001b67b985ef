//! Attention against the definition in f64.

use super::*;
use crate::testing::{assert_close, assert_same_bits, finite_differences, inner, random, wide};

/// Two products and a softmax: rounding of about ten units of f32, whatever the length.
const TOLERANCE: f64 = 3e-6;

fn shape(heads: usize, kv_heads: usize, head_dim: usize, value_dim: usize, soft_cap: Option<f32>) -> AttentionShape {
    AttentionShape { heads, kv_heads, head_dim, value_dim, scale: 1.7 / (head_dim as f32).sqrt(), soft_cap }
}

fn naive(
    q: &[f64],
    k: &[f64],
    v: &[f64],
    lengths: &[u32],
    shape: &AttentionShape,
    mask: AttentionMask,
) -> (Vec<f64>, Vec<f64>) {
    let rows: usize = lengths.iter().map(|l| *l as usize).sum();
    let mut out = vec![0.0; rows * shape.heads * shape.value_dim];
    let mut logsumexp = vec![0.0; rows * shape.heads];
    let mut start = 0;
    for length in lengths {
        let length = *length as usize;
        for i in 0..length {
            for head in 0..shape.heads {
                let kv = head / (shape.heads / shape.kv_heads);
                let sees = |j: usize| match mask {
                    AttentionMask::All => true,
                    AttentionMask::Causal => j <= i,
                    AttentionMask::Window { left, right } => j + left as usize >= i && j <= i + right as usize,
                };
                let keys: Vec<usize> = (0..length).filter(|j| sees(*j)).collect();
                let row = (start + i) * shape.heads + head;
                let weights: Vec<f64> = keys
                    .iter()
                    .map(|j| {
                        let key = ((start + j) * shape.kv_heads + kv) * shape.head_dim;
                        let score: f64 = (0..shape.head_dim).map(|d| q[row * shape.head_dim + d] * k[key + d]).sum();
                        let score = score * f64::from(shape.scale);
                        let score = shape.soft_cap.map_or(score, |c| f64::from(c) * (score / f64::from(c)).tanh());
                        score.exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                logsumexp[row] = sum.ln();
                for (j, weight) in keys.iter().zip(&weights) {
                    let value = ((start + j) * shape.kv_heads + kv) * shape.value_dim;
                    for d in 0..shape.value_dim {
                        out[row * shape.value_dim + d] += weight / sum * v[value + d];
                    }
                }
            }
        }
        start += length;
    }
    (out, logsumexp)
}

fn operands(rows: usize, shape: &AttentionShape) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    (
        random(rows * shape.heads * shape.head_dim, 1),
        random(rows * shape.kv_heads * shape.head_dim, 2),
        random(rows * shape.kv_heads * shape.value_dim, 3),
    )
}

const MASKS: [AttentionMask; 5] = [
    AttentionMask::All,
    AttentionMask::Causal,
    AttentionMask::Window { left: 3, right: 0 },
    AttentionMask::Window { left: 150, right: 2 },
    AttentionMask::Window { left: 0, right: 5 },
];

#[test]
fn forward_equals_the_definition() {
    for (shape, lengths) in [
        (shape(1, 1, 1, 1, None), vec![1]),
        (shape(2, 2, 5, 3, None), vec![1, 7, 0, 2]),
        (shape(6, 2, 16, 16, Some(2.0)), vec![130, 1, 65]),
        (shape(9, 3, 64, 64, None), vec![300]),
        (shape(32, 1, 8, 12, None), vec![40, 3]),
    ] {
        let rows = lengths.iter().sum::<u32>() as usize;
        let (q, k, v) = operands(rows, &shape);
        for mask in MASKS {
            let (expected, expected_logsumexp) = naive(&wide(&q), &wide(&k), &wide(&v), &lengths, &shape, mask);
            let mut out = vec![f32::NAN; rows * shape.heads * shape.value_dim];
            let mut logsumexp = vec![f32::NAN; rows * shape.heads];
            attention(&q, &k, &v, &lengths, &shape, mask, &mut out, &mut logsumexp);
            assert_close(&out, &expected, TOLERANCE, "attention");
            assert_close(&logsumexp, &expected_logsumexp, TOLERANCE, "logsumexp");
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    for (shape, lengths) in [
        (shape(1, 1, 1, 1, None), vec![1]),
        (shape(2, 2, 5, 3, None), vec![1, 6, 2]),
        (shape(4, 2, 4, 6, Some(1.5)), vec![9, 4]),
        (shape(6, 2, 3, 3, None), vec![11]),
    ] {
        let rows = lengths.iter().sum::<u32>() as usize;
        let (q, k, v) = operands(rows, &shape);
        let (q64, k64, v64) = (wide(&q), wide(&k), wide(&v));
        let dout = random(rows * shape.heads * shape.value_dim, 4);
        for mask in MASKS {
            let mut out = vec![0.0; dout.len()];
            let mut logsumexp = vec![0.0; rows * shape.heads];
            attention(&q, &k, &v, &lengths, &shape, mask, &mut out, &mut logsumexp);
            let (mut dq, mut dk, mut dv) = (vec![f32::NAN; q.len()], vec![f32::NAN; k.len()], vec![f32::NAN; v.len()]);
            attention_grad(&q, &k, &v, &out, &logsumexp, &dout, &lengths, &shape, mask, &mut dq, &mut dk, &mut dv);
            let loss = |q: &[f64], k: &[f64], v: &[f64]| inner(&naive(q, k, v, &lengths, &shape, mask).0, &dout);
            assert_close(&dq, &finite_differences(&q64, |q| loss(q, &k64, &v64)), TOLERANCE, "dq");
            assert_close(&dk, &finite_differences(&k64, |k| loss(&q64, k, &v64)), TOLERANCE, "dk");
            assert_close(&dv, &finite_differences(&v64, |v| loss(&q64, &k64, v)), TOLERANCE, "dv");
        }
    }
}

/// The gradient of long sequences by the formula in f64: finite differences would take hours.
#[test]
fn gradients_of_several_tiles_and_splits() {
    let shape = shape(3, 1, 8, 8, Some(3.0));
    let lengths = [600u32, 70];
    let rows = 670;
    let (q, k, v) = operands(rows, &shape);
    let dout = random(rows * 3 * 8, 4);
    for mask in [AttentionMask::Causal, AttentionMask::Window { left: 200, right: 7 }, AttentionMask::All] {
        let mut out = vec![0.0; dout.len()];
        let mut logsumexp = vec![0.0; rows * 3];
        attention(&q, &k, &v, &lengths, &shape, mask, &mut out, &mut logsumexp);
        let (mut dq, mut dk, mut dv) = (vec![f32::NAN; q.len()], vec![f32::NAN; k.len()], vec![f32::NAN; v.len()]);
        attention_grad(&q, &k, &v, &out, &logsumexp, &dout, &lengths, &shape, mask, &mut dq, &mut dk, &mut dv);

        let (mut dq64, mut dk64, mut dv64) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let (expected, expected_logsumexp) = naive(&wide(&q), &wide(&k), &wide(&v), &lengths, &shape, mask);
        let mut start = 0;
        for length in lengths {
            for i in 0..length as usize {
                for head in 0..3 {
                    let row = ((start + i) * 3 + head) * 8;
                    let at = |x: &[f32], index: usize| f64::from(x[index]);
                    let delta: f64 = (0..8).map(|d| expected[row + d] * at(&dout, row + d)).sum();
                    for j in mask.visible(i, length as usize) {
                        let key = (start + j) * 8;
                        let score: f64 = (0..8).map(|d| at(&q, row + d) * at(&k, key + d)).sum();
                        let capped = (score * f64::from(shape.scale) / 3.0).tanh();
                        let p = (3.0 * capped - expected_logsumexp[row / 8]).exp();
                        let dp: f64 = (0..8).map(|d| at(&dout, row + d) * at(&v, key + d)).sum();
                        let ds = p * (dp - delta) * (1.0 - capped * capped) * f64::from(shape.scale);
                        for d in 0..8 {
                            dq64[row + d] += ds * at(&k, key + d);
                            dk64[key + d] += ds * at(&q, row + d);
                            dv64[key + d] += p * at(&dout, row + d);
                        }
                    }
                }
            }
            start += length as usize;
        }
        assert_close(&dq, &dq64, TOLERANCE, "dq");
        assert_close(&dk, &dk64, TOLERANCE, "dk");
        assert_close(&dv, &dv64, TOLERANCE, "dv");
    }
}

#[test]
fn cached_attention_equals_the_whole_sequence() {
    for (shape, length) in
        [(shape(9, 3, 16, 16, None), 50usize), (shape(4, 4, 6, 10, Some(2.0)), 200), (shape(2, 1, 4, 4, None), 2500)]
    {
        let (q, k, v) = operands(length, &shape);
        for mask in MASKS {
            let mut whole = vec![0.0; length * shape.heads * shape.value_dim];
            let mut logsumexp = vec![0.0; length * shape.heads];
            attention(&q, &k, &v, &[length as u32], &shape, mask, &mut whole, &mut logsumexp);
            for new in [1, 5, length / 2, length] {
                let width = shape.heads * shape.head_dim;
                let out_width = shape.heads * shape.value_dim;
                let mut out = vec![f32::NAN; new * out_width];
                attention_cached(&q[(length - new) * width..], &k, &v, &shape, mask, &mut out);
                assert_close(&out, &wide(&whole[(length - new) * out_width..]), TOLERANCE, "attention_cached");
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let shape = shape(6, 2, 16, 16, None);
    let lengths = [700u32, 33, 1];
    let rows = 734;
    let (q, k, v) = operands(rows, &shape);
    let dout = random(rows * 6 * 16, 4);
    assert_same_bits("attention", || {
        let mut out = vec![0.0; dout.len()];
        let mut logsumexp = vec![0.0; rows * 6];
        attention(&q, &k, &v, &lengths, &shape, AttentionMask::Causal, &mut out, &mut logsumexp);
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        attention_grad(
            &q,
            &k,
            &v,
            &out,
            &logsumexp,
            &dout,
            &lengths,
            &shape,
            AttentionMask::Causal,
            &mut dq,
            &mut dk,
            &mut dv,
        );
        let mut cached = vec![0.0; 6 * 16];
        attention_cached(&q[..96], &k[..700 * 32], &v[..700 * 32], &shape, AttentionMask::All, &mut cached);
        [out, logsumexp, dq, dk, dv, cached].concat()
    });
}
