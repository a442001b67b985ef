//! Products of few rows with matrices, as in decoding, with what stands around them: the norm before, bias, residual and
//! gated unit after. Bound by reading the weights once.
//!
//! Launches depend on each other programmatically: a kernel starts while its predecessors run and reads its weights ahead.
//! So **weights, biases and norm weights must have been written before the last launch that was not dependent** (or by a
//! copy, or before the captured graph was launched); everything else may come from the launch just before.

use super::compile::Source;
use super::device::{Arg, Device};
use super::error::CudaError;
use super::norm::{aligned, expect, expect_if, size};
use super::tensor::{Dtype, Tensor};
use crate::Activation;

static DECODE: Source = Source {
    name: "decode",
    text: concat!(
        include_str!("../../cuda/tensor_core.cuh"),
        include_str!("../../cuda/decode.cuh"),
        include_str!("../../cuda/decode.cu")
    ),
};
static DECODE_PLAIN: Source = Source {
    name: "decode_plain",
    text: concat!(include_str!("../../cuda/decode.cuh"), include_str!("../../cuda/decode_plain.cu")),
};

/// Most rows [`few_rows`] takes.
pub const MOST_FEW_ROWS: usize = 16;

/// As WARPS and THREADS in the source.
const WARPS: usize = 8;
const THREADS: u32 = 32 * WARPS as u32;

/// Root mean square normalisation of x, as [`super::rms_norm`].
#[derive(Debug, Clone, Copy)]
pub struct Norm {
    /// f32 `[k]`.
    pub weight: Option<Tensor>,
    /// Added to the weight.
    pub offset: f32,
    pub eps: f32,
}

/// One of the matrices that x is multiplied by.
#[derive(Debug, Clone, Copy)]
pub struct Matrix {
    /// `[n, k]`, of x's type.
    pub weight: Tensor,
    pub n: usize,
    /// `[n]`, of x's type.
    pub bias: Option<Tensor>,
    /// `[rows, n]`, of x's type or f32. That of a gated unit's second matrix is not written.
    pub out: Tensor,
}

/// What [`few_rows`] computes.
#[derive(Debug, Clone, Copy)]
pub struct FewRows<'a> {
    /// `[rows, k]`.
    pub x: Tensor,
    pub rows: usize,
    pub k: usize,
    /// Applied to x first; the result is rounded to x's type.
    pub norm: Option<Norm>,
    /// One to four.
    pub matrices: &'a [Matrix],
    /// `[rows, n]`, of x's type, added to the only matrix's product. May be its `out`.
    pub residual: Option<Tensor>,
    /// With two matrices, gate and up: `out` of the first is `activation(gate) * up`, both rounded to x's type before.
    pub glu: Option<Activation>,
}

/// `out = x weight^T + bias (+ residual)` for each matrix, for up to 16 rows, with sums in f32 and one rounding at the end.
/// A row's result depends neither on the other rows nor on their number.
///
/// Fast for 16-bit types with `k` a multiple of 8 and aligned operands, right for all.
///
/// # Errors
/// When lengths or types do not fit, or an output overlaps an input (other than being the residual).
pub fn few_rows(device: &Device, work: &FewRows) -> Result<(), CudaError> {
    check(work)?;
    let units = if work.glu.is_some() { work.matrices[0].n } else { work.matrices.iter().map(|m| m.n).sum() };
    if work.rows == 0 || units == 0 {
        return Ok(());
    }
    let element = work.x.dtype();
    if let Some((most, plan)) = fast(work, device.compute_capability()) {
        let grid = u32::try_from(units).unwrap_or(u32::MAX).min(device.multiprocessors());
        for start in (0..work.rows).step_by(most) {
            let rows = most.min(work.rows - start);
            let kernel = match (rows, plan.steps) {
                (..=8, 4) => "few_rows_8_4",
                (..=8, _) => "few_rows_8_5",
                _ => "few_rows_16_4",
            };
            let mut args = arguments(work, start, rows)?;
            args.extend([Arg::from(plan.depth as i32), i32::from(plan.streamed).into()]);
            let shared_bytes = plan.shared_bytes as u32;
            // A warp more, which copies.
            device.launch_dependent(&DECODE, kernel, element, [grid, 1, 1], THREADS + 32, shared_bytes, &args)?;
        }
        return Ok(());
    }
    let packed = work.k.is_multiple_of(16 / element.size())
        && aligned(work.x)
        && work.matrices.iter().all(|m| aligned(m.weight));
    let kernel = match (packed, work.rows) {
        (false, 1) => "few_rows_plain_1",
        (false, 2..=4) => "few_rows_plain_4",
        (false, _) => "few_rows_plain_16",
        (true, 1) => "few_rows_packed_1",
        (true, 2..=4) => "few_rows_packed_4",
        (true, _) => "few_rows_packed_16",
    };
    let grid = u32::try_from(units.div_ceil(WARPS)).unwrap_or(u32::MAX).min(8 * device.multiprocessors());
    device.launch_dependent(&DECODE_PLAIN, kernel, element, [grid, 1, 1], THREADS, 0, &arguments(work, 0, work.rows)?)
}

/// How the fast kernel uses shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// STEPS in the source: a stage of the ring has up to `256 * steps` columns of eight weight rows.
    steps: usize,
    /// Stages of the ring.
    depth: usize,
    /// Whether x is copied beside the weights instead of lying in shared memory as a whole.
    streamed: bool,
    shared_bytes: usize,
}

impl Plan {
    /// As MOST_STAGES, GROUP and BARRIER_BYTES in the source.
    const MOST_STAGES: usize = 8;
    const GROUP: usize = 4;
    const BARRIER_BYTES: usize = 160;
    /// Each multiprocessor needs some 33 KB on their way to keep the memory busy, and stages are refilled whole.
    const LEAST_RING: usize = 48 << 10;

    /// None if so many rows do not fit.
    fn new(rows: usize, k: usize, norm: Option<Norm>, capability: (u32, u32)) -> Option<Self> {
        // What a block may have, out of the CUDA programming guide's table of compute capabilities.
        let block: usize = match capability {
            (8, 0 | 7) => 163 << 10,
            (8, _) | (12, _) => 99 << 10,
            _ => 227 << 10,
        };
        // Two blocks on a multiprocessor, each with the system's KB: the next launch reads ahead beside this one.
        let half = ((block + 1024) / 2 - 1024) & !127;
        let five_save_a_stage = rows <= 8 && k.div_ceil(5 * 256) < k.div_ceil(4 * 256);
        let steps: &[usize] = if five_save_a_stage { &[5, 4] } else { &[4] };
        let fits = |streamed: bool, limit: usize, least: usize| {
            steps.iter().find_map(|&steps| Self::within(rows, k, norm, steps, streamed, limit, least))
        };
        fits(false, half, Self::LEAST_RING)
            .or_else(|| fits(false, block, block.min(80 << 10)))
            .or_else(|| fits(true, block, Self::LEAST_RING))
            .or_else(|| fits(false, block, block.min(2 * 16_896)))
    }

    /// With as many stages as fit in `limit` bytes, if they have at least `least`.
    fn within(
        rows: usize,
        k: usize,
        norm: Option<Norm>,
        steps: usize,
        streamed: bool,
        limit: usize,
        least: usize,
    ) -> Option<Self> {
        let all_steps = k.div_ceil(32);
        let pitch = steps * 512 + 64;
        let partials = if rows <= 8 { 2 } else { 1 } * WARPS * Self::GROUP * 8 * rows * 4;
        let weighted = norm.is_some_and(|norm| norm.weight.is_some());
        let x = if streamed { 2 * rows * pitch } else { rows * (all_steps | 1) * 64 };
        // Sums of squares, the norm's weight, partial sums, barriers, x: as `Block` in the source.
        let fixed =
            WARPS * MOST_FEW_ROWS * 4 + if weighted { all_steps * 128 } else { 0 } + partials + Self::BARRIER_BYTES + x;
        let depth = (limit.checked_sub(fixed)? / (8 * pitch)).min(Self::MOST_STAGES);
        let allowed = depth * 8 * pitch >= least && (!streamed || (norm.is_none() && depth >= Self::GROUP));
        allowed.then_some(Self { steps, depth, streamed, shared_bytes: depth * 8 * pitch + fixed })
    }
}

/// If the fast kernel can do it: how many rows it takes at once, and how.
fn fast(work: &FewRows, capability: (u32, u32)) -> Option<(usize, Plan)> {
    let operands = work.matrices.iter().map(|m| m.weight).chain([work.x]).chain(work.norm.and_then(|n| n.weight));
    let suits = work.x.dtype() != Dtype::F32
        && work.k.is_multiple_of(8)
        && capability.0 >= 8
        && operands.into_iter().all(aligned);
    if !suits {
        return None;
    }
    // As few launches as can be, of about equal rows.
    (1..=work.rows).find_map(|launches| {
        let rows = work.rows.div_ceil(launches);
        Plan::new(rows, work.k, work.norm, capability).map(|plan| (rows, plan))
    })
}

/// What a kernel is given, for `rows` rows from `start` on.
fn arguments(work: &FewRows, start: usize, rows: usize) -> Result<Vec<Arg>, CudaError> {
    const NAME: &str = "few_rows";
    let part = |tensor: Tensor, width: usize| tensor.slice(start * width, rows * width);
    let norm = work.norm.unwrap_or(Norm { weight: None, offset: 0.0, eps: 0.0 });
    let at = |i: usize| work.matrices.get(i);
    let mut args: Vec<Arg> = vec![
        part(work.x, work.k).into(),
        size(NAME, "rows", rows)?.into(),
        size(NAME, "k", work.k)?.into(),
        i32::from(work.norm.is_some()).into(),
        norm.weight.into(),
        norm.offset.into(),
        norm.eps.into(),
    ];
    args.extend((0..4).map(|i| Arg::from(at(i).map(|m| m.weight))));
    args.extend((0..4).map(|i| Arg::from(at(i).and_then(|m| m.bias))));
    args.extend((0..4).map(|i| Arg::from(at(i).filter(|_| written(work, i)).map(|m| part(m.out, m.n)))));
    for i in 0..4 {
        args.push(size(NAME, "n", at(i).map_or(0, |m| m.n))?.into());
    }
    let wide = |i: usize| at(i).is_some_and(|m| m.out.dtype() == Dtype::F32);
    args.push((0..4).map(|i| i32::from(wide(i)) << i).sum::<i32>().into());
    args.push(work.residual.map(|residual| part(residual, work.matrices[0].n)).into());
    // The enum's order is the kernel's.
    args.push(work.glu.map_or(-1, |activation| activation as i32).into());
    Ok(args)
}

/// Whether matrix `index` has an output of its own.
fn written(work: &FewRows, index: usize) -> bool {
    work.glu.is_none() || index == 0
}

fn check(work: &FewRows) -> Result<(), CudaError> {
    const NAME: &str = "few_rows";
    let wrong = |message: String| Err(CudaError::invalid(format!("{NAME}: {message}")));
    let (rows, k, element) = (work.rows, work.k, work.x.dtype());
    if !matches!(element, Dtype::F32 | Dtype::Bf16 | Dtype::F16) {
        return wrong(format!("x is of {element:?}"));
    }
    if rows > MOST_FEW_ROWS {
        return wrong(format!("{rows} rows, more than {MOST_FEW_ROWS}"));
    }
    if k == 0 {
        return wrong("rows of no numbers".into());
    }
    if !(1..=4).contains(&work.matrices.len()) {
        return wrong(format!("{} matrices, not one to four", work.matrices.len()));
    }
    expect(NAME, "x", work.x, rows * k, element)?;
    if let Some(norm) = work.norm {
        expect_if(NAME, "the norm's weight", norm.weight, k, Dtype::F32)?;
    }
    if work.residual.is_some() && work.matrices.len() != 1 {
        return wrong("a residual needs one matrix".into());
    }
    let gated = work.glu.is_some();
    if gated && (work.matrices.len() != 2 || work.matrices[0].n != work.matrices[1].n) {
        return wrong("a gated unit needs two matrices of the same n".into());
    }
    size(NAME, "n of all matrices", work.matrices.iter().map(|m| m.n).sum())?;
    for (i, m) in work.matrices.iter().enumerate() {
        expect(NAME, "a weight", m.weight, m.n * k, element)?;
        expect_if(NAME, "a bias", m.bias, m.n, element)?;
        if !written(work, i) {
            continue;
        }
        let dtype = if m.out.dtype() == Dtype::F32 { Dtype::F32 } else { element };
        expect(NAME, "an output", m.out, rows * m.n, dtype)?;
        let others = work.matrices.iter().enumerate().filter(|(j, _)| *j != i && written(work, *j)).map(|(_, o)| o.out);
        if others.chain([work.x]).any(|other| overlap(other, m.out)) {
            return wrong(format!("output {i} overlaps x or another output"));
        }
    }
    if let Some(residual) = work.residual {
        let out = work.matrices[0].out;
        expect(NAME, "the residual", residual, rows * work.matrices[0].n, element)?;
        if residual != out && overlap(residual, out) {
            return wrong("the residual overlaps the output without being it".into());
        }
    }
    Ok(())
}

fn overlap(a: Tensor, b: Tensor) -> bool {
    a.address() < b.address() + b.bytes() as u64 && b.address() < a.address() + a.bytes() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOPPER: (u32, u32) = (9, 0);

    fn plan(rows: usize, k: usize, normalised: bool) -> Option<Plan> {
        let norm = Norm { weight: None, offset: 0.0, eps: 1e-6 };
        Plan::new(rows, k, normalised.then_some(norm), HOPPER)
    }

    #[test]
    fn two_launches_share_a_multiprocessor_for_small_models() {
        for (rows, k, steps, depth) in [
            (1, 1024, 4, 6),
            (1, 2048, 4, 6),
            (1, 3072, 4, 6),
            (1, 2560, 5, 5),
            (1, 9728, 5, 4),
            (8, 1024, 4, 4),
            (8, 2560, 4, 3),
            (16, 1024, 4, 3),
        ] {
            let plan = plan(rows, k, true).unwrap();
            assert_eq!((plan.steps, plan.depth, plan.streamed), (steps, depth, false), "{rows} rows of {k}");
            assert!(2 * (plan.shared_bytes + 1024) <= 228 << 10, "{rows} rows of {k}: {plan:?}");
        }
    }

    #[test]
    fn wide_rows_take_a_multiprocessor_or_are_copied_beside_the_weights() {
        for (rows, k, streamed) in [(16, 2560, false), (8, 4096, false), (8, 9728, true), (16, 9728, true)] {
            let plan = plan(rows, k, false).unwrap();
            assert_eq!(plan.streamed, streamed, "{rows} rows of {k}: {plan:?}");
            assert!(plan.depth >= 4 && plan.shared_bytes <= 227 << 10, "{rows} rows of {k}: {plan:?}");
        }
        assert_eq!(plan(16, 9728, true), None, "x can not be normalised in parts");
        assert_eq!(plan(1, 200_000, true), None);
        assert!(plan(1, 200_000, false).unwrap().streamed);
    }
}
