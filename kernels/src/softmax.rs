//! Softmax over the last axis.

use crate::parallel::{Shared, for_each_range, rows_per_task};
use crate::simd::{dispatch, dot, exp, max_of, sum_of};

/// `out = e^x / sum(e^x)` for each of `rows` rows of `width`.
pub fn softmax(x: &[f32], rows: usize, width: usize, out: &mut [f32]) {
    assert!(x.len() == rows * width && out.len() == x.len(), "softmax: an operand is not [rows, width]");
    if width == 0 {
        return;
    }
    let shared = Shared::new(out);
    for_each_range(rows, rows_per_task(width), |range| {
        let range = range.start * width..range.end * width;
        // SAFETY: ranges of different tasks do not overlap.
        let out = unsafe { shared.part(range.clone()) };
        forward(&x[range], width, out);
    });
}

/// Gradient of [`softmax`] from its output: `dx = y * (dy - sum(y * dy))`; overwritten, or added to with `accumulate`.
pub fn softmax_grad(y: &[f32], dy: &[f32], rows: usize, width: usize, dx: &mut [f32], accumulate: bool) {
    let length = rows * width;
    assert!([y.len(), dy.len(), dx.len()] == [length; 3], "softmax_grad: an operand is not [rows, width]");
    if width == 0 {
        return;
    }
    let shared = Shared::new(dx);
    for_each_range(rows, rows_per_task(width), |range| {
        let range = range.start * width..range.end * width;
        // SAFETY: ranges of different tasks do not overlap.
        let dx = unsafe { shared.part(range.clone()) };
        backward(&y[range.clone()], &dy[range], width, dx, accumulate);
    });
}

dispatch! {
    fn forward[](x: &[f32], width: usize, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let greatest = max_of(x);
            for (x, out) in x.iter().zip(out.iter_mut()) {
                *out = exp::<FMA>(x - greatest);
            }
            let scale = 1.0 / sum_of(out);
            for out in out {
                *out *= scale;
            }
        }
    }
}

dispatch! {
    fn backward[](y: &[f32], dy: &[f32], width: usize, dx: &mut [f32], accumulate: bool) {
        for ((y, dy), dx) in y.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let along = dot::<FMA>(y, dy);
            for ((y, dy), dx) in y.iter().zip(dy).zip(dx) {
                let value = y * (dy - along);
                *dx = if accumulate { *dx + value } else { value };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, finite_differences, inner, random, wide};

    fn naive(x: &[f64], width: usize) -> Vec<f64> {
        x.chunks(width)
            .flat_map(|row| {
                let sum: f64 = row.iter().map(|x| x.exp()).sum();
                row.iter().map(move |x| x.exp() / sum).collect::<Vec<_>>()
            })
            .collect()
    }

    #[test]
    fn softmax_and_its_gradient() {
        for (rows, width) in [(1, 1), (3, 7), (2, 64), (4, 101)] {
            let x: Vec<f32> = random(rows * width, 1).iter().map(|x| 8.0 * x).collect();
            let dy = random(x.len(), 2);
            let mut y = vec![f32::NAN; x.len()];
            softmax(&x, rows, width, &mut y);
            // Two units in the last place of the exponential, one reduction, one division.
            assert_close(&y, &naive(&wide(&x), width), 1e-6, "softmax");
            let expected = finite_differences(&wide(&x), |x| inner(&naive(x, width), &dy));
            let mut dx = vec![f32::NAN; x.len()];
            softmax_grad(&y, &dy, rows, width, &mut dx, false);
            assert_close(&dx, &expected, 1e-6, "softmax_grad");
            softmax_grad(&y, &dy, rows, width, &mut dx, true);
            let twice: Vec<f64> = expected.iter().map(|x| 2.0 * x).collect();
            assert_close(&dx, &twice, 1e-6, "softmax_grad accumulated");
        }
        let mut y = [f32::NAN; 3];
        softmax(&[1000.0, f32::NEG_INFINITY, 1000.0], 1, 3, &mut y);
        assert_eq!(y, [0.5, 0.0, 0.5]);
    }
}
