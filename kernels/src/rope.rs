//! Rotary position embedding (Su et al., arXiv:2104.09864).

use crate::parallel::{Shared, for_each_range, rows_per_task};
use crate::simd::dispatch;

/// Cosines and sines, each `[rows, dims / 2]`, of `position * inverse_frequency`, times `attention_factor` (yarn's; else
/// 1). The angle is rounded to f32, as the reference implementations do; its cosine and sine are exact to rounding.
pub fn rope_tables(
    positions: &[u32],
    inverse_frequencies: &[f32],
    attention_factor: f32,
    cos: &mut [f32],
    sin: &mut [f32],
) {
    let half = inverse_frequencies.len();
    assert_eq!(cos.len(), positions.len() * half, "rope_tables: cos is not [rows, dims / 2]");
    assert_eq!(sin.len(), positions.len() * half, "rope_tables: sin is not [rows, dims / 2]");
    let (cos, sin) = (Shared::new(cos), Shared::new(sin));
    for_each_range(positions.len(), (1024 / half.max(1)).max(1), |rows| {
        let range = rows.start * half..rows.end * half;
        // SAFETY: ranges of different tasks do not overlap.
        let (cos, sin) = unsafe { (cos.part(range.clone()), sin.part(range)) };
        for (row, position) in positions[rows].iter().enumerate() {
            for (index, frequency) in inverse_frequencies.iter().enumerate() {
                let (s, c) = f64::from(*position as f32 * frequency).sin_cos();
                cos[row * half + index] = c as f32 * attention_factor;
                sin[row * half + index] = s as f32 * attention_factor;
            }
        }
    });
}

/// Rotates the first `dims` of each head of `x[rows, heads, head_dim]` and copies the others. Pair i is (i, i + dims/2),
/// or (2i, 2i + 1) if `interleaved`. `cos` and `sin` are `[rows, dims / 2]`. `inverse` multiplies by the transpose, which
/// is the gradient with respect to `x`.
pub fn rope(
    x: &[f32],
    rows: usize,
    heads: usize,
    head_dim: usize,
    dims: usize,
    cos: &[f32],
    sin: &[f32],
    interleaved: bool,
    inverse: bool,
    out: &mut [f32],
) {
    let width = heads * head_dim;
    let half = dims / 2;
    assert!(dims.is_multiple_of(2) && dims <= head_dim, "rope: dims must be even and at most head_dim");
    assert_eq!(x.len(), rows * width, "rope: x is not [rows, heads, head_dim]");
    assert_eq!(out.len(), rows * width, "rope: out is not [rows, heads, head_dim]");
    assert_eq!(cos.len(), rows * half, "rope: cos is not [rows, dims / 2]");
    assert_eq!(sin.len(), rows * half, "rope: sin is not [rows, dims / 2]");
    if width == 0 {
        return;
    }
    let sign = if inverse { -1.0 } else { 1.0 };
    let shared = Shared::new(out);
    for_each_range(rows, rows_per_task(width), |rows| {
        let range = rows.start * width..rows.end * width;
        // SAFETY: ranges of different tasks do not overlap.
        let out = unsafe { shared.part(range.clone()) };
        let angles = rows.start * half..rows.end * half;
        rotate(&x[range], width, head_dim, dims, &cos[angles.clone()], &sin[angles], interleaved, sign, out);
    });
}

dispatch! {
    fn rotate[](
        x: &[f32],
        width: usize,
        head_dim: usize,
        dims: usize,
        cos: &[f32],
        sin: &[f32],
        interleaved: bool,
        sign: f32,
        out: &mut [f32],
    ) {
        let half = dims / 2;
        for (row, (x, out)) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate() {
            let cos = &cos[row * half..(row + 1) * half];
            let sin = &sin[row * half..(row + 1) * half];
            for (x, out) in x.chunks_exact(head_dim).zip(out.chunks_exact_mut(head_dim)) {
                if interleaved {
                    let pairs = x[..dims].chunks_exact(2).zip(out[..dims].chunks_exact_mut(2));
                    for ((x, out), (cos, sin)) in pairs.zip(cos.iter().zip(sin)) {
                        let sin = sin * sign;
                        out[0] = x[0] * cos - x[1] * sin;
                        out[1] = x[1] * cos + x[0] * sin;
                    }
                } else {
                    let (first, second) = x[..dims].split_at(half);
                    let (out_first, out_second) = out[..dims].split_at_mut(half);
                    for i in 0..half {
                        let sin = sin[i] * sign;
                        out_first[i] = first[i] * cos[i] - second[i] * sin;
                        out_second[i] = second[i] * cos[i] + first[i] * sin;
                    }
                }
                out[dims..].copy_from_slice(&x[dims..]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, finite_differences, inner, random, wide};

    /// Three roundings an element.
    const TOLERANCE: f64 = 5e-7;

    fn naive(
        x: &[f64],
        heads: usize,
        head_dim: usize,
        dims: usize,
        positions: &[u32],
        frequencies: &[f32],
        factor: f64,
        interleaved: bool,
    ) -> Vec<f64> {
        let mut out = x.to_vec();
        for (row, position) in positions.iter().enumerate() {
            for head in 0..heads {
                let base = (row * heads + head) * head_dim;
                for (i, frequency) in frequencies.iter().enumerate() {
                    let (a, b) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + dims / 2) };
                    let (sin, cos) = f64::from(*position as f32 * frequency).sin_cos();
                    out[base + a] = factor * (x[base + a] * cos - x[base + b] * sin);
                    out[base + b] = factor * (x[base + b] * cos + x[base + a] * sin);
                }
            }
        }
        out
    }

    #[test]
    fn rotation_and_its_gradient() {
        for (heads, head_dim, dims) in [(1, 2, 2), (3, 16, 16), (2, 20, 12), (1, 64, 64), (2, 6, 0)] {
            let positions = [0u32, 1, 7, 131_071];
            let rows = positions.len();
            let frequencies: Vec<f32> = (0..dims / 2).map(|i| 10_000f32.powf(-2.0 * i as f32 / dims as f32)).collect();
            let mut cos = vec![0.0; rows * dims / 2];
            let mut sin = cos.clone();
            let x = random(rows * heads * head_dim, 1);
            let dy = random(x.len(), 2);
            for (interleaved, factor) in [(false, 1.0), (true, 1.0), (false, 1.25)] {
                rope_tables(&positions, &frequencies, factor as f32, &mut cos, &mut sin);
                let naive = |x: &[f64]| naive(x, heads, head_dim, dims, &positions, &frequencies, factor, interleaved);
                let mut out = vec![f32::NAN; x.len()];
                rope(&x, rows, heads, head_dim, dims, &cos, &sin, interleaved, false, &mut out);
                assert_close(&out, &naive(&wide(&x)), TOLERANCE, "rope");
                let mut dx = vec![f32::NAN; x.len()];
                rope(&dy, rows, heads, head_dim, dims, &cos, &sin, interleaved, true, &mut dx);
                let expected = finite_differences(&wide(&x), |x| inner(&naive(x), &dy));
                assert_close(&dx, &expected, TOLERANCE, "rope gradient");
            }
        }
    }
}
