//! Attention by NVIDIA's cuDNN, where it is installed: flash attention tuned for each generation of GPUs.
//!
//! cuDNN takes a graph of operations and compiles a kernel for it, a plan, in about a second. A plan fits one batch,
//! one length and one set of heads, so plans are kept, and sequences of different lengths are rounded up to few sizes
//! ([`Cudnn::attention`]). Once a plan exists, a call neither allocates nor waits, and can be captured in a graph.

mod attention;
mod graph;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cudnn::sys;
use cudarc::driver::CudaStream;

use self::attention::Problem;
use self::graph::{Operand, check};
use self::plan::{Plan, Target};
use super::{CudaError, Device, Dtype, Source, Tensor, library};
use crate::{AttentionMask, AttentionShape};

static SEQUENCES: Source = Source { name: "cudnn", text: include_str!("../../cuda/cudnn.cu") };

/// 9.10.2: earlier ones take no infinite scores, and 9.10.0 and 9.10.1 have wrong attention kernels (NVIDIA's own front end
/// refuses them).
const OLDEST: usize = 91_002;

/// Where rows of different sequences lie: end to end, in the order of `lengths`.
#[derive(Debug, Clone)]
pub struct CudnnSequences {
    /// Rows of each sequence.
    pub lengths: Vec<u32>,
    /// u32 `[lengths.len() + 1]`: the first row of each sequence, and the number of all rows.
    pub starts: Tensor,
}

impl CudnnSequences {
    /// Rows of all sequences.
    pub fn rows(&self) -> usize {
        self.lengths.iter().map(|&length| length as usize).sum()
    }

    fn longest(&self) -> i64 {
        self.lengths.iter().copied().max().map_or(0, i64::from)
    }

    /// Sequences are equally long, and so long that a plan for just this length is worth making.
    fn are_equal(&self) -> bool {
        let longest = self.longest();
        longest == step(longest) && self.lengths.iter().all(|&length| i64::from(length) == longest)
    }
}

/// The next length for which plans are made: multiples of 128 up to 1024, then four for each doubling.
fn step(length: i64) -> i64 {
    let length = length.max(1) as u64;
    let doubling = length.next_power_of_two() / 2;
    length.next_multiple_of((doubling / 4).max(128)) as i64
}

/// cuDNN's handle, bound to a device's stream.
struct Handle {
    raw: sys::cudnnHandle_t,
    stream: Arc<CudaStream>,
}

// SAFETY: a handle may move between threads; it is used behind a lock, by one at a time.
unsafe impl Send for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: created by `Cudnn::open` and destroyed once. A failure leaves nothing to do.
            let _ = unsafe { sys::cudnnDestroy(self.raw) };
        }
    }
}

struct State {
    // Dropped before the handle that they were made with.
    plans: HashMap<Problem, Plan>,
    handle: Handle,
}

/// cuDNN for one device.
pub struct Cudnn {
    state: Mutex<State>,
    version: usize,
    capability: (u32, u32),
    fixed_order_scratch: usize,
}

impl std::fmt::Debug for Cudnn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cudnn({})", self.version)
    }
}

impl Cudnn {
    /// Loads cuDNN for `device`.
    ///
    /// # Errors
    /// When it is not on this machine, too old, or does not start.
    pub fn open(device: &Device) -> Result<Self, CudaError> {
        library::cudnn()?;
        // SAFETY: the library is present, and the function takes nothing.
        let version = unsafe { sys::cudnnGetVersion() };
        if version < OLDEST {
            return Err(CudaError::invalid(format!(
                "cuDNN {version} is too old, attention needs {OLDEST} (9.10.2): update the package nvidia-cudnn-cu13"
            )));
        }
        device.bind()?;
        let mut raw = std::ptr::null_mut();
        // SAFETY: `raw` is written by the call.
        check(unsafe { sys::cudnnCreate(&mut raw) }, || "creating a handle".into())?;
        let handle = Handle { raw, stream: device.stream().clone() };
        // SAFETY: handle and stream are alive; `Handle` keeps the stream.
        check(unsafe { sys::cudnnSetStream(raw, handle.stream.cu_stream().cast()) }, || "setting the stream".into())?;
        Ok(Self {
            state: Mutex::new(State { plans: HashMap::new(), handle }),
            version,
            capability: device.compute_capability(),
            fixed_order_scratch: 4 << 30,
        })
    }

    /// cuDNN's version: 91900 is 9.19.0.
    pub fn version(&self) -> usize {
        self.version
    }

    /// Plans made so far. Each takes about a second, so batches of ever new lengths must not make ever new ones.
    pub fn plans(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).plans.len()
    }

    /// Gradients add in a fixed order, so that the same input gives the same bits, if that takes at most so many bytes of
    /// scratch; 0 is never. Unless said otherwise, 4 GiB. See [`Cudnn::is_deterministic`].
    #[must_use]
    pub fn with_fixed_order_scratch(mut self, bytes: usize) -> Self {
        self.fixed_order_scratch = bytes;
        self
    }

    /// Whether a gradient adds in a fixed order. cuDNN then stores the gradient of all scores, 2 bytes for each pair of a
    /// query and a key in every sequence and head, where sequences count as the longest and are filled up in number.
    /// Otherwise parts of a query's gradient are added in f32 in the order in which they are done. The forward pass is
    /// always deterministic.
    pub fn is_deterministic(&self, sequences: &CudnnSequences, shape: &AttentionShape) -> bool {
        let problem = problem(sequences, shape, Dtype::Bf16, AttentionMask::All, true);
        self.has_fixed_order(&problem)
    }

    fn has_fixed_order(&self, problem: &Problem) -> bool {
        problem.score_bytes().is_some_and(|bytes| bytes <= self.fixed_order_scratch)
    }

    /// Whether [`Cudnn::attention`] and [`Cudnn::attention_grad`] take these.
    pub fn supports(&self, dtype: Dtype, shape: &AttentionShape, mask: AttentionMask) -> bool {
        supported(self.capability, dtype, shape, mask).is_ok()
    }

    /// Attention of each sequence with itself, as [`crate::attention`]: `q[rows, heads, head_dim]`,
    /// `k[rows, kv_heads, head_dim]`, `v[rows, kv_heads, value_dim]`, `out[rows, heads, value_dim]` of one 16-bit type, and
    /// `logsumexp[rows, heads]` in f32. Addresses are multiples of 16.
    ///
    /// Sequences of one length that is a plan's own (128, 256, ... 1024, 1280, ...) go through a dense
    /// plan. All others go through a plan for packed sequences, whose batch is the next power of two and whose length is the
    /// next size, so that few plans serve all batches of a training.
    ///
    /// # Errors
    /// When operands do not fit together, when [`Cudnn::supports`] says no, or when cuDNN fails.
    pub fn attention(
        &self,
        device: &Device,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sequences: &CudnnSequences,
        shape: &AttentionShape,
        mask: AttentionMask,
        out: Tensor,
        logsumexp: Tensor,
    ) -> Result<(), CudaError> {
        let rows = sequences.rows();
        let dtype = q.dtype();
        let (queries, keys) = (rows * shape.heads, rows * shape.kv_heads);
        let operands = [
            (Operand::Query, q, "q", queries * shape.head_dim, dtype),
            (Operand::Key, k, "k", keys * shape.head_dim, dtype),
            (Operand::Value, v, "v", keys * shape.value_dim, dtype),
            (Operand::Out, out, "out", queries * shape.value_dim, dtype),
            (Operand::LogSumExp, logsumexp, "logsumexp", queries, Dtype::F32),
        ];
        let problem = problem(sequences, shape, dtype, mask, false);
        self.run(device, "cudnn_attention", problem, sequences, shape, mask, &operands)
    }

    /// Gradients of [`Cudnn::attention`], from its `out` and `logsumexp`; `dq`, `dk` and `dv` are overwritten. Shapes as
    /// there. Whether it adds in a fixed order is said by [`Cudnn::is_deterministic`].
    ///
    /// # Errors
    /// As [`Cudnn::attention`], and when there is no memory for the scratch.
    pub fn attention_grad(
        &self,
        device: &Device,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        logsumexp: Tensor,
        dout: Tensor,
        sequences: &CudnnSequences,
        shape: &AttentionShape,
        mask: AttentionMask,
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
    ) -> Result<(), CudaError> {
        let rows = sequences.rows();
        let dtype = q.dtype();
        let (queries, keys) = (rows * shape.heads, rows * shape.kv_heads);
        let operands = [
            (Operand::Query, q, "q", queries * shape.head_dim, dtype),
            (Operand::Key, k, "k", keys * shape.head_dim, dtype),
            (Operand::Value, v, "v", keys * shape.value_dim, dtype),
            (Operand::Out, out, "out", queries * shape.value_dim, dtype),
            (Operand::LogSumExp, logsumexp, "logsumexp", queries, Dtype::F32),
            (Operand::OutGrad, dout, "dout", queries * shape.value_dim, dtype),
            (Operand::QueryGrad, dq, "dq", queries * shape.head_dim, dtype),
            (Operand::KeyGrad, dk, "dk", keys * shape.head_dim, dtype),
            (Operand::ValueGrad, dv, "dv", keys * shape.value_dim, dtype),
        ];
        let mut problem = problem(sequences, shape, dtype, mask, true);
        problem.deterministic = self.has_fixed_order(&problem);
        self.run(device, "cudnn_attention_grad", problem, sequences, shape, mask, &operands)
    }

    fn run(
        &self,
        device: &Device,
        name: &'static str,
        problem: Problem,
        sequences: &CudnnSequences,
        shape: &AttentionShape,
        mask: AttentionMask,
        operands: &[(Operand, Tensor, &str, usize, Dtype)],
    ) -> Result<(), CudaError> {
        supported(self.capability, operands[0].4, shape, mask)
            .map_err(|reason| CudaError::invalid(format!("{name}: cuDNN does not take {reason}")))?;
        for &(_, tensor, operand, elements, dtype) in operands {
            if tensor.elements() != elements || tensor.dtype() != dtype {
                return Err(CudaError::invalid(format!(
                    "{name}: {operand} has {} elements of {:?}, not {elements} of {dtype:?}",
                    tensor.elements(),
                    tensor.dtype()
                )));
            }
            if elements > 0 && !tensor.address().is_multiple_of(16) {
                return Err(CudaError::invalid(format!("{name}: the address of {operand} is no multiple of 16")));
            }
        }
        let starts = sequences.starts;
        if starts.dtype() != Dtype::U32 || starts.elements() != sequences.lengths.len() + 1 {
            return Err(CudaError::invalid(format!(
                "{name}: starts has {} elements of {:?}, not {} of U32",
                starts.elements(),
                starts.dtype(),
                sequences.lengths.len() + 1
            )));
        }
        let rows = sequences.rows();
        if rows == 0 {
            return Ok(());
        }

        device.bind()?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if device.stream().cu_stream() != state.handle.stream.cu_stream() {
            return Err(CudaError::invalid(format!("{name}: cuDNN was opened for another device")));
        }
        let (plan, handle) = state.plan(problem)?;

        // Scratch: cuDNN's own, the gradient's operands of the graph, and what describes packed sequences.
        let mut bytes = 0;
        let mut place = |size: usize| {
            let at = bytes;
            bytes += size.next_multiple_of(256);
            at
        };
        let own = place(plan.workspace);
        let scratch = problem.scratch(rows as i64).map(|(operand, size)| {
            let is_used = plan.operands().contains(&operand);
            (operand, is_used.then(|| place(size as usize)))
        });
        let batch = problem.batch as usize;
        let described = problem.packed.then(|| [(); 6].map(|()| place((batch + 1) * 8)));
        let workspace = device.workspace(bytes)?;
        let at = |offset: usize| workspace.address() + offset as u64;

        if let Some(described) = described {
            let width = |heads: usize, dim: usize| (heads * dim) as i32;
            let line = |index: usize| workspace.slice(described[index], (batch + 1) * 8).into();
            let args = [
                starts.into(),
                (sequences.lengths.len() as i32).into(),
                (batch as i32).into(),
                width(shape.heads, shape.head_dim).into(),
                width(shape.kv_heads, shape.head_dim).into(),
                width(shape.kv_heads, shape.value_dim).into(),
                width(shape.heads, shape.value_dim).into(),
                width(shape.heads, 1).into(),
                line(0),
                line(1),
                line(2),
                line(3),
                line(4),
                line(5),
            ];
            let blocks = (batch + 1).div_ceil(128) as u32;
            device.launch(&SEQUENCES, "cudnn_sequences", Dtype::F32, [blocks, 1, 1], 128, 0, &args)?;
        }

        let (scale, one, hidden) = (shape.scale, 1.0f32, f32::NEG_INFINITY);
        let number = |x: &f32| std::ptr::from_ref(x).cast_mut().cast::<c_void>();
        let address = |operand: Operand| -> Option<*mut c_void> {
            let line = |index: usize| described.map(|offsets| at(offsets[index]));
            let address = match operand {
                Operand::Scale => return Some(number(&scale)),
                Operand::One => return Some(number(&one)),
                Operand::Hidden => return Some(number(&hidden)),
                Operand::QueryStarts => line(0)?,
                Operand::KeyStarts => line(1)?,
                Operand::ValueStarts => line(2)?,
                Operand::OutStarts => line(3)?,
                Operand::LogSumExpStarts => line(4)?,
                Operand::QueryLengths | Operand::KeyLengths => line(5)?,
                _ => operands.iter().find(|given| given.0 == operand).map(|given| given.1.address()).or_else(|| {
                    let offset = scratch.iter().find(|(role, _)| *role == operand)?.1?;
                    Some(at(offset))
                })?,
            };
            Some(address as *mut c_void)
        };
        let pack = plan.pack(address, at(own) as *mut c_void)?;
        let moved = operands.iter().map(|given| given.1.bytes()).sum();
        device.profiled(name, moved, flops(sequences, shape, &problem), || plan.execute(handle, &pack))
    }
}

impl State {
    /// The plan for a problem, made at its first use, and the handle to execute it with.
    fn plan(&mut self, problem: Problem) -> Result<(&Plan, sys::cudnnHandle_t), CudaError> {
        let handle = self.handle.raw;
        let plan = match self.plans.entry(problem) {
            Entry::Occupied(plan) => plan.into_mut(),
            Entry::Vacant(place) => place.insert(Plan::build(&Target::Handle(handle), problem.graph()?)?),
        };
        Ok((plan, handle))
    }
}

fn problem(
    sequences: &CudnnSequences,
    shape: &AttentionShape,
    dtype: Dtype,
    mask: AttentionMask,
    gradient: bool,
) -> Problem {
    let packed = !sequences.are_equal();
    let count = sequences.lengths.len();
    Problem {
        gradient,
        deterministic: false,
        half: dtype == Dtype::F16,
        causal: mask == AttentionMask::Causal,
        packed,
        batch: if packed { count.next_power_of_two() } else { count } as i64,
        length: step(sequences.longest()),
        heads: shape.heads as i64,
        kv_heads: shape.kv_heads as i64,
        head_dim: shape.head_dim as i64,
        value_dim: shape.value_dim as i64,
    }
}

/// What of this cuDNN does not take, if anything.
fn supported(capability: (u32, u32), dtype: Dtype, shape: &AttentionShape, mask: AttentionMask) -> Result<(), String> {
    let widest = if capability.0 == 9 { 256 } else { 128 };
    let fits = |width: usize| width > 0 && width.is_multiple_of(8) && width <= widest;
    if capability < (9, 0) {
        // Packed sequences need Hopper's kernels.
        return Err(format!("GPUs of compute capability {}.{}, only from 9.0 on", capability.0, capability.1));
    }
    if !matches!(dtype, Dtype::Bf16 | Dtype::F16) {
        return Err(format!("{dtype:?}, only Bf16 and F16"));
    }
    if shape.kv_heads == 0 || !shape.heads.is_multiple_of(shape.kv_heads) {
        return Err(format!("{} heads over {} key-value heads", shape.heads, shape.kv_heads));
    }
    if !fits(shape.head_dim) || !fits(shape.value_dim) {
        let (keys, values) = (shape.head_dim, shape.value_dim);
        return Err(format!("heads of {keys} and {values}, only multiples of 8 up to {widest}"));
    }
    if let Some(cap) = shape.soft_cap {
        return Err(format!("scores capped at {cap}"));
    }
    if let AttentionMask::Window { .. } = mask {
        return Err("a window of keys".into());
    }
    Ok(())
}

/// Floating-point operations of the products, of which a causal mask leaves half.
fn flops(sequences: &CudnnSequences, shape: &AttentionShape, problem: &Problem) -> f64 {
    let pairs: f64 = sequences.lengths.iter().map(|&length| f64::from(length).powi(2)).sum();
    let forward = 2.0 * pairs * (shape.heads * (shape.head_dim + shape.value_dim)) as f64;
    forward * if problem.gradient { 2.5 } else { 1.0 } * if problem.causal { 0.5 } else { 1.0 }
}
