//! Softmax over the last axis on the GPU.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::norm::{aligned, expect, size};
use super::tensor::{Dtype, Tensor};

static SOFTMAX: Source = Source { name: "softmax", text: include_str!("../../cuda/softmax.cu") };

const BLOCK: usize = 256;

/// Whether rows are made of aligned packs of 16 bytes, and the threads of a row: a warp or a block.
fn spread(width: usize, dtype: Dtype, operands: &[Tensor]) -> (bool, usize) {
    let pack = 16 / dtype.size();
    let packed = width.is_multiple_of(pack) && operands.iter().all(|operand| aligned(*operand));
    (packed, if width <= 1024 { 32 } else { BLOCK })
}

/// `out = e^x / sum(e^x)` for each of `rows` rows of `width`; as [`crate::softmax`]. `out` may be `x`.
///
/// # Errors
/// When lengths or types do not fit.
pub fn softmax(device: &Device, x: Tensor, rows: usize, width: usize, out: Tensor) -> Result<(), CudaError> {
    let dtype = x.dtype();
    expect("softmax", "x", x, rows * width, dtype)?;
    expect("softmax", "out", out, rows * width, dtype)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let (packed, lanes) = spread(width, dtype, &[x, out]);
    let args = [
        x.into(),
        size("softmax", "rows", rows)?.into(),
        size("softmax", "width", width)?.into(),
        (lanes as i32).into(),
        out.into(),
    ];
    let kernel = if packed { "softmax" } else { "softmax_any" };
    device.launch(&SOFTMAX, kernel, dtype, [rows.div_ceil(BLOCK / lanes) as u32, 1, 1], BLOCK as u32, 0, &args)
}

/// Gradient of [`softmax`] from its output; `dx` is overwritten, or added to with `accumulate`, and may be `dy`; as
/// [`crate::softmax_grad`].
///
/// # Errors
/// When lengths or types do not fit.
pub fn softmax_grad(
    device: &Device,
    y: Tensor,
    dy: Tensor,
    rows: usize,
    width: usize,
    dx: Tensor,
    accumulate: bool,
) -> Result<(), CudaError> {
    let dtype = y.dtype();
    for (operand, tensor) in [("y", y), ("dy", dy), ("dx", dx)] {
        expect("softmax_grad", operand, tensor, rows * width, dtype)?;
    }
    if y.elements() == 0 {
        return Ok(());
    }
    let (packed, lanes) = spread(width, dtype, &[y, dy, dx]);
    let args = [
        y.into(),
        dy.into(),
        size("softmax_grad", "rows", rows)?.into(),
        size("softmax_grad", "width", width)?.into(),
        (lanes as i32).into(),
        dx.into(),
        i32::from(accumulate).into(),
    ];
    let kernel = if packed { "softmax_grad" } else { "softmax_grad_any" };
    device.launch(&SOFTMAX, kernel, dtype, [rows.div_ceil(BLOCK / lanes) as u32, 1, 1], BLOCK as u32, 0, &args)
}
