//! The gradients of a low-rank adapter's second matrix and of what it multiplies (Hu et al., arXiv:2106.09685), from one
//! reading of the output's gradient. Two products would read it twice, and it is by far their largest operand.

use super::compile::Source;
use super::device::{Arg, Device};
use super::error::CudaError;
use super::matmul::Operand;
use super::norm::{aligned, expect, expect_if, size};
use super::tensor::{Dtype, Tensor};

/// Threads of a block; rows of a tile of the output's gradient. As in the source.
const THREADS: usize = 256;
const CHUNK: usize = 32;
const WARPS: usize = 8;

/// The kernels for adapters of up to so many columns.
struct Ranks {
    rank: usize,
    /// Columns of a tile, and tiles in flight. As in the source.
    columns: usize,
    stages: usize,
    source: Source,
}

impl Ranks {
    /// Shared memory of a block: the ring of tiles with their rows of `low`, and two lots of the warps' shares of `d_low`.
    fn shared_bytes(&self) -> usize {
        self.stages * CHUNK * (self.columns + 8 + self.rank + 8) * 2 + 2 * WARPS * CHUNK * self.rank * 4
    }
}

macro_rules! ranks {
    ($($rank:literal: columns $columns:literal, stages $stages:literal;)*) => {
        [$(Ranks {
            rank: $rank,
            columns: $columns,
            stages: $stages,
            source: Source {
                name: concat!("adapter_grad_", $rank),
                text: concat!(
                    "#define RANK ", $rank, "\n",
                    include_str!("../../cuda/tensor_core.cuh"),
                    include_str!("../../cuda/adapter_grad.cu")
                ),
            },
        }),*]
    };
}

static RANKS: [Ranks; 3] = ranks! {
    16: columns 512, stages 5;
    32: columns 512, stages 4;
    64: columns 256, stages 4;
};

/// How a product is laid out over blocks.
struct Plan {
    ranks: &'static Ranks,
    /// Tiles along the rows, and along the columns.
    chunks: usize,
    ranges: usize,
    blocks: usize,
}

impl Plan {
    fn new(device: &Device, rows: usize, n: usize, r: usize) -> Option<Self> {
        let ranks = RANKS.iter().find(|ranks| r <= ranks.rank)?;
        let (chunks, ranges) = (rows.div_ceil(CHUNK), n.div_ceil(ranks.columns));
        // A block fills a multiprocessor.
        let blocks = (device.multiprocessors() as usize).min(chunks * ranges);
        Some(Self { ranks, chunks, ranges, blocks })
    }

    /// Elements of the partial sums of `d_low`, and of `d_b`.
    fn parts(&self, rows: usize, r: usize) -> (usize, usize) {
        (self.ranges * rows * r, (self.blocks + self.ranges - 1) * self.ranks.columns * r)
    }
}

/// Whether rows of `r` elements can be read 16 bytes at a time.
fn packed(operand: Operand) -> bool {
    aligned(operand.data) && operand.stride.is_multiple_of(8)
}

/// Whether [`adapter_grad`] takes these operands: bf16 or f16, `n` and `r` multiples of 8, `r` at most 64, rows that begin
/// at multiples of 16 bytes, and a GPU with 227 KiB of shared memory to a block (compute capability 9.0 or 10.x). Otherwise
/// two products ([`super::matmul()`]) do the same.
///
/// At `r` above 32 the partial sums move about as many bytes as the second reading that they save.
pub fn adapter_grad_fits(
    device: &Device,
    dy: Tensor,
    n: usize,
    r: usize,
    low: Operand,
    b: Tensor,
    d_low: Operand,
) -> bool {
    let whole = |size: usize| size > 0 && size.is_multiple_of(8);
    matches!(dy.dtype(), Dtype::Bf16 | Dtype::F16)
        && whole(n)
        && whole(r)
        && r <= 64
        && [dy, b].into_iter().all(aligned)
        && packed(low)
        && packed(d_low)
        && matches!(device.compute_capability().0, 9 | 10)
}

/// `d_low = scale * dy · b` and, where wanted, `d_b += scale * dyᵀ · low`, reading `dy` once.
///
/// `dy` is `[rows, n]`, `low` and `d_low` are `[rows, r]` with rows that may lie apart, `b` is `[n, r]`, all of one half
/// precision; `d_b` is f32 `[n, r]`. Sums are f32 in a fixed order; `scale` multiplies them, and `d_low` is rounded once.
///
/// # Errors
/// When lengths or types do not fit, or [`adapter_grad_fits`] does not hold.
pub fn adapter_grad(
    device: &Device,
    dy: Tensor,
    rows: usize,
    n: usize,
    low: Operand,
    b: Tensor,
    r: usize,
    scale: f32,
    d_low: Operand,
    d_b: Option<Tensor>,
) -> Result<(), CudaError> {
    let function = "adapter_grad";
    let dtype = dy.dtype();
    expect(function, "dy", dy, rows * n, dtype)?;
    expect(function, "b", b, n * r, dtype)?;
    expect_if(function, "d_b", d_b, n * r, Dtype::F32)?;
    for (name, operand) in [("low", low), ("d_low", d_low)] {
        let needed = if rows == 0 { 0 } else { (rows - 1) * operand.stride + r };
        let shaped = (operand.rows, operand.columns) == (rows, r) && operand.stride >= r;
        if !shaped || operand.data.elements() < needed || operand.data.dtype() != dtype {
            return Err(CudaError::invalid(format!(
                "{function}: {name} is [{}, {}] with a stride of {} in {} elements of {:?}, not [{rows}, {r}] of {dtype:?}",
                operand.rows,
                operand.columns,
                operand.stride,
                operand.data.elements(),
                operand.data.dtype()
            )));
        }
    }
    let plan = Plan::new(device, rows, n, r).filter(|_| adapter_grad_fits(device, dy, n, r, low, b, d_low));
    let Some(plan) = plan else {
        return Err(CudaError::invalid(format!(
            "{function}: no kernel for {dtype:?}, n = {n} and r = {r}, strides of {} and {} and these alignments; use two \
             products where adapter_grad_fits says no",
            low.stride, d_low.stride
        )));
    };
    if rows == 0 {
        return Ok(());
    }
    let number = |what, x| size(function, what, x);
    number("the number of tiles", plan.chunks * plan.ranges + 1)?;
    let (d_low_quads, d_b_quads) = (rows * r / 4, n * r / 4);
    let d_low_blocks = d_low_quads.div_ceil(THREADS);
    let d_b_blocks = if d_b.is_some() { d_b_quads.div_ceil(32) } else { 0 };
    let sizes: [Arg; 3] = [number("rows", rows)?.into(), number("n", n)?.into(), number("r", r)?.into()];
    let total = number("the number of blocks", d_low_blocks + d_b_blocks)?;

    let (d_low_parts, d_b_parts) = plan.parts(rows, r);
    let d_b_parts = if d_b.is_some() { d_b_parts } else { 0 };
    let scratch = device.workspace((d_low_parts + d_b_parts) * 4)?.cast(Dtype::F32);
    let d_b_parts = d_b.map(|_| scratch.slice(d_low_parts, d_b_parts));
    let d_low_parts = scratch.slice(0, d_low_parts);

    let mut args: Vec<Arg> = vec![dy.into(), low.data.into(), b.into(), d_low_parts.into(), d_b_parts.into()];
    args.extend(sizes);
    args.push(number("the stride of low", low.stride)?.into());
    let (source, shared) = (&plan.ranks.source, plan.ranks.shared_bytes() as u32);
    device.launch_dependent(source, function, dtype, [plan.blocks as u32, 1, 1], THREADS as u32, shared, &args)?;

    let mut args: Vec<Arg> = vec![d_low_parts.into(), d_b_parts.into()];
    args.extend(sizes);
    let more: [Arg; 6] = [
        (plan.blocks as i32).into(),
        (d_low_blocks as i32).into(),
        scale.into(),
        d_low.data.into(),
        number("the stride of d_low", d_low.stride)?.into(),
        d_b.into(),
    ];
    args.extend(more);
    device.launch_dependent(source, "adapter_grad_sum", dtype, [total as u32, 1, 1], THREADS as u32, 0, &args)
}
