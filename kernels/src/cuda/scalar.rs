//! Kernels of one number and one tensor.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::tensor::Tensor;

static SCALAR: Source = Source { name: "scalar", text: include_str!("../../cuda/scalar.cu") };

/// Sets every element of `out`.
///
/// # Errors
/// When the type holds no fractions.
pub fn fill(device: &Device, value: f32, out: Tensor) -> Result<(), CudaError> {
    run(device, "fill", out, value)
}

/// `x = cap * tanh(x / cap)`, in place.
///
/// # Errors
/// When the type holds no fractions.
pub fn soft_cap(device: &Device, cap: f32, x: Tensor) -> Result<(), CudaError> {
    run(device, "soft_cap", x, cap)
}

fn run(device: &Device, kernel: &'static str, x: Tensor, value: f32) -> Result<(), CudaError> {
    let blocks = x.elements().div_ceil(256);
    let grid = u32::try_from(blocks).map_err(|_| CudaError::invalid(format!("{kernel}: {} elements", x.elements())))?;
    device.launch(
        &SCALAR,
        kernel,
        x.dtype(),
        [grid, 1, 1],
        256,
        0,
        &[x.into(), value.into(), (x.elements() as i64).into()],
    )
}
