//! What the crate's tests share: reproducible inputs, comparison, finite differences, thread pools.

use half::{bf16, f16};

use crate::Weight;

/// `length` numbers in [-1, 1), the same for a seed.
pub(crate) fn random(length: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
    (0..length)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ z >> 31) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// A weight in each stored type, with the numbers it really holds.
pub(crate) struct Stored {
    pub(crate) f32: Vec<f32>,
    pub(crate) bf16: Vec<bf16>,
    pub(crate) f16: Vec<f16>,
}

impl Stored {
    pub(crate) fn new(length: usize, seed: u64) -> Self {
        let f32 = random(length, seed);
        let bf16 = f32.iter().map(|x| bf16::from_f32(*x)).collect();
        let f16 = f32.iter().map(|x| f16::from_f32(*x)).collect();
        Self { f32, bf16, f16 }
    }

    pub(crate) fn all(&self) -> [Weight<'_>; 3] {
        [Weight::F32(&self.f32), Weight::Bf16(&self.bf16), Weight::F16(&self.f16)]
    }
}

/// Asserts that no element is further away than `tolerance` times the greatest expected size (at least 1).
#[track_caller]
pub(crate) fn assert_close(actual: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    let size = expected.iter().fold(1.0f64, |size, x| size.max(x.abs()));
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*actual) - expected).abs();
        assert!(error <= tolerance * size, "{what}: element {index} is {actual}, expected {expected}");
    }
}

/// Central finite differences of `function` at `x`, in f64: with this step the error is about 1e-9, far below f32's.
pub(crate) fn finite_differences(x: &[f64], function: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let step = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|index| {
            let at = x[index];
            x[index] = at + step;
            let above = function(&x);
            x[index] = at - step;
            let below = function(&x);
            x[index] = at;
            (above - below) / (2.0 * step)
        })
        .collect()
}

pub(crate) fn inner(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * f64::from(*b)).sum()
}

/// Asserts that `kernel` writes the same bits on 1, 2, 3 and 7 threads, and again on a second run.
#[track_caller]
pub(crate) fn assert_same_bits(what: &str, kernel: impl Fn() -> Vec<f32> + Sync) {
    let mut first: Option<Vec<u32>> = None;
    for threads in [1, 2, 3, 7, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        let bits: Vec<u32> = pool.install(&kernel).iter().map(|x| x.to_bits()).collect();
        match &first {
            None => first = Some(bits),
            Some(first) => assert!(*first == bits, "{what}: other bits on {threads} threads"),
        }
    }
}

/// The error function by its all-positive series.
pub(crate) fn erf(x: f64) -> f64 {
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= 2.0 * x * x / (2.0 * f64::from(n) + 1.0);
        sum += term;
    }
    sum * 2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp()
}
