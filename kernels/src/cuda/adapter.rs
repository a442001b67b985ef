//! Frozen weights `W [n, k]` with columns for the second matrix of a low-rank adapter (Hu et al., arXiv:2106.09685): the
//! product of `[x, x A^T]` with `[W, scale B]` is the layer and its adapter in one. `B` is trained in f32; its columns are
//! written anew after each step of the optimizer.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::norm::{aligned, expect};
use super::pointwise::{BLOCK, floating, grid, per_thread};
use super::tensor::{Buffer, Dtype, Tensor};

static ADAPTER: Source = Source { name: "adapter", text: include_str!("../../cuda/adapter.cu") };

/// The 64-bit words of a descriptor in the source.
const WORDS: usize = 5;

/// One adapter's second matrix and its place in an augmented weight: `out[i * stride + column + j] = scale * b[i * r + j]`.
#[derive(Debug, Clone, Copy)]
pub struct AdapterColumns {
    /// f32 `[n, r]`.
    pub b: Tensor,
    /// Rows `stride` apart; it reaches at least to the end of its last row's columns.
    pub out: Tensor,
    pub n: usize,
    pub r: usize,
    /// Elements from one row of `out` to the next.
    pub stride: usize,
    /// Where the columns begin in a row of `out`.
    pub column: usize,
    /// What `b` is multiplied by, in f32.
    pub scale: f32,
}

/// Adapters whose columns are written by one launch ([`refresh_adapters`]). Their matrices must outlive it.
#[derive(Debug)]
pub struct AdapterTable {
    descriptors: Option<Buffer>,
    adapters: u32,
    /// Blocks of the adapter that needs most.
    blocks: u32,
    dtype: Dtype,
}

impl AdapterTable {
    /// Uploads where the adapters lie. All `out` are of one floating type.
    ///
    /// # Errors
    /// When lengths or types do not fit, or columns lie outside of their row.
    pub fn new(device: &Device, adapters: &[AdapterColumns]) -> Result<Self, CudaError> {
        let function = "AdapterTable";
        let Some(first) = adapters.first() else {
            return Ok(Self { descriptors: None, adapters: 0, blocks: 0, dtype: Dtype::F32 });
        };
        let dtype = floating(function, first.out)?;
        let unit = per_thread(dtype);
        let (mut words, mut blocks) = (Vec::with_capacity(adapters.len() * WORDS), 0);
        for (index, adapter) in adapters.iter().enumerate() {
            let AdapterColumns { b, out, n, r, stride, column, scale } = *adapter;
            expect(function, "b", b, n * r, Dtype::F32)?;
            let needed = if n == 0 || r == 0 { 0 } else { (n - 1) * stride + column + r };
            if out.dtype() != dtype || out.elements() < needed || column + r > stride {
                return Err(CudaError::invalid(format!(
                    "{function}: adapter {index} has columns {column}..{} in {n} rows {stride} apart, and an output of {} \
                     elements of {:?} ({dtype:?} is wanted)",
                    column + r,
                    out.elements(),
                    out.dtype()
                )));
            }
            let packed = r.is_multiple_of(unit)
                && stride.is_multiple_of(unit)
                && column.is_multiple_of(unit)
                && aligned(b)
                && aligned(out);
            let threads = if packed { n * r / unit } else { n * r };
            if n.max(stride).max(threads) > i32::MAX as usize {
                return Err(CudaError::invalid(format!("{function}: adapter {index} of [{n}, {r}] is too large")));
            }
            blocks = blocks.max(grid(function, threads)?[0]);
            words.extend([
                b.address(),
                out.address(),
                n as u64 | (r as u64) << 32,
                stride as u64 | (column as u64) << 32,
                u64::from(scale.to_bits()) | u64::from(packed) << 32,
            ]);
        }
        // The grid's second axis.
        let count = u16::try_from(adapters.len())
            .map_err(|_| CudaError::invalid(format!("{function}: {} adapters, more than 65535", adapters.len())))?;
        let descriptors = device.allocate(words.len() * 8)?;
        device.upload(bytemuck::cast_slice(&words), descriptors.tensor(Dtype::U8))?;
        Ok(Self { descriptors: Some(descriptors), adapters: count.into(), blocks, dtype })
    }
}

/// Writes the columns of every adapter of the table, `scale * b` rounded to the output's type, in one launch.
///
/// # Errors
/// When the driver refuses.
pub fn refresh_adapters(device: &Device, table: &AdapterTable) -> Result<(), CudaError> {
    let Some(descriptors) = &table.descriptors else { return Ok(()) };
    let args = [descriptors.tensor(Dtype::U8).into()];
    device.launch(&ADAPTER, "refresh_adapters", table.dtype, [table.blocks, table.adapters, 1], BLOCK, 0, &args)
}

/// Copies the rows of `w [n, k]` to rows of `stride` elements, and fills the columns from `k` on with zeros. `out` is
/// `[n, stride]` and does not overlap `w`.
///
/// # Errors
/// When lengths or types do not fit.
pub fn augment(device: &Device, w: Tensor, n: usize, k: usize, stride: usize, out: Tensor) -> Result<(), CudaError> {
    let function = "augment";
    let dtype = floating(function, w)?;
    expect(function, "w", w, n * k, dtype)?;
    expect(function, "out", out, n * stride, dtype)?;
    if stride < k || stride > i32::MAX as usize {
        return Err(CudaError::invalid(format!("{function}: rows of {k} elements do not go {stride} apart")));
    }
    if out.elements() == 0 {
        return Ok(());
    }
    let unit = per_thread(dtype);
    let packed = k.is_multiple_of(unit) && stride.is_multiple_of(unit) && aligned(w) && aligned(out);
    let (kernel, unit) = if packed { ("augment", unit) } else { ("augment_any", 1) };
    let args = [w.into(), (n as u64).into(), ((k / unit) as u32).into(), ((stride / unit) as u32).into(), out.into()];
    device.launch(&ADAPTER, kernel, dtype, grid(function, n * (stride / unit))?, BLOCK, 0, &args)
}
