//! A whole decode step in one launch: the operations of [`super::few_rows`] and [`super::decode_attention`], walked by a
//! kernel of which one block stays on each multiprocessor and streams the weights without a pause.
//!
//! What separate launches cost is not their bytes but their beginnings and ends: memory is idle while the next launch
//! waits for the last. Here weights are copied ahead of the operation that needs them, as far as shared memory reaches, and
//! blocks wait for words, not for each other.
//!
//! [`DecodeProgram::new`] says `None` to what it cannot do (single precision, more than 8 rows, widths that are no multiple
//! of 32, heads of other than 64 or 128 numbers, long contexts); separate launches do that.
//!
//! As with [`super::few_rows`], weights must have been written before the last launch that was not dependent. Results are
//! those of the separate launches up to the order of sums, with the same roundings; attention's weights are not rounded.

use crate::{AttentionMask, AttentionShape};

use super::compile::Source;
use super::decode::FewRows;
use super::device::Device;
use super::error::CudaError;
use super::norm::{aligned, expect, expect_if, size};
use super::paged::{HeadNorm, PAGE, PagedCache, PagedRows, Rope};
use super::tensor::{Buffer, Dtype, Tensor};

static PERSISTENT: Source = Source {
    name: "persistent",
    text: concat!(
        include_str!("../../cuda/tensor_core.cuh"),
        "\n",
        include_str!("../../cuda/decode.cuh"),
        "\n",
        include_str!("../../cuda/persistent.cuh"),
        "\n",
        include_str!("../../cuda/persistent_attention.cuh"),
        "\n",
        include_str!("../../cuda/persistent.cu")
    ),
};

/// Most rows of a [`DecodeProgram`].
pub const MOST_PERSISTENT_ROWS: usize = 8;

// As in the sources.
const WARPS: usize = 8;
const THREADS: u32 = 32 * WARPS as u32 + 32;
const STAGE_BYTES: usize = 8 * (2 * 1024 + 64);
const DESCRIPTORS: usize = 16;
const DESCRIPTOR_BYTES: usize = 256;
const FINISHED: usize = 128;
const BARRIER_BYTES: usize = 512;
const TILE: usize = 16;
const MAX_SPLITS: usize = 62;
/// Shared memory that the kernel declares itself.
const STATIC_BYTES: usize = 128;
const LEAST_STAGES: usize = 3;
const MOST_STAGES: usize = (BARRIER_BYTES / 8 - 2 * DESCRIPTORS) / 2;
/// Positions beyond which one warp for each of [`MAX_SPLITS`] splits is too little.
const MOST_POSITIONS: usize = 8192;
/// The kernel's marks of partial results have 12 bits for the operation.
const MOST_OPERATIONS: usize = 1 << 12;

/// A decode step's attention; see [`super::decode_attention`].
#[derive(Debug, Clone, Copy)]
pub struct DecodeAttention<'a> {
    /// `[rows, heads, head_dim]`, before norm and rotation.
    pub q: Tensor,
    /// `[rows, kv_heads, head_dim]`, before norm and rotation.
    pub k: Tensor,
    /// `[rows, kv_heads, value_dim]`.
    pub v: Tensor,
    pub q_norm: Option<HeadNorm>,
    pub k_norm: Option<HeadNorm>,
    pub rope: Option<Rope>,
    pub cache: &'a PagedCache,
    pub rows: PagedRows,
    pub shape: AttentionShape,
    pub mask: AttentionMask,
    /// `[rows, heads, value_dim]`.
    pub out: Tensor,
}

/// One operation of a [`DecodeProgram`].
#[derive(Debug, Clone, Copy)]
#[allow(clippy::large_enum_variant, reason = "a list of them lives for one call")]
pub enum DecodeOp<'a> {
    FewRows(FewRows<'a>),
    Attention(DecodeAttention<'a>),
}

impl DecodeOp<'_> {
    fn reads(&self) -> Vec<Tensor> {
        match self {
            Self::FewRows(work) => [Some(work.x), work.residual].into_iter().flatten().collect(),
            Self::Attention(work) => vec![work.q, work.k, work.v],
        }
    }

    fn writes(&self) -> Vec<Tensor> {
        match self {
            Self::FewRows(work) if work.glu.is_some() => vec![work.matrices[0].out],
            Self::FewRows(work) => work.matrices.iter().map(|m| m.out).collect(),
            Self::Attention(work) => vec![work.out],
        }
    }

    /// Rows of all matrices, or pairs of them; blocks share them.
    fn units(&self) -> Option<usize> {
        match self {
            Self::FewRows(work) if work.glu.is_some() => Some(work.matrices[0].n),
            Self::FewRows(work) => Some(work.matrices.iter().map(|m| m.n).sum()),
            Self::Attention(_) => None,
        }
    }
}

/// What a run leaves out, to see where time goes. The results are wrong then.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// Nobody waits for another block's results.
    pub without_waits: bool,
    pub without_attention: bool,
}

/// Operations in device memory, ready to be launched again and again. It does not own what they name.
#[derive(Debug)]
pub struct DecodeProgram {
    list: Buffer,
    /// Results on their way from one operation to another.
    _words: Buffer,
    _partials: Buffer,
    state: Buffer,
    count: usize,
    rows: usize,
    element: Dtype,
    grid: u32,
    head_bytes: usize,
    /// Shared memory beside the ring.
    fixed_bytes: usize,
    stages: usize,
}

/// Where an operand comes from: operation and output.
type Maker = Option<(usize, usize)>;

/// Which outputs operations read, or why there is no program.
struct Flow {
    /// For each operation, of what it reads.
    makers: Vec<Vec<Maker>>,
    /// For each operation, whether a later one reads that output.
    read: Vec<Vec<bool>>,
}

fn overlap(a: Tensor, b: Tensor) -> bool {
    a.address() < b.address() + b.bytes() as u64 && b.address() < a.address() + a.bytes() as u64
}

impl Flow {
    fn new(ops: &[DecodeOp]) -> Option<Self> {
        let mut makers: Vec<Vec<Maker>> = Vec::new();
        let mut read: Vec<Vec<bool>> = ops.iter().map(|op| vec![false; op.writes().len()]).collect();
        let mut outside: Vec<(usize, Tensor)> = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            let mut of_op = Vec::new();
            for operand in op.reads() {
                let latest = (0..i).rev().find_map(|j| {
                    let output = ops[j].writes().iter().position(|out| overlap(*out, operand))?;
                    Some((j, output))
                });
                match latest {
                    // The other words would be somewhere else.
                    Some((j, output)) if ops[j].writes()[output] != operand => return None,
                    Some((j, output)) => read[j][output] = true,
                    None => outside.push((i, operand)),
                }
                of_op.push(latest);
            }
            makers.push(of_op);
        }
        // Blocks are not at the same operation at a time: what comes from outside is not written by anyone, other than in
        // the place of the operation's own residual.
        for (i, op) in ops.iter().enumerate() {
            for (out, read) in op.writes().into_iter().zip(&read[i]) {
                let in_place = matches!(op, DecodeOp::FewRows(work) if work.residual == Some(out));
                if !read && outside.iter().any(|(j, x)| overlap(out, *x) && !(in_place && i == *j && *x == out)) {
                    return None;
                }
            }
        }
        let flow = Self { makers, read };
        flow.attentions_follow(ops).then_some(flow)
    }

    /// Attentions share the memory of their partial results. A warp that begins with one must know that all blocks have
    /// ended the one before: its queries were made from a whole result of a projection after that.
    fn attentions_follow(&self, ops: &[DecodeOp]) -> bool {
        let mut last = None;
        for (i, op) in ops.iter().enumerate() {
            if !matches!(op, DecodeOp::Attention(_)) {
                continue;
            }
            if let Some(last) = last {
                let after = |maker: Maker| {
                    maker.map(|(j, _)| j).filter(|j| *j > last && matches!(ops[*j], DecodeOp::FewRows(_)))
                };
                if after(self.makers[i][0]).and_then(|j| after(self.makers[j][0])).is_none() {
                    return false;
                }
            }
            last = Some(i);
        }
        true
    }
}

impl DecodeProgram {
    /// A program of `ops`, in their order. An operand that is an earlier operation's output is passed on inside; such an
    /// output is **not** written to its tensor. All other operands are read at each run, from where they are now.
    ///
    /// Gives `None` where the kernel cannot do it.
    ///
    /// # Errors
    /// When lengths or types do not fit, or there is not enough memory.
    pub fn new(device: &Device, ops: &[DecodeOp]) -> Result<Option<Self>, CudaError> {
        let Some(first) = ops.first() else { return Ok(None) };
        let element = first.reads()[0].dtype();
        let rows = match first {
            DecodeOp::FewRows(work) => work.rows,
            DecodeOp::Attention(work) => work.rows.rows,
        };
        let capability = device.compute_capability();
        if !matches!(element, Dtype::Bf16 | Dtype::F16)
            || !(1..=MOST_PERSISTENT_ROWS).contains(&rows)
            || ops.len() > MOST_OPERATIONS
            || capability.0 < 9
        {
            return Ok(None);
        }
        let (mut widest, mut head_bytes, mut partials) = (0, 0, 0);
        for op in ops {
            match op {
                DecodeOp::FewRows(work) => {
                    if !suits(work, rows, element)? {
                        return Ok(None);
                    }
                    widest = widest.max(work.k);
                }
                DecodeOp::Attention(work) => {
                    if !attention_suits(work, rows, element)? {
                        return Ok(None);
                    }
                    let AttentionShape { heads, kv_heads, head_dim, .. } = work.shape;
                    let slots = (heads / kv_heads).next_power_of_two().max(2);
                    head_bytes = head_bytes.max((slots + 2) * (head_dim + 8) * 2 + TILE * slots * 4);
                    partials = partials.max(rows * heads * room(&work.rows) * (head_dim + 2) * 8);
                }
            }
        }
        let Some(flow) = Flow::new(ops) else { return Ok(None) };
        let fixed_bytes = DESCRIPTORS * DESCRIPTOR_BYTES
            + 2 * WARPS * FINISHED * 4
            + WARPS * MOST_PERSISTENT_ROWS * 4
            + BARRIER_BYTES
            + WARPS * head_bytes
            + widest.div_ceil(32) * 64 * rows;
        // As in the CUDA programming guide's table of compute capabilities.
        let limit: usize = if capability.0 >= 12 { 99 << 10 } else { 227 << 10 };
        let stages = (limit - STATIC_BYTES).saturating_sub(fixed_bytes) / STAGE_BYTES;
        if stages < LEAST_STAGES {
            return Ok(None);
        }
        // Every block has rows of every matrix.
        let units = ops.iter().filter_map(DecodeOp::units).min().unwrap_or(usize::MAX);
        let grid = u32::try_from(units).unwrap_or(u32::MAX).min(device.multiprocessors());
        if grid == 0 {
            return Ok(None);
        }

        let mut places: Vec<Vec<usize>> = Vec::new();
        let mut bytes = 0;
        for op in ops {
            let mut of_op = Vec::new();
            for out in op.writes() {
                of_op.push(bytes);
                bytes += (out.elements() * 4).next_multiple_of(256);
            }
            places.push(of_op);
        }
        let words = device.allocate(bytes)?;
        device.zero(words.tensor(Dtype::U8))?;
        let partial_buffer = device.allocate(partials.max(16))?;
        device.zero(partial_buffer.tensor(Dtype::U8))?;
        let word_address = words.tensor(Dtype::U8).address();
        let tagged = |(op, output): (usize, usize)| word_address + places[op][output] as u64;
        let mut list = Vec::with_capacity(ops.len() * DESCRIPTOR_BYTES);
        for (i, op) in ops.iter().enumerate() {
            let mut to = Descriptor { bytes: Vec::with_capacity(DESCRIPTOR_BYTES) };
            let operands: Vec<(u64, bool)> = op
                .reads()
                .iter()
                .zip(&flow.makers[i])
                .map(|(tensor, maker)| maker.map_or((tensor.address(), false), |maker| (tagged(maker), true)))
                .collect();
            // Words or plain.
            let outputs: Vec<(u64, u64)> = op
                .writes()
                .iter()
                .enumerate()
                .map(|(n, out)| if flow.read[i][n] { (tagged((i, n)), 0) } else { (0, out.address()) })
                .collect();
            match op {
                DecodeOp::FewRows(work) => to.projection(work, &operands, &outputs)?,
                DecodeOp::Attention(work) => {
                    to.attention(work, &operands, outputs[0], partial_buffer.tensor(Dtype::U8).address())?;
                }
            }
            to.bytes.resize(DESCRIPTOR_BYTES, 0);
            list.extend(to.bytes);
        }
        let buffer = device.allocate(list.len())?;
        device.upload(&list, buffer.tensor(Dtype::U8))?;
        // The first launch's number, and nobody has read it.
        let state = device.from_u32(&[1, 0])?;
        let stages = stages.min(MOST_STAGES);
        Ok(Some(Self {
            list: buffer,
            _words: words,
            _partials: partial_buffer,
            state,
            count: ops.len(),
            rows,
            element,
            grid,
            head_bytes,
            fixed_bytes,
            stages,
        }))
    }

    /// Enqueues the operations. It may be captured. Runs of one program must not overlap.
    ///
    /// # Errors
    /// When the kernel does not compile, or the driver refuses the launch.
    pub fn run(&self, device: &Device) -> Result<(), CudaError> {
        self.run_measured(device, Measured::default())
    }

    /// [`DecodeProgram::run`] without some of it.
    ///
    /// # Errors
    /// As [`DecodeProgram::run`].
    pub fn run_measured(&self, device: &Device, measured: Measured) -> Result<(), CudaError> {
        let shared = self.stages * STAGE_BYTES + self.fixed_bytes;
        let measure = i32::from(measured.without_waits) | i32::from(measured.without_attention) << 1;
        let args = [
            self.list.tensor(Dtype::U8).into(),
            (self.count as i32).into(),
            (self.rows as i32).into(),
            self.state.tensor(Dtype::U32).into(),
            (self.stages as i32).into(),
            (self.head_bytes as i32).into(),
            measure.into(),
        ];
        // One block fills a multiprocessor, and there are no more blocks than multiprocessors: all are resident once
        // earlier work has ended, which no block of ours holds up.
        let grid = [self.grid, 1, 1];
        device.launch_dependent(&PERSISTENT, "persistent_decode", self.element, grid, THREADS, shared as u32, &args)
    }

    /// Stages of 16 KB of weights that a block keeps on their way.
    pub fn stages(&self) -> usize {
        self.stages
    }

    /// Uses fewer stages than fit, at least 3, to measure what they are worth.
    pub fn limit_stages(&mut self, most: usize) {
        self.stages = self.stages.min(most.max(LEAST_STAGES));
    }
}

/// Splits of a head that there is room for.
fn room(rows: &PagedRows) -> usize {
    (rows.bound_pages * PAGE / TILE + 1).min(MAX_SPLITS + 2)
}

/// Whether the kernel does this projection.
fn suits(work: &FewRows, rows: usize, element: Dtype) -> Result<bool, CudaError> {
    const NAME: &str = "a decode program's projection";
    let wrong = |message: &str| Err(CudaError::invalid(format!("{NAME}: {message}")));
    if !(1..=4).contains(&work.matrices.len()) || work.k == 0 {
        return wrong("one to four matrices, of rows of some numbers");
    }
    let gated = work.glu.is_some();
    if gated && (work.matrices.len() != 2 || work.matrices[0].n != work.matrices[1].n) {
        return wrong("a gated unit needs two matrices of the same n");
    }
    if work.residual.is_some() && (work.matrices.len() != 1) {
        return wrong("a residual needs one matrix");
    }
    if work.rows != rows || work.x.dtype() != element {
        return Ok(false);
    }
    expect(NAME, "x", work.x, rows * work.k, element)?;
    let norm_weight = work.norm.and_then(|norm| norm.weight);
    expect_if(NAME, "the norm's weight", norm_weight, work.k, Dtype::F32)?;
    size(NAME, "n of all matrices", work.matrices.iter().map(|m| m.n).sum())?;
    for (i, m) in work.matrices.iter().enumerate() {
        expect(NAME, "a weight", m.weight, m.n * work.k, element)?;
        expect_if(NAME, "a bias", m.bias, m.n, element)?;
        if gated && i > 0 {
            continue;
        }
        let dtype = if m.out.dtype() == Dtype::F32 { Dtype::F32 } else { element };
        expect(NAME, "an output", m.out, rows * m.n, dtype)?;
    }
    if let Some(residual) = work.residual {
        expect(NAME, "the residual", residual, rows * work.matrices[0].n, element)?;
    }
    let all_aligned = work.matrices.iter().map(|m| m.weight).chain([work.x]).chain(norm_weight).all(aligned);
    Ok(all_aligned && work.k.is_multiple_of(32) && work.matrices.iter().all(|m| m.n > 0))
}

/// Whether the kernel does this attention.
fn attention_suits(work: &DecodeAttention, rows: usize, element: Dtype) -> Result<bool, CudaError> {
    const NAME: &str = "a decode program's attention";
    let AttentionShape { heads, kv_heads, head_dim, value_dim, .. } = work.shape;
    if work.rows.rows != rows
        || work.q.dtype() != element
        || head_dim != value_dim
        || !matches!(head_dim, 64 | 128)
        || kv_heads == 0
        || !heads.is_multiple_of(kv_heads)
        || heads / kv_heads > 8
        || work.rows.longest_run != 1
        || work.rows.bound_pages > work.rows.max_pages
        || work.rows.bound_pages * PAGE > MOST_POSITIONS
        || !matches!(work.mask, AttentionMask::Causal | AttentionMask::Window { right: 0, .. })
        || ![work.q, work.k, work.v, work.cache.tensor()].into_iter().all(aligned)
    {
        return Ok(false);
    }
    expect(NAME, "q", work.q, rows * heads * head_dim, element)?;
    expect(NAME, "k", work.k, rows * kv_heads * head_dim, element)?;
    expect(NAME, "v", work.v, rows * kv_heads * head_dim, element)?;
    expect(NAME, "out", work.out, rows * heads * head_dim, element)?;
    let cache = work.cache.tensor();
    expect(NAME, "the cache", cache, work.cache.pages() * kv_heads * PAGE * 2 * head_dim, element)?;
    for norm in [work.q_norm, work.k_norm].into_iter().flatten() {
        expect(NAME, "a norm's weight", norm.weight, head_dim, Dtype::F32)?;
    }
    if let Some(rope) = work.rope {
        if !rope.dims.is_multiple_of(2) || rope.dims > head_dim {
            return Err(CudaError::invalid(format!("{NAME}: rotating {} of {head_dim} numbers", rope.dims)));
        }
        expect(NAME, "cos", rope.cos, rows * (rope.dims / 2), Dtype::F32)?;
        expect(NAME, "sin", rope.sin, rows * (rope.dims / 2), Dtype::F32)?;
    }
    expect(NAME, "row_sequence", work.rows.row_sequence, rows, Dtype::U32)?;
    expect(NAME, "positions", work.rows.positions, rows, Dtype::U32)?;
    let table = work.rows.block_table;
    expect(NAME, "block_table", table, sequences(&work.rows) * work.rows.max_pages, Dtype::U32)?;
    Ok(true)
}

fn sequences(rows: &PagedRows) -> usize {
    rows.block_table.elements() / rows.max_pages.max(1)
}

/// The bytes of a `Projection` or an `Attention` in the sources.
struct Descriptor {
    bytes: Vec<u8>,
}

impl Descriptor {
    fn int(&mut self, what: &str, x: usize) -> Result<(), CudaError> {
        let x = size("a decode program", what, x)?;
        self.bytes.extend(x.to_le_bytes());
        Ok(())
    }
    fn float(&mut self, x: f32) {
        self.bytes.extend(x.to_le_bytes());
    }
    fn address(&mut self, x: u64) {
        self.bytes.extend(x.to_le_bytes());
    }
    fn tensor(&mut self, x: Option<Tensor>) {
        self.address(x.map_or(0, Tensor::address));
    }
    fn operand(&mut self, x: Option<&(u64, bool)>) {
        let (at, tagged) = x.copied().unwrap_or((0, false));
        self.address(at);
        self.address(u64::from(tagged));
    }

    fn projection(
        &mut self,
        work: &FewRows,
        operands: &[(u64, bool)],
        outputs: &[(u64, u64)],
    ) -> Result<(), CudaError> {
        let wide = |i: usize| outputs.get(i).is_some() && work.matrices[i].out.dtype() == Dtype::F32;
        self.int("kind", 0)?;
        self.int("k", work.k)?;
        self.int("norm", usize::from(work.norm.is_some()))?;
        self.int("types", (0..4).map(|i| usize::from(wide(i)) << i).sum())?;
        for i in 0..4 {
            self.int("n", work.matrices.get(i).map_or(0, |m| m.n))?;
        }
        for i in 0..4 {
            self.tensor(work.matrices.get(i).map(|m| m.weight));
        }
        for i in 0..4 {
            self.tensor(work.matrices.get(i).and_then(|m| m.bias));
        }
        for i in 0..4 {
            self.address(outputs.get(i).map_or(0, |out| out.0));
        }
        for i in 0..4 {
            self.address(outputs.get(i).map_or(0, |out| out.1));
        }
        self.operand(operands.first());
        self.operand(operands.get(1));
        self.tensor(work.norm.and_then(|norm| norm.weight));
        self.float(work.norm.map_or(0.0, |norm| norm.offset));
        self.float(work.norm.map_or(0.0, |norm| norm.eps));
        // The enum's order is the kernel's.
        self.bytes.extend(work.glu.map_or(-1, |activation| activation as i32).to_le_bytes());
        Ok(())
    }

    fn attention(
        &mut self,
        work: &DecodeAttention,
        operands: &[(u64, bool)],
        out: (u64, u64),
        partials: u64,
    ) -> Result<(), CudaError> {
        let AttentionShape { heads, kv_heads, head_dim, scale, soft_cap, .. } = work.shape;
        let window = match work.mask {
            AttentionMask::Window { left, .. } => (left as usize + 1).min(i32::MAX as usize),
            _ => i32::MAX as usize,
        };
        let rope = work.rope;
        let numbers = [
            1,
            heads,
            kv_heads,
            head_dim,
            window,
            rope.map_or(0, |rope| rope.dims),
            usize::from(rope.is_some_and(|rope| rope.interleaved)),
            work.cache.pages(),
            sequences(&work.rows),
            work.rows.max_pages,
            work.rows.bound_pages,
            room(&work.rows),
        ];
        for number in numbers {
            self.int("a size", number)?;
        }
        let norms = [work.q_norm, work.k_norm];
        self.float(scale);
        self.float(soft_cap.unwrap_or(0.0));
        for norm in norms {
            self.float(norm.map_or(0.0, |norm| norm.offset));
            self.float(norm.map_or(0.0, |norm| norm.eps));
        }
        self.address(0);
        for operand in operands {
            self.operand(Some(operand));
        }
        for norm in norms {
            self.tensor(norm.map(|norm| norm.weight));
        }
        self.tensor(rope.map(|rope| rope.cos));
        self.tensor(rope.map(|rope| rope.sin));
        self.tensor(Some(work.cache.tensor()));
        self.tensor(Some(work.rows.block_table));
        self.tensor(Some(work.rows.row_sequence));
        self.tensor(Some(work.rows.positions));
        self.address(partials);
        self.address(out.0);
        self.address(out.1);
        Ok(())
    }
}
