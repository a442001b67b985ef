//! Attention over packed sequences on the GPU: own kernels for every width, mask and soft cap.
//!
//! Scores are never stored: tiles of them live in registers (Dao, arXiv:2307.08691), so memory is linear in the rows.
//! 16-bit elements of common widths go through tensor cores; everything else, f32 among it, through f32 arithmetic. A block
//! owns what it writes, and every sum has a fixed order.

use super::compile::Source;
use super::device::{Arg, Device};
use super::error::CudaError;
use super::norm::{aligned, expect, size};
use super::tensor::{Dtype, Tensor};
use crate::{AttentionMask, AttentionShape};

/// Sequences laid end to end. Everything but `starts` decides how much is launched; `starts` is read on the device, so that
/// a captured graph can be replayed with other lengths.
#[derive(Debug, Clone, Copy)]
pub struct Sequences {
    /// u32 `[count + 1]`: the row where each sequence begins, and `rows`. Sequences may be empty. Rows before the first
    /// or behind the last belong to no sequence, and nothing is written to them.
    pub starts: Tensor,
    /// Number of sequences.
    pub count: usize,
    /// Rows of the longest sequence.
    pub longest: usize,
    /// Rows of the operands.
    pub rows: usize,
}

static FORWARD: Source = Source {
    name: "attention",
    text: concat!(
        include_str!("../../cuda/attention.cuh"),
        include_str!("../../cuda/attention_tiles.cuh"),
        include_str!("../../cuda/attention.cu")
    ),
};
static BACKWARD: Source = Source {
    name: "attention_grad",
    text: concat!(
        include_str!("../../cuda/attention.cuh"),
        include_str!("../../cuda/attention_tiles.cuh"),
        include_str!("../../cuda/attention_grad.cu")
    ),
};
static DELTA: Source = Source {
    name: "attention_delta",
    text: concat!(include_str!("../../cuda/attention.cuh"), include_str!("../../cuda/attention_delta.cu")),
};

/// Rows of a tile of the general kernels, columns of their results in one block, and threads.
const GENERAL_ROWS: usize = 64;
const GENERAL_COLUMNS: usize = 128;
const GENERAL_THREADS: u32 = 256;

/// How a tensor-core kernel divides its work: a warp has `row_tiles` tiles of 16 rows, and `columns` of the other side
/// are in shared memory at a time.
struct Tiles {
    row_tiles: usize,
    warps: usize,
    columns: usize,
}

impl Tiles {
    fn rows(&self) -> usize {
        self.row_tiles * self.warps * 16
    }

    fn threads(&self) -> u32 {
        self.warps as u32 * 32
    }
}

/// The tensor-core kernels for one pair of widths.
struct TensorCores {
    head_dim: usize,
    value_dim: usize,
    forward: Source,
    backward: Source,
    /// The forward kernel, and those for dq and for dk and dv.
    out: Tiles,
    dq: Tiles,
    dkv: Tiles,
    /// Whether dk and dv are made by different blocks, because the registers do not hold both.
    split: bool,
}

macro_rules! tensor_cores {
    ($($d:literal x $v:literal: out $om:literal $ow:literal $oc:literal, dq $qm:literal $qw:literal $qc:literal,
       dkv $km:literal $kw:literal $kc:literal by $chunk:literal, split $split:literal;)*) => {
        [$(TensorCores {
            head_dim: $d,
            value_dim: $v,
            forward: Source {
                name: concat!("attention_mma_", $d, "_", $v),
                text: concat!(
                    "#define HEAD_DIM ", $d, "\n#define VALUE_DIM ", $v,
                    "\n#define ROW_TILES ", $om, "\n#define WARPS ", $ow, "\n#define TILE_KEYS ", $oc, "\n",
                    include_str!("../../cuda/attention.cuh"),
                    include_str!("../../cuda/tensor_core.cuh"),
                    include_str!("../../cuda/attention_mma.cu")
                ),
            },
            backward: Source {
                name: concat!("attention_mma_grad_", $d, "_", $v),
                text: concat!(
                    "#define HEAD_DIM ", $d, "\n#define VALUE_DIM ", $v,
                    "\n#define QUERY_TILES ", $qm, "\n#define QUERY_WARPS ", $qw, "\n#define QUERY_KEYS ", $qc,
                    "\n#define KEY_TILES ", $km, "\n#define KEY_WARPS ", $kw, "\n#define KEY_QUERIES ", $kc,
                    "\n#define KEY_CHUNK ", $chunk, "\n#define SPLIT ", $split, "\n",
                    include_str!("../../cuda/attention.cuh"),
                    include_str!("../../cuda/tensor_core.cuh"),
                    include_str!("../../cuda/attention_mma_grad.cu")
                ),
            },
            out: Tiles { row_tiles: $om, warps: $ow, columns: $oc },
            dq: Tiles { row_tiles: $qm, warps: $qw, columns: $qc },
            dkv: Tiles { row_tiles: $km, warps: $kw, columns: $kc },
            split: $split == 1,
        }),*]
    };
}

// The largest tiles whose accumulators and operands fit a thread's 255 registers, with two blocks on a multiprocessor of
// compute capability 9.0 up to a width of 128.
static TENSOR_CORES: [TensorCores; 8] = tensor_cores! {
    32 x 32: out 2 4 64, dq 2 4 64, dkv 2 4 64 by 32, split 0;
    64 x 64: out 2 4 64, dq 2 4 64, dkv 2 4 64 by 16, split 0;
    80 x 80: out 2 4 64, dq 2 4 32, dkv 1 4 64 by 64, split 0;
    96 x 96: out 2 4 64, dq 2 4 32, dkv 1 4 64 by 32, split 0;
    128 x 128: out 2 4 64, dq 2 4 32, dkv 1 4 64 by 32, split 0;
    192 x 128: out 2 4 32, dq 1 8 32, dkv 1 8 32 by 32, split 1;
    192 x 192: out 1 8 64, dq 1 8 32, dkv 1 8 32 by 32, split 1;
    256 x 256: out 1 8 64, dq 1 8 32, dkv 1 8 32 by 32, split 1;
};

impl TensorCores {
    /// Bytes of a row of one operand of each width in shared memory: 16 more than its elements take.
    fn pitch(&self) -> usize {
        2 * (self.head_dim + 8 + self.value_dim + 8)
    }

    /// Bytes of shared memory: the queries and two stages of keys and values.
    fn out_bytes(&self) -> usize {
        self.out.rows() * 2 * (self.head_dim + 8) + 2 * self.out.columns * self.pitch()
    }

    /// The queries with the outputs' gradient, and two stages of keys and values.
    fn dq_bytes(&self) -> usize {
        (self.dq.rows() + 2 * self.dq.columns) * self.pitch()
    }

    /// Keys and values, and two stages of queries with the outputs' gradient and their statistics.
    fn dkv_bytes(&self) -> usize {
        (self.dkv.rows() + 2 * self.dkv.columns) * self.pitch() + 2 * self.dkv.columns * 8
    }

    /// The kernels for these operands, if there are any.
    fn find(device: &Device, shape: &AttentionShape, dtype: Dtype, operands: &[Tensor]) -> Option<&'static Self> {
        let shared = shared_memory(device.compute_capability());
        TENSOR_CORES.iter().find(|kernels| {
            (kernels.head_dim, kernels.value_dim) == (shape.head_dim, shape.value_dim)
                && matches!(dtype, Dtype::Bf16 | Dtype::F16)
                // The running maximum is that of unscaled scores.
                && shape.scale > 0.0
                && operands.iter().all(|operand| aligned(*operand))
                && kernels.out_bytes().max(kernels.dq_bytes()).max(kernels.dkv_bytes()) <= shared
        })
    }
}

/// Bytes of shared memory that a block may have; none where the tensor cores lack bf16 (CUDA programming guide, "Technical
/// Specifications per Compute Capability").
fn shared_memory(capability: (u32, u32)) -> usize {
    1024 * match capability {
        (..8, _) => 0,
        (8, 0 | 7) => 163,
        (8, _) | (12.., _) => 99,
        _ => 227,
    }
}

/// What all kernels are told of sizes, the mask and the soft cap.
struct Launch<'a> {
    name: &'static str,
    sequences: &'a Sequences,
    shape: &'a AttentionShape,
    soft_cap: f32,
    left: i32,
    right: i32,
}

impl<'a> Launch<'a> {
    fn new(
        name: &'static str,
        sequences: &'a Sequences,
        shape: &'a AttentionShape,
        mask: AttentionMask,
    ) -> Result<Self, CudaError> {
        // Sums of two positions and two bounds stay below 2^31.
        const UNBOUNDED: u32 = 1 << 30;
        let fail = |what: String| Err(CudaError::invalid(format!("{name}: {what}")));
        if shape.kv_heads == 0 || !shape.heads.is_multiple_of(shape.kv_heads) || shape.heads > 65535 {
            return fail(format!(
                "{} heads are no multiple of {} key-value heads, or more than 65535",
                shape.heads, shape.kv_heads
            ));
        }
        if shape.head_dim == 0 || shape.value_dim == 0 || shape.head_dim.max(shape.value_dim) > 1 << 20 {
            return fail(format!("head_dim {} and value_dim {} are no widths", shape.head_dim, shape.value_dim));
        }
        if sequences.rows >= UNBOUNDED as usize || sequences.count >= UNBOUNDED as usize {
            return fail(format!("{} rows of {} sequences are too many", sequences.rows, sequences.count));
        }
        expect(name, "starts", sequences.starts, sequences.count + 1, Dtype::U32)?;
        let soft_cap = match shape.soft_cap {
            None => 0.0,
            Some(cap) if cap != 0.0 && cap.is_finite() => cap.abs(),
            Some(cap) => return fail(format!("a soft cap of {cap} leaves no scores")),
        };
        let (left, right) = match mask {
            AttentionMask::All => (UNBOUNDED, UNBOUNDED),
            AttentionMask::Causal => (UNBOUNDED, 0),
            AttentionMask::Window { left, right } => (left.min(UNBOUNDED), right.min(UNBOUNDED)),
        };
        Ok(Self { name, sequences, shape, soft_cap, left: left as i32, right: right as i32 })
    }

    /// Blocks along the rows, if each takes `rows` rows of one sequence: see `find_tile` in attention.cuh.
    fn slots(&self, rows: usize) -> u32 {
        (self.sequences.rows / rows + self.sequences.count) as u32
    }

    /// Sizes, mask and soft cap; the widths only where the kernels do not know them.
    fn arguments(&self, widths: bool) -> Result<Vec<Arg>, CudaError> {
        let shape = self.shape;
        let number = |what, value| size(self.name, what, value).map(Arg::from);
        let mut arguments = vec![
            self.sequences.starts.into(),
            number("count", self.sequences.count)?,
            number("rows", self.sequences.rows)?,
            number("heads", shape.heads)?,
            number("kv_heads", shape.kv_heads)?,
        ];
        if widths {
            arguments.extend([number("head_dim", shape.head_dim)?, number("value_dim", shape.value_dim)?]);
        }
        arguments.extend::<[Arg; 4]>([shape.scale.into(), self.soft_cap.into(), self.left.into(), self.right.into()]);
        Ok(arguments)
    }

    /// Checks an operand of `heads` rows of `width` for each row of the sequences.
    fn operand(
        &self,
        what: &'static str,
        tensor: Tensor,
        heads: usize,
        width: usize,
        dtype: Dtype,
    ) -> Result<(), CudaError> {
        expect(self.name, what, tensor, self.sequences.rows * heads * width, dtype)
    }
}

/// Attention of each sequence with itself, as [`crate::attention`]: `q[rows, heads, head_dim]`,
/// `k[rows, kv_heads, head_dim]`, `v[rows, kv_heads, value_dim]` of one type; writes `out[rows, heads, value_dim]` of the
/// same type and `logsumexp[rows, heads]` (f32). A query that sees no key gives zeros and minus infinity.
///
/// # Errors
/// When lengths or types do not fit.
pub fn attention(
    device: &Device,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sequences: &Sequences,
    shape: &AttentionShape,
    mask: AttentionMask,
    out: Tensor,
    logsumexp: Tensor,
) -> Result<(), CudaError> {
    let launch = Launch::new("attention", sequences, shape, mask)?;
    let dtype = q.dtype();
    launch.operand("q", q, shape.heads, shape.head_dim, dtype)?;
    launch.operand("k", k, shape.kv_heads, shape.head_dim, dtype)?;
    launch.operand("v", v, shape.kv_heads, shape.value_dim, dtype)?;
    launch.operand("out", out, shape.heads, shape.value_dim, dtype)?;
    launch.operand("logsumexp", logsumexp, shape.heads, 1, Dtype::F32)?;
    if sequences.rows == 0 || shape.heads == 0 {
        return Ok(());
    }
    let heads = shape.heads as u32;
    let kernels = TensorCores::find(device, shape, dtype, &[q, k, v, out]);
    let mut arguments: Vec<Arg> = vec![q.into(), k.into(), v.into()];
    arguments.extend(launch.arguments(kernels.is_none())?);
    arguments.extend::<[Arg; 2]>([out.into(), logsumexp.into()]);
    if let Some(kernels) = kernels {
        let tiles = &kernels.out;
        let grid = [launch.slots(tiles.rows()), heads, 1];
        let bytes = kernels.out_bytes() as u32;
        return device.launch(&kernels.forward, "attention_mma", dtype, grid, tiles.threads(), bytes, &arguments);
    }
    let grid = [launch.slots(GENERAL_ROWS), heads, shape.value_dim.div_ceil(GENERAL_COLUMNS) as u32];
    device.launch(&FORWARD, "attention", dtype, grid, GENERAL_THREADS, 0, &arguments)
}

/// Gradients of [`attention`] from its `out` and `logsumexp`, as [`crate::attention_grad`]; `dq`, `dk` and `dv` are of the
/// operands' type and are overwritten. Takes `8 * rows * heads` bytes of scratch.
///
/// # Errors
/// When lengths or types do not fit, or there is no memory for the scratch.
pub fn attention_grad(
    device: &Device,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    dout: Tensor,
    sequences: &Sequences,
    shape: &AttentionShape,
    mask: AttentionMask,
    dq: Tensor,
    dk: Tensor,
    dv: Tensor,
) -> Result<(), CudaError> {
    let launch = Launch::new("attention_grad", sequences, shape, mask)?;
    let dtype = q.dtype();
    for (what, tensor) in [("q", q), ("dq", dq)] {
        launch.operand(what, tensor, shape.heads, shape.head_dim, dtype)?;
    }
    for (what, tensor) in [("k", k), ("dk", dk)] {
        launch.operand(what, tensor, shape.kv_heads, shape.head_dim, dtype)?;
    }
    for (what, tensor) in [("v", v), ("dv", dv)] {
        launch.operand(what, tensor, shape.kv_heads, shape.value_dim, dtype)?;
    }
    for (what, tensor) in [("out", out), ("dout", dout)] {
        launch.operand(what, tensor, shape.heads, shape.value_dim, dtype)?;
    }
    launch.operand("logsumexp", logsumexp, shape.heads, 1, Dtype::F32)?;
    if sequences.rows == 0 || shape.heads == 0 {
        return Ok(());
    }
    let (heads, kv_heads) = (shape.heads as u32, shape.kv_heads as u32);
    let pairs = sequences.rows * shape.heads;
    let statistics = device.workspace(pairs * 8)?.cast(Dtype::F32);
    let value_dim = size("attention_grad", "value_dim", shape.value_dim)?;
    let packed = shape.value_dim.is_multiple_of(16 / dtype.size()) && aligned(out) && aligned(dout);
    let arguments = [
        out.into(),
        dout.into(),
        logsumexp.into(),
        (pairs as u64).into(),
        value_dim.into(),
        i32::from(packed).into(),
        statistics.into(),
    ];
    let blocks = u32::try_from(pairs.div_ceil(16)).ok().filter(|blocks| *blocks < 1 << 31);
    let blocks =
        blocks.ok_or_else(|| CudaError::invalid(format!("attention_grad: {pairs} rows of heads are too many")))?;
    device.launch(&DELTA, "attention_delta", dtype, [blocks, 1, 1], 256, 0, &arguments)?;

    if let Some(kernels) = TensorCores::find(device, shape, dtype, &[q, k, v, dout, dq, dk, dv]) {
        let mut operands: Vec<Arg> = vec![q.into(), k.into(), v.into(), statistics.into(), dout.into()];
        operands.extend(launch.arguments(false)?);
        let (source, tiles) = (&kernels.backward, &kernels.dq);
        let grid = [launch.slots(tiles.rows()), heads, 1];
        let arguments = [operands.clone(), vec![dq.into()]].concat();
        let bytes = kernels.dq_bytes() as u32;
        device.launch(source, "attention_mma_dq", dtype, grid, tiles.threads(), bytes, &arguments)?;
        let tiles = &kernels.dkv;
        let grid = [launch.slots(tiles.rows()), kv_heads, 1 + u32::from(kernels.split)];
        let arguments = [operands, vec![dk.into(), dv.into()]].concat();
        let bytes = kernels.dkv_bytes() as u32;
        return device.launch(source, "attention_mma_dkv", dtype, grid, tiles.threads(), bytes, &arguments);
    }
    let mut operands: Vec<Arg> = vec![q.into(), k.into(), v.into(), logsumexp.into(), statistics.into(), dout.into()];
    operands.extend(launch.arguments(true)?);
    let slots = launch.slots(GENERAL_ROWS);
    for (kernel, heads, width, gradient) in [
        ("attention_dq", heads, shape.head_dim, dq),
        ("attention_dk", kv_heads, shape.head_dim, dk),
        ("attention_dv", kv_heads, shape.value_dim, dv),
    ] {
        let grid = [slots, heads, width.div_ceil(GENERAL_COLUMNS) as u32];
        let arguments = [operands.clone(), vec![gradient.into()]].concat();
        device.launch(&BACKWARD, kernel, dtype, grid, GENERAL_THREADS, 0, &arguments)?;
    }
    Ok(())
}
