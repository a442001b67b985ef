//! RMS, layer and L2 normalisation over the last axis, with gradients that recompute the statistics.

use crate::parallel::{Shared, for_each_range, rows_per_task, scratch};
use crate::simd::{LANES, dispatch, dot, dot3, fma, reduce, sum_of};
use crate::weight::Weight;

/// `out = x / sqrt(mean(x^2) + eps) * (weight + weight_offset)` for each of `rows` rows of `width` (Zhang and Sennrich,
/// arXiv:1910.07467). `weight_offset` is 0, or 1 where the checkpoint stores the weight minus one (Gemma); without a
/// weight the factor is 1.
pub fn rms_norm(
    x: &[f32],
    rows: usize,
    width: usize,
    weight: Option<Weight>,
    weight_offset: f32,
    eps: f32,
    out: &mut [f32],
) {
    check("rms_norm", rows, width, &[x.len(), out.len()]);
    let factor = factors(weight, weight_offset, width);
    let shared = Shared::new(out);
    for_each_range(rows, rows_per_task(width), |range| {
        let range = range.start * width..range.end * width;
        // SAFETY: ranges of different tasks do not overlap.
        let out = unsafe { shared.part(range.clone()) };
        scale_rows(&x[range], width, &factor, eps, width as f64, out);
    });
}

/// Gradients of [`rms_norm`]. `dx` is overwritten, or added to with `accumulate`; `dweight` is added to.
pub fn rms_norm_grad(
    x: &[f32],
    dy: &[f32],
    rows: usize,
    width: usize,
    weight: Option<Weight>,
    weight_offset: f32,
    eps: f32,
    dx: &mut [f32],
    accumulate: bool,
    dweight: Option<&mut [f32]>,
) {
    check("rms_norm_grad", rows, width, &[x.len(), dy.len(), dx.len()]);
    let factor = factors(weight, weight_offset, width);
    scale_rows_backward(x, dy, rows, width, &factor, eps, width as f64, dx, accumulate, dweight);
}

/// `out = x / sqrt(sum(x^2) + eps)` for each row.
pub fn l2_norm(x: &[f32], rows: usize, width: usize, eps: f32, out: &mut [f32]) {
    check("l2_norm", rows, width, &[x.len(), out.len()]);
    let factor = vec![1.0; width];
    let shared = Shared::new(out);
    for_each_range(rows, rows_per_task(width), |range| {
        let range = range.start * width..range.end * width;
        // SAFETY: ranges of different tasks do not overlap.
        let out = unsafe { shared.part(range.clone()) };
        scale_rows(&x[range], width, &factor, eps, 1.0, out);
    });
}

/// Gradient of [`l2_norm`]; `dx` is overwritten, or added to with `accumulate`.
pub fn l2_norm_grad(x: &[f32], dy: &[f32], rows: usize, width: usize, eps: f32, dx: &mut [f32], accumulate: bool) {
    check("l2_norm_grad", rows, width, &[x.len(), dy.len(), dx.len()]);
    scale_rows_backward(x, dy, rows, width, &vec![1.0; width], eps, 1.0, dx, accumulate, None);
}

/// `out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias` for each row, with the biased variance (Ba et al.,
/// arXiv:1607.06450). Without a weight the factor is 1, without a bias nothing is added.
pub fn layer_norm(
    x: &[f32],
    rows: usize,
    width: usize,
    weight: Option<Weight>,
    bias: Option<Weight>,
    eps: f32,
    out: &mut [f32],
) {
    check("layer_norm", rows, width, &[x.len(), out.len()]);
    let factor = factors(weight, 0.0, width);
    let bias = bias.map_or_else(|| vec![0.0; width], Weight::to_vec);
    assert_eq!(bias.len(), width, "layer_norm: the bias is not [width]");
    let shared = Shared::new(out);
    for_each_range(rows, rows_per_task(width), |range| {
        let range = range.start * width..range.end * width;
        // SAFETY: ranges of different tasks do not overlap.
        let out = unsafe { shared.part(range.clone()) };
        centre_rows(&x[range], width, &factor, &bias, eps, out);
    });
}

/// Gradients of [`layer_norm`]. `dx` is overwritten, or added to with `accumulate`; `dweight` and `dbias` are added to.
pub fn layer_norm_grad(
    x: &[f32],
    dy: &[f32],
    rows: usize,
    width: usize,
    weight: Option<Weight>,
    eps: f32,
    dx: &mut [f32],
    accumulate: bool,
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    check("layer_norm_grad", rows, width, &[x.len(), dy.len(), dx.len()]);
    let factor = factors(weight, 0.0, width);
    let shared = Shared::new(dx);
    let sums = sum_over_blocks(rows, 2 * width, |range, partial| {
        let range = range.start * width..range.end * width;
        // SAFETY: ranges of different tasks do not overlap.
        let dx = unsafe { shared.part(range.clone()) };
        let (dweight, dbias) = partial.split_at_mut(width);
        centre_rows_backward(&x[range.clone()], &dy[range], width, &factor, eps, dx, accumulate, dweight, dbias);
    });
    if let Some(dweight) = dweight {
        add(dweight, &sums[..width]);
    }
    if let Some(dbias) = dbias {
        add(dbias, &sums[width..]);
    }
}

fn check(name: &str, rows: usize, width: usize, lengths: &[usize]) {
    for length in lengths {
        assert_eq!(*length, rows * width, "{name}: an operand is not [rows, width] = [{rows}, {width}]");
    }
}

/// The numbers a normalised row is multiplied by.
fn factors(weight: Option<Weight>, offset: f32, width: usize) -> Vec<f32> {
    let Some(weight) = weight else {
        return vec![1.0; width];
    };
    assert_eq!(weight.len(), width, "a norm's weight is not [width]");
    let mut factor = weight.to_vec();
    if offset != 0.0 {
        factor.iter_mut().for_each(|factor| *factor += offset);
    }
    factor
}

fn add(sum: &mut [f32], part: &[f32]) {
    assert_eq!(sum.len(), part.len(), "a norm's parameter gradient is not [width]");
    for (sum, part) in sum.iter_mut().zip(part) {
        *sum += part;
    }
}

/// Runs `work` on blocks of rows, each with its own zeroed partial sums, and returns the partials' sum. The blocks
/// depend on `rows` alone, and there are at most 32, so the partials stay small.
fn sum_over_blocks(rows: usize, width: usize, work: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync) -> Vec<f32> {
    let block = rows.div_ceil(32).max(32);
    let blocks = rows.div_ceil(block);
    let mut partials = scratch(blocks * width);
    let shared = Shared::new(&mut partials);
    for_each_range(blocks, 1, |range| {
        for index in range {
            // SAFETY: each task owns the partial of its block.
            let partial = unsafe { shared.part(index * width..(index + 1) * width) };
            partial.fill(0.0);
            work(index * block..((index + 1) * block).min(rows), partial);
        }
    });
    let mut sums = vec![0.0; width];
    for partial in partials.chunks_exact(width.max(1)) {
        add(&mut sums, partial);
    }
    sums
}

/// Shared by [`rms_norm_grad`] and [`l2_norm_grad`], which differ in `divisor` (the width, or 1).
fn scale_rows_backward(
    x: &[f32],
    dy: &[f32],
    rows: usize,
    width: usize,
    factor: &[f32],
    eps: f32,
    divisor: f64,
    dx: &mut [f32],
    accumulate: bool,
    dweight: Option<&mut [f32]>,
) {
    let shared = Shared::new(dx);
    let with_weight = dweight.is_some();
    let sums = sum_over_blocks(rows, if with_weight { width } else { 0 }, |range, partial| {
        let range = range.start * width..range.end * width;
        // SAFETY: ranges of different tasks do not overlap.
        let dx = unsafe { shared.part(range.clone()) };
        scale_rows_gradient(&x[range.clone()], &dy[range], width, factor, eps, divisor, dx, accumulate, partial);
    });
    if let Some(dweight) = dweight {
        add(dweight, &sums);
    }
}

dispatch! {
    /// `out = x / sqrt(sum(x^2) / divisor + eps) * factor`.
    fn scale_rows[](x: &[f32], width: usize, factor: &[f32], eps: f32, divisor: f64, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let scale = inverse_root(dot::<FMA>(x, x), divisor, eps);
            for ((out, x), factor) in out.iter_mut().zip(x).zip(factor) {
                *out = x * scale * factor;
            }
        }
    }
}

#[inline(always)]
fn inverse_root(sum: f32, divisor: f64, eps: f32) -> f32 {
    (1.0 / (f64::from(sum) / divisor + f64::from(eps)).sqrt()) as f32
}

dispatch! {
    /// With r the row's scale and g = dy * factor: `dx = r * g - x * r^3 / divisor * sum(g * x)`, `dfactor += dy * x * r`.
    fn scale_rows_gradient[](
        x: &[f32],
        dy: &[f32],
        width: usize,
        factor: &[f32],
        eps: f32,
        divisor: f64,
        dx: &mut [f32],
        accumulate: bool,
        dfactor: &mut [f32],
    ) {
        for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let scale = inverse_root(dot::<FMA>(x, x), divisor, eps);
            let along = dot3::<FMA>(dy, factor, x);
            let back = (f64::from(along) * f64::from(scale).powi(3) / divisor) as f32;
            if accumulate {
                for (((dx, dy), factor), x) in dx.iter_mut().zip(dy).zip(factor).zip(x) {
                    *dx += fma::<FMA>(dy * factor, scale, -(x * back));
                }
            } else {
                for (((dx, dy), factor), x) in dx.iter_mut().zip(dy).zip(factor).zip(x) {
                    *dx = fma::<FMA>(dy * factor, scale, -(x * back));
                }
            }
            for ((dfactor, dy), x) in dfactor.iter_mut().zip(dy).zip(x) {
                *dfactor = fma::<FMA>(dy * scale, *x, *dfactor);
            }
        }
    }
}

/// Sum of `term(index)` for `0..length` in a fixed order.
#[inline(always)]
fn lanes_of(length: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let whole = length / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(start + lane);
        }
    }
    for (sum, index) in lanes.iter_mut().zip(whole..length) {
        *sum += term(index);
    }
    reduce(lanes)
}

/// Mean and inverse standard deviation of a row, in two passes so that a large mean does not cancel.
#[inline(always)]
fn statistics(x: &[f32], eps: f32) -> (f32, f32) {
    let width = x.len() as f64;
    let mean = (f64::from(sum_of(x)) / width) as f32;
    let squares = lanes_of(x.len(), |i| (x[i] - mean) * (x[i] - mean));
    (mean, inverse_root(squares, width, eps))
}

dispatch! {
    fn centre_rows[](x: &[f32], width: usize, factor: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let (mean, scale) = statistics(x, eps);
            for (((out, x), factor), bias) in out.iter_mut().zip(x).zip(factor).zip(bias) {
                *out = fma::<FMA>((x - mean) * scale, *factor, *bias);
            }
        }
    }
}

dispatch! {
    /// With h the normalised row and g = dy * factor: `dx = r * (g - mean(g) - h * mean(g * h))`.
    fn centre_rows_backward[](
        x: &[f32],
        dy: &[f32],
        width: usize,
        factor: &[f32],
        eps: f32,
        dx: &mut [f32],
        accumulate: bool,
        dfactor: &mut [f32],
        dbias: &mut [f32],
    ) {
        for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let (mean, scale) = statistics(x, eps);
            let mean_gradient = dot::<FMA>(dy, factor) / width as f32;
            let along = lanes_of(width, |i| dy[i] * factor[i] * ((x[i] - mean) * scale)) / width as f32;
            for (((dx, dy), factor), x) in dx.iter_mut().zip(dy).zip(factor).zip(x) {
                let normalised = (x - mean) * scale;
                let value = scale * (dy * factor - mean_gradient - normalised * along);
                *dx = if accumulate { *dx + value } else { value };
            }
            for (((dfactor, dbias), dy), x) in dfactor.iter_mut().zip(dbias.iter_mut()).zip(dy).zip(x) {
                *dfactor = fma::<FMA>(*dy, (x - mean) * scale, *dfactor);
                *dbias += dy;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Stored, assert_close, assert_same_bits, finite_differences, inner, random, wide};

    /// A few roundings per element and one reduction of at most some hundred terms.
    const TOLERANCE: f64 = 3e-6;
    const SHAPES: [(usize, usize); 5] = [(1, 1), (1, 7), (3, 33), (2, 64), (5, 100)];
    const EPS: f32 = 1e-5;

    fn naive_rms(x: &[f64], width: usize, factor: &[f64], eps: f64) -> Vec<f64> {
        x.chunks(width)
            .flat_map(|row| {
                let scale = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / width as f64 + eps).sqrt();
                row.iter().zip(factor).map(move |(x, w)| x * scale * w).collect::<Vec<_>>()
            })
            .collect()
    }

    fn naive_layer(x: &[f64], width: usize, factor: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
        x.chunks(width)
            .flat_map(|row| {
                let mean = row.iter().sum::<f64>() / width as f64;
                let variance = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / width as f64;
                let scale = 1.0 / (variance + eps).sqrt();
                (0..width).map(|i| (row[i] - mean) * scale * factor[i] + bias[i]).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn rms_norm_and_its_gradients() {
        for (rows, width) in SHAPES {
            let x = random(rows * width, 1);
            let dy = random(rows * width, 2);
            let stored = Stored::new(width, 3);
            for (weight, offset) in [
                (None, 0.0),
                (Some(Weight::F32(&stored.f32)), 0.0),
                (Some(Weight::Bf16(&stored.bf16)), 1.0),
                (Some(Weight::F16(&stored.f16)), 0.0),
            ] {
                let eps = f64::from(EPS);
                let factor: Vec<f64> =
                    weight.map_or(vec![1.0; width], |w| wide(&w.to_vec()).iter().map(|w| w + offset).collect());
                let mut out = vec![f32::NAN; x.len()];
                rms_norm(&x, rows, width, weight, offset as f32, EPS, &mut out);
                assert_close(&out, &naive_rms(&wide(&x), width, &factor, eps), TOLERANCE, "rms_norm");

                let expected_dx = finite_differences(&wide(&x), |x| inner(&naive_rms(x, width, &factor, eps), &dy));
                let expected_dw = finite_differences(&factor, |w| inner(&naive_rms(&wide(&x), width, w, eps), &dy));
                let mut dx = vec![f32::NAN; x.len()];
                let mut dw = vec![0.5; width];
                rms_norm_grad(&x, &dy, rows, width, weight, offset as f32, EPS, &mut dx, false, Some(&mut dw));
                assert_close(&dx, &expected_dx, TOLERANCE, "rms_norm dx");
                let shifted: Vec<f64> = expected_dw.iter().map(|w| w + 0.5).collect();
                assert_close(&dw, &shifted, TOLERANCE, "rms_norm dweight");
                let once = dx.clone();
                rms_norm_grad(&x, &dy, rows, width, weight, offset as f32, EPS, &mut dx, true, None);
                let twice: Vec<f64> = once.iter().map(|x| 2.0 * f64::from(*x)).collect();
                assert_close(&dx, &twice, TOLERANCE, "rms_norm dx accumulated");
            }
        }
    }

    #[test]
    fn l2_norm_and_its_gradient() {
        for (rows, width) in SHAPES {
            let x = random(rows * width, 1);
            let dy = random(rows * width, 2);
            // sqrt(sum + eps) is the RMS form with the mean's divisor moved into weight and eps.
            let naive = |x: &[f64]| -> Vec<f64> {
                let root = (width as f64).sqrt().recip();
                naive_rms(x, width, &vec![root; width], f64::from(EPS) / width as f64)
            };
            let mut out = vec![f32::NAN; x.len()];
            l2_norm(&x, rows, width, EPS, &mut out);
            assert_close(&out, &naive(&wide(&x)), TOLERANCE, "l2_norm");
            let expected = finite_differences(&wide(&x), |x| inner(&naive(x), &dy));
            let mut dx = vec![f32::NAN; x.len()];
            l2_norm_grad(&x, &dy, rows, width, EPS, &mut dx, false);
            assert_close(&dx, &expected, 10.0 * TOLERANCE, "l2_norm dx");
        }
    }

    #[test]
    fn layer_norm_and_its_gradients() {
        for (rows, width) in SHAPES {
            let x = random(rows * width, 1);
            let dy = random(rows * width, 2);
            let stored = Stored::new(width, 3);
            let bias = random(width, 4);
            let eps = f64::from(EPS);
            for weight in stored.all() {
                let factor = wide(&weight.to_vec());
                let naive = |x: &[f64], w: &[f64], b: &[f64]| naive_layer(x, width, w, b, eps);
                let (x64, b64) = (wide(&x), wide(&bias));
                let mut out = vec![f32::NAN; x.len()];
                layer_norm(&x, rows, width, Some(weight), Some(Weight::F32(&bias)), EPS, &mut out);
                assert_close(&out, &naive(&x64, &factor, &b64), TOLERANCE, "layer_norm");
                let mut dx = vec![f32::NAN; x.len()];
                let (mut dw, mut db) = (vec![0.0; width], vec![0.0; width]);
                layer_norm_grad(&x, &dy, rows, width, Some(weight), EPS, &mut dx, false, Some(&mut dw), Some(&mut db));
                let expected = finite_differences(&x64, |x| inner(&naive(x, &factor, &b64), &dy));
                assert_close(&dx, &expected, 10.0 * TOLERANCE, "layer_norm dx");
                let expected = finite_differences(&factor, |w| inner(&naive(&x64, w, &b64), &dy));
                assert_close(&dw, &expected, TOLERANCE, "layer_norm dweight");
                let expected = finite_differences(&b64, |b| inner(&naive(&x64, &factor, b), &dy));
                assert_close(&db, &expected, TOLERANCE, "layer_norm dbias");
            }
        }
    }

    #[test]
    fn the_number_of_threads_does_not_change_a_bit() {
        let (rows, width) = (1000, 72);
        let x = random(rows * width, 1);
        let dy = random(rows * width, 2);
        let weight = random(width, 3);
        assert_same_bits("rms_norm_grad", || {
            let mut dx = vec![0.0; rows * width];
            let mut dw = vec![0.0; width];
            rms_norm_grad(&x, &dy, rows, width, Some(Weight::F32(&weight)), 0.0, EPS, &mut dx, false, Some(&mut dw));
            dx.extend(dw);
            dx
        });
    }
}
