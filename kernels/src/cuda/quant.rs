//! Weights in few bits on the GPU, in the formats of [`crate::quantize_4bit`] and its neighbours, with the same codes and
//! the same values, bit for bit.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::pointwise::{BLOCK, aligned, expect, floating, grid};
use super::tensor::{Dtype, Tensor};
use crate::quant::{FOUR_BIT_BLOCK, FourBit, NESTED_BLOCK};

static QUANT: Source = Source { name: "quant", text: include_str!("../../cuda/quant.cu") };

/// Most rows that the products with packed weights take.
pub const FEW_ROWS: usize = 8;

/// Most blocks of the first stage of the mean of scales; a constant, so that its order depends on the length alone.
const MEAN_BLOCKS: usize = 528;

/// Scales of the blocks of 4-bit weights.
#[derive(Clone, Copy, Debug)]
pub enum BlockScales {
    /// One f32 for each block.
    Plain(Tensor),
    /// Quantised again, as [`quantize_absmax`] makes them.
    Nested {
        /// One byte for each block.
        codes: Tensor,
        /// One f32 for every 256 of them.
        absmax: Tensor,
        /// What the codes mean: 256 f32, [`crate::dynamic_map`] or a checkpoint's own.
        map: Tensor,
        /// One f32.
        offset: Tensor,
    },
}

impl BlockScales {
    fn check(self, op: &str, blocks: usize) -> Result<(), CudaError> {
        match self {
            Self::Plain(absmax) => expect(op, "absmax", absmax, Dtype::F32, blocks),
            Self::Nested { codes, absmax, map, offset } => {
                expect(op, "the scales' codes", codes, Dtype::U8, blocks)?;
                expect(op, "the scales' absmax", absmax, Dtype::F32, blocks.div_ceil(NESTED_BLOCK))?;
                expect(op, "the scales' map", map, Dtype::F32, 256)?;
                expect(op, "the scales' offset", offset, Dtype::F32, 1)
            }
        }
    }

    /// Absmax, codes, map and offset, as the kernels take them.
    fn parts(self) -> (Tensor, [Option<Tensor>; 3]) {
        match self {
            Self::Plain(absmax) => (absmax, [None; 3]),
            Self::Nested { codes, absmax, map, offset } => (absmax, [Some(codes), Some(map), Some(offset)]),
        }
    }
}

/// [`quantize_4bit`] to NF4.
///
/// # Errors
/// As [`quantize_4bit`].
pub fn quantize_nf4(device: &Device, w: Tensor, codes: Tensor, absmax: Tensor) -> Result<(), CudaError> {
    quantize_4bit(device, FourBit::Nf4, w, codes, absmax)
}

/// [`dequantize_4bit`] of NF4 with plain scales.
///
/// # Errors
/// As [`dequantize_4bit`].
pub fn dequantize_nf4(device: &Device, codes: Tensor, absmax: Tensor, out: Tensor) -> Result<(), CudaError> {
    dequantize_4bit(device, FourBit::Nf4, codes, BlockScales::Plain(absmax), out)
}

/// [`linear_4bit_few_rows`] with NF4 and plain scales.
///
/// # Errors
/// As [`linear_4bit_few_rows`].
pub fn nf4_linear_few_rows(
    device: &Device,
    x: Tensor,
    codes: Tensor,
    absmax: Tensor,
    n: usize,
    k: usize,
    out: Tensor,
) -> Result<(), CudaError> {
    linear_4bit_few_rows(device, FourBit::Nf4, x, codes, BlockScales::Plain(absmax), n, k, out)
}

/// Codes of `w` (bytes, two codes each) and the greatest size of each block of 64 (f32), as [`crate::quantize_4bit`].
///
/// # Errors
/// When lengths or types do not fit.
pub fn quantize_4bit(
    device: &Device,
    kind: FourBit,
    w: Tensor,
    codes: Tensor,
    absmax: Tensor,
) -> Result<(), CudaError> {
    let dtype = floating("quantize_4bit", w)?;
    let length = w.elements();
    expect("quantize_4bit", "codes", codes, Dtype::U8, length.div_ceil(2))?;
    expect("quantize_4bit", "absmax", absmax, Dtype::F32, length.div_ceil(FOUR_BIT_BLOCK))?;
    let packed = aligned(&[w]) && codes.address().is_multiple_of(4);
    device.launch(
        &QUANT,
        "quantize_4bit",
        dtype,
        grid("quantize_4bit", length.div_ceil(8))?,
        BLOCK,
        0,
        &[
            w.into(),
            codes.into(),
            absmax.into(),
            (length as u64).into(),
            (kind as i32).into(),
            i32::from(packed).into(),
        ],
    )
}

/// Each code's level times its block's scale, as [`crate::dequantize_4bit`], rounded to `out`'s type.
///
/// # Errors
/// When lengths or types do not fit.
pub fn dequantize_4bit(
    device: &Device,
    kind: FourBit,
    codes: Tensor,
    scales: BlockScales,
    out: Tensor,
) -> Result<(), CudaError> {
    let dtype = floating("dequantize_4bit", out)?;
    let length = out.elements();
    expect("dequantize_4bit", "codes", codes, Dtype::U8, length.div_ceil(2))?;
    scales.check("dequantize_4bit", length.div_ceil(FOUR_BIT_BLOCK))?;
    let (absmax, [scale_codes, map, offset]) = scales.parts();
    let packed = aligned(&[out]) && codes.address().is_multiple_of(4);
    device.launch(
        &QUANT,
        "dequantize_4bit",
        dtype,
        // A thread takes four times eight weights.
        grid("dequantize_4bit", length.div_ceil(8 * 4 * BLOCK as usize) * BLOCK as usize)?,
        BLOCK,
        0,
        &[
            codes.into(),
            absmax.into(),
            scale_codes.into(),
            map.into(),
            offset.into(),
            out.into(),
            (length as u64).into(),
            (kind as i32).into(),
            i32::from(packed).into(),
        ],
    )
}

/// Quantises scales again, as [`crate::quantize_absmax`]: `codes` gets a byte for each of `absmax`, `nested` an f32 for
/// every 256, `offset` (one f32) their mean. `map` is [`crate::dynamic_map`] on the device.
///
/// # Errors
/// When lengths or types do not fit.
pub fn quantize_absmax(
    device: &Device,
    absmax: Tensor,
    map: Tensor,
    codes: Tensor,
    nested: Tensor,
    offset: Tensor,
) -> Result<(), CudaError> {
    let blocks = absmax.elements();
    expect("quantize_absmax", "absmax", absmax, Dtype::F32, blocks)?;
    BlockScales::Nested { codes, absmax: nested, map, offset }.check("quantize_absmax", blocks)?;
    if blocks == 0 {
        return device.zero(offset);
    }
    let length = blocks as u64;
    let count = blocks.div_ceil(BLOCK as usize).min(MEAN_BLOCKS);
    let parts = device.workspace(count * 8)?;
    let args = [absmax.into(), length.into(), parts.into()];
    device.launch(&QUANT, "absmax_parts", Dtype::F32, [count as u32, 1, 1], BLOCK, 0, &args)?;
    let args = [parts.into(), (count as i32).into(), length.into(), offset.into()];
    device.launch(&QUANT, "absmax_mean", Dtype::F32, [1, 1, 1], BLOCK, 0, &args)?;
    device.launch(
        &QUANT,
        "quantize_absmax",
        Dtype::F32,
        grid("quantize_absmax", blocks)?,
        BLOCK,
        0,
        &[absmax.into(), map.into(), offset.into(), codes.into(), nested.into(), length.into()],
    )
}

/// The scales (f32) that [`quantize_absmax`] quantised, as [`crate::dequantize_absmax`].
///
/// # Errors
/// When lengths or types do not fit.
pub fn dequantize_absmax(
    device: &Device,
    codes: Tensor,
    nested: Tensor,
    map: Tensor,
    offset: Tensor,
    absmax: Tensor,
) -> Result<(), CudaError> {
    let blocks = absmax.elements();
    expect("dequantize_absmax", "absmax", absmax, Dtype::F32, blocks)?;
    BlockScales::Nested { codes, absmax: nested, map, offset }.check("dequantize_absmax", blocks)?;
    device.launch(
        &QUANT,
        "dequantize_absmax",
        Dtype::F32,
        grid("dequantize_absmax", blocks)?,
        BLOCK,
        0,
        &[nested.into(), codes.into(), map.into(), offset.into(), absmax.into(), (blocks as u64).into()],
    )
}

/// Rows of `width` weights as signed bytes, with the greatest size of each row (f32), as [`crate::quantize_int8`].
///
/// # Errors
/// When lengths or types do not fit.
pub fn quantize_int8(device: &Device, w: Tensor, width: usize, codes: Tensor, absmax: Tensor) -> Result<(), CudaError> {
    let dtype = floating("quantize_int8", w)?;
    let rows = rows_of("quantize_int8", w.elements(), width)?;
    expect("quantize_int8", "codes", codes, Dtype::U8, w.elements())?;
    expect("quantize_int8", "absmax", absmax, Dtype::F32, rows)?;
    let args = [w.into(), codes.into(), absmax.into(), (width as u64).into()];
    device.launch(&QUANT, "quantize_int8", dtype, grid("quantize_int8", rows * BLOCK as usize)?, BLOCK, 0, &args)
}

/// The weights of [`quantize_int8`], as [`crate::dequantize_int8`], rounded to `out`'s type.
///
/// # Errors
/// When lengths or types do not fit.
pub fn dequantize_int8(
    device: &Device,
    codes: Tensor,
    absmax: Tensor,
    width: usize,
    out: Tensor,
) -> Result<(), CudaError> {
    let dtype = floating("dequantize_int8", out)?;
    let length = out.elements();
    let rows = rows_of("dequantize_int8", length, width)?;
    expect("dequantize_int8", "codes", codes, Dtype::U8, length)?;
    expect("dequantize_int8", "absmax", absmax, Dtype::F32, rows)?;
    let packed = aligned(&[out]) && codes.address().is_multiple_of(8) && width.is_multiple_of(8);
    device.launch(
        &QUANT,
        "dequantize_int8",
        dtype,
        grid("dequantize_int8", length.div_ceil(8))?,
        BLOCK,
        0,
        &[
            codes.into(),
            absmax.into(),
            out.into(),
            (length as u64).into(),
            (width as u64).into(),
            i32::from(packed).into(),
        ],
    )
}

fn rows_of(op: &str, length: usize, width: usize) -> Result<usize, CudaError> {
    match length.checked_div(width) {
        Some(rows) if rows * width == length => Ok(rows),
        _ => Err(CudaError::invalid(format!("{op}: {length} elements are no rows of {width}"))),
    }
}

/// `out[rows, n] = x[rows, k] wᵀ` for at most [`FEW_ROWS`] rows, with `w[n, k]` as 4-bit codes in blocks along its
/// elements; f32 accumulation. What decoding needs: the weights are read once, packed.
///
/// # Errors
/// When lengths or types do not fit, `k` is no multiple of 64, or addresses of none of 16 (`x`) or 4 (`codes`).
pub fn linear_4bit_few_rows(
    device: &Device,
    kind: FourBit,
    x: Tensor,
    codes: Tensor,
    scales: BlockScales,
    n: usize,
    k: usize,
    out: Tensor,
) -> Result<(), CudaError> {
    let op = "linear_4bit_few_rows";
    let dtype = floating(op, x)?;
    let rows = few_rows(op, x, n, k, FOUR_BIT_BLOCK, out)?;
    expect(op, "codes", codes, Dtype::U8, n * k / 2)?;
    scales.check(op, n * k / FOUR_BIT_BLOCK)?;
    if !codes.address().is_multiple_of(4) {
        return Err(CudaError::invalid(format!("{op}: the codes lie at no multiple of 4 bytes")));
    }
    if rows == 0 {
        return Ok(());
    }
    let (absmax, [scale_codes, map, offset]) = scales.parts();
    let (kernel, grid) = match rows {
        1 => ("linear_4bit_1", n.div_ceil(4)),
        2 => ("linear_4bit_2", n.div_ceil(8)),
        3 | 4 => ("linear_4bit_4", n.div_ceil(16)),
        _ => ("linear_4bit_8", n.div_ceil(16)),
    };
    device.launch(
        &QUANT,
        kernel,
        dtype,
        [grid as u32, 1, 1],
        128,
        0,
        &[
            x.into(),
            (rows as i32).into(),
            codes.into(),
            absmax.into(),
            scale_codes.into(),
            map.into(),
            offset.into(),
            out.into(),
            (n as i32).into(),
            (k as i32).into(),
            (kind as i32).into(),
        ],
    )
}

/// `out[rows, n] = x[rows, k] wᵀ` for at most [`FEW_ROWS`] rows, with `w[n, k]` as rows of [`quantize_int8`]; f32
/// accumulation.
///
/// # Errors
/// When lengths or types do not fit, `k` is no multiple of 8, or addresses of none of 16 (`x`) or 8 (`codes`).
pub fn linear_int8_few_rows(
    device: &Device,
    x: Tensor,
    codes: Tensor,
    absmax: Tensor,
    n: usize,
    k: usize,
    out: Tensor,
) -> Result<(), CudaError> {
    let op = "linear_int8_few_rows";
    let dtype = floating(op, x)?;
    let rows = few_rows(op, x, n, k, 8, out)?;
    expect(op, "codes", codes, Dtype::U8, n * k)?;
    expect(op, "absmax", absmax, Dtype::F32, n)?;
    if !codes.address().is_multiple_of(8) {
        return Err(CudaError::invalid(format!("{op}: the codes lie at no multiple of 8 bytes")));
    }
    if rows == 0 {
        return Ok(());
    }
    let (kernel, grid) = match rows {
        1 => ("linear_int8_1", n.div_ceil(4)),
        2 => ("linear_int8_2", n.div_ceil(8)),
        3 | 4 => ("linear_int8_4", n.div_ceil(16)),
        _ => ("linear_int8_8", n.div_ceil(16)),
    };
    device.launch(
        &QUANT,
        kernel,
        dtype,
        [grid as u32, 1, 1],
        128,
        0,
        &[
            x.into(),
            (rows as i32).into(),
            codes.into(),
            absmax.into(),
            out.into(),
            (n as i32).into(),
            (k as i32).into(),
        ],
    )
}

/// The number of rows of `x`, after the checks that both products share.
fn few_rows(op: &str, x: Tensor, n: usize, k: usize, multiple: usize, out: Tensor) -> Result<usize, CudaError> {
    let rows = x.elements().checked_div(k).unwrap_or(0);
    if k == 0 || !k.is_multiple_of(multiple) || rows * k != x.elements() || rows > FEW_ROWS {
        return Err(CudaError::invalid(format!(
            "{op}: {} elements are no 0 to {FEW_ROWS} rows of {k}, a multiple of {multiple}",
            x.elements()
        )));
    }
    if n.max(k) > i32::MAX as usize / 2 {
        return Err(CudaError::invalid(format!("{op}: [{n}, {k}] is more than it takes")));
    }
    expect(op, "out", out, x.dtype(), rows * n)?;
    if !aligned(&[x]) {
        return Err(CudaError::invalid(format!("{op}: x lies at no multiple of 16 bytes")));
    }
    Ok(rows)
}
