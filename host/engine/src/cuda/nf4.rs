//! A frozen matrix in four bits.

use swift_kernels::cuda::{Buffer, CudaError, Device, Dtype, Tensor};

/// Elements that share a scale.
const BLOCK: usize = 64;

/// Codes and scales of one matrix.
pub(crate) struct Nf4Matrix {
    codes: Buffer,
    scales: Buffer,
    elements: usize,
}

impl Nf4Matrix {
    /// Whether a matrix of this shape can be stored so: whole blocks.
    pub(crate) fn fits(shape: &[u32]) -> bool {
        shape.len() == 2 && shape[1] as usize % BLOCK == 0
    }

    pub(crate) fn new(device: &Device, values: Tensor, _double: bool) -> Result<Self, CudaError> {
        let elements = values.elements();
        let codes = device.allocate(elements / 2)?;
        let scales = device.allocate(elements / BLOCK * 4)?;
        pending::quantize_nf4(device, values, codes.tensor(Dtype::U8), scales.tensor(Dtype::F32))?;
        Ok(Self { codes, scales, elements })
    }

    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    pub(crate) fn bytes(&self) -> usize {
        self.codes.bytes() + self.scales.bytes()
    }

    pub(crate) fn dequantize(&self, device: &Device, out: Tensor) -> Result<(), CudaError> {
        pending::dequantize_nf4(device, self.codes.tensor(Dtype::U8), self.scales.tensor(Dtype::F32), out)
    }
}

mod pending {
    use super::*;
    pub(super) fn quantize_nf4(_: &Device, _: Tensor, _: Tensor, _: Tensor) -> Result<(), CudaError> { Err(CudaError::invalid("pending")) }
    pub(super) fn dequantize_nf4(_: &Device, _: Tensor, _: Tensor, _: Tensor) -> Result<(), CudaError> { Err(CudaError::invalid("pending")) }
}
