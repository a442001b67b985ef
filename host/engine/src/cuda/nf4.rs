//! A frozen matrix in four bits, as bitsandbytes stores it.

use swift_kernels::cuda::{self, BlockScales, Buffer, CudaError, Device, Dtype, Tensor};
use swift_kernels::{FOUR_BIT_BLOCK, FourBit, NESTED_BLOCK, dynamic_map};

/// The scales of the blocks.
enum Scales {
    Plain(Buffer),
    /// Eight bits each, in blocks of their own: codes, the blocks' scales, the map of codes, and the mean taken off before.
    Nested { codes: Buffer, absmax: Buffer, map: Buffer, offset: Buffer },
}

/// Codes and scales of one matrix.
pub(crate) struct Nf4Matrix {
    codes: Buffer,
    scales: Scales,
    elements: usize,
}

impl Nf4Matrix {
    /// Whether a matrix of this shape can be stored so: rows of whole blocks.
    pub(crate) fn fits(shape: &[u32]) -> bool {
        shape.len() == 2 && (shape[1] as usize).is_multiple_of(FOUR_BIT_BLOCK)
    }

    pub(crate) fn new(device: &Device, values: Tensor, double: bool) -> Result<Self, CudaError> {
        let elements = values.elements();
        let blocks = elements / FOUR_BIT_BLOCK;
        let codes = device.allocate(elements / 2)?;
        let plain = device.allocate(4 * blocks)?;
        let absmax = plain.tensor(Dtype::F32);
        cuda::quantize_4bit(device, FourBit::Nf4, values, codes.tensor(Dtype::U8), absmax)?;
        if !double {
            return Ok(Self { codes, scales: Scales::Plain(plain), elements });
        }
        let map = device.from_f32(dynamic_map(), Dtype::F32)?;
        let (nested, coarse) = (device.allocate(blocks)?, device.allocate(4 * blocks.div_ceil(NESTED_BLOCK))?);
        let offset = device.allocate(4)?;
        cuda::quantize_absmax(
            device,
            absmax,
            map.tensor(Dtype::F32),
            nested.tensor(Dtype::U8),
            coarse.tensor(Dtype::F32),
            offset.tensor(Dtype::F32),
        )?;
        Ok(Self { codes, scales: Scales::Nested { codes: nested, absmax: coarse, map, offset }, elements })
    }

    fn scales(&self) -> BlockScales {
        match &self.scales {
            Scales::Plain(absmax) => BlockScales::Plain(absmax.tensor(Dtype::F32)),
            Scales::Nested { codes, absmax, map, offset } => BlockScales::Nested {
                codes: codes.tensor(Dtype::U8),
                absmax: absmax.tensor(Dtype::F32),
                map: map.tensor(Dtype::F32),
                offset: offset.tensor(Dtype::F32),
            },
        }
    }

    pub(crate) fn elements(&self) -> usize {
        self.elements
    }

    pub(crate) fn bytes(&self) -> usize {
        self.codes.bytes()
            + match &self.scales {
                Scales::Plain(absmax) => absmax.bytes(),
                Scales::Nested { codes, absmax, map, offset } => {
                    codes.bytes() + absmax.bytes() + map.bytes() + offset.bytes()
                }
            }
    }

    pub(crate) fn dequantize(&self, device: &Device, out: Tensor) -> Result<(), CudaError> {
        cuda::dequantize_4bit(device, FourBit::Nf4, self.codes.tensor(Dtype::U8), self.scales(), out)
    }

    /// `out[rows, n] = x[rows, k] wᵀ` for few rows, from the codes as they are.
    pub(crate) fn linear_few_rows(
        &self,
        device: &Device,
        x: Tensor,
        n: usize,
        k: usize,
        out: Tensor,
    ) -> Result<(), CudaError> {
        let codes = self.codes.tensor(Dtype::U8);
        cuda::linear_4bit_few_rows(device, FourBit::Nf4, x, codes, self.scales(), n, k, out)
    }
}
