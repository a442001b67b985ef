//! RMS, layer and L2 normalisation over the last axis on the GPU, with gradients that recompute the statistics.
//!
//! Activations and their gradients have one type, weights and biases and their gradients are f32. Outputs may be the very
//! tensors that inputs are (a gradient in place of the incoming one, a sum in place of an addend), not overlap otherwise.

use super::compile::Source;
use super::device::{Arg, Device};
use super::error::CudaError;
use super::pointwise::Rows;
use super::tensor::{Dtype, Tensor};

static NORM: Source = Source { name: "norm", text: include_str!("../../cuda/norm.cu") };

/// Widest row.
const WIDEST: usize = 16384;

/// Says which operand of `function` has a wrong length or type.
pub(super) fn expect(
    function: &str,
    operand: &str,
    tensor: Tensor,
    elements: usize,
    dtype: Dtype,
) -> Result<(), CudaError> {
    if tensor.elements() == elements && tensor.dtype() == dtype {
        return Ok(());
    }
    Err(CudaError::invalid(format!(
        "{function}: {operand} has {} elements of {:?}, not {elements} of {dtype:?}",
        tensor.elements(),
        tensor.dtype()
    )))
}

/// [`expect`] of an operand that may be absent.
pub(super) fn expect_if(
    function: &str,
    operand: &str,
    tensor: Option<Tensor>,
    elements: usize,
    dtype: Dtype,
) -> Result<(), CudaError> {
    tensor.map_or(Ok(()), |tensor| expect(function, operand, tensor, elements, dtype))
}

/// A size as the kernels take it.
pub(super) fn size(function: &str, what: &str, n: usize) -> Result<i32, CudaError> {
    i32::try_from(n).map_err(|_| CudaError::invalid(format!("{function}: {what} = {n} does not fit 31 bits")))
}

/// Whether 16 bytes at a time may be read from the tensor's start.
pub(super) fn aligned(tensor: Tensor) -> bool {
    tensor.address().is_multiple_of(16)
}

/// How rows are spread over threads.
struct Spread {
    /// Rows are made of aligned packs of 16 bytes and short enough to be held in registers.
    packed: bool,
    /// Threads of a row.
    lanes: usize,
    /// Threads of a block.
    block: usize,
}

impl Spread {
    fn new(function: &str, width: usize, dtype: Dtype, operands: &[Option<Tensor>]) -> Result<Self, CudaError> {
        if width > WIDEST {
            return Err(CudaError::invalid(format!("{function}: rows of {width} numbers, more than {WIDEST}")));
        }
        let pack = 16 / dtype.size();
        let (_, threads) = Self::limits(dtype);
        let packed = width.is_multiple_of(pack)
            && width <= threads * 32
            && operands.iter().flatten().all(|operand| aligned(*operand));
        Ok(Self::over(width, dtype, packed))
    }

    fn over(width: usize, dtype: Dtype, packed: bool) -> Self {
        let pack = 16 / dtype.size();
        let (held, threads) = Self::limits(dtype);
        let units = if packed { width / pack } else { width };
        let lanes = units.div_ceil(if packed { held } else { 8 });
        if lanes <= 32 {
            // At least four neighbours read together, where a row has as much.
            let lanes = lanes.next_power_of_two().max(units.next_power_of_two().min(4));
            Self { packed, lanes, block: 256 }
        } else {
            let lanes = lanes.next_multiple_of(32).min(if packed { threads } else { 256 });
            Self { packed, lanes, block: lanes }
        }
    }

    /// HELD and THREADS of the source.
    fn limits(dtype: Dtype) -> (usize, usize) {
        (32 / (16 / dtype.size()), if dtype.size() == 4 { 256 } else { 512 })
    }

    /// The same where `rows` begin at whole packs, else one number at a time.
    fn if_packs(self, rows: Rows, dtype: Dtype) -> Self {
        if !self.packed || rows.packs(dtype) { self } else { Self::over(rows.width, dtype, false) }
    }

    /// Rows of a block.
    fn groups(&self) -> usize {
        if self.lanes > 32 { 1 } else { self.block / self.lanes }
    }
}

/// `out = x / sqrt(mean(x^2) + eps) * (weight + offset)` for each of `rows` rows of `width`; as [`crate::rms_norm`].
///
/// # Errors
/// When lengths or types do not fit, or `width` is above 16384.
pub fn rms_norm(
    device: &Device,
    x: Tensor,
    rows: usize,
    width: usize,
    weight: Option<Tensor>,
    offset: f32,
    eps: f32,
    out: Tensor,
) -> Result<(), CudaError> {
    expect("rms_norm", "out", out, rows * width, x.dtype())?;
    rms_norm_strided(device, x, rows, width, weight, offset, eps, out, width)
}

/// [`rms_norm`] whose output's rows begin `out_stride` elements apart, as in a matrix with further columns; what lies
/// between is untouched. `out` reaches at least to the end of its last row.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_strided(
    device: &Device,
    x: Tensor,
    rows: usize,
    width: usize,
    weight: Option<Tensor>,
    offset: f32,
    eps: f32,
    out: Tensor,
    out_stride: usize,
) -> Result<(), CudaError> {
    scaled(device, "rms_norm", x, rows, width, weight, offset, 1.0 / width as f32, eps, out, out_stride)
}

/// `out = x / sqrt(sum(x^2) + eps)` for each row; as [`crate::l2_norm`].
///
/// # Errors
/// As [`rms_norm`].
pub fn l2_norm(device: &Device, x: Tensor, rows: usize, width: usize, eps: f32, out: Tensor) -> Result<(), CudaError> {
    expect("l2_norm", "out", out, rows * width, x.dtype())?;
    scaled(device, "l2_norm", x, rows, width, None, 0.0, 1.0, eps, out, width)
}

fn scaled(
    device: &Device,
    function: &str,
    x: Tensor,
    rows: usize,
    width: usize,
    weight: Option<Tensor>,
    offset: f32,
    inverse_divisor: f32,
    eps: f32,
    out: Tensor,
    out_stride: usize,
) -> Result<(), CudaError> {
    let dtype = x.dtype();
    expect(function, "x", x, rows * width, dtype)?;
    let out_rows = Rows { rows, width, stride: out_stride };
    out_rows.check(function, "out", out, dtype)?;
    expect_if(function, "weight", weight, width, Dtype::F32)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let spread = Spread::new(function, width, dtype, &[Some(x), Some(out), weight])?.if_packs(out_rows, dtype);
    let args = [
        x.into(),
        size(function, "rows", rows)?.into(),
        (width as i32).into(),
        (spread.lanes as i32).into(),
        weight.into(),
        offset.into(),
        inverse_divisor.into(),
        eps.into(),
        out.into(),
        size(function, "out_stride", out_stride)?.into(),
    ];
    let kernel = if spread.packed { "rms_norm" } else { "rms_norm_any" };
    forward(device, kernel, dtype, rows, &spread, &args)
}

fn forward(
    device: &Device,
    kernel: &'static str,
    dtype: Dtype,
    rows: usize,
    spread: &Spread,
    args: &[Arg],
) -> Result<(), CudaError> {
    let blocks = rows.div_ceil(spread.groups()) as u32;
    device.launch(&NORM, kernel, dtype, [blocks, 1, 1], spread.block as u32, 0, args)
}

/// `sum_out = a + b`, rounded to its type, and `out = rms_norm(sum_out)`. `sum_out` may be `a` or `b`.
///
/// # Errors
/// As [`rms_norm`].
pub fn add_rms_norm(
    device: &Device,
    a: Tensor,
    b: Tensor,
    rows: usize,
    width: usize,
    weight: Option<Tensor>,
    offset: f32,
    eps: f32,
    sum_out: Tensor,
    out: Tensor,
) -> Result<(), CudaError> {
    expect("add_rms_norm", "out", out, rows * width, a.dtype())?;
    add_rms_norm_strided(device, a, b, rows, width, weight, offset, eps, sum_out, out, width)
}

/// [`add_rms_norm`] with rows of `out` as [`rms_norm_strided`] has them.
///
/// # Errors
/// As [`rms_norm`].
pub fn add_rms_norm_strided(
    device: &Device,
    a: Tensor,
    b: Tensor,
    rows: usize,
    width: usize,
    weight: Option<Tensor>,
    offset: f32,
    eps: f32,
    sum_out: Tensor,
    out: Tensor,
    out_stride: usize,
) -> Result<(), CudaError> {
    let (function, dtype) = ("add_rms_norm", a.dtype());
    for (operand, tensor) in [("a", a), ("b", b), ("sum_out", sum_out)] {
        expect(function, operand, tensor, rows * width, dtype)?;
    }
    let out_rows = Rows { rows, width, stride: out_stride };
    out_rows.check(function, "out", out, dtype)?;
    expect_if(function, "weight", weight, width, Dtype::F32)?;
    if a.elements() == 0 {
        return Ok(());
    }
    let spread = Spread::new(function, width, dtype, &[Some(a), Some(b), Some(sum_out), Some(out), weight])?
        .if_packs(out_rows, dtype);
    let args = [
        a.into(),
        b.into(),
        size(function, "rows", rows)?.into(),
        (width as i32).into(),
        (spread.lanes as i32).into(),
        weight.into(),
        offset.into(),
        (1.0 / width as f32).into(),
        eps.into(),
        sum_out.into(),
        out.into(),
        size(function, "out_stride", out_stride)?.into(),
    ];
    let kernel = if spread.packed { "add_rms_norm" } else { "add_rms_norm_any" };
    forward(device, kernel, dtype, rows, &spread, &args)
}

/// `out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias` for each row; as [`crate::layer_norm`].
///
/// # Errors
/// As [`rms_norm`].
pub fn layer_norm(
    device: &Device,
    x: Tensor,
    rows: usize,
    width: usize,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
    eps: f32,
    out: Tensor,
) -> Result<(), CudaError> {
    let (function, dtype) = ("layer_norm", x.dtype());
    expect(function, "x", x, rows * width, dtype)?;
    expect(function, "out", out, rows * width, dtype)?;
    expect_if(function, "weight", weight, width, Dtype::F32)?;
    expect_if(function, "bias", bias, width, Dtype::F32)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let spread = Spread::new(function, width, dtype, &[Some(x), Some(out), weight, bias])?;
    let args = [
        x.into(),
        size(function, "rows", rows)?.into(),
        (width as i32).into(),
        (spread.lanes as i32).into(),
        weight.into(),
        bias.into(),
        (1.0 / width as f32).into(),
        eps.into(),
        out.into(),
    ];
    let kernel = if spread.packed { "layer_norm" } else { "layer_norm_any" };
    forward(device, kernel, dtype, rows, &spread, &args)
}

/// Gradients of [`rms_norm`]. `dx` is overwritten, or added to with `accumulate`, and may be `dy`; `dweight` is added to.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_grad(
    device: &Device,
    x: Tensor,
    dy: Tensor,
    rows: usize,
    width: usize,
    weight: Option<Tensor>,
    offset: f32,
    eps: f32,
    dx: Tensor,
    accumulate: bool,
    dweight: Option<Tensor>,
) -> Result<(), CudaError> {
    Gradient {
        function: "rms_norm_grad",
        kernels: RMS_KERNELS,
        x,
        dy,
        rows,
        width,
        weight,
        offset,
        inverse_divisor: 1.0 / width as f32,
        eps,
        dx,
        accumulate,
    }
    .run(device, dweight, None)
}

/// Gradient of [`l2_norm`]; `dx` is overwritten, or added to with `accumulate`, and may be `dy`.
///
/// # Errors
/// As [`rms_norm`].
pub fn l2_norm_grad(
    device: &Device,
    x: Tensor,
    dy: Tensor,
    rows: usize,
    width: usize,
    eps: f32,
    dx: Tensor,
    accumulate: bool,
) -> Result<(), CudaError> {
    Gradient {
        function: "l2_norm_grad",
        kernels: RMS_KERNELS,
        x,
        dy,
        rows,
        width,
        weight: None,
        offset: 0.0,
        inverse_divisor: 1.0,
        eps,
        dx,
        accumulate,
    }
    .run(device, None, None)
}

/// Gradients of [`layer_norm`]. `dx` is overwritten, or added to with `accumulate`, and may be `dy`; `dweight` and `dbias`
/// are added to.
///
/// # Errors
/// As [`rms_norm`].
pub fn layer_norm_grad(
    device: &Device,
    x: Tensor,
    dy: Tensor,
    rows: usize,
    width: usize,
    weight: Option<Tensor>,
    eps: f32,
    dx: Tensor,
    accumulate: bool,
    dweight: Option<Tensor>,
    dbias: Option<Tensor>,
) -> Result<(), CudaError> {
    Gradient {
        function: "layer_norm_grad",
        kernels: LAYER_KERNELS,
        x,
        dy,
        rows,
        width,
        weight,
        offset: 0.0,
        inverse_divisor: 1.0 / width as f32,
        eps,
        dx,
        accumulate,
    }
    .run(device, dweight, dbias)
}

/// Names of a gradient's kernels, and how many sums over rows each block makes.
#[derive(Clone, Copy)]
struct Kernels {
    packed: &'static str,
    any: &'static str,
    packed_weight: &'static str,
    any_weight: &'static str,
    sums: usize,
}

const RMS_KERNELS: Kernels = Kernels {
    packed: "rms_norm_grad",
    any: "rms_norm_grad_any",
    packed_weight: "rms_norm_grad_weight",
    any_weight: "rms_norm_grad_weight_any",
    sums: 1,
};

const LAYER_KERNELS: Kernels = Kernels {
    packed: "layer_norm_grad",
    any: "layer_norm_grad_any",
    packed_weight: "layer_norm_grad_weight",
    any_weight: "layer_norm_grad_weight_any",
    sums: 2,
};

struct Gradient {
    function: &'static str,
    kernels: Kernels,
    x: Tensor,
    dy: Tensor,
    rows: usize,
    width: usize,
    weight: Option<Tensor>,
    offset: f32,
    inverse_divisor: f32,
    eps: f32,
    dx: Tensor,
    accumulate: bool,
}

impl Gradient {
    fn run(&self, device: &Device, dweight: Option<Tensor>, dbias: Option<Tensor>) -> Result<(), CudaError> {
        let Self { function, kernels, x, dy, rows, width, weight, dx, .. } = *self;
        let dtype = x.dtype();
        for (operand, tensor) in [("x", x), ("dy", dy), ("dx", dx)] {
            expect(function, operand, tensor, rows * width, dtype)?;
        }
        for (operand, tensor) in [("weight", weight), ("dweight", dweight), ("dbias", dbias)] {
            expect_if(function, operand, tensor, width, Dtype::F32)?;
        }
        if x.elements() == 0 {
            return Ok(());
        }
        let with_weight = dweight.is_some() || dbias.is_some();
        let mut spread = Spread::new(function, width, dtype, &[Some(x), Some(dy), Some(dx), weight])?;
        if with_weight && !spread.packed {
            // A block sums its columns in memory, one row at a time.
            (spread.lanes, spread.block) = (256, 256);
        }
        let mut blocks = rows.div_ceil(spread.groups());
        let mut partials = None;
        if with_weight {
            // As many blocks as run at once: each makes one partial sum of all its rows.
            blocks = blocks.min(device.multiprocessors() as usize * (512 / spread.block).max(1));
            partials = Some(device.workspace(blocks * kernels.sums * width * 4)?.cast(Dtype::F32));
        }
        let kernel = match (spread.packed, with_weight) {
            (true, false) => kernels.packed,
            (false, false) => kernels.any,
            (true, true) => kernels.packed_weight,
            (false, true) => kernels.any_weight,
        };
        let args = [
            x.into(),
            dy.into(),
            size(function, "rows", rows)?.into(),
            (width as i32).into(),
            (spread.lanes as i32).into(),
            weight.into(),
            self.offset.into(),
            self.inverse_divisor.into(),
            self.eps.into(),
            dx.into(),
            i32::from(self.accumulate).into(),
            partials.into(),
        ];
        device.launch(&NORM, kernel, dtype, [blocks as u32, 1, 1], spread.block as u32, 0, &args)?;
        let Some(partials) = partials else { return Ok(()) };
        let stride = kernels.sums * width;
        if let Some(dweight) = dweight {
            add_partials(device, dtype, partials, blocks, stride, width, dweight)?;
        }
        if let Some(dbias) = dbias {
            let partials = partials.slice(width, blocks * stride - width);
            add_partials(device, dtype, partials, blocks, stride, width, dbias)?;
        }
        Ok(())
    }
}

/// `out[width] +=` the sum over `count` rows of f32 partial sums, `stride` apart, in a fixed order. `element` only chooses
/// a compiled file that is loaded already.
pub(super) fn add_partials(
    device: &Device,
    element: Dtype,
    partials: Tensor,
    count: usize,
    stride: usize,
    width: usize,
    out: Tensor,
) -> Result<(), CudaError> {
    let args = [partials.into(), (count as i32).into(), (stride as i32).into(), (width as i32).into(), out.into()];
    device.launch(&NORM, "add_partials", element, [width.div_ceil(32) as u32, 1, 1], 1024, 0, &args)
}
