//! AdamW on the GPU over one arena of parameters, and clipping by the global norm without a wait for the device.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::pointwise::{BLOCK, aligned, expect, floating, grid};
use super::tensor::{Dtype, Tensor};
use crate::optimizer::AdamW;

static OPTIMIZER: Source = Source { name: "optimizer", text: include_str!("../../cuda/optimizer.cu") };

/// Most blocks of the first stage of [`sum_squares`]: eight on each multiprocessor of the largest GPUs today. A constant,
/// so that the sum's order depends on the length alone.
const SQUARES_BLOCKS: usize = 1056;

/// One step of [`crate::adamw`] on `values` (f32) with `gradients` and both moments (f32, all of one length), and the new
/// values again in `working`'s type if given. A gradient is multiplied first by `clip`, one f32 on the device. If that is
/// no number, as [`clip_factor`] makes it from gradients that are not finite, nothing changes.
///
/// # Errors
/// When lengths or types do not fit, or the step is 0.
pub fn adamw(
    device: &Device,
    values: Tensor,
    gradients: Tensor,
    first: Tensor,
    second: Tensor,
    working: Option<Tensor>,
    settings: &AdamW,
    clip: Tensor,
) -> Result<(), CudaError> {
    let length = values.elements();
    for (name, x) in [("values", values), ("gradients", gradients), ("first", first), ("second", second)] {
        expect("adamw", name, x, Dtype::F32, length)?;
    }
    expect("adamw", "clip", clip, Dtype::F32, 1)?;
    let element = working.map_or(Ok(Dtype::F32), |w| floating("adamw", w))?;
    if let Some(working) = working {
        expect("adamw", "working", working, element, length)?;
    }
    if settings.step == 0 {
        return Err(CudaError::invalid("adamw: steps are counted from 1"));
    }
    let step = settings.step.min(i32::MAX as u64) as i32;
    let packed = aligned(&[values, gradients, first, second])
        && working.is_none_or(|w| w.address().is_multiple_of(4 * element.size() as u64));
    device.launch(
        &OPTIMIZER,
        "adamw",
        element,
        grid("adamw", length.div_ceil(4))?,
        BLOCK,
        0,
        &[
            values.into(),
            gradients.into(),
            first.into(),
            second.into(),
            working.into(),
            (length as u64).into(),
            ((1.0 - settings.lr * settings.weight_decay) as f32).into(),
            ((1.0 - settings.beta1) as f32).into(),
            (settings.beta2 as f32).into(),
            ((1.0 - settings.beta2) as f32).into(),
            ((1.0 / (1.0 - settings.beta2.powi(step)).sqrt()) as f32).into(),
            (settings.eps as f32).into(),
            ((settings.lr / (1.0 - settings.beta1.powi(step))) as f32).into(),
            clip.into(),
            i32::from(packed).into(),
        ],
    )
}

/// Sum of the squares of `x` (f32), as an f64 in the 8 bytes of `out`.
///
/// # Errors
/// When types or lengths do not fit.
pub fn sum_squares(device: &Device, x: Tensor, out: Tensor) -> Result<(), CudaError> {
    expect("sum_squares", "x", x, Dtype::F32, x.elements())?;
    check_f64("sum_squares", out)?;
    if x.elements() == 0 {
        return device.zero(out);
    }
    let blocks = x.elements().div_ceil(1024).min(SQUARES_BLOCKS);
    let parts = device.workspace(blocks * 8)?;
    let length = x.elements() as u64;
    device.launch(
        &OPTIMIZER,
        "sum_squares_parts",
        Dtype::F32,
        [blocks as u32, 1, 1],
        BLOCK,
        0,
        &[x.into(), length.into(), parts.into(), i32::from(aligned(&[x])).into()],
    )?;
    device.launch(
        &OPTIMIZER,
        "sum_squares_total",
        Dtype::F32,
        [1, 1, 1],
        BLOCK,
        0,
        &[parts.into(), (blocks as i32).into(), out.into()],
    )
}

/// From the sum of the squares of all gradients (an f64 in 8 bytes) the factor `min(1, max_norm / (norm + 1e-6))` of
/// `torch.nn.utils.clip_grad_norm_`, and the norm itself; each one f32 on the device. If the norm is not finite the factor
/// is NaN: [`adamw`] then changes nothing, and the host finds out from the norm. An infinite `max_norm` does not clip.
///
/// # Errors
/// When types or lengths do not fit, or `max_norm` is negative or no number.
pub fn clip_factor(
    device: &Device,
    sum_squares: Tensor,
    max_norm: f32,
    out_factor: Tensor,
    out_norm: Tensor,
) -> Result<(), CudaError> {
    check_f64("clip_factor", sum_squares)?;
    expect("clip_factor", "out_factor", out_factor, Dtype::F32, 1)?;
    expect("clip_factor", "out_norm", out_norm, Dtype::F32, 1)?;
    if max_norm.is_nan() || max_norm < 0.0 {
        return Err(CudaError::invalid(format!("clip_factor: {max_norm} is no greatest norm")));
    }
    device.launch(
        &OPTIMIZER,
        "clip_factor",
        Dtype::F32,
        [1, 1, 1],
        1,
        0,
        &[sum_squares.into(), max_norm.into(), out_factor.into(), out_norm.into()],
    )
}

fn check_f64(op: &str, x: Tensor) -> Result<(), CudaError> {
    if x.bytes() == 8 && x.address().is_multiple_of(8) {
        return Ok(());
    }
    Err(CudaError::invalid(format!("{op}: the sum of squares takes 8 bytes at a multiple of 8, not {}", x.bytes())))
}
