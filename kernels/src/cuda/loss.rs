//! The last linear layer and the cross entropy in one on the GPU, over chunks of rows; and the greatest number of a row.
//!
//! Logits are f32 whatever the type of the operands, or if asked for of the operands' type. Nothing is waited for, so rows of weight 0 are passed over by the
//! kernels but not by the products: a caller that knows the weights gathers the other rows with [`super::embed`], calls
//! this with them alone, and brings the gradient back with [`super::scatter_rows`].

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::matmul::{Operand, matmul};
use super::norm::{aligned, expect, expect_if, size};
use super::tensor::{Dtype, Tensor};

static LOSS: Source = Source { name: "loss", text: include_str!("../../cuda/loss.cu") };

/// Bytes of a row's result, as the kernels keep it.
const RESULT: usize = 16;
/// As in the source: numbers of a thread's step, blocks of a cluster, rows of one, slots and computing threads of a block.
const UNIT: usize = 8;
const CLUSTER: usize = 8;
const ROWS: usize = 4;
const SLOTS: usize = 16;
const THREADS: usize = 15 * 32;
/// Dynamic shared memory that each of two blocks of a multiprocessor may have, and one alone.
const RING_BYTES: [usize; 2] = [106 << 10, 218 << 10];

/// Cross entropy of `targets[rows]` under the logits `cap(logit_scale * h[rows, k] table[vocab, k]^T)`, where `cap(z) =
/// soft_cap * tanh(z / soft_cap)`. Rows of weight 0 count for nothing, and their targets are not read. As
/// [`crate::linear_cross_entropy`].
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy {
    /// Activations `[rows, k]`.
    pub h: Tensor,
    pub rows: usize,
    pub k: usize,
    /// `[vocab, k]`, of the activations' type.
    pub table: Tensor,
    pub vocab: usize,
    /// u32 `[rows]`. The caller checks them: a counted row whose target is no token id has a loss of NaN.
    pub targets: Tensor,
    /// f32 `[rows]`.
    pub weights: Tensor,
    pub soft_cap: Option<f32>,
    pub logit_scale: f32,
    /// One f32 that every gradient is multiplied by.
    pub scale: Tensor,
    /// Overwritten with the gradient of `h`: 0 for rows of weight 0.
    pub dh: Option<Tensor>,
    /// f32 gradient of the table, added to.
    pub dtable: Option<Tensor>,
    /// Overwritten with the f32 cross entropies, unweighted, 0 for rows of weight 0.
    pub per_row: Option<Tensor>,
    /// Four f64 (32 bytes), added to: sum of weight times cross entropy in nats; sum of weights; rows whose greatest logit
    /// is the target's (the first of several); rows whose weight is not 0.
    pub sums: Tensor,
    /// Bytes that logits and their gradients may take.
    pub chunk_bytes: usize,
    /// How logits are stored: F32, or the activations' type, which moves and takes a third of the bytes (the gradient takes
    /// their place) but rounds them. What is computed from them is f32 in both cases.
    pub logits_dtype: Dtype,
}

/// Where things lie in the scratch memory.
struct Scratch {
    /// Rows of a chunk.
    chunk: usize,
    /// Elements from one row of logits to the next.
    stride: usize,
    logits: usize,
    gradient: usize,
    bytes: usize,
}

impl Scratch {
    fn new(rows: usize, vocab: usize, dtype: Dtype, logits_dtype: Dtype, chunk_bytes: usize) -> Self {
        let stride = vocab.next_multiple_of(16);
        // The gradient takes the logits' place if it has their type.
        let (logit_size, in_place) = (logits_dtype.size(), dtype == logits_dtype);
        let gradient_size = if in_place { 0 } else { dtype.size() };
        let most = (chunk_bytes / (stride.max(1) * (logit_size + gradient_size))).max(1);
        // Whole tiles of a matrix product, and few small rests.
        let round = if most >= 128 { 128 } else { most.min(8) };
        let most = most / round * round;
        let chunks = rows.div_ceil(most).max(1);
        let chunk = rows.div_ceil(chunks).next_multiple_of(round).min(most).min(rows);
        let logits = (rows * RESULT).next_multiple_of(256);
        let gradient = if in_place { logits } else { logits + (chunk * stride * logit_size).next_multiple_of(256) };
        let bytes = gradient + (chunk * stride * dtype.size()).next_multiple_of(256);
        Self { chunk, stride, logits, gradient, bytes }
    }
}

/// Bytes of scratch that [`linear_cross_entropy`] needs, enough for either type of logits: about `chunk_bytes`, more if one
/// row of logits takes more, less if all rows take less.
pub fn cross_entropy_scratch(rows: usize, vocab: usize, dtype: Dtype, chunk_bytes: usize) -> usize {
    let bytes = |logits| Scratch::new(rows, vocab, dtype, logits, chunk_bytes).bytes;
    bytes(Dtype::F32).max(bytes(dtype))
}

/// Runs [`CrossEntropy`] in `scratch`, of at least [`cross_entropy_scratch`] bytes.
///
/// # Errors
/// When lengths or types do not fit.
pub fn linear_cross_entropy(device: &Device, op: &CrossEntropy, scratch: Tensor) -> Result<(), CudaError> {
    let function = "linear_cross_entropy";
    let CrossEntropy { h, rows, k, table, vocab, targets, weights, scale, dh, dtable, per_row, sums, .. } = *op;
    let dtype = h.dtype();
    expect(function, "h", h, rows * k, dtype)?;
    expect(function, "table", table, vocab * k, dtype)?;
    expect(function, "targets", targets, rows, Dtype::U32)?;
    expect(function, "weights", weights, rows, Dtype::F32)?;
    expect(function, "scale", scale, 1, Dtype::F32)?;
    expect_if(function, "dh", dh, rows * k, dtype)?;
    expect_if(function, "dtable", dtable, vocab * k, Dtype::F32)?;
    expect_if(function, "per_row", per_row, rows, Dtype::F32)?;
    expect(function, "sums", sums, 32, Dtype::U8)?;
    let logits_dtype = op.logits_dtype;
    if logits_dtype != Dtype::F32 && logits_dtype != dtype {
        return Err(CudaError::invalid(format!("{function}: logits of {logits_dtype:?} for operands of {dtype:?}")));
    }
    let parts = Scratch::new(rows, vocab, dtype, logits_dtype, op.chunk_bytes);
    if scratch.bytes() < parts.bytes || !aligned(scratch) {
        return Err(CudaError::invalid(format!(
            "{function}: scratch of {} bytes at {:#x}, not {} bytes at a multiple of 16",
            scratch.bytes(),
            scratch.address(),
            parts.bytes
        )));
    }
    if op.soft_cap.is_some_and(|cap| cap <= 0.0) {
        return Err(CudaError::invalid(format!("{function}: a soft cap of {:?} is not above 0", op.soft_cap)));
    }
    size(function, "rows * 8", rows * CLUSTER)?;
    size(function, "vocab", vocab + 8 * 1024)?;
    if rows == 0 {
        return Ok(());
    }
    if vocab == 0 {
        return Err(CudaError::invalid(format!("{function}: a vocabulary of no tokens")));
    }
    let part = |offset: usize, elements: usize, dtype: Dtype| {
        scratch.cast(Dtype::U8).slice(offset, elements * dtype.size()).cast(dtype)
    };
    let results = part(0, rows * RESULT, Dtype::U8);
    let with_gradient = dh.is_some() || dtable.is_some();
    for start in (0..rows).step_by(parts.chunk) {
        let count = parts.chunk.min(rows - start);
        let chunk = h.slice(start * k, count * k);
        let logits = part(parts.logits, count * parts.stride, logits_dtype);
        let gradient = part(parts.gradient, count * parts.stride, dtype);
        let (left, right) = (Operand::new(chunk, count, k), Operand::new(table, vocab, k));
        let to = Operand::strided(logits, count, vocab, parts.stride);
        matmul(device, left, false, right, true, op.logit_scale, 0.0, None, to)?;
        rows_of_chunk(device, op, start, count, logits, gradient, parts.stride, with_gradient, results)?;
        let gradient = Operand::strided(gradient, count, vocab, parts.stride);
        if let Some(dh) = dh {
            let to = Operand::new(dh.slice(start * k, count * k), count, k);
            matmul(device, gradient, false, right, false, 1.0, 0.0, None, to)?;
        }
        if let Some(dtable) = dtable {
            matmul(device, gradient, true, left, false, 1.0, 1.0, None, Operand::new(dtable, vocab, k))?;
        }
    }
    let args = [results.into(), weights.into(), (rows as i32).into(), sums.into()];
    device.launch(&LOSS, "cross_entropy_sums", dtype, [1, 1, 1], 1024, 0, &args)
}

/// The rows `start..start + count`: their losses, and the gradients of their logits.
fn rows_of_chunk(
    device: &Device,
    op: &CrossEntropy,
    start: usize,
    count: usize,
    logits: Tensor,
    gradient: Tensor,
    stride: usize,
    with_gradient: bool,
    results: Tensor,
) -> Result<(), CudaError> {
    let head = [logits.into(), (stride as u64).into(), (op.vocab as i32).into()];
    let tail = [
        op.targets.slice(start, count).into(),
        op.weights.slice(start, count).into(),
        op.soft_cap.unwrap_or(0.0).into(),
        op.logit_scale.into(),
        with_gradient.then_some(op.scale).into(),
        gradient.into(),
        op.per_row.map(|losses| losses.slice(start, count)).into(),
        results.slice(start * RESULT, count * RESULT).into(),
    ];
    let (dtype, narrow) = (op.h.dtype(), logits.dtype() != Dtype::F32);
    let clusters = with_gradient && device.compute_capability().0 >= 9 && op.vocab >= 4096;
    if let Some(ring) = Ring::new(op.vocab, logits.dtype()).filter(|_| clusters) {
        let kernel = if narrow { "cross_entropy_cluster_narrow" } else { "cross_entropy_cluster" };
        let args = [&head[..], &[(count as i32).into(), (ring.slots as i32).into()], &tail].concat();
        let grid = [(count.div_ceil(ROWS) * CLUSTER) as u32, 1, 1];
        // A warp more than compute.
        return device.launch(&LOSS, kernel, dtype, grid, ring.threads as u32 + 32, ring.bytes as u32, &args);
    }
    let kernel = if narrow { "cross_entropy_narrow" } else { "cross_entropy" };
    let block = (op.vocab / UNIT).next_multiple_of(32).clamp(32, 1024);
    device.launch(&LOSS, kernel, dtype, [count as u32, 1, 1], block as u32, 0, &[&head[..], &tail].concat())
}

/// How a block of a cluster holds its share of a row: in stretches of a unit for each thread, with room for at least one of
/// the next row.
struct Ring {
    threads: usize,
    slots: usize,
    bytes: usize,
}

impl Ring {
    /// `None` if a share is too long.
    fn new(vocab: usize, dtype: Dtype) -> Option<Self> {
        let share = (vocab / UNIT).div_ceil(CLUSTER).max(1);
        let threads = share.div_ceil(share.div_ceil(THREADS)).next_multiple_of(32);
        let (slot, stretches) = (threads * UNIT * dtype.size(), share.div_ceil(threads));
        RING_BYTES.into_iter().find_map(|most| {
            let slots = (most / slot).min(SLOTS);
            (slots > stretches).then_some(Self { threads, slots, bytes: slots * slot })
        })
    }
}

/// `out[row]` = the place of the greatest of `logits[rows, vocab]`, the first of several; NaNs are passed over. `out` is
/// u32. One row is spread over the whole GPU.
///
/// # Errors
/// When lengths or types do not fit.
pub fn argmax(device: &Device, logits: Tensor, rows: usize, vocab: usize, out: Tensor) -> Result<(), CudaError> {
    let dtype = logits.dtype();
    expect("argmax", "logits", logits, rows * vocab, dtype)?;
    expect("argmax", "out", out, rows, Dtype::U32)?;
    size("argmax", "rows", rows)?;
    let vocab_arg = size("argmax", "vocab", vocab + 8 * 1024)? - 8 * 1024;
    if rows == 0 {
        return Ok(());
    }
    if vocab == 0 {
        return Err(CudaError::invalid("argmax: rows of no numbers"));
    }
    let pack = 16 / dtype.size();
    let packed = vocab.is_multiple_of(pack) && aligned(logits);
    // Enough blocks to fill the GPU, each with some packs for every thread.
    let wanted = (2 * device.multiprocessors() as usize).div_ceil(rows);
    let shares = wanted.min(vocab.div_ceil(1024 * pack)).max(1);
    let share = vocab.div_ceil(shares).next_multiple_of(pack);
    let shares = vocab.div_ceil(share);
    let bests = if shares > 1 { Some(device.workspace(rows * shares * 8)?) } else { None };
    let args = [logits.into(), vocab_arg.into(), (share as i32).into(), bests.into(), out.into()];
    let kernel = if packed { "argmax" } else { "argmax_any" };
    device.launch(&LOSS, kernel, dtype, [rows as u32, shares as u32, 1], 512, 0, &args)?;
    let Some(bests) = bests else { return Ok(()) };
    let args = [bests.into(), (shares as i32).into(), out.into()];
    device.launch(&LOSS, "argmax_finish", dtype, [rows as u32, 1, 1], 32, 0, &args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_fit_and_cover_all_rows() {
        for rows in [1, 2, 7, 128, 1000, 16384] {
            for (vocab, chunk_bytes) in
                [(1, 0), (37, 10_000), (151_936, 1 << 20), (151_936, 1 << 30), (50_257, 1 << 28)]
            {
                let types = [(Dtype::F32, Dtype::F32, 4), (Dtype::Bf16, Dtype::F32, 6), (Dtype::Bf16, Dtype::Bf16, 2)];
                for (dtype, logits, size) in types {
                    let parts = Scratch::new(rows, vocab, dtype, logits, chunk_bytes);
                    let row = parts.stride * size;
                    assert!(cross_entropy_scratch(rows, vocab, dtype, chunk_bytes) >= parts.bytes);
                    assert!((1..=rows).contains(&parts.chunk), "{rows} rows in chunks of {}", parts.chunk);
                    assert!(parts.chunk == 1 || parts.chunk * row <= chunk_bytes, "{} of {row}", parts.chunk);
                    assert!(parts.stride >= vocab && parts.stride.is_multiple_of(UNIT));
                    assert!(parts.logits >= rows * RESULT);
                    assert!(parts.bytes >= parts.logits + parts.chunk * row);
                }
            }
        }
        // Whole tiles where there is room for them.
        assert_eq!(Scratch::new(16384, 151_936, Dtype::Bf16, Dtype::F32, 1 << 30).chunk % 128, 0);
    }

    #[test]
    fn rings_hold_a_row_and_more() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for vocab in [4096, 5003, 32_000, 50_257, 128_256, 151_936, 201_088, 262_144] {
                let ring = Ring::new(vocab, dtype).unwrap();
                let share = (vocab / UNIT).div_ceil(CLUSTER);
                assert!(ring.threads.is_multiple_of(32) && (32..=THREADS).contains(&ring.threads), "{vocab}");
                assert!(
                    ring.slots <= SLOTS && share <= (ring.slots - 1) * ring.threads,
                    "{vocab}: {} slots",
                    ring.slots
                );
                assert!(ring.bytes == ring.slots * ring.threads * UNIT * dtype.size() && ring.bytes <= RING_BYTES[1]);
            }
            assert!(Ring::new(10_000_000, dtype).is_none());
        }
        // Two blocks of a multiprocessor.
        assert!(Ring::new(151_936, Dtype::F32).unwrap().bytes <= RING_BYTES[0]);
    }
}
