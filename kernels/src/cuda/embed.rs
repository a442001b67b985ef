//! Rows of a table by number on the GPU, rows back to their places, and the gradient of the table.

use bytemuck::{Pod, Zeroable};

use super::compile::Source;
use super::device::Device;
use super::error::CudaError;
use super::norm::{aligned, expect, size};
use super::tensor::{Buffer, Dtype, Tensor};

static EMBED: Source = Source { name: "embed", text: include_str!("../../cuda/embed.cu") };

/// Rows of one id that one block sums; an id with more has several blocks.
const STRETCH: usize = 64;

/// `out[i] = table[ids[i]]`; `table` is `[vocabulary, width]`, `out` `[ids, width]`; as [`crate::embed`]. The caller checks
/// the u32 `ids` (`crate::embed` panics): here one outside of the table gives its last row.
///
/// It also gathers rows of activations.
///
/// # Errors
/// When lengths or types do not fit.
pub fn embed(device: &Device, ids: Tensor, table: Tensor, width: usize, out: Tensor) -> Result<(), CudaError> {
    let (rows, dtype) = (ids.elements(), table.dtype());
    let vocab = whole_rows("embed", "table", table, width)?;
    expect("embed", "ids", ids, rows, Dtype::U32)?;
    expect("embed", "out", out, rows * width, dtype)?;
    if vocab == 0 && rows > 0 {
        return Err(CudaError::invalid("embed: the table has no rows"));
    }
    copy_rows(device, ["embed", "embed_any"], ids, table, vocab, width, out)
}

/// `out[ids[i]] = from[i]`: rows back to where [`embed`] took them. Other rows of `out` keep their content; the u32 `ids`
/// differ from each other and are checked by the caller.
///
/// # Errors
/// When lengths or types do not fit.
pub fn scatter_rows(device: &Device, from: Tensor, ids: Tensor, width: usize, out: Tensor) -> Result<(), CudaError> {
    let rows = whole_rows("scatter_rows", "out", out, width)?;
    expect("scatter_rows", "ids", ids, ids.elements(), Dtype::U32)?;
    expect("scatter_rows", "from", from, ids.elements() * width, out.dtype())?;
    if ids.elements() > rows {
        return Err(CudaError::invalid(format!("scatter_rows: {} rows into {rows}", ids.elements())));
    }
    copy_rows(device, ["scatter_rows", "scatter_rows_any"], ids, from, rows, width, out)
}

fn whole_rows(function: &str, operand: &str, tensor: Tensor, width: usize) -> Result<usize, CudaError> {
    if width == 0 || !tensor.elements().is_multiple_of(width) {
        return Err(CudaError::invalid(format!(
            "{function}: {operand} of {} elements has no rows of {width}",
            tensor.elements()
        )));
    }
    Ok(tensor.elements() / width)
}

fn copy_rows(
    device: &Device,
    [packed, any]: [&'static str; 2],
    ids: Tensor,
    from: Tensor,
    bound: usize,
    width: usize,
    out: Tensor,
) -> Result<(), CudaError> {
    let dtype = from.dtype();
    let pack = 16 / dtype.size();
    let whole = width.is_multiple_of(pack) && aligned(from) && aligned(out);
    let units = if whole { width / pack } else { width };
    let bound = u32::try_from(bound).map_err(|_| CudaError::invalid(format!("{packed}: {bound} rows")))?;
    let args = [ids.into(), from.into(), bound.into(), size(packed, "width", units)?.into(), out.into()];
    let block = units.next_multiple_of(32).min(256) as u32;
    device.launch(&EMBED, if whole { packed } else { any }, dtype, [ids.elements() as u32, 1, 1], block, 0, &args)
}

/// Rows of one id, as the kernels read them: `order[first..last]`, or the partial sums `first..last`.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Stretch {
    first: u32,
    last: u32,
    id: u32,
    /// Where the partial sum goes.
    slot: u32,
}

const NO_SLOT: u32 = u32::MAX;

/// The rows of each id of a batch, on the device: what [`embed_grad`] needs to sum in a fixed order. Made once a batch.
#[derive(Debug)]
pub struct EmbedOrder {
    order: Buffer,
    stretches: Buffer,
    splits: Buffer,
    rows: usize,
    slots: usize,
    greatest: Option<u32>,
}

impl EmbedOrder {
    /// Sorts the rows by id and uploads the order.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new(device: &Device, ids: &[u32]) -> Result<Self, CudaError> {
        let (order, stretches, splits, slots) = divide(ids)?;
        let upload = |parts: &[Stretch]| -> Result<Buffer, CudaError> {
            let buffer = device.allocate(size_of_val(parts))?;
            if !parts.is_empty() {
                device.upload(bytemuck::cast_slice(parts), buffer.tensor(Dtype::U8))?;
            }
            Ok(buffer)
        };
        Ok(Self {
            order: device.from_u32(&order)?,
            stretches: upload(&stretches)?,
            splits: upload(&splits)?,
            rows: ids.len(),
            slots,
            greatest: ids.iter().max().copied(),
        })
    }
}

/// The order of the rows, the stretches of equal ids, the ids of several stretches and the number of partial sums.
fn divide(ids: &[u32]) -> Result<(Vec<u32>, Vec<Stretch>, Vec<Stretch>, usize), CudaError> {
    let rows = u32::try_from(ids.len()).map_err(|_| CudaError::invalid(format!("EmbedOrder: {} rows", ids.len())))?;
    let mut order: Vec<u32> = (0..rows).collect();
    order.sort_by_key(|row| ids[*row as usize]);
    let (mut stretches, mut splits, mut slots, mut start) = (Vec::new(), Vec::new(), 0u32, 0u32);
    for group in order.chunk_by(|a, b| ids[*a as usize] == ids[*b as usize]) {
        let id = ids[group[0] as usize];
        let first_slot = slots;
        for part in group.chunks(STRETCH) {
            let last = start + part.len() as u32;
            let slot = if group.len() <= STRETCH { NO_SLOT } else { slots };
            stretches.push(Stretch { first: start, last, id, slot });
            slots += u32::from(slot != NO_SLOT);
            start = last;
        }
        if slots > first_slot {
            splits.push(Stretch { first: first_slot, last: slots, id, slot: NO_SLOT });
        }
    }
    Ok((order, stretches, splits, slots as usize))
}

/// `dtable[ids[i]] += dy[i]` for the `ids` that `order` was made of; as [`crate::embed_grad`]. `dtable` is f32.
///
/// # Errors
/// When lengths or types do not fit, or an id is outside of the table.
pub fn embed_grad(
    device: &Device,
    order: &EmbedOrder,
    dy: Tensor,
    width: usize,
    dtable: Tensor,
) -> Result<(), CudaError> {
    let dtype = dy.dtype();
    let vocab = whole_rows("embed_grad", "dtable", dtable, width)?;
    expect("embed_grad", "dy", dy, order.rows * width, dtype)?;
    expect("embed_grad", "dtable", dtable, vocab * width, Dtype::F32)?;
    let Some(greatest) = order.greatest else { return Ok(()) };
    if greatest as usize >= vocab {
        return Err(CudaError::invalid(format!("embed_grad: id {greatest} is outside of a table of {vocab}")));
    }
    let partials = device.workspace(order.slots * width * 4)?.cast(Dtype::F32);
    let packed = width.is_multiple_of(16 / dtype.size()) && aligned(dy) && aligned(dtable);
    let units = if packed { width / (16 / dtype.size()) } else { width };
    let width_arg = size("embed_grad", "width", width)?;
    let args = [
        order.order.tensor(Dtype::U32).into(),
        order.stretches.tensor(Dtype::U8).into(),
        dy.into(),
        width_arg.into(),
        partials.into(),
        dtable.into(),
    ];
    let stretches = (order.stretches.bytes() / size_of::<Stretch>()) as u32;
    let block = units.next_multiple_of(32).min(128);
    let kernel = if packed { "embed_grad" } else { "embed_grad_any" };
    let tiles = tiles("embed_grad", units.div_ceil(block))?;
    device.launch(&EMBED, kernel, dtype, [stretches, tiles, 1], block as u32, 0, &args)?;
    let splits = (order.splits.bytes() / size_of::<Stretch>()) as u32;
    if splits == 0 {
        return Ok(());
    }
    let args = [order.splits.tensor(Dtype::U8).into(), partials.into(), width_arg.into(), dtable.into()];
    let grid = [splits, self::tiles("embed_grad", width.div_ceil(32))?, 1];
    device.launch(&EMBED, "embed_grad_splits", dtype, grid, 256, 0, &args)
}

/// The second dimension of a grid.
fn tiles(function: &str, n: usize) -> Result<u32, CudaError> {
    if n > 65535 {
        return Err(CudaError::invalid(format!("{function}: rows are too wide for {n} tiles")));
    }
    Ok(n as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_summed_once_and_in_order() {
        for count in [0usize, 1, 63, 64, 65, 128, 129, 1000] {
            // Id 7 `count` times between others that come once or twice.
            let mut ids: Vec<u32> = (0..20).map(|i| 100 - i % 15).collect();
            ids.extend((0..count).map(|_| 7));
            ids.extend([3, 100, 0]);
            let (order, stretches, splits, slots) = divide(&ids).unwrap();
            let mut seen = vec![false; ids.len()];
            let mut filled = vec![None; slots];
            let mut next = 0;
            for stretch in &stretches {
                assert_eq!(stretch.first, next, "count {count}: stretches follow each other");
                assert!(stretch.last > stretch.first && stretch.last - stretch.first <= STRETCH as u32);
                next = stretch.last;
                let rows = &order[stretch.first as usize..stretch.last as usize];
                assert!(rows.is_sorted(), "count {count}: rows of id {} are not in order", stretch.id);
                for row in rows {
                    assert_eq!(ids[*row as usize], stretch.id);
                    assert!(!std::mem::replace(&mut seen[*row as usize], true), "row {row} twice");
                }
                if stretch.slot != NO_SLOT {
                    assert_eq!(filled[stretch.slot as usize].replace(stretch.id), None);
                }
            }
            assert!(seen.iter().all(|seen| *seen));
            let direct = stretches.iter().filter(|s| s.slot == NO_SLOT).map(|s| s.id);
            let mut written: Vec<u32> = direct.chain(splits.iter().map(|s| s.id)).collect();
            written.sort_unstable();
            assert!(written.is_sorted_by(|a, b| a < b), "count {count}: an id is written by two: {written:?}");
            for split in &splits {
                for slot in split.first..split.last {
                    assert_eq!(filled[slot as usize].take(), Some(split.id));
                }
            }
            assert!(filled.iter().all(Option::is_none), "count {count}: a partial sum is not used");
        }
    }
}
