//! Functions of one number, gated units, and in-place sums, on the GPU; and what all elementwise wrappers check.
//!
//! An output may be exactly one of its inputs: elements are read before they are written.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::tensor::{Dtype, Tensor};
use crate::pointwise::Activation;

pub(super) static POINTWISE: Source = Source { name: "pointwise", text: include_str!("../../cuda/pointwise.cu") };

/// Threads of a block of every elementwise kernel.
pub(super) const BLOCK: u32 = 256;

/// The element type for which a kernel is compiled.
pub(super) fn floating(op: &str, x: Tensor) -> Result<Dtype, CudaError> {
    match x.dtype() {
        dtype @ (Dtype::F32 | Dtype::Bf16 | Dtype::F16) => Ok(dtype),
        other => Err(CudaError::invalid(format!("{op}: no numbers with fractions in elements of {other:?}"))),
    }
}

/// Checks that `x` has this type and number of elements.
pub(super) fn expect(op: &str, name: &str, x: Tensor, dtype: Dtype, elements: usize) -> Result<(), CudaError> {
    if x.dtype() == dtype && x.elements() == elements {
        return Ok(());
    }
    Err(CudaError::invalid(format!(
        "{op}: {name} has {} elements of {:?}, not {elements} of {dtype:?}",
        x.elements(),
        x.dtype()
    )))
}

/// Whether all of them may be read 16 bytes at a time.
pub(super) fn aligned(tensors: &[Tensor]) -> bool {
    tensors.iter().all(|x| x.address().is_multiple_of(16))
}

/// A grid of blocks with a thread for each of `threads`.
pub(super) fn grid(op: &str, threads: usize) -> Result<[u32; 3], CudaError> {
    match u32::try_from(threads.div_ceil(BLOCK as usize)) {
        Ok(blocks) if blocks <= i32::MAX as u32 => Ok([blocks, 1, 1]),
        _ => Err(CudaError::invalid(format!("{op}: {threads} threads are more than a GPU starts at once"))),
    }
}

/// Elements of `dtype` in 16 bytes: what one thread takes.
pub(super) fn per_thread(dtype: Dtype) -> usize {
    16 / dtype.size()
}

/// `out = op(x)`.
///
/// # Errors
/// When lengths or types differ.
pub fn unary(device: &Device, op: Activation, x: Tensor, out: Tensor) -> Result<(), CudaError> {
    let dtype = floating("unary", x)?;
    expect("unary", "out", out, dtype, x.elements())?;
    let packed = aligned(&[x, out]);
    device.launch(
        &POINTWISE,
        "unary",
        dtype,
        grid("unary", x.elements().div_ceil(per_thread(dtype)))?,
        BLOCK,
        0,
        &[x.into(), out.into(), (x.elements() as u64).into(), (op as i32).into(), i32::from(packed).into()],
    )
}

/// `dx = dy * op'(x)`, or `dx += ...` with `accumulate`.
///
/// # Errors
/// When lengths or types differ.
pub fn unary_grad(
    device: &Device,
    op: Activation,
    x: Tensor,
    dy: Tensor,
    dx: Tensor,
    accumulate: bool,
) -> Result<(), CudaError> {
    let dtype = floating("unary_grad", x)?;
    expect("unary_grad", "dy", dy, dtype, x.elements())?;
    expect("unary_grad", "dx", dx, dtype, x.elements())?;
    let packed = aligned(&[x, dy, dx]);
    device.launch(
        &POINTWISE,
        "unary_grad",
        dtype,
        grid("unary_grad", x.elements().div_ceil(per_thread(dtype)))?,
        BLOCK,
        0,
        &[
            x.into(),
            dy.into(),
            dx.into(),
            (x.elements() as u64).into(),
            (op as i32).into(),
            i32::from(accumulate).into(),
            i32::from(packed).into(),
        ],
    )
}

/// `out = activation(gate) * up` (Shazeer, arXiv:2002.05202).
///
/// # Errors
/// When lengths or types differ.
pub fn glu(device: &Device, activation: Activation, gate: Tensor, up: Tensor, out: Tensor) -> Result<(), CudaError> {
    glu_strided(device, activation, gate, up, 1, gate.elements(), gate.elements(), out)
}

/// [`glu`] where row `r` of `gate` and of `up` begins at element `r * stride`, as when one projection makes both side by
/// side; `out` is `[rows, width]`. The tensors reach at least to the end of their last row.
///
/// # Errors
/// When lengths or types do not fit.
pub fn glu_strided(
    device: &Device,
    activation: Activation,
    gate: Tensor,
    up: Tensor,
    rows: usize,
    width: usize,
    stride: usize,
    out: Tensor,
) -> Result<(), CudaError> {
    let dtype = floating("glu", gate)?;
    expect("glu", "out", out, dtype, rows * width)?;
    let rows = Rows { rows, width, stride };
    rows.check("glu", "gate", gate, dtype)?;
    rows.check("glu", "up", up, dtype)?;
    device.launch(
        &POINTWISE,
        "glu",
        dtype,
        rows.grid("glu", dtype)?,
        BLOCK,
        0,
        &[
            gate.into(),
            up.into(),
            out.into(),
            (rows.rows as u32).into(),
            (width as u64).into(),
            (stride as u64).into(),
            (activation as i32).into(),
            i32::from(aligned(&[gate, up, out]) && rows.packs(dtype)).into(),
        ],
    )
}

/// Gradients of [`glu`]; both are overwritten.
///
/// # Errors
/// When lengths or types differ.
pub fn glu_grad(
    device: &Device,
    activation: Activation,
    gate: Tensor,
    up: Tensor,
    dy: Tensor,
    dgate: Tensor,
    dup: Tensor,
) -> Result<(), CudaError> {
    let length = gate.elements();
    glu_grad_strided(device, activation, gate, up, dy, 1, length, length, dgate, dup)
}

/// Gradients of [`glu_strided`]; rows of `dgate` and `dup` are `stride` apart too, and what lies between is untouched.
///
/// # Errors
/// When lengths or types do not fit.
pub fn glu_grad_strided(
    device: &Device,
    activation: Activation,
    gate: Tensor,
    up: Tensor,
    dy: Tensor,
    rows: usize,
    width: usize,
    stride: usize,
    dgate: Tensor,
    dup: Tensor,
) -> Result<(), CudaError> {
    let dtype = floating("glu_grad", gate)?;
    expect("glu_grad", "dy", dy, dtype, rows * width)?;
    let rows = Rows { rows, width, stride };
    for (name, x) in [("gate", gate), ("up", up), ("dgate", dgate), ("dup", dup)] {
        rows.check("glu_grad", name, x, dtype)?;
    }
    device.launch(
        &POINTWISE,
        "glu_grad",
        dtype,
        rows.grid("glu_grad", dtype)?,
        BLOCK,
        0,
        &[
            gate.into(),
            up.into(),
            dy.into(),
            dgate.into(),
            dup.into(),
            (rows.rows as u32).into(),
            (width as u64).into(),
            (stride as u64).into(),
            (activation as i32).into(),
            i32::from(aligned(&[gate, up, dy, dgate, dup]) && rows.packs(dtype)).into(),
        ],
    )
}

/// [`glu_grad`], and the output of [`glu`] made again, with the same bits, where it was not kept. Outputs may lie exactly on
/// inputs.
///
/// # Errors
/// When lengths or types differ.
pub fn glu_grad_output(
    device: &Device,
    activation: Activation,
    gate: Tensor,
    up: Tensor,
    dy: Tensor,
    dgate: Tensor,
    dup: Tensor,
    out: Tensor,
) -> Result<(), CudaError> {
    let (op, length) = ("glu_grad_output", gate.elements());
    let dtype = floating(op, gate)?;
    for (name, x) in [("up", up), ("dy", dy), ("dgate", dgate), ("dup", dup), ("out", out)] {
        expect(op, name, x, dtype, length)?;
    }
    device.launch(
        &POINTWISE,
        op,
        dtype,
        grid(op, length.div_ceil(per_thread(dtype)))?,
        BLOCK,
        0,
        &[
            gate.into(),
            up.into(),
            dy.into(),
            dgate.into(),
            dup.into(),
            out.into(),
            (length as u64).into(),
            (activation as i32).into(),
            i32::from(aligned(&[gate, up, dy, dgate, dup, out])).into(),
        ],
    )
}

/// Rows that may lie apart.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) stride: usize,
}

impl Rows {
    pub(super) fn check(self, op: &str, name: &str, x: Tensor, dtype: Dtype) -> Result<(), CudaError> {
        let needed = if self.rows == 0 { 0 } else { (self.rows - 1) * self.stride + self.width };
        if x.dtype() == dtype && x.elements() >= needed && (self.stride >= self.width || self.rows <= 1) {
            return Ok(());
        }
        Err(CudaError::invalid(format!(
            "{op}: {name} of {} elements of {:?} is no [{}, {}] of {dtype:?} with a stride of {}",
            x.elements(),
            x.dtype(),
            self.rows,
            self.width,
            self.stride
        )))
    }

    /// Whether every row begins at a whole pack, if the first does.
    pub(super) fn packs(self, dtype: Dtype) -> bool {
        let pack = per_thread(dtype);
        self.rows <= 1 || (self.width.is_multiple_of(pack) && self.stride.is_multiple_of(pack))
    }

    pub(super) fn grid(self, op: &str, dtype: Dtype) -> Result<[u32; 3], CudaError> {
        let parts = self.rows * self.width.div_ceil(per_thread(dtype));
        if self.rows > 1 && parts > (u32::MAX - BLOCK) as usize {
            return Err(CudaError::invalid(format!("{op}: {parts} parts of rows are more than it takes")));
        }
        grid(op, parts)
    }
}

/// `y += x`.
///
/// # Errors
/// As [`scale_add`].
pub fn add_assign(device: &Device, y: Tensor, x: Tensor) -> Result<(), CudaError> {
    scale_add(device, y, 1.0, x)
}

/// `y += alpha * x`; `y` has the type of `x`, or is f32.
///
/// # Errors
/// When lengths differ or types do not fit.
pub fn scale_add(device: &Device, y: Tensor, alpha: f32, x: Tensor) -> Result<(), CudaError> {
    let length = x.elements();
    if y.elements() != length {
        return Err(CudaError::invalid(format!("scale_add: {} elements are added to {}", length, y.elements())));
    }
    scale_add_rows(device, "scale_add", y, alpha, x, Rows { rows: 1, width: length, stride: length })
}

/// `y += alpha * x` for rows of `y` that lie apart and rows of `x` end to end.
pub(super) fn scale_add_rows(
    device: &Device,
    op: &str,
    y: Tensor,
    alpha: f32,
    x: Tensor,
    rows: Rows,
) -> Result<(), CudaError> {
    let dtype = floating(op, x)?;
    expect(op, "x", x, dtype, rows.rows * rows.width)?;
    let wide = y.dtype() == Dtype::F32;
    rows.check(op, "y", y, if wide { Dtype::F32 } else { dtype })?;
    device.launch(
        &POINTWISE,
        if wide { "scale_add_f32" } else { "scale_add" },
        dtype,
        rows.grid(op, dtype)?,
        BLOCK,
        0,
        &[
            y.into(),
            alpha.into(),
            x.into(),
            (rows.rows as u32).into(),
            (rows.width as u64).into(),
            (rows.stride as u64).into(),
            i32::from(aligned(&[x, y]) && rows.packs(dtype)).into(),
        ],
    )
}

/// `x *= factor`.
///
/// # Errors
/// When `x` holds integers.
pub fn scale(device: &Device, x: Tensor, factor: f32) -> Result<(), CudaError> {
    let dtype = floating("scale", x)?;
    device.launch(
        &POINTWISE,
        "scale",
        dtype,
        grid("scale", x.elements().div_ceil(per_thread(dtype)))?,
        BLOCK,
        0,
        &[x.into(), factor.into(), (x.elements() as u64).into(), i32::from(aligned(&[x])).into()],
    )
}
