//! A frozen matrix in four or eight bits.

use swift_kernels::cuda::{self, BlockScales, Buffer, CudaError, Device, Dtype, Tensor};
use swift_kernels::{FOUR_BIT_BLOCK, FourBit, NESTED_BLOCK, dynamic_map};

use crate::placement::Quantization;

/// What rows of eight bits must be a multiple of.
const INT8_UNIT: usize = 8;

enum Scales {
    /// NF4: one for each block.
    Blocks(Buffer),
    /// NF4: eight bits each, in blocks of their own: codes, the blocks' scales, the map of codes, and the mean taken off
    /// before.
    Nested { codes: Buffer, absmax: Buffer, map: Buffer, offset: Buffer },
    /// Eight bits: one for each row.
    Rows(Buffer),
}

/// Codes and scales of one matrix `[n, k]`.
pub(crate) struct QuantizedMatrix {
    codes: Buffer,
    scales: Scales,
    n: usize,
    k: usize,
}

impl QuantizedMatrix {
    /// Whether a matrix of this shape can be stored so: rows of whole blocks.
    pub(crate) fn fits(shape: &[u32], quantization: Quantization) -> bool {
        let unit = match quantization {
            Quantization::Nf4 { .. } => FOUR_BIT_BLOCK,
            Quantization::Int8 => INT8_UNIT,
        };
        shape.len() == 2 && (shape[1] as usize).is_multiple_of(unit)
    }

    /// `values` is `[n, k]`.
    pub(crate) fn new(
        device: &Device,
        values: Tensor,
        n: usize,
        k: usize,
        quantization: Quantization,
    ) -> Result<Self, CudaError> {
        let elements = n * k;
        let double = match quantization {
            Quantization::Nf4 { double } => double,
            Quantization::Int8 => {
                let (codes, rows) = (device.allocate(elements)?, device.allocate(4 * n)?);
                cuda::quantize_int8(device, values, k, codes.tensor(Dtype::U8), rows.tensor(Dtype::F32))?;
                return Ok(Self { codes, scales: Scales::Rows(rows), n, k });
            }
        };
        let blocks = elements / FOUR_BIT_BLOCK;
        let codes = device.allocate(elements / 2)?;
        let plain = device.allocate(4 * blocks)?;
        let absmax = plain.tensor(Dtype::F32);
        cuda::quantize_4bit(device, FourBit::Nf4, values, codes.tensor(Dtype::U8), absmax)?;
        if !double {
            return Ok(Self { codes, scales: Scales::Blocks(plain), n, k });
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
        Ok(Self { codes, scales: Scales::Nested { codes: nested, absmax: coarse, map, offset }, n, k })
    }

    fn blocks(&self) -> Option<BlockScales> {
        match &self.scales {
            Scales::Blocks(absmax) => Some(BlockScales::Plain(absmax.tensor(Dtype::F32))),
            Scales::Nested { codes, absmax, map, offset } => Some(BlockScales::Nested {
                codes: codes.tensor(Dtype::U8),
                absmax: absmax.tensor(Dtype::F32),
                map: map.tensor(Dtype::F32),
                offset: offset.tensor(Dtype::F32),
            }),
            Scales::Rows(_) => None,
        }
    }

    pub(crate) fn elements(&self) -> usize {
        self.n * self.k
    }

    pub(crate) fn bytes(&self) -> usize {
        let scales = match &self.scales {
            Scales::Blocks(absmax) | Scales::Rows(absmax) => absmax.bytes(),
            Scales::Nested { codes, absmax, map, offset } => {
                codes.bytes() + absmax.bytes() + map.bytes() + offset.bytes()
            }
        };
        self.codes.bytes() + scales
    }

    /// The matrix in `out`'s type.
    pub(crate) fn dequantize(&self, device: &Device, out: Tensor) -> Result<(), CudaError> {
        let codes = self.codes.tensor(Dtype::U8);
        match (self.blocks(), &self.scales) {
            (Some(scales), _) => cuda::dequantize_4bit(device, FourBit::Nf4, codes, scales, out),
            (None, Scales::Rows(absmax)) => {
                cuda::dequantize_int8(device, codes, absmax.tensor(Dtype::F32), self.k, out)
            }
            (None, _) => Err(CudaError::invalid("a quantised matrix without scales")),
        }
    }

    /// `out[rows, n] = x[rows, k] wᵀ` for few rows, from the codes as they are.
    pub(crate) fn linear_few_rows(&self, device: &Device, x: Tensor, out: Tensor) -> Result<(), CudaError> {
        let (codes, n, k) = (self.codes.tensor(Dtype::U8), self.n, self.k);
        match (self.blocks(), &self.scales) {
            (Some(scales), _) => cuda::linear_4bit_few_rows(device, FourBit::Nf4, x, codes, scales, n, k, out),
            (None, Scales::Rows(absmax)) => {
                cuda::linear_int8_few_rows(device, x, codes, absmax.tensor(Dtype::F32), n, k, out)
            }
            (None, _) => Err(CudaError::invalid("a quantised matrix without scales")),
        }
    }
}
