//! Dropout on the GPU, with the mask of the CPU kernel.

use super::device::Device;
use super::error::CudaError;
use super::pointwise::{BLOCK, POINTWISE, aligned, expect, floating, grid, per_thread};
use super::tensor::{Dtype, Tensor};

/// `out = x / (1 - probability)` where kept, else 0; the same call with the output's gradient as `x` is the gradient.
///
/// The mask is the one [`crate::dropout`] draws for the key `key ^ mix64(salt)`, with SplitMix64's step `mix64`. `key` is
/// the step's key, a `u64` in 8 bytes of device memory (at a multiple of 8), so that captured work draws anew in each step;
/// `salt` tells the dropouts of one step apart.
///
/// # Errors
/// When lengths or types differ, or the probability is none.
pub fn dropout(
    device: &Device,
    x: Tensor,
    probability: f32,
    key: Tensor,
    salt: u64,
    out: Tensor,
) -> Result<(), CudaError> {
    let dtype = floating("dropout", x)?;
    expect("dropout", "out", out, dtype, x.elements())?;
    expect("dropout", "key", key, Dtype::U8, 8)?;
    if !key.address().is_multiple_of(8) {
        return Err(CudaError::invalid("dropout: the key lies at no multiple of 8 bytes"));
    }
    if !(0.0..=1.0).contains(&probability) {
        return Err(CudaError::invalid(format!("dropout: {probability} is no probability")));
    }
    if probability == 0.0 {
        return if x == out { Ok(()) } else { device.copy(x, out) };
    }
    if probability == 1.0 {
        return device.zero(out);
    }
    let threshold = (f64::from(probability) * 4_294_967_296.0) as u32;
    device.launch(
        &POINTWISE,
        "dropout",
        dtype,
        grid("dropout", x.elements().div_ceil(per_thread(dtype)))?,
        BLOCK,
        0,
        &[
            x.into(),
            out.into(),
            (x.elements() as u64).into(),
            threshold.into(),
            (1.0 / (1.0 - probability)).into(),
            key.into(),
            salt.into(),
            i32::from(aligned(&[x, out])).into(),
        ],
    )
}
