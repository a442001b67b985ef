//! Moves on the GPU: stretches of a tail axis, chosen rows, and casts.

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::pointwise::{BLOCK, POINTWISE, Rows, aligned, floating, grid, scale_add_rows};
use super::tensor::{Dtype, Tensor};

static COPY: Source = Source { name: "copy", text: include_str!("../../cuda/copy.cu") };

/// Where a stretch of one tail axis lies in a row-major value: `whole` is `[outer, size, inner]`, `part` is
/// `[outer, end - start, inner]`.
struct Stretch {
    outer: usize,
    /// Elements of a row of `whole`, and of `part`.
    row: usize,
    width: usize,
    /// Element of a row of `whole` at which the stretch begins.
    offset: usize,
}

impl Stretch {
    fn new(
        op: &str,
        whole: Tensor,
        size: usize,
        inner: usize,
        start: usize,
        end: usize,
        part: Tensor,
    ) -> Result<Self, CudaError> {
        let (row, width) = (size * inner, end.saturating_sub(start) * inner);
        let outer = whole.elements().checked_div(row).unwrap_or(0);
        if start > end || end > size || outer * row != whole.elements() || outer * width != part.elements() {
            return Err(CudaError::invalid(format!(
                "{op}: a part of {} elements is no {start}..{end} of an axis of {size} with {inner} elements each, in a \
                 whole of {}",
                part.elements(),
                whole.elements()
            )));
        }
        Ok(Self { outer, row, width, offset: start * inner })
    }

    /// `whole` from the stretch's first element to the end of its last row.
    fn of(&self, whole: Tensor) -> Tensor {
        if self.outer == 0 || self.width == 0 {
            return whole.slice(0, 0);
        }
        whole.slice(self.offset, (self.outer - 1) * self.row + self.width)
    }
}

/// `part = whole[.., start..end, ..]`: `whole` is row-major `[outer, size, inner]`. Any type.
///
/// # Errors
/// When lengths do not fit or types differ.
pub fn copy_out(
    device: &Device,
    whole: Tensor,
    size: usize,
    inner: usize,
    start: usize,
    end: usize,
    part: Tensor,
) -> Result<(), CudaError> {
    same_type("copy_out", whole, part)?;
    let s = Stretch::new("copy_out", whole, size, inner, start, end, part)?;
    copy_rows(device, s.of(whole), s.row, part, s.width, s.outer, s.width)
}

/// `whole[.., start..end, ..] = part`; the rest of `whole` stays. See [`copy_out`].
///
/// # Errors
/// When lengths do not fit or types differ.
pub fn copy_in(
    device: &Device,
    part: Tensor,
    whole: Tensor,
    size: usize,
    inner: usize,
    start: usize,
    end: usize,
) -> Result<(), CudaError> {
    same_type("copy_in", whole, part)?;
    let s = Stretch::new("copy_in", whole, size, inner, start, end, part)?;
    copy_rows(device, part, s.width, s.of(whole), s.row, s.outer, s.width)
}

/// `whole[.., start..end, ..] += part`. See [`copy_out`].
///
/// # Errors
/// When lengths do not fit or types differ.
pub fn add_in(
    device: &Device,
    part: Tensor,
    whole: Tensor,
    size: usize,
    inner: usize,
    start: usize,
    end: usize,
) -> Result<(), CudaError> {
    same_type("add_in", whole, part)?;
    let s = Stretch::new("add_in", whole, size, inner, start, end, part)?;
    if s.outer == 0 || s.width == 0 {
        return Ok(());
    }
    scale_add_rows(device, "add_in", s.of(whole), 1.0, part, Rows { rows: s.outer, width: s.width, stride: s.row })
}

fn same_type(op: &str, a: Tensor, b: Tensor) -> Result<(), CudaError> {
    if a.dtype() == b.dtype() {
        return Ok(());
    }
    Err(CudaError::invalid(format!("{op}: {:?} and {:?}", a.dtype(), b.dtype())))
}

/// The largest unit of which all these are multiples, and the suffix of its kernels.
fn unit(bytes: &[usize]) -> usize {
    [16, 4, 2].into_iter().find(|unit| bytes.iter().all(|b| b.is_multiple_of(*unit))).unwrap_or(1)
}

/// Copies `rows` rows of `width` elements; lengths were checked.
fn copy_rows(
    device: &Device,
    from: Tensor,
    from_stride: usize,
    to: Tensor,
    to_stride: usize,
    rows: usize,
    width: usize,
) -> Result<(), CudaError> {
    if rows * width == 0 {
        return Ok(());
    }
    let size = from.dtype().size();
    let lengths = [from_stride * size, to_stride * size, width * size];
    // One row has no stride.
    let strides = if rows == 1 { [0, 0, lengths[2]] } else { lengths };
    let unit = unit(&[from.address() as usize, to.address() as usize, strides[0], strides[1], strides[2]]);
    let kernel = match unit {
        16 => "copy_rows_16",
        4 => "copy_rows_4",
        2 => "copy_rows_2",
        _ => "copy_rows_1",
    };
    device.launch(
        &COPY,
        kernel,
        Dtype::F32,
        grid("copy_rows", rows * (lengths[2] / unit))?,
        BLOCK,
        0,
        &[
            from.into(),
            to.into(),
            (rows as u64).into(),
            ((lengths[2] / unit) as u64).into(),
            ((strides[0] / unit) as u64).into(),
            ((strides[1] / unit) as u64).into(),
        ],
    )
}

/// `out[r] = x[rows_index[r]]` for rows of `width` elements of any type. An index beyond the rows of `x` reads nothing and
/// fills its row with ones in every bit, which is not a number in every float type.
///
/// # Errors
/// When lengths do not fit or types differ.
pub fn gather_rows(device: &Device, x: Tensor, rows_index: Tensor, width: usize, out: Tensor) -> Result<(), CudaError> {
    same_type("gather_rows", x, out)?;
    let count = rows_index.elements();
    if rows_index.dtype() != Dtype::U32
        || width == 0
        || !x.elements().is_multiple_of(width)
        || out.elements() != count * width
    {
        return Err(CudaError::invalid(format!(
            "gather_rows: {count} indices of {:?} do not choose {} elements from {} in rows of {width}",
            rows_index.dtype(),
            out.elements(),
            x.elements()
        )));
    }
    let bytes = width * x.dtype().size();
    let unit = unit(&[x.address() as usize, out.address() as usize, bytes]);
    let kernel = match unit {
        16 => "gather_rows_16",
        4 => "gather_rows_4",
        2 => "gather_rows_2",
        _ => "gather_rows_1",
    };
    device.launch(
        &COPY,
        kernel,
        Dtype::F32,
        grid("gather_rows", count * (bytes / unit))?,
        BLOCK,
        0,
        &[
            x.into(),
            rows_index.into(),
            out.into(),
            (count as u64).into(),
            ((bytes / unit) as u64).into(),
            ((x.elements() / width) as u64).into(),
        ],
    )
}

/// Elements of `from` in the type of `to`, rounded to nearest even; between f32, bf16 and f16.
///
/// # Errors
/// When lengths differ or one holds integers.
pub fn cast(device: &Device, from: Tensor, to: Tensor) -> Result<(), CudaError> {
    let (source, target) = (floating("cast", from)?, floating("cast", to)?);
    if from.elements() != to.elements() {
        return Err(CudaError::invalid(format!("cast: {} elements to {}", from.elements(), to.elements())));
    }
    if source == target {
        return device.copy(from, to);
    }
    let kernel = match source {
        Dtype::F32 => "cast_from_f32",
        Dtype::Bf16 => "cast_from_bf16",
        _ => "cast_from_f16",
    };
    device.launch(
        &POINTWISE,
        kernel,
        target,
        grid("cast", from.elements().div_ceil(8))?,
        BLOCK,
        0,
        &[from.into(), to.into(), (from.elements() as u64).into(), i32::from(aligned(&[from, to])).into()],
    )
}
