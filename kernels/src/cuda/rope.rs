//! Rotary position embedding on the GPU, alone and in one pass with the per-head norm before it.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::norm::{add_partials, aligned, expect, expect_if, rms_norm, rms_norm_grad, size};
use super::tensor::{Dtype, Tensor};

static ROPE: Source = Source { name: "rope", text: include_str!("../../cuda/rope.cu") };

const BLOCK: usize = 256;
/// Heads of a row that threads of the fused kernels take together, as in the source.
const HEADS: usize = 2;

/// Cosines and sines, each `[positions, inverse]`, of `position * inverse`, times `attention_factor`; as
/// [`crate::rope_tables`]. `positions` are u32, the rest is f32.
///
/// # Errors
/// When lengths or types do not fit.
pub fn rope_tables(
    device: &Device,
    positions: Tensor,
    inverse: Tensor,
    attention_factor: f32,
    cos: Tensor,
    sin: Tensor,
) -> Result<(), CudaError> {
    let half = inverse.elements();
    let total = positions.elements() * half;
    expect("rope_tables", "positions", positions, positions.elements(), Dtype::U32)?;
    expect("rope_tables", "inverse", inverse, half, Dtype::F32)?;
    expect("rope_tables", "cos", cos, total, Dtype::F32)?;
    expect("rope_tables", "sin", sin, total, Dtype::F32)?;
    let args = [
        positions.into(),
        inverse.into(),
        attention_factor.into(),
        (total as u64).into(),
        size("rope_tables", "dims / 2", half)?.into(),
        cos.into(),
        sin.into(),
    ];
    device.launch(&ROPE, "rope_tables", Dtype::F32, [total.div_ceil(BLOCK) as u32, 1, 1], BLOCK as u32, 0, &args)
}

/// How a head of `head_dim` numbers turns.
#[derive(Clone, Copy)]
struct Turn {
    head_dim: usize,
    dims: usize,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
}

impl Turn {
    fn check(&self, function: &str, rows: usize) -> Result<(), CudaError> {
        let Self { head_dim, dims, cos, sin, .. } = *self;
        if !dims.is_multiple_of(2) || dims > head_dim {
            return Err(CudaError::invalid(format!(
                "{function}: dims = {dims} must be even and at most head_dim = {head_dim}"
            )));
        }
        expect(function, "cos", cos, rows * (dims / 2), Dtype::F32)?;
        expect(function, "sin", sin, rows * (dims / 2), Dtype::F32)
    }

    /// Whether heads can be taken apart into packs of 16 bytes such that a thread has both numbers of every pair.
    fn packed(&self, dtype: Dtype, operands: &[Option<Tensor>]) -> bool {
        let pack = 16 / dtype.size();
        let whole = if self.interleaved {
            self.dims.is_multiple_of(pack) && self.head_dim.is_multiple_of(2 * pack)
        } else {
            self.dims.is_multiple_of(2 * pack) && (self.head_dim - self.dims).is_multiple_of(2 * pack)
        };
        whole && operands.iter().flatten().chain(&[self.cos, self.sin]).all(|operand| aligned(*operand))
    }

    /// Threads of a head in the fused kernels: one for each two packs. `None` if a warp is not enough.
    fn lanes(&self, dtype: Dtype) -> Option<usize> {
        let lanes = (self.head_dim / (32 / dtype.size())).next_power_of_two();
        (lanes <= 32).then_some(lanes)
    }
}

/// Rotates the first `dims` of each head of `x[rows, heads, head_dim]` and copies the others; as [`crate::rope`]. `inverse`
/// is the gradient. `out` may be `x`.
///
/// # Errors
/// When lengths or types do not fit, or `dims` is odd or above `head_dim`.
pub fn rope(
    device: &Device,
    x: Tensor,
    rows: usize,
    heads: usize,
    head_dim: usize,
    dims: usize,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
    inverse: bool,
    out: Tensor,
) -> Result<(), CudaError> {
    let dtype = x.dtype();
    let turn = Turn { head_dim, dims, cos, sin, interleaved };
    turn.check("rope", rows)?;
    expect("rope", "x", x, rows * heads * head_dim, dtype)?;
    expect("rope", "out", out, rows * heads * head_dim, dtype)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let packed = turn.packed(dtype, &[Some(x), Some(out)]);
    let total = rows * heads * if packed { head_dim / (32 / dtype.size()) } else { head_dim - dims / 2 };
    let args = [
        x.into(),
        if packed { size("rope", "packs", total)?.into() } else { (total as u64).into() },
        size("rope", "heads", heads)?.into(),
        size("rope", "head_dim", head_dim)?.into(),
        (dims as i32).into(),
        cos.into(),
        sin.into(),
        i32::from(interleaved).into(),
        (if inverse { -1.0f32 } else { 1.0 }).into(),
        out.into(),
    ];
    let kernel = if packed { "rope" } else { "rope_any" };
    device.launch(&ROPE, kernel, dtype, [total.div_ceil(BLOCK) as u32, 1, 1], BLOCK as u32, 0, &args)
}

/// [`rms_norm`] of each head of `x[rows, heads, head_dim]`, then [`rope`], in one pass and with one rounding. `out` may be
/// `x`. Head shapes that no kernel fits take two passes.
///
/// # Errors
/// As [`rms_norm`] and [`rope`].
pub fn norm_rope(
    device: &Device,
    x: Tensor,
    rows: usize,
    heads: usize,
    head_dim: usize,
    weight: Option<Tensor>,
    offset: f32,
    eps: f32,
    dims: usize,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
    out: Tensor,
) -> Result<(), CudaError> {
    let (function, dtype, items) = ("norm_rope", x.dtype(), rows * heads);
    let turn = Turn { head_dim, dims, cos, sin, interleaved };
    turn.check(function, rows)?;
    expect(function, "x", x, items * head_dim, dtype)?;
    expect(function, "out", out, items * head_dim, dtype)?;
    expect_if(function, "weight", weight, head_dim, Dtype::F32)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let lanes = match turn.lanes(dtype) {
        Some(lanes) if turn.packed(dtype, &[Some(x), Some(out), weight]) => lanes,
        _ => {
            rms_norm(device, x, items, head_dim, weight, offset, eps, out)?;
            return rope(device, out, rows, heads, head_dim, dims, cos, sin, interleaved, false, out);
        }
    };
    size(function, "rows * heads", items)?;
    let sets = heads.div_ceil(HEADS);
    let args = [
        x.into(),
        ((rows * sets) as i32).into(),
        (sets as i32).into(),
        (heads as i32).into(),
        (head_dim as i32).into(),
        (lanes as i32).into(),
        weight.into(),
        offset.into(),
        eps.into(),
        (dims as i32).into(),
        cos.into(),
        sin.into(),
        i32::from(interleaved).into(),
        out.into(),
    ];
    let blocks = (rows * sets).div_ceil(BLOCK / lanes);
    device.launch(&ROPE, "norm_rope", dtype, [blocks as u32, 1, 1], BLOCK as u32, 0, &args)
}

/// Gradient of [`norm_rope`] from its input `x`. `dx` is overwritten and may be `dy`; `dweight[head_dim]`, f32, is added to.
///
/// # Errors
/// As [`norm_rope`].
pub fn norm_rope_grad(
    device: &Device,
    x: Tensor,
    dy: Tensor,
    rows: usize,
    heads: usize,
    head_dim: usize,
    weight: Option<Tensor>,
    offset: f32,
    eps: f32,
    dims: usize,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool,
    dx: Tensor,
    dweight: Option<Tensor>,
) -> Result<(), CudaError> {
    let (function, dtype, items) = ("norm_rope_grad", x.dtype(), rows * heads);
    let turn = Turn { head_dim, dims, cos, sin, interleaved };
    turn.check(function, rows)?;
    for (operand, tensor) in [("x", x), ("dy", dy), ("dx", dx)] {
        expect(function, operand, tensor, items * head_dim, dtype)?;
    }
    expect_if(function, "weight", weight, head_dim, Dtype::F32)?;
    expect_if(function, "dweight", dweight, head_dim, Dtype::F32)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let lanes = match turn.lanes(dtype) {
        Some(lanes) if turn.packed(dtype, &[Some(x), Some(dy), Some(dx), weight]) => lanes,
        _ => {
            rope(device, dy, rows, heads, head_dim, dims, cos, sin, interleaved, true, dx)?;
            return rms_norm_grad(device, x, dx, items, head_dim, weight, offset, eps, dx, false, dweight);
        }
    };
    let items_arg = size(function, "rows * heads", items)?;
    let shape = [(heads as i32).into(), (head_dim as i32).into(), (lanes as i32).into()];
    let tail = [
        weight.into(),
        offset.into(),
        eps.into(),
        (dims as i32).into(),
        cos.into(),
        sin.into(),
        i32::from(interleaved).into(),
        dx.into(),
    ];
    let Some(dweight) = dweight else {
        let sets = heads.div_ceil(HEADS);
        let head = [x.into(), dy.into(), ((rows * sets) as i32).into(), (sets as i32).into()];
        let blocks = (rows * sets).div_ceil(BLOCK / lanes);
        let args = [&head[..], &shape, &tail].concat();
        return device.launch(&ROPE, "norm_rope_grad", dtype, [blocks as u32, 1, 1], BLOCK as u32, 0, &args);
    };
    // As many blocks as run at once: each makes one partial sum.
    let blocks = items.div_ceil(BLOCK / lanes).min(device.multiprocessors() as usize * 3);
    let partials = device.workspace(blocks * head_dim * 4)?.cast(Dtype::F32);
    let head = [x.into(), dy.into(), items_arg.into()];
    let args = [&head[..], &shape, &tail, &[partials.into()]].concat();
    device.launch(&ROPE, "norm_rope_grad_weight", dtype, [blocks as u32, 1, 1], BLOCK as u32, 0, &args)?;
    add_partials(device, dtype, partials, blocks, head_dim, head_dim, dweight)
}
