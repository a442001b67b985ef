//! The last linear layer and the cross entropy in one, over chunks of rows: the logits of a whole step never exist.

use rayon::prelude::*;

use crate::matmul::{linear, linear_grad_input, linear_grad_weight};
use crate::parallel::scratch;
use crate::simd::{dispatch, exp, max_of, sum_of, tanh};
use crate::weight::Weight;

/// Logits held at a time, in elements: 32 MiB.
const LOGITS: usize = 8 << 20;

/// Sums over the rows whose weight is not 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSums {
    /// Sum of weight times cross entropy, in nats.
    pub loss: f64,
    /// Sum of the weights.
    pub weight: f64,
    /// Rows whose greatest logit is the target's (the first of several).
    pub correct: u64,
    /// Rows whose weight is not 0.
    pub counted: u64,
}

/// Cross entropy of `targets[rows]` under the logits `cap(logit_scale * (h[rows, k] table[vocab, k]^T + bias))`, where
/// `cap(z) = soft_cap * tanh(z / soft_cap)`. Rows of weight 0 cost nothing, and their targets are not read.
///
/// Gradients are those of `scale * sum_i weights[i] * loss_i`: `dh[rows, k]` is overwritten (0 for rows of weight 0),
/// `dtable[vocab, k]` is added to. `per_row_loss[rows]` takes the unweighted cross entropies, 0 for rows of weight 0.
///
/// # Panics
/// If the target of a counted row is outside of the vocabulary.
pub fn linear_cross_entropy(
    h: &[f32],
    rows: usize,
    k: usize,
    table: Weight,
    vocab: usize,
    bias: Option<Weight>,
    targets: &[u32],
    weights: &[f32],
    soft_cap: Option<f32>,
    logit_scale: f32,
    scale: f32,
    mut dh: Option<&mut [f32]>,
    mut dtable: Option<&mut [f32]>,
    mut per_row_loss: Option<&mut [f32]>,
) -> LossSums {
    assert_eq!(h.len(), rows * k, "linear_cross_entropy: h is not [rows, k]");
    assert_eq!(table.len(), vocab * k, "linear_cross_entropy: the table is not [vocab, k]");
    assert_eq!(targets.len(), rows, "linear_cross_entropy: targets are not [rows]");
    assert_eq!(weights.len(), rows, "linear_cross_entropy: weights are not [rows]");
    if let Some(dh) = dh.as_deref_mut() {
        assert_eq!(dh.len(), rows * k, "linear_cross_entropy: dh is not [rows, k]");
        if weights.contains(&0.0) {
            dh.fill(0.0);
        }
    }
    if let Some(dtable) = dtable.as_deref() {
        assert_eq!(dtable.len(), vocab * k, "linear_cross_entropy: dtable is not [vocab, k]");
    }
    if let Some(losses) = per_row_loss.as_deref_mut() {
        assert_eq!(losses.len(), rows, "linear_cross_entropy: per_row_loss is not [rows]");
        losses.fill(0.0);
    }
    let counted: Vec<usize> = (0..rows).filter(|row| weights[*row] != 0.0).collect();
    for row in &counted {
        let target = targets[*row];
        assert!((target as usize) < vocab, "linear_cross_entropy: the target {target} of row {row} is no token id");
    }
    let mut sums = LossSums { counted: counted.len() as u64, ..LossSums::default() };
    if counted.is_empty() {
        return sums;
    }

    // Equal chunks, none of them a small rest.
    let most = (LOGITS / vocab).max(1);
    let chunk = counted.len().div_ceil(counted.len().div_ceil(most));
    let mut logits = scratch(chunk * vocab);
    let mut gathered = scratch(chunk * k);
    let mut gathered_gradient = scratch(if dh.is_some() { chunk * k } else { 0 });
    let with_gradient = dh.is_some() || dtable.is_some();
    for rows in counted.chunks(chunk) {
        let count = rows.len();
        let logits = &mut logits[..count * vocab];
        let gathered = &mut gathered[..count * k];
        for (row, to) in rows.iter().zip(gathered.chunks_exact_mut(k.max(1))) {
            to.copy_from_slice(&h[row * k..(row + 1) * k]);
        }
        linear(gathered, count, k, table, vocab, bias, 1.0, 0.0, logits);
        let results: Vec<(f64, bool)> = logits
            .par_chunks_exact_mut(vocab)
            .zip(rows)
            .map(|(logits, row)| {
                let target = targets[*row] as usize;
                let (loss, correct, logsumexp) = cross_entropy(logits, target, logit_scale, soft_cap);
                if with_gradient {
                    let factor = scale * weights[*row];
                    gradient(logits, target, logsumexp, factor, logit_scale, soft_cap);
                }
                (loss, correct)
            })
            .collect();
        for (row, (loss, correct)) in rows.iter().zip(results) {
            sums.loss += f64::from(weights[*row]) * loss;
            sums.weight += f64::from(weights[*row]);
            sums.correct += u64::from(correct);
            if let Some(losses) = per_row_loss.as_deref_mut() {
                losses[*row] = loss as f32;
            }
        }
        if let Some(dh) = dh.as_deref_mut() {
            let gradient = &mut gathered_gradient[..count * k];
            linear_grad_input(logits, count, vocab, table, k, 1.0, 0.0, gradient);
            for (row, from) in rows.iter().zip(gradient.chunks_exact(k.max(1))) {
                dh[row * k..(row + 1) * k].copy_from_slice(from);
            }
        }
        if let Some(dtable) = dtable.as_deref_mut() {
            linear_grad_weight(logits, gathered, count, vocab, k, 1.0, 1.0, dtable);
        }
    }
    sums
}

/// Finishes the logits in place; the cross entropy, whether the target is the first greatest, and the log-sum-exp.
fn cross_entropy(logits: &mut [f32], target: usize, logit_scale: f32, soft_cap: Option<f32>) -> (f64, bool, f64) {
    finish(logits, logit_scale, soft_cap);
    let greatest = greatest(logits);
    let logsumexp = f64::from(greatest) + sum_exp(logits, greatest).ln();
    let correct = logits[target] == greatest && !logits[..target].contains(&greatest);
    (logsumexp - f64::from(logits[target]), correct, logsumexp)
}

/// The finished logits become the gradient of the raw ones.
fn gradient(logits: &mut [f32], target: usize, logsumexp: f64, factor: f32, logit_scale: f32, soft_cap: Option<f32>) {
    let at_target = f64::from(logits[target]);
    let slope = soft_cap.map_or(1.0, |cap| 1.0 - (at_target / f64::from(cap)).powi(2));
    // e^x - 1 in f64: a confident row's gradient is small, not rounded away.
    let value = f64::from(factor) * f64::from(logit_scale) * slope * (at_target - logsumexp).exp_m1();
    probabilities(logits, logsumexp as f32, factor * logit_scale, soft_cap);
    logits[target] = value as f32;
}

dispatch! {
    fn finish[](logits: &mut [f32], scale: f32, soft_cap: Option<f32>) {
        if scale != 1.0 {
            for logit in logits.iter_mut() {
                *logit *= scale;
            }
        }
        if let Some(cap) = soft_cap {
            for logit in logits.iter_mut() {
                *logit = cap * tanh::<FMA>(*logit / cap);
            }
        }
    }
}

dispatch! {
    fn greatest[](logits: &[f32]) -> f32 {
        max_of(logits)
    }
}

dispatch! {
    /// Sum of `e^(x - greatest)`: stretches in f32, their sum in f64. Exponentials first and sums after need fewer
    /// registers than both at once.
    fn sum_exp[](logits: &[f32], greatest: f32) -> f64 {
        let mut total = 0.0;
        let mut powers = [0f32; 2048];
        for stretch in logits.chunks(powers.len()) {
            let powers = &mut powers[..stretch.len()];
            for (power, logit) in powers.iter_mut().zip(stretch) {
                *power = exp::<FMA>(logit - greatest);
            }
            total += f64::from(sum_of(powers));
        }
        total
    }
}

dispatch! {
    /// `x` becomes `factor * e^(x - logsumexp)`, times the soft cap's slope.
    fn probabilities[](logits: &mut [f32], logsumexp: f32, factor: f32, soft_cap: Option<f32>) {
        if let Some(cap) = soft_cap {
            for logit in logits {
                let capped = *logit / cap;
                *logit = factor * exp::<FMA>(*logit - logsumexp) * (1.0 - capped * capped);
            }
        } else {
            for logit in logits {
                *logit = factor * exp::<FMA>(*logit - logsumexp);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, assert_close, assert_same_bits, finite_differences, random, wide};

    struct Case {
        rows: usize,
        k: usize,
        vocab: usize,
        soft_cap: Option<f32>,
        logit_scale: f32,
        with_bias: bool,
    }

    fn targets(case: &Case) -> Vec<u32> {
        (0..case.rows).map(|row| ((row * 7 + 3) % case.vocab) as u32).collect()
    }

    fn weights(case: &Case) -> Vec<f32> {
        (0..case.rows).map(|row| [1.0, 0.0, 0.5, -1.5][row % 4]).collect()
    }

    /// Cross entropy of every row, and whether the target is first.
    fn naive(case: &Case, h: &[f64], table: &[f64], bias: &[f64]) -> Vec<(f64, bool)> {
        let targets = targets(case);
        (0..case.rows)
            .map(|row| {
                let logits: Vec<f64> = (0..case.vocab)
                    .map(|token| {
                        let sum: f64 = (0..case.k).map(|i| h[row * case.k + i] * table[token * case.k + i]).sum();
                        let z = f64::from(case.logit_scale) * (sum + bias[token]);
                        case.soft_cap.map_or(z, |cap| f64::from(cap) * (z / f64::from(cap)).tanh())
                    })
                    .collect();
                let target = logits[targets[row] as usize];
                let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                (logits.iter().map(|z| z.exp()).sum::<f64>().ln() - target, target == best)
            })
            .collect()
    }

    #[test]
    fn sums_and_gradients() {
        for case in [
            Case { rows: 1, k: 3, vocab: 5, soft_cap: None, logit_scale: 1.0, with_bias: false },
            Case { rows: 9, k: 7, vocab: 37, soft_cap: None, logit_scale: 0.7, with_bias: true },
            Case { rows: 14, k: 8, vocab: 33, soft_cap: Some(1.5), logit_scale: 1.3, with_bias: true },
            Case { rows: 5, k: 4, vocab: 1, soft_cap: None, logit_scale: 1.0, with_bias: false },
        ] {
            let h = random(case.rows * case.k, 1);
            let stored = Stored::new(case.vocab * case.k, 2);
            let bias = random(case.vocab, 3);
            let (targets, weights) = (targets(&case), weights(&case));
            let scale = 0.25f32;
            for table in stored.all() {
                let (h64, table64) = (wide(&h), wide(&table.to_vec()));
                let bias64 = if case.with_bias { wide(&bias) } else { vec![0.0; case.vocab] };
                let expected = naive(&case, &h64, &table64, &bias64);
                let mut dh = vec![f32::NAN; h.len()];
                let mut dtable = vec![1.0; case.vocab * case.k];
                let mut losses = vec![f32::NAN; case.rows];
                let sums = linear_cross_entropy(
                    &h,
                    case.rows,
                    case.k,
                    table,
                    case.vocab,
                    case.with_bias.then_some(Weight::F32(&bias)),
                    &targets,
                    &weights,
                    case.soft_cap,
                    case.logit_scale,
                    scale,
                    Some(&mut dh),
                    Some(&mut dtable),
                    Some(&mut losses),
                );
                let total = |rows: &[(f64, bool)]| -> f64 {
                    rows.iter().zip(&weights).map(|(row, weight)| row.0 * f64::from(*weight)).sum()
                };
                assert!((sums.loss - total(&expected)).abs() < 1e-5, "{} and {}", sums.loss, total(&expected));
                assert_eq!(sums.weight, weights.iter().map(|w| f64::from(*w)).sum::<f64>());
                let counted = weights.iter().filter(|w| **w != 0.0).count() as u64;
                assert_eq!(sums.counted, counted);
                let correct = expected.iter().zip(&weights).filter(|(row, w)| row.1 && **w != 0.0).count();
                assert_eq!(sums.correct, correct as u64);
                let each: Vec<f64> =
                    expected.iter().zip(&weights).map(|(row, w)| if *w == 0.0 { 0.0 } else { row.0 }).collect();
                assert_close(&losses, &each, 1e-6, "per_row_loss");
                // A product, an exponential and a product: some units of f32.
                let loss = |h: &[f64], table: &[f64]| f64::from(scale) * total(&naive(&case, h, table, &bias64));
                assert_close(&dh, &finite_differences(&h64, |h| loss(h, &table64)), 2e-6, "dh");
                let expected: Vec<f64> =
                    finite_differences(&table64, |table| loss(&h64, table)).iter().map(|g| g + 1.0).collect();
                assert_close(&dtable, &expected, 2e-6, "dtable");

                // Without gradients the sums are the same bits.
                let again = linear_cross_entropy(
                    &h,
                    case.rows,
                    case.k,
                    table,
                    case.vocab,
                    case.with_bias.then_some(Weight::F32(&bias)),
                    &targets,
                    &weights,
                    case.soft_cap,
                    case.logit_scale,
                    scale,
                    None,
                    None,
                    None,
                );
                assert_eq!(again, sums);
            }
        }
    }

    #[test]
    fn several_chunks_equal_one_and_threads_do_not_matter() {
        // 9,000,000 logits: two chunks.
        let (rows, k, vocab) = (90, 4, 100_000);
        assert!(rows * vocab > LOGITS, "the shape must need two chunks");
        let h = random(rows * k, 1);
        let table = random(vocab * k, 2);
        let targets: Vec<u32> = (0..rows as u32).map(|row| row * 1000).collect();
        let run = |first: usize, last: usize, dtable: &mut [f32]| {
            let mut weights = vec![0.0; rows];
            weights[first..last].fill(1.0);
            let mut dh = vec![0.0; rows * k];
            let sums = linear_cross_entropy(
                &h,
                rows,
                k,
                Weight::F32(&table),
                vocab,
                None,
                &targets,
                &weights,
                None,
                1.0,
                1.0,
                Some(&mut dh),
                Some(dtable),
                None,
            );
            (sums, dh)
        };
        let (mut whole, mut halves) = (vec![0.0; vocab * k], vec![0.0; vocab * k]);
        let (sums, dh) = run(0, 90, &mut whole);
        let (first, dh_first) = run(0, 45, &mut halves);
        let (second, dh_second) = run(45, 90, &mut halves);
        assert!((sums.loss - first.loss - second.loss).abs() < 1e-9 * sums.loss);
        let added: Vec<f64> = wide(&dh_first).iter().zip(wide(&dh_second)).map(|(a, b)| a + b).collect();
        assert_close(&dh, &added, 1e-6, "dh");
        assert_close(&whole, &wide(&halves), 1e-6, "dtable");
        assert_same_bits("linear_cross_entropy", || {
            let mut dtable = vec![0.0; vocab * k];
            let (sums, mut dh) = run(0, 90, &mut dtable);
            dh.push(sums.loss as f32);
            dh.extend(dtable);
            dh
        });
    }
}
