//! What tests need around a run: a loss, and derivatives from differences alone.

use std::collections::BTreeMap;

use super::{Feed, InterpretError, Real, run};
use crate::ir::{Graph, Param, Value};

/// `Σᵣ weights[r] · (ln Σⱼ exp(logits[r, j]) - logits[r, targets[r]])` in f64: the negative log-likelihood summed with
/// weights. A mean is the caller's choice of weights; a row of weight 0 is skipped, whatever its target.
///
/// # Panics
/// When the lengths do not match or a target with a weight is not below `vocabulary`.
pub fn cross_entropy<T: Real>(logits: &[T], vocabulary: usize, targets: &[i64], weights: &[f64]) -> f64 {
    assert_eq!(logits.len(), targets.len() * vocabulary, "logits are [rows, vocabulary]");
    assert_eq!(targets.len(), weights.len(), "one weight for each target");
    let mut sum = 0.0;
    for ((row, &target), &weight) in logits.chunks(vocabulary).zip(targets).zip(weights) {
        if weight == 0.0 {
            continue;
        }
        let highest = row.iter().map(|x| x.to_f64()).fold(f64::NEG_INFINITY, f64::max);
        let powers: f64 = row.iter().map(|x| (x.to_f64() - highest).exp()).sum();
        let target =
            usize::try_from(target).ok().filter(|&t| t < vocabulary).expect("a target is below the vocabulary");
        sum += weight * (highest + powers.ln() - row[target].to_f64());
    }
    sum
}

/// The gradient of `function` at `at` by central differences, one element after another:
/// `(f(x + h) - f(x - h)) / 2h` with `h = 6e-6 · max(1, |x|)`, about the best step in f64 (the cube root of its
/// precision). The error is near `1e-10 · |f|` where third derivatives are moderate. It calls `function` twice an element.
pub fn finite_difference(at: &[f64], mut function: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    let mut x = at.to_vec();
    (0..at.len())
        .map(|i| {
            let step = 6e-6 * at[i].abs().max(1.0);
            x[i] = at[i] + step;
            let (above, high) = (function(&x), x[i]);
            x[i] = at[i] - step;
            let (below, low) = (function(&x), x[i]);
            x[i] = at[i];
            // The step really taken, after rounding.
            (above - below) / (high - low)
        })
        .collect()
}

/// The gradient of a scalar `loss` of the values `wanted` with respect to one parameter, by [`finite_difference`]: two
/// runs of the graph for each of the parameter's elements. To differentiate by a value, make it a parameter (`read`, or
/// `embed` with one id a row).
///
/// # Errors
/// As [`run`].
pub fn parameter_difference(
    graph: &Graph,
    params: &dyn Fn(Param) -> Vec<f64>,
    feed: &Feed,
    wanted: &[Value],
    param: Param,
    loss: &dyn Fn(&BTreeMap<Value, Vec<f64>>) -> f64,
) -> Result<Vec<f64>, InterpretError> {
    // One run first, so that a feed which does not fit is an error and not a wrong derivative.
    run(graph, params, feed, wanted)?;
    let mut failed = None;
    let gradient = finite_difference(&params(param), |x| {
        let changed = |p: Param| if p == param { x.to_vec() } else { params(p) };
        match run(graph, &changed, feed, wanted) {
            Ok(values) => loss(&values),
            Err(error) => {
                failed = Some(error);
                f64::NAN
            }
        }
    });
    failed.map_or(Ok(gradient), Err)
}
