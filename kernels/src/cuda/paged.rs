//! Attention over a cache of pages on the GPU: writing keys and values, new rows against all earlier ones, and the decode
//! step in one launch.
//!
//! A cache belongs to one attention of the model. Its pages hold [`PAGE`] tokens of one sequence each; which page holds
//! which tokens is the block table's business, which the host fills ([`PagedRows`]). Layout: `[page][kv_head]`, then that
//! head's keys `[PAGE, head_dim]` and its values `[PAGE, value_dim]`, so that what one block of threads reads of a page is
//! one stretch.
//!
//! Nothing here reads the device, and launches depend on `rows` and `bound_pages` alone: a captured step may be replayed
//! while sequences grow, up to that bound.

use crate::{AttentionMask, AttentionShape};

use super::compile::Source;
use super::device::{Arg, Device};
use super::error::CudaError;
use super::norm::{aligned, expect, expect_if, size};
use super::tensor::{Buffer, Dtype, Tensor};

static PAGED: Source =
    Source { name: "paged", text: concat!(include_str!("../../cuda/paged.cuh"), include_str!("../../cuda/paged.cu")) };
static PAGED_PLAIN: Source = Source {
    name: "paged_plain",
    text: concat!(include_str!("../../cuda/paged.cuh"), include_str!("../../cuda/paged_plain.cu")),
};
static PAGED_DECODE: Source = Source {
    name: "paged_decode",
    text: concat!(
        include_str!("../../cuda/tensor_core.cuh"),
        include_str!("../../cuda/paged.cuh"),
        include_str!("../../cuda/paged_decode.cu")
    ),
};

/// Tokens of a page.
pub const PAGE: usize = 64;

/// `row_sequence` of a row that only fills a batch: it writes nothing to the cache and its output is zero.
pub const PADDING_ROW: u32 = u32::MAX;

/// Widest head.
const WIDEST: usize = 256;

// As in paged.cuh.
const WARPS: usize = 4;
const MAX_SPLITS: usize = 64;

/// Longest stretch of a sequence's rows that is still split over its keys.
const SPLIT_RUN: usize = 8;

/// Keys and values of all sequences, for one attention.
#[derive(Debug)]
pub struct PagedCache {
    memory: Buffer,
    /// Zero between launches.
    counters: Buffer,
    pages: usize,
    max_rows: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    value_dim: usize,
    dtype: Dtype,
}

impl PagedCache {
    /// Bytes of a page.
    pub fn page_bytes(shape: &AttentionShape, dtype: Dtype) -> usize {
        shape.kv_heads * PAGE * (shape.head_dim + shape.value_dim) * dtype.size()
    }

    /// A cache of `pages` pages for steps of at most `max_rows` rows that are split over their keys (decode steps).
    ///
    /// # Errors
    /// When there is not enough memory, or heads are wider than 256.
    pub fn new(
        device: &Device,
        pages: usize,
        max_rows: usize,
        shape: &AttentionShape,
        dtype: Dtype,
    ) -> Result<Self, CudaError> {
        let AttentionShape { heads, kv_heads, head_dim, value_dim, .. } = *shape;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(CudaError::invalid(format!(
                "a cache: {heads} heads are no multiple of {kv_heads} key-value heads"
            )));
        }
        if head_dim > WIDEST || value_dim > WIDEST {
            return Err(CudaError::invalid(format!(
                "a cache: heads of {head_dim} and {value_dim} numbers, more than {WIDEST}"
            )));
        }
        size("a cache", "pages", pages)?;
        let memory = device.allocate(pages * Self::page_bytes(shape, dtype))?;
        let counters = device.allocate(max_rows.max(1) * heads * 4)?;
        device.zero(counters.tensor(Dtype::U8))?;
        Ok(Self { memory, counters, pages, max_rows, heads, kv_heads, head_dim, value_dim, dtype })
    }

    /// Bytes it takes on the device.
    pub fn bytes(&self) -> usize {
        self.memory.bytes() + self.counters.bytes()
    }

    /// Pages it has.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// All pages.
    pub fn tensor(&self) -> Tensor {
        let elements = self.pages * self.kv_heads * PAGE * (self.head_dim + self.value_dim);
        self.memory.at(0, elements, self.dtype)
    }

    fn check(&self, function: &str, shape: &AttentionShape) -> Result<(), CudaError> {
        let AttentionShape { heads, kv_heads, head_dim, value_dim, .. } = *shape;
        if (heads, kv_heads, head_dim, value_dim) == (self.heads, self.kv_heads, self.head_dim, self.value_dim) {
            return Ok(());
        }
        Err(CudaError::invalid(format!("{function}: the cache was made for other heads than {shape:?}")))
    }
}

/// The rows of a step, and where their sequences' pages are.
#[derive(Clone, Copy, Debug)]
pub struct PagedRows {
    /// Rows of the step.
    pub rows: usize,
    /// u32 `[rows]`: the row of the block table that is the sequence's; [`PADDING_ROW`] for rows without one.
    pub row_sequence: Tensor,
    /// u32 `[rows]`: a row's position in its sequence. Rows of one sequence follow each other with rising positions.
    pub positions: Tensor,
    /// u32 `[sequences, max_pages]`: page i holds the positions from `i * PAGE` on.
    pub block_table: Tensor,
    /// Width of the block table.
    pub max_pages: usize,
    /// All positions are below `bound_pages * PAGE`; at most `max_pages`. Launches grow with it, not with the lengths. A
    /// row beyond gives NaN.
    pub bound_pages: usize,
    /// Rows that a sequence has in this step at most: 1 when decoding. Beyond 8 another kernel is used, whose sums have
    /// another order; rows' results depend on nothing else but the row itself.
    pub longest_run: usize,
}

impl PagedRows {
    fn sequences(&self) -> usize {
        self.block_table.elements() / self.max_pages.max(1)
    }

    fn check(&self, function: &str) -> Result<(), CudaError> {
        expect(function, "row_sequence", self.row_sequence, self.rows, Dtype::U32)?;
        expect(function, "positions", self.positions, self.rows, Dtype::U32)?;
        expect(function, "block_table", self.block_table, self.sequences() * self.max_pages, Dtype::U32)?;
        size(function, "rows", self.rows)?;
        size(function, "block_table", self.block_table.elements())?;
        if self.bound_pages > self.max_pages || self.bound_pages >= 1 << 24 || self.longest_run == 0 {
            return Err(CudaError::invalid(format!(
                "{function}: bound_pages = {} of max_pages = {}, longest_run = {}",
                self.bound_pages, self.max_pages, self.longest_run
            )));
        }
        Ok(())
    }
}

/// A norm of each head.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorm {
    /// f32 `[head_dim]`.
    pub weight: Tensor,
    pub offset: f32,
    pub eps: f32,
}

/// The rotation of a step's rows.
#[derive(Clone, Copy, Debug)]
pub struct Rope {
    /// Numbers of a head that turn.
    pub dims: usize,
    pub interleaved: bool,
    /// f32 `[rows, dims / 2]`.
    pub cos: Tensor,
    /// f32 `[rows, dims / 2]`.
    pub sin: Tensor,
}

/// Writes the step's keys `k[rows, kv_heads, head_dim]` and values `v[rows, kv_heads, value_dim]` to the cache. Rows whose
/// sequence, position or page is out of range are not written; [`paged_attention`] gives NaN for them.
///
/// # Errors
/// When lengths or types do not fit.
pub fn cache_append(
    device: &Device,
    k: Tensor,
    v: Tensor,
    cache: &PagedCache,
    rows: &PagedRows,
) -> Result<(), CudaError> {
    rows.check("cache_append")?;
    let (dim, value_dim) = (cache.head_dim, cache.value_dim);
    expect("cache_append", "k", k, rows.rows * cache.kv_heads * dim, cache.dtype)?;
    expect("cache_append", "v", v, rows.rows * cache.kv_heads * value_dim, cache.dtype)?;
    let units = rows.rows * cache.kv_heads;
    let args = [
        k.into(),
        v.into(),
        cache.tensor().into(),
        rows.block_table.into(),
        rows.row_sequence.into(),
        rows.positions.into(),
        (rows.rows as i32).into(),
        (cache.kv_heads as i32).into(),
        (dim as i32).into(),
        (value_dim as i32).into(),
        (cache.pages as i32).into(),
        (rows.sequences() as i32).into(),
        (rows.bound_pages as i32).into(),
        (rows.max_pages as i32).into(),
        i32::from(packs(cache, &[k, v])).into(),
    ];
    let blocks = size("cache_append", "heads", units)? as u32;
    let grid = [blocks.div_ceil(WARPS as u32), 1, 1];
    device.launch_dependent(&PAGED_PLAIN, "paged_append", cache.dtype, grid, 32 * WARPS as u32, 0, &args)
}

/// Attention of the step's rows `q[rows, heads, head_dim]` with their sequences' keys up to their own, which are in the
/// cache. Writes `out[rows, heads, value_dim]`. The mask is causal, or a window with `right` 0.
///
/// A row's result depends on its sequence and its position alone, not on the other rows of the step, up to the choice of
/// kernel by [`PagedRows::longest_run`].
///
/// # Errors
/// When lengths or types do not fit, or there are more rows than the cache was made for.
pub fn paged_attention(
    device: &Device,
    q: Tensor,
    cache: &PagedCache,
    rows: &PagedRows,
    shape: &AttentionShape,
    mask: AttentionMask,
    out: Tensor,
) -> Result<(), CudaError> {
    let none = Fresh { k: None, v: None, q_norm: None, k_norm: None, rope: None };
    attend(device, "paged_attention", q, none, cache, rows, shape, mask, out)
}

/// A decode step's attention in one launch: norms and rotates the projections `q[rows, heads, head_dim]` and
/// `k[rows, kv_heads, head_dim]`, writes the keys and the values `v[rows, kv_heads, value_dim]` to the cache, and attends.
/// Writes the same bits, to the cache and to `out[rows, heads, value_dim]`, as [`super::rms_norm`], [`super::rope`],
/// [`cache_append`] and [`paged_attention`] one after another (with weights and outputs at multiples of 16 bytes, which
/// decides the order of the norm's sum there). Each sequence has at most one row.
///
/// # Errors
/// As [`paged_attention`], or when `longest_run` is not 1.
pub fn decode_attention(
    device: &Device,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_norm: Option<HeadNorm>,
    k_norm: Option<HeadNorm>,
    rope: Option<Rope>,
    cache: &PagedCache,
    rows: &PagedRows,
    shape: &AttentionShape,
    mask: AttentionMask,
    out: Tensor,
) -> Result<(), CudaError> {
    const NAME: &str = "decode_attention";
    expect(NAME, "k", k, rows.rows * shape.kv_heads * shape.head_dim, cache.dtype)?;
    expect(NAME, "v", v, rows.rows * shape.kv_heads * shape.value_dim, cache.dtype)?;
    expect_if(NAME, "the norm of q", q_norm.map(|norm| norm.weight), shape.head_dim, Dtype::F32)?;
    expect_if(NAME, "the norm of k", k_norm.map(|norm| norm.weight), shape.head_dim, Dtype::F32)?;
    if let Some(rope) = rope {
        if !rope.dims.is_multiple_of(2) || rope.dims > shape.head_dim {
            return Err(CudaError::invalid(format!(
                "{NAME}: dims = {} must be even and at most head_dim = {}",
                rope.dims, shape.head_dim
            )));
        }
        expect(NAME, "cos", rope.cos, rows.rows * (rope.dims / 2), Dtype::F32)?;
        expect(NAME, "sin", rope.sin, rows.rows * (rope.dims / 2), Dtype::F32)?;
    }
    if rows.longest_run != 1 {
        return Err(CudaError::invalid(format!(
            "{NAME}: longest_run = {}, but each row is a sequence",
            rows.longest_run
        )));
    }
    attend(device, NAME, q, Fresh { k: Some(k), v: Some(v), q_norm, k_norm, rope }, cache, rows, shape, mask, out)
}

/// What the step brings that is not in the cache yet.
struct Fresh {
    k: Option<Tensor>,
    v: Option<Tensor>,
    q_norm: Option<HeadNorm>,
    k_norm: Option<HeadNorm>,
    rope: Option<Rope>,
}

/// Whether rows of the cache and of `tensors` are made of aligned packs of 16 bytes.
fn packs(cache: &PagedCache, tensors: &[Tensor]) -> bool {
    let pack = 16 / cache.dtype.size();
    cache.head_dim.is_multiple_of(pack)
        && cache.value_dim.is_multiple_of(pack)
        && tensors.iter().all(|tensor| aligned(*tensor))
}

/// Threads that share a row in [`super::rms_norm`], whose order of sums the fused norm keeps.
fn norm_lanes(width: usize, dtype: Dtype, packed: bool) -> usize {
    let pack = 16 / dtype.size();
    let (units, held) = if packed { (width / pack, 32 / pack) } else { (width, 8) };
    units.div_ceil(held).next_power_of_two().max(units.next_power_of_two().min(4))
}

/// A kernel and what it is launched with.
struct Choice {
    source: &'static Source,
    kernel: &'static str,
    whole: bool,
    /// Query rows of a block, counted in heads.
    slots: usize,
    /// Blocks of a row, one for each split of its keys.
    splits: usize,
    /// Tiles of keys and values in shared memory.
    stages: usize,
    shared_bytes: usize,
}

impl Choice {
    fn new(
        cache: &PagedCache,
        rows: &PagedRows,
        fused: bool,
        capped: bool,
        window: usize,
        tensor_cores: bool,
        packs: bool,
    ) -> Self {
        let whole = rows.longest_run > SPLIT_RUN;
        // Rows that are alone, of heads of the usual sizes: the same sums with fewer instructions.
        let usual = tensor_cores && rows.longest_run == 1 && !capped && cache.heads / cache.kv_heads <= 8;
        let alone = match (cache.head_dim, cache.value_dim, fused) {
            _ if !usual => None,
            (64, 64, false) => Some("paged_decode_64"),
            (64, 64, true) => Some("paged_fused_64"),
            (128, 128, false) => Some("paged_decode_128"),
            (128, 128, true) => Some("paged_fused_128"),
            (256, 256, false) => Some("paged_decode_256"),
            (256, 256, true) => Some("paged_fused_256"),
            _ => None,
        };
        let (kernel, slots) = match (tensor_cores, whole, cache.value_dim) {
            (false, ..) => (if packs { "paged_packs" } else { "paged_scalars" }, 8),
            (true, false, ..=64) => ("paged_split_64", 8),
            (true, false, ..=128) => ("paged_split_128", 8),
            (true, false, _) => ("paged_split_256", 8),
            (true, true, ..=64) => ("paged_whole_64", 32),
            (true, true, ..=128) => ("paged_whole_128", 32),
            (true, true, _) => ("paged_whole_256", 16),
        };
        let bound = rows.bound_pages * PAGE;
        let splits = match whole {
            true => 1,
            // A window may begin and end within a split, and a block's rows have different ones.
            false if window < bound => window.div_ceil(PAGE).min(MAX_SPLITS) + 2,
            false => rows.bound_pages.clamp(1, MAX_SPLITS),
        };
        // A split of one tile needs no second.
        let stages = if !whole && window.min(bound) <= PAGE * MAX_SPLITS { 1 } else { 2 };
        let (dim, value_dim, bytes) = (cache.head_dim, cache.value_dim, cache.dtype.size());
        let round = |elements: usize| (elements * bytes).next_multiple_of(16);
        let tiles = if tensor_cores { stages * PAGE * (dim + value_dim) * bytes } else { 0 };
        let warps = WARPS * slots * (value_dim + 4) * 4;
        // As `Layout` in paged.cuh.
        let shared_bytes = 16
            + round(slots * (dim.next_multiple_of(16) + 16 / bytes))
            + round(dim)
            + round(value_dim)
            + WARPS * slots * 8
            + tiles.max(warps);
        let (source, kernel) = match alone {
            Some(kernel) => (&PAGED_DECODE, kernel),
            None if tensor_cores => (&PAGED, kernel),
            None => (&PAGED_PLAIN, kernel),
        };
        Self { source, kernel, whole, slots, splits, stages, shared_bytes }
    }
}

fn attend(
    device: &Device,
    function: &str,
    q: Tensor,
    fresh: Fresh,
    cache: &PagedCache,
    rows: &PagedRows,
    shape: &AttentionShape,
    mask: AttentionMask,
    out: Tensor,
) -> Result<(), CudaError> {
    cache.check(function, shape)?;
    rows.check(function)?;
    let AttentionShape { heads, kv_heads, head_dim, value_dim, scale, soft_cap } = *shape;
    expect(function, "q", q, rows.rows * heads * head_dim, cache.dtype)?;
    expect(function, "out", out, rows.rows * heads * value_dim, cache.dtype)?;
    let window = match mask {
        AttentionMask::Causal => i32::MAX as usize,
        AttentionMask::Window { left, right: 0 } => (left as usize + 1).min(i32::MAX as usize),
        other => {
            return Err(CudaError::invalid(format!("{function}: with {other:?} rows see keys that are not there yet")));
        }
    };
    if rows.rows == 0 {
        return Ok(());
    }

    let norms = [fresh.q_norm, fresh.k_norm].map(|norm| norm.map(|norm| norm.weight));
    let read: Vec<Tensor> = [Some(q), fresh.k, fresh.v].into_iter().flatten().collect();
    let packs = packs(cache, &read);
    let tensor_cores = packs && cache.dtype != Dtype::F32 && device.compute_capability() >= (8, 0);
    let choice = Choice::new(cache, rows, fresh.k.is_some(), soft_cap.is_some(), window, tensor_cores, packs);
    if !choice.whole && rows.rows > cache.max_rows {
        return Err(CudaError::invalid(format!(
            "{function}: {} rows, but the cache was made for {}",
            rows.rows, cache.max_rows
        )));
    }
    let group = heads / kv_heads;
    let blocks = kv_heads * group.div_ceil(group.min(choice.slots));
    let partials = (choice.splits > 1)
        .then(|| device.workspace(rows.rows * heads * choice.splits * (value_dim + 2) * 4))
        .transpose()?;
    let rope = fresh.rope;
    let of_norm = |norm: Option<HeadNorm>| norm.map_or((0.0, 0.0), |norm| (norm.offset, norm.eps));
    let (q_norm, k_norm) = (of_norm(fresh.q_norm), of_norm(fresh.k_norm));
    let args: [Arg; 35] = [
        q.into(),
        fresh.k.into(),
        fresh.v.into(),
        norms[0].into(),
        norms[1].into(),
        rope.map(|rope| rope.cos).into(),
        rope.map(|rope| rope.sin).into(),
        cache.tensor().into(),
        rows.block_table.into(),
        rows.row_sequence.into(),
        rows.positions.into(),
        partials.into(),
        cache.counters.tensor(Dtype::U32).into(),
        out.into(),
        (rows.rows as i32).into(),
        (heads as i32).into(),
        (kv_heads as i32).into(),
        (head_dim as i32).into(),
        (value_dim as i32).into(),
        (cache.pages as i32).into(),
        (rows.sequences() as i32).into(),
        (rows.max_pages as i32).into(),
        (rows.bound_pages as i32).into(),
        (window as i32).into(),
        scale.into(),
        soft_cap.unwrap_or(0.0).into(),
        q_norm.0.into(),
        q_norm.1.into(),
        k_norm.0.into(),
        k_norm.1.into(),
        (norm_lanes(head_dim, cache.dtype, packs) as i32).into(),
        rope.map_or(0, |rope| rope.dims as i32).into(),
        i32::from(rope.is_some_and(|rope| rope.interleaved)).into(),
        (choice.stages as i32).into(),
        i32::from(choice.whole).into(),
    ];
    let grid = [rows.rows as u32, blocks as u32, choice.splits as u32];
    let shared = choice.shared_bytes as u32;
    device.launch_dependent(choice.source, choice.kernel, cache.dtype, grid, 32 * WARPS as u32, shared, &args)
}
