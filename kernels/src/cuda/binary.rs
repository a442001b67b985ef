//! Functions of two numbers where the second operand may be shorter, their gradients, and sums over what was repeated, on
//! the GPU.
//!
//! An output may be exactly one of its inputs where that has the output's length: elements are read before they are
//! written.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::pointwise::{BLOCK, aligned, expect, floating, grid, per_thread};
use super::tensor::{Dtype, Tensor};
use crate::binary::{Binary, Broadcast};

static BINARY: Source = Source { name: "binary", text: include_str!("../../cuda/binary.cu") };

/// Blocks that the first stage of a sum by columns starts at most, about: four on each multiprocessor of the largest GPUs.
/// A constant, so that the order of a sum depends on shapes alone.
const SUM_BLOCKS: usize = 528;
/// Rows that are worth a block of their own.
const SUM_ROWS: usize = 32;
/// Elements that are worth a warp of their own, and the most warps that share one sum.
const SPAN_ELEMENTS: usize = 4096;
const SPAN_CHUNKS: usize = 1024;

/// How a second operand of length `second` meets a first of length `first`, as the kernels' numbers.
struct Meeting {
    mode: i32,
    /// Elements of the first for each of the second.
    repeats: usize,
    packed_second: bool,
}

impl Meeting {
    fn new(op: &str, first: usize, b: Tensor, broadcast: Broadcast) -> Result<Self, CudaError> {
        let second = b.elements();
        if first > 0 && (second == 0 || !first.is_multiple_of(second)) {
            return Err(CudaError::invalid(format!("{op}: {second} elements do not divide {first}")));
        }
        let mode = match broadcast {
            _ if second == first => 0,
            _ if second == 1 => 1,
            Broadcast::Repeat => 2,
            Broadcast::Span => 3,
        };
        let packed_second = second.is_multiple_of(16 / b.dtype().size()) && aligned(&[b]);
        Ok(Self { mode, repeats: first / second.max(1), packed_second })
    }

    /// The kernels' `packed`; `long` are the operands of the first's length.
    fn packed(&self, long: &[Tensor], b: Tensor) -> i32 {
        let packed = aligned(long) && (self.mode != 0 || aligned(&[b]));
        i32::from(packed) | i32::from(self.packed_second) << 1
    }
}

/// `out = a op b`, with `b` broadcast over `a`.
///
/// # Errors
/// When lengths or types do not fit.
pub fn binary(
    device: &Device,
    op: Binary,
    a: Tensor,
    b: Tensor,
    broadcast: Broadcast,
    out: Tensor,
) -> Result<(), CudaError> {
    let dtype = floating("binary", a)?;
    let length = a.elements();
    expect("binary", "b", b, dtype, b.elements())?;
    expect("binary", "out", out, dtype, length)?;
    let meeting = Meeting::new("binary", length, b, broadcast)?;
    device.launch(
        &BINARY,
        "binary",
        dtype,
        grid("binary", length.div_ceil(per_thread(dtype)))?,
        BLOCK,
        0,
        &[
            a.into(),
            b.into(),
            out.into(),
            (length as u64).into(),
            (b.elements() as u64).into(),
            (meeting.repeats as u64).into(),
            meeting.mode.into(),
            (op as i32).into(),
            meeting.packed(&[a, out], b).into(),
        ],
    )
}

/// `out = a + b`, all of one length.
///
/// # Errors
/// When lengths or types differ.
pub fn add(device: &Device, a: Tensor, b: Tensor, out: Tensor) -> Result<(), CudaError> {
    expect("add", "b", b, a.dtype(), a.elements())?;
    binary(device, Binary::Add, a, b, Broadcast::Repeat, out)
}

/// `out = a * b`, all of one length.
///
/// # Errors
/// When lengths or types differ.
pub fn mul(device: &Device, a: Tensor, b: Tensor, out: Tensor) -> Result<(), CudaError> {
    expect("mul", "b", b, a.dtype(), a.elements())?;
    binary(device, Binary::Mul, a, b, Broadcast::Repeat, out)
}

/// Gradients of [`binary`]: `da` of `a`'s length, `db` of `b`'s, summed over what `b` was broadcast to. Both are
/// overwritten, or added to with `accumulate`.
///
/// # Errors
/// When lengths or types do not fit.
pub fn binary_grad(
    device: &Device,
    op: Binary,
    a: Tensor,
    b: Tensor,
    broadcast: Broadcast,
    dy: Tensor,
    da: Option<Tensor>,
    db: Option<Tensor>,
    accumulate: bool,
) -> Result<(), CudaError> {
    let dtype = floating("binary_grad", a)?;
    let length = a.elements();
    expect("binary_grad", "b", b, dtype, b.elements())?;
    expect("binary_grad", "dy", dy, dtype, length)?;
    let meeting = Meeting::new("binary_grad", length, b, broadcast)?;
    let each = |d: Tensor, second: bool| {
        device.launch(
            &BINARY,
            "binary_grad",
            dtype,
            grid("binary_grad", length.div_ceil(per_thread(dtype)))?,
            BLOCK,
            0,
            &[
                a.into(),
                b.into(),
                dy.into(),
                d.into(),
                (length as u64).into(),
                (b.elements() as u64).into(),
                (meeting.repeats as u64).into(),
                meeting.mode.into(),
                (op as i32).into(),
                i32::from(second).into(),
                i32::from(accumulate).into(),
                meeting.packed(&[a, dy, d], b).into(),
            ],
        )
    };
    if let Some(db) = db {
        expect("binary_grad", "db", db, dtype, b.elements())?;
        if meeting.mode == 0 {
            if da.is_some() && [a, b, dy].contains(&db) {
                return Err(CudaError::invalid("binary_grad: db would overwrite what da is made from"));
            }
            each(db, true)?;
        } else {
            repeated_sums(device, op, a, b, broadcast, dy, if accumulate { 1.0 } else { 0.0 }, db)?;
        }
    }
    if let Some(da) = da {
        expect("binary_grad", "da", da, dtype, length)?;
        each(da, false)?;
    }
    Ok(())
}

/// `out[i]` is the element of `small` that meets element `i` of a long operand: `small[i % small.len()]` with
/// [`Broadcast::Repeat`], `small[i / (out.len() / small.len())]` with [`Broadcast::Span`].
///
/// # Errors
/// When lengths or types do not fit.
pub fn expand(device: &Device, small: Tensor, broadcast: Broadcast, out: Tensor) -> Result<(), CudaError> {
    let dtype = floating("expand", small)?;
    let length = out.elements();
    expect("expand", "out", out, dtype, length)?;
    let meeting = Meeting::new("expand", length, small, broadcast)?;
    device.launch(
        &BINARY,
        "expand",
        dtype,
        grid("expand", length.div_ceil(per_thread(dtype)))?,
        BLOCK,
        0,
        &[
            small.into(),
            out.into(),
            (length as u64).into(),
            (small.elements() as u64).into(),
            (meeting.repeats as u64).into(),
            meeting.mode.into(),
            meeting.packed(&[out], small).into(),
        ],
    )
}

/// Sums of `full` over what [`expand`] repeats; `out` is overwritten.
///
/// # Errors
/// When lengths or types do not fit.
pub fn reduce(device: &Device, full: Tensor, broadcast: Broadcast, out: Tensor) -> Result<(), CudaError> {
    let dtype = floating("reduce", full)?;
    expect("reduce", "out", out, dtype, out.elements())?;
    let meeting = Meeting::new("reduce", full.elements(), out, broadcast)?;
    if meeting.mode == 0 {
        return if full == out { Ok(()) } else { device.copy(full, out) };
    }
    // The derivative of a sum is 1: its second gradient is the sum of what came back, and neither operand is read.
    repeated_sums(device, Binary::Add, full, out, broadcast, full, 0.0, out)
}

/// `db = beta db + sum(dy)` over the rows of `dy [m, n]`. `db` is f32, or has the type of `dy`; with a `beta` of 0 it need
/// not be initialised. Deterministic: chunks of rows, then their sum.
///
/// # Errors
/// When lengths or types do not fit.
pub fn column_sums(device: &Device, dy: Tensor, m: usize, n: usize, beta: f32, db: Tensor) -> Result<(), CudaError> {
    let dtype = floating("column_sums", dy)?;
    expect("column_sums", "dy", dy, dtype, m * n)?;
    if db.dtype() != Dtype::F32 {
        expect("column_sums", "db", db, dtype, n)?;
    }
    if db.elements() != n {
        return Err(CudaError::invalid(format!("column_sums: {} sums of {n} columns", db.elements())));
    }
    columns(device, Binary::Add, dy, dy, dy, m, n, beta, db)
}

/// `db = beta db + ` the sum of `dy` times the derivative by `b`, over what each element of `b` was broadcast to. `b` is
/// shorter than `a`.
fn repeated_sums(
    device: &Device,
    op: Binary,
    a: Tensor,
    b: Tensor,
    broadcast: Broadcast,
    dy: Tensor,
    beta: f32,
    db: Tensor,
) -> Result<(), CudaError> {
    let (length, segments) = (a.elements(), b.elements());
    if segments == 0 {
        return Ok(());
    }
    let span = length / segments;
    if broadcast == Broadcast::Repeat && segments > 1 {
        return columns(device, op, a, b, dy, span, segments, beta, db);
    }
    let dtype = a.dtype();
    let pack = per_thread(dtype);
    let chunk = SPAN_ELEMENTS.max(span.div_ceil(SPAN_CHUNKS)).next_multiple_of(32 * pack);
    // Nothing was repeated to: one empty chunk gives the sum 0.
    let chunks = span.div_ceil(chunk).max(1);
    let parts = device.workspace(chunks * segments * 4)?;
    let packed = aligned(&[a, dy]) && span.is_multiple_of(pack);
    device.launch(
        &BINARY,
        if packed { "span_parts_packed" } else { "span_parts_single" },
        dtype,
        grid("binary_grad", chunks * segments * 32)?,
        BLOCK,
        0,
        &[
            a.into(),
            b.into(),
            dy.into(),
            parts.into(),
            (segments as u64).into(),
            (span as u64).into(),
            (chunk as u64).into(),
            (chunks as u64).into(),
            (op as i32).into(),
        ],
    )?;
    sum_parts(device, dtype, parts, chunks, segments, beta, db)
}

/// `db = beta db + ` the sum over the rows of `dy [rows, width]` times the derivative by `b [width]`.
fn columns(
    device: &Device,
    op: Binary,
    a: Tensor,
    b: Tensor,
    dy: Tensor,
    rows: usize,
    width: usize,
    beta: f32,
    db: Tensor,
) -> Result<(), CudaError> {
    if width == 0 {
        return Ok(());
    }
    let dtype = dy.dtype();
    let pack = per_thread(dtype);
    let packed = width.is_multiple_of(pack) && aligned(&[a, dy]) && (op as i32 == Binary::Add as i32 || aligned(&[b]));
    let blocks = width.div_ceil(if packed { 32 * pack } else { 32 });
    let wanted = SUM_BLOCKS.div_ceil(blocks).min(rows.div_ceil(SUM_ROWS)).max(1);
    let rows_per_chunk = rows.div_ceil(wanted).max(1);
    let chunks = rows.div_ceil(rows_per_chunk).max(1);
    let parts = device.workspace(chunks * width * 4)?;
    device.launch(
        &BINARY,
        if packed { "column_parts_packed" } else { "column_parts_single" },
        dtype,
        [grid("column_sums", blocks * BLOCK as usize)?[0], chunks as u32, 1],
        BLOCK,
        0,
        &[
            a.into(),
            b.into(),
            dy.into(),
            parts.into(),
            (rows as u64).into(),
            (width as u64).into(),
            (rows_per_chunk as u64).into(),
            (op as i32).into(),
        ],
    )?;
    sum_parts(device, dtype, parts, chunks, width, beta, db)
}

/// `out = beta out + ` the sum of `parts [chunks, width]` (f32) over the chunks.
fn sum_parts(
    device: &Device,
    dtype: Dtype,
    parts: Tensor,
    chunks: usize,
    width: usize,
    beta: f32,
    out: Tensor,
) -> Result<(), CudaError> {
    device.launch(
        &BINARY,
        if out.dtype() == Dtype::F32 { "sum_parts_to_f32" } else { "sum_parts_to" },
        dtype,
        grid("column_sums", width.div_ceil(32) * BLOCK as usize)?,
        BLOCK,
        0,
        &[parts.into(), (chunks as u64).into(), (width as u64).into(), beta.into(), out.into()],
    )
}
