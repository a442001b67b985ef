//! What the tests of CUDA kernels share: a device if there is one, random numbers, and comparisons that say where they fail.

#![allow(dead_code, reason = "each test binary uses its part")]

use swift_kernels::cuda::{Device, Dtype};

/// The first GPU; `None` with a line that says why, where there is none.
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
pub(crate) fn device() -> Option<Device> {
    match Device::open(0) {
        Ok(device) => Some(device),
        Err(error) => {
            eprintln!("skipped: no CUDA device ({error})");
            assert!(std::env::var_os("SWIFT_TEST_DEVICE").is_none(), "a GPU was asked for: {error}");
            None
        }
    }
}

/// Numbers from -scale to scale.
pub(crate) fn random(seed: u64, n: usize, scale: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678;
    (0..n)
        .map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * scale
        })
        .collect()
}

/// Values as they are after storage in `dtype`.
pub(crate) fn round(mut values: Vec<f32>, dtype: Dtype) -> Vec<f32> {
    for x in &mut values {
        *x = match dtype {
            Dtype::Bf16 => half::bf16::from_f32(*x).to_f32(),
            Dtype::F16 => half::f16::from_f32(*x).to_f32(),
            _ => *x,
        };
    }
    values
}

/// Panics when the relative L2 error passes `tolerance`, or anything is not finite that should be.
pub(crate) fn close(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let (mut error, mut norm, mut worst, mut at) = (0.0f64, 0.0f64, 0.0f64, 0);
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        let d = f64::from(*g) - f64::from(*w);
        if !d.is_finite() {
            panic!("{what}: element {i} of {} is {g}, not {w}", got.len());
        }
        error += d * d;
        norm += f64::from(*w) * f64::from(*w);
        if d.abs() > worst {
            (worst, at) = (d.abs(), i);
        }
    }
    let relative = (error / norm.max(1e-30)).sqrt();
    let enough = relative <= f64::from(tolerance);
    let (g, w) = (got.get(at).copied().unwrap_or(0.0), want.get(at).copied().unwrap_or(0.0));
    assert!(
        enough,
        "{what}: relative error {relative:.3e} > {tolerance:.1e}; worst at {at} of {}: {g} for {w}",
        got.len()
    );
}
