//! The update of AdamW in one pass, and the global norm for clipping.

use rayon::prelude::*;

use crate::parallel::{Shared, TASK, for_each_range};
use crate::simd::{dispatch, dot, fma};

/// Settings of one step of AdamW (Loshchilov and Hutter, arXiv:1711.05101), with the meaning of `torch.optim.AdamW`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    pub lr: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    /// Decoupled: the parameter shrinks by `lr * weight_decay` before the update.
    pub weight_decay: f64,
    /// Counted from 1.
    pub step: u64,
}

/// One step on a parameter `p` with its gradient `g`, multiplied by `grad_scale` first (accumulation, clipping), and its
/// moments `m` and `v`.
pub fn adamw(p: &mut [f32], g: &[f32], grad_scale: f32, m: &mut [f32], v: &mut [f32], settings: &AdamW) {
    let length = p.len();
    assert!([g.len(), m.len(), v.len()] == [length; 3], "adamw: lengths differ");
    assert!(settings.step > 0, "adamw: steps are counted from 1");
    let step = settings.step.min(i32::MAX as u64) as i32;
    let factors = Factors {
        grad_scale,
        decay: (1.0 - settings.lr * settings.weight_decay) as f32,
        first: (1.0 - settings.beta1) as f32,
        keep: settings.beta2 as f32,
        second: (1.0 - settings.beta2) as f32,
        root: (1.0 / (1.0 - settings.beta2.powi(step)).sqrt()) as f32,
        eps: settings.eps as f32,
        size: (settings.lr / (1.0 - settings.beta1.powi(step))) as f32,
    };
    let (p, m, v) = (Shared::new(p), Shared::new(m), Shared::new(v));
    for_each_range(length, TASK, |range| {
        // SAFETY: ranges of different tasks do not overlap.
        let (p, m, v) = unsafe { (p.part(range.clone()), m.part(range.clone()), v.part(range.clone())) };
        update(p, &g[range], m, v, &factors);
    });
}

struct Factors {
    grad_scale: f32,
    decay: f32,
    first: f32,
    keep: f32,
    second: f32,
    root: f32,
    eps: f32,
    size: f32,
}

dispatch! {
    fn update[](p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], factors: &Factors) {
        for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            let g = g * factors.grad_scale;
            *m = fma::<FMA>(factors.first, g - *m, *m);
            *v = fma::<FMA>(factors.second * g, g, *v * factors.keep);
            let denominator = v.sqrt() * factors.root + factors.eps;
            *p = *p * factors.decay - factors.size * (*m / denominator);
        }
    }
}

/// Sum of the squares, in f64 between blocks of fixed size.
pub fn sum_squares(x: &[f32]) -> f64 {
    // Blocks short enough that their f32 sum keeps its digits.
    let block = |x: &[f32]| x.chunks(1024).map(|x| f64::from(squares(x))).sum::<f64>();
    if x.len() <= 4 * TASK {
        block(x)
    } else {
        let parts: Vec<f64> = x.par_chunks(4 * TASK).map(block).collect();
        parts.iter().sum()
    }
}

dispatch! {
    fn squares[](x: &[f32]) -> f32 {
        dot::<FMA>(x, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_same_bits, random, wide};

    #[test]
    fn twenty_steps_equal_the_formula() {
        for length in [1, 13, 40_000] {
            let start = random(length, 1);
            let (mut p, mut m, mut v) = (start.clone(), vec![0.0; length], vec![0.0; length]);
            let (mut p64, mut m64, mut v64) = (wide(&start), vec![0.0; length], vec![0.0; length]);
            for step in 1..=20u64 {
                let g = random(length, 100 + step);
                let settings = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step };
                adamw(&mut p, &g, 0.5, &mut m, &mut v, &settings);
                for i in 0..length {
                    let g = 0.5 * f64::from(g[i]);
                    p64[i] *= 1.0 - 1e-2 * 0.1;
                    m64[i] = 0.9 * m64[i] + 0.1 * g;
                    v64[i] = 0.95 * v64[i] + 0.05 * g * g;
                    let corrected: f64 = v64[i] / (1.0 - 0.95f64.powi(step as i32));
                    let update: f64 = m64[i] / (1.0 - 0.9f64.powi(step as i32)) / (corrected.sqrt() + 1e-8);
                    p64[i] -= 1e-2 * update;
                }
            }
            // Twenty roundings of numbers below 1.
            assert_close(&p, &p64, 2e-6, "p");
            assert_close(&m, &m64, 1e-6, "m");
            assert_close(&v, &v64, 1e-6, "v");
        }
    }

    #[test]
    fn squares_keep_their_digits() {
        for length in [0, 1, 1000, 1_000_003] {
            let x = random(length, 1);
            let expected: f64 = wide(&x).iter().map(|x| x * x).sum();
            assert!((sum_squares(&x) - expected).abs() <= 1e-7 * expected.max(1.0));
        }
        let x = random(1_000_003, 2);
        assert_same_bits("sum_squares", || {
            let bits = sum_squares(&x).to_bits();
            vec![f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32)]
        });
    }
}
