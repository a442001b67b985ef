//! Runs a program's steps with the CUDA kernels. The one place where actions meet them.

use swift_graph::ir::{MaskRule, Op};
use swift_graph::program::{Action, Slot, Step};
use swift_graph::shape::{self, Broadcast};
use swift_graph::{Graph, Param, Value};
use swift_kernels::cuda::{self, Buffer, CrossEntropy, CudaError, Cudnn, Device, Dtype, Operand, Tensor};
use swift_kernels::{AttentionMask, AttentionShape};

use super::decode::Decode;
use super::feed::Feed;
use super::infer::Cached;
use super::layout::Layout;
use super::lower::{Kernel, Lowered};
use super::weights::CudaWeights;
use crate::bridge::{activation, binary_kernel, broadcast_kernel, commutes};
use crate::error::EngineError;

/// Bytes of logits at once.
pub(crate) const LOSS_CHUNK: usize = 512 << 20;

/// Rows up to which a quantised matrix is multiplied by as it is; beyond, it is dequantised first.
const QUANTIZED_ROWS: usize = 8;

/// What a run reads and writes.
pub(crate) struct Run<'a> {
    pub(crate) device: &'a Device,
    pub(crate) graph: &'a Graph,
    pub(crate) lowered: &'a Lowered,
    pub(crate) weights: &'a CudaWeights,
    pub(crate) layout: &'a Layout,
    /// Where the slots lie.
    pub(crate) memory: &'a Buffer,
    pub(crate) feed: &'a Feed,
    pub(crate) cudnn: Option<&'a Cudnn>,
    /// Room for the loss's logits.
    pub(crate) loss_scratch: Option<&'a Buffer>,
    /// Room for one dequantised matrix.
    pub(crate) matrix_scratch: Option<&'a Buffer>,
    /// Whether gradients are made; dropout is the identity elsewhere.
    pub(crate) training: bool,
    pub(crate) cached: Option<&'a Cached<'a>>,
}

/// Sizes and mask of an attention node.
pub(crate) fn attention_numbers(graph: &Graph, node: Value) -> Result<(AttentionShape, AttentionMask), CudaError> {
    let node = graph.node(node);
    let Op::Attention { mask, scale, soft_cap } = node.op else {
        return Err(CudaError::invalid("not an attention node"));
    };
    let (q, v) = (graph.ty(node.inputs[0]), graph.ty(node.inputs[2]));
    let shape = AttentionShape {
        heads: q.tail[0] as usize,
        kv_heads: v.tail[0] as usize,
        head_dim: q.tail[1] as usize,
        value_dim: v.tail[1] as usize,
        scale,
        soft_cap,
    };
    let mask = match mask {
        MaskRule::All => AttentionMask::All,
        MaskRule::Causal => AttentionMask::Causal,
        MaskRule::Window { left, right } => AttentionMask::Window { left, right },
    };
    Ok((shape, mask))
}

/// Where the slots of `rows` rows lie.
pub(crate) fn layout(lowered: &Lowered, rows: usize) -> Layout {
    Layout::new(&lowered.steps, lowered.slots.len(), |slot| {
        let info = lowered.slots[slot.0 as usize];
        info.width * if info.has_rows { rows } else { 1 } * lowered.types[slot.0 as usize].size()
    })
}

/// Heads and their width of a `[heads, d]` tail.
fn heads(graph: &Graph, node: Value) -> (usize, usize) {
    let tail = &graph.ty(node).tail;
    (tail[0] as usize, tail[1] as usize)
}

/// One axis of a tail: groups of `size` times `inner` elements.
fn split(tail: &[u32], axis: u32) -> (usize, usize) {
    let axis = axis as usize;
    (tail[axis] as usize, tail[axis + 1..].iter().map(|&n| n as usize).product())
}

impl Run<'_> {
    /// Enqueues all steps.
    pub(crate) fn run(&self) -> Result<(), EngineError> {
        for (name, _) in &self.lowered.inputs {
            if !matches!(name.as_str(), "tokens" | "positions") {
                return Err(EngineError::Input(name.clone()));
            }
        }
        for (step, kernel) in self.lowered.steps.iter().zip(&self.lowered.kernels) {
            match kernel {
                Kernel::Plain => self.step(step)?,
                fused => self.fused(step, fused)?,
            }
        }
        Ok(())
    }

    fn size(&self, slot: Slot) -> usize {
        let info = self.lowered.slots[slot.0 as usize];
        info.width * if info.has_rows { self.feed.rows() } else { 1 }
    }

    /// A slot's data.
    pub(crate) fn slot(&self, slot: Slot) -> Result<Tensor, CudaError> {
        if let Some((name, _)) = self.lowered.inputs.iter().find(|(_, s)| *s == slot) {
            return Ok(if name == "tokens" { self.feed.tokens() } else { self.feed.positions() });
        }
        let index = slot.0 as usize;
        let offset = self.layout.offsets[index].ok_or_else(|| CudaError::invalid("a slot without a place"))?;
        Ok(self.memory.at(offset, self.size(slot), self.lowered.types[index]))
    }

    fn matrix(&self, param: Param) -> Result<Tensor, EngineError> {
        self.weights.matrix(self.device, param, self.matrix_scratch)
    }

    fn vector(&self, param: Option<Param>) -> Result<Option<Tensor>, EngineError> {
        param.map(|p| self.weights.vector(p)).transpose()
    }

    fn gradient(&self, param: Param) -> Option<Tensor> {
        self.weights.arena.as_ref().filter(|_| self.training).and_then(|arena| arena.gradient(param))
    }

    /// The output of an accumulating step; it holds the accumulator already if the flag says so.
    fn accumulator(&self, step: &Step) -> Result<(Tensor, bool), CudaError> {
        let out = self.slot(step.outputs[0])?;
        let Some(index) = step.accumulate else { return Ok((out, false)) };
        if !step.reuse {
            self.device.copy(self.slot(step.inputs[index])?, out)?;
        }
        Ok((out, true))
    }

    fn step(&self, step: &Step) -> Result<(), EngineError> {
        if step.action == Action::Forward {
            return self.forward(step);
        }
        let (graph, device) = (self.graph, self.device);
        let node = graph.node(step.node);
        let input = |i: usize| self.slot(step.inputs[i]);
        let output = |i: usize| self.slot(step.outputs[i]);
        match step.action {
            Action::Forward => {}
            Action::HeadLoss => self.head_loss(step)?,
            Action::LinearGradInput { weight, scale } => {
                let shape = &graph.param(weight).shape;
                let (n, k) = (shape[0] as usize, shape[1] as usize);
                let (dx, accumulated) = self.accumulator(step)?;
                let dy = input(0)?;
                let (rows, beta) = (dy.elements() / n, if accumulated { 1.0 } else { 0.0 });
                let weight = self.weights.operand(device, weight, n, k, self.matrix_scratch)?;
                let (dy, dx) = (Operand::new(dy, rows, n), Operand::new(dx, rows, k));
                cuda::matmul(device, dy, false, weight, false, scale as f32, beta, None, dx)?;
            }
            Action::LinearGradWeight { weight, scale } => {
                let shape = &graph.param(weight).shape;
                let (n, k) = (shape[0] as usize, shape[1] as usize);
                if let Some(dw) = self.gradient(weight) {
                    let (dy, x) = (input(0)?, input(1)?);
                    cuda::linear_grad_weight(device, dy, x, dy.elements() / n, n, k, scale as f32, 1.0, dw)?;
                }
            }
            Action::BiasGrad { bias } => {
                if let Some(db) = self.gradient(bias) {
                    let (dy, n) = (input(0)?, db.elements());
                    cuda::column_sums(device, dy, dy.elements() / n, n, 1.0, db)?;
                }
            }
            Action::EmbedGrad { table } => {
                if let (Some(dt), Some(order)) = (self.gradient(table), &self.feed.order) {
                    cuda::embed_grad(device, order, input(1)?, node.ty.last(), dt)?;
                }
            }
            Action::ReadGrad { param } => {
                if let Some(d) = self.gradient(param) {
                    cuda::column_sums(device, input(0)?, 1, d.elements(), 1.0, d)?;
                }
            }
            Action::NormGrad => self.norm_grad(step)?,
            Action::SoftmaxGrad => {
                let (y, dy, width) = (input(0)?, input(1)?, node.ty.last());
                cuda::softmax_grad(device, y, dy, y.elements() / width, width, output(0)?, false)?;
            }
            Action::RopeGrad => self.rope(step, step.inputs[0], true)?,
            Action::AttentionGrad => self.attention_grad(step)?,
            Action::UnaryGrad => {
                if let Op::Unary(op) = node.op {
                    cuda::unary_grad(device, activation(op), input(0)?, input(1)?, output(0)?, false)?;
                }
            }
            Action::BinaryGrad { operand } => self.binary_grad(step, operand)?,
            Action::GluGrad => {
                if let Op::Glu(op) = node.op {
                    cuda::glu_grad(device, activation(op), input(0)?, input(1)?, input(2)?, output(0)?, output(1)?)?;
                }
            }
            Action::SliceGrad => {
                let (dx, accumulated) = self.accumulator(step)?;
                if !accumulated {
                    device.zero(dx)?;
                }
                if let Op::Slice { axis, start, end } = node.op {
                    let (size, inner) = split(&graph.ty(node.inputs[0]).tail, axis);
                    cuda::add_in(device, input(0)?, dx, size, inner, start as usize, end as usize)?;
                }
            }
            Action::ConcatGrad { operand } => {
                if let Op::Concat { axis } = node.op {
                    let width = |v: &Value| graph.ty(*v).tail[axis as usize] as usize;
                    let start: usize = node.inputs[..operand].iter().map(width).sum();
                    let end = start + width(&node.inputs[operand]);
                    let (size, inner) = split(&node.ty.tail, axis);
                    cuda::copy_out(device, input(0)?, size, inner, start, end, output(0)?)?;
                }
            }
            Action::DropoutGrad => self.dropout(step)?,
            Action::AddInto => {
                let (sum, _) = self.accumulator(step)?;
                cuda::add_assign(device, sum, input(1)?)?;
            }
        }
        Ok(())
    }

    /// Steps that stand for several of the program's.
    fn fused(&self, step: &Step, kernel: &Kernel) -> Result<(), EngineError> {
        let (graph, device) = (self.graph, self.device);
        let input = |i: usize| self.slot(step.inputs[i]);
        let output = |i: usize| self.slot(step.outputs[i]);
        match kernel {
            Kernel::Plain => self.step(step)?,
            Kernel::NormRope { norm } => {
                let Op::RmsNorm { weight, eps, offset } = graph.node(*norm).op else { return Ok(()) };
                let Op::Rope { dims, interleaved, .. } = graph.node(step.node).op else { return Ok(()) };
                let (cos, sin) = self.feed.rotation(step.node)?;
                let (heads, head_dim) = heads(graph, step.node);
                let weight = self.vector(weight)?;
                let (x, rows, dims) = (input(0)?, self.feed.rows(), dims as usize);
                cuda::norm_rope(
                    device,
                    x,
                    rows,
                    heads,
                    head_dim,
                    weight,
                    offset,
                    eps,
                    dims,
                    cos,
                    sin,
                    interleaved,
                    output(0)?,
                )?;
            }
            Kernel::NormRopeGrad { norm } => {
                let Op::RmsNorm { weight, eps, offset } = graph.node(*norm).op else { return Ok(()) };
                let Op::Rope { dims, interleaved, .. } = graph.node(step.node).op else { return Ok(()) };
                let (cos, sin) = self.feed.rotation(step.node)?;
                let (heads, head_dim) = heads(graph, step.node);
                let dweight = weight.and_then(|w| self.gradient(w));
                let weight = self.vector(weight)?;
                let (x, dy, rows, dims) = (input(0)?, input(1)?, self.feed.rows(), dims as usize);
                cuda::norm_rope_grad(
                    device,
                    x,
                    dy,
                    rows,
                    heads,
                    head_dim,
                    weight,
                    offset,
                    eps,
                    dims,
                    cos,
                    sin,
                    interleaved,
                    output(0)?,
                    dweight,
                )?;
            }
            Kernel::AddNorm { norm } => {
                let Op::RmsNorm { weight, eps, offset } = graph.node(*norm).op else { return Ok(()) };
                let (a, b, width) = (input(0)?, input(1)?, graph.ty(*norm).last());
                let weight = self.vector(weight)?;
                let rows = a.elements() / width;
                let stride = self.stride(step.outputs[1], width);
                let (sum, out) = (output(0)?, output(1)?);
                cuda::add_rms_norm_strided(device, a, b, rows, width, weight, offset, eps, sum, out, stride)?;
            }
            Kernel::GluGradOutput => {
                let Op::Glu(op) = graph.node(step.node).op else { return Ok(()) };
                let (gate, up, dy) = (input(0)?, input(1)?, input(2)?);
                cuda::glu_grad_output(device, activation(op), gate, up, dy, output(0)?, output(1)?, output(2)?)?;
            }
            Kernel::LowRank { members, wide } => {
                let (a, r, k) = self.group(members)?;
                let (rows, low) = (self.feed.rows(), output(0)?);
                let x = self.columns(step.inputs[0], rows, 0, k)?;
                let to = Operand::new(low, rows, r);
                cuda::matmul(device, x, false, Operand::new(a, r, k), true, 1.0, 0.0, None, to)?;
                if *wide {
                    cuda::copy_in(device, low, input(0)?, k + r, 1, k, k + r)?;
                }
            }
            Kernel::Augmented { weight } => {
                let bias = self.bias_of(step.node)?;
                let w = self.weights.augmented(*weight)?;
                let rows = self.feed.rows();
                let (x, y) = (Operand::new(input(0)?, rows, w.columns), Operand::new(output(0)?, rows, w.rows));
                cuda::matmul(device, x, false, w, true, 1.0, 0.0, bias, y)?;
            }
            Kernel::LowRankAdd { column } => {
                let Op::LinearAdd { weight, scale } = graph.node(step.node).op else { return Ok(()) };
                let (out, _) = self.accumulator(step)?;
                let (n, r) = self.shape(weight);
                let rows = out.elements() / n;
                let low = self.columns(step.inputs[1], rows, *column, r)?;
                let b = Operand::new(self.matrix(weight)?, n, r);
                let out = Operand::new(out, rows, n);
                cuda::matmul(device, low, false, b, true, scale as f32, 1.0, None, out)?;
            }
            Kernel::LowRankGradB { weight, scale, column } => {
                let (n, r) = self.shape(*weight);
                if let Some(db) = self.gradient(*weight) {
                    let dy = input(0)?;
                    let rows = dy.elements() / n;
                    let low = self.columns(step.inputs[1], rows, *column, r)?;
                    let (dy, db) = (Operand::new(dy, rows, n), Operand::new(db, n, r));
                    cuda::matmul(device, dy, true, low, false, *scale as f32, 1.0, None, db)?;
                }
            }
            Kernel::LowRankGrad { weight, scale, column } => {
                let (n, r) = self.shape(*weight);
                self.accumulator(step)?;
                let dy = input(0)?;
                let rows = dy.elements() / n;
                let low = self.columns(step.outputs[0], rows, *column, r)?;
                let b = Operand::new(self.matrix(*weight)?, n, r);
                cuda::matmul(device, Operand::new(dy, rows, n), false, b, false, *scale as f32, 0.0, None, low)?;
            }
            Kernel::AdapterGrad { weight, scale, column } => {
                let (n, r) = self.shape(*weight);
                self.accumulator(step)?;
                let (dy, b, scale) = (input(0)?, self.matrix(*weight)?, *scale as f32);
                let rows = dy.elements() / n;
                let low = self.columns(step.inputs[1], rows, *column, r)?;
                let d_low = self.columns(step.outputs[0], rows, *column, r)?;
                let db = self.gradient(*weight);
                if cuda::adapter_grad_fits(device, dy, n, r, low, b, d_low) {
                    cuda::adapter_grad(device, dy, rows, n, low, b, r, scale, d_low, db)?;
                } else {
                    let dy = Operand::new(dy, rows, n);
                    if let Some(db) = db {
                        cuda::matmul(device, dy, true, low, false, scale, 1.0, None, Operand::new(db, n, r))?;
                    }
                    cuda::matmul(device, dy, false, Operand::new(b, n, r), false, scale, 0.0, None, d_low)?;
                }
            }
            Kernel::LowRankGradA { members } => {
                let (r, k) = self.group_shape(members);
                if let Some(da) = self.group_gradient(members) {
                    let rows = self.feed.rows();
                    let low = Operand::new(input(0)?, rows, r);
                    let x = self.columns(step.inputs[1], rows, 0, k)?;
                    cuda::matmul(device, low, true, x, false, 1.0, 1.0, None, Operand::new(da, r, k))?;
                }
            }
            Kernel::LowRankGradInput { members } => {
                let (a, r, k) = self.group(members)?;
                let (dx, accumulated) = self.accumulator(step)?;
                let beta = if accumulated { 1.0 } else { 0.0 };
                cuda::linear_grad_input(device, input(0)?, dx.elements() / k, r, a, k, 1.0, beta, dx)?;
            }
            Kernel::Decode(work) => match work.as_ref() {
                Decode::FewRows { norm, linears, residual, glu } => {
                    self.few_rows(step, *norm, linears, *residual, *glu)?;
                }
                Decode::Attention { q_norm, k_norm, rope } => self.decode_attention(step, *q_norm, *k_norm, *rope)?,
            },
        }
        Ok(())
    }

    /// Elements from one row of a normalised value to the next: more than its width where columns were added behind it.
    fn stride(&self, slot: Slot, width: usize) -> usize {
        self.lowered.slots[slot.0 as usize].width.max(width)
    }

    /// The bias of the product that a `LinearAdd` adds to.
    fn bias_of(&self, node: Value) -> Result<Option<Tensor>, EngineError> {
        let mut base = self.graph.node(node).inputs[0];
        while let Op::Reshape = self.graph.node(base).op {
            base = self.graph.node(base).inputs[0];
        }
        match self.graph.node(base).op {
            Op::Linear { bias: Some(bias), .. } => Ok(Some(self.matrix(bias)?)),
            _ => Ok(None),
        }
    }

    fn shape(&self, param: Param) -> (usize, usize) {
        let shape = &self.graph.param(param).shape;
        (shape[0] as usize, shape[1] as usize)
    }

    /// All rows of the A of a group, and their width.
    fn group_shape(&self, members: &[Param]) -> (usize, usize) {
        (members.iter().map(|a| self.shape(*a).0).sum(), members.first().map_or(0, |a| self.shape(*a).1))
    }

    /// The A of a group, which lie one after another, as one matrix `[r, k]`.
    fn group(&self, members: &[Param]) -> Result<(Tensor, usize, usize), EngineError> {
        let (r, k) = self.group_shape(members);
        Ok((self.weights.adjacent(members, r * k)?, r, k))
    }

    fn group_gradient(&self, members: &[Param]) -> Option<Tensor> {
        let (r, k) = self.group_shape(members);
        self.weights.arena.as_ref().filter(|_| self.training).and_then(|arena| arena.adjacent_gradient(members, r * k))
    }

    /// `width` columns of a slot from `column` on.
    fn columns(&self, slot: Slot, rows: usize, column: usize, width: usize) -> Result<Operand, CudaError> {
        let stride = self.lowered.slots[slot.0 as usize].width;
        let data = self.slot(slot)?.slice(column, (rows - 1) * stride + width);
        Ok(Operand::strided(data, rows, width, stride))
    }

    fn few_rows(
        &self,
        step: &Step,
        norm: Option<Value>,
        linears: &[Value],
        residual: bool,
        glu: Option<Value>,
    ) -> Result<(), EngineError> {
        let graph = self.graph;
        let x = self.slot(step.inputs[0])?;
        let norm = match norm.map(|n| &graph.node(n).op) {
            Some(Op::RmsNorm { weight, eps, offset }) => {
                Some(cuda::Norm { weight: self.vector(*weight)?, offset: *offset, eps: *eps })
            }
            _ => None,
        };
        let mut matrices = Vec::with_capacity(linears.len());
        let mut k = 0;
        for (i, linear) in linears.iter().enumerate() {
            let Op::Linear { weight, bias } = graph.node(*linear).op else { return Ok(()) };
            let (n, width) = self.shape(weight);
            k = width;
            matrices.push(cuda::Matrix {
                weight: self.matrix(weight)?,
                n,
                bias: bias.map(|b| self.matrix(b)).transpose()?,
                out: self.slot(step.outputs[i.min(step.outputs.len() - 1)])?,
            });
        }
        let glu = glu.and_then(|g| if let Op::Glu(op) = graph.node(g).op { Some(activation(op)) } else { None });
        let residual = if residual { Some(self.slot(step.inputs[1])?) } else { None };
        let rows = x.elements() / k;
        cuda::few_rows(self.device, &cuda::FewRows { x, rows, k, norm, matrices: &matrices, residual, glu })?;
        Ok(())
    }

    fn decode_attention(
        &self,
        step: &Step,
        q_norm: Option<Value>,
        k_norm: Option<Value>,
        rope: Option<Value>,
    ) -> Result<(), EngineError> {
        let cached = self.cached.ok_or_else(|| CudaError::invalid("a decode step without caches"))?;
        let (shape, mask) = attention_numbers(self.graph, step.node)?;
        let norm = |node: Option<Value>| -> Result<Option<cuda::HeadNorm>, EngineError> {
            let Some(Op::RmsNorm { weight: Some(weight), eps, offset }) = node.map(|n| &self.graph.node(n).op) else {
                return Ok(None);
            };
            Ok(Some(cuda::HeadNorm { weight: self.weights.vector(*weight)?, offset: *offset, eps: *eps }))
        };
        let rope = match rope {
            Some(node) => {
                let Op::Rope { dims, interleaved, .. } = self.graph.node(node).op else { return Ok(()) };
                let (cos, sin) = self.feed.rotation(node)?;
                Some(cuda::Rope { dims: dims as usize, interleaved, cos, sin })
            }
            None => None,
        };
        let (q, k, v) = (self.slot(step.inputs[0])?, self.slot(step.inputs[1])?, self.slot(step.inputs[2])?);
        let cache = cached.cache(step.node)?;
        let out = self.slot(step.outputs[0])?;
        let (q_norm, k_norm) = (norm(q_norm)?, norm(k_norm)?);
        cuda::decode_attention(self.device, q, k, v, q_norm, k_norm, rope, cache, &cached.rows, &shape, mask, out)?;
        Ok(())
    }

    fn forward(&self, step: &Step) -> Result<(), EngineError> {
        let (graph, device) = (self.graph, self.device);
        let node = graph.node(step.node);
        let input = |i: usize| self.slot(step.inputs[i]);
        let out = self.slot(step.outputs[0])?;
        let width = node.ty.last();
        let rows = out.elements() / width.max(1);
        match &node.op {
            // Inputs and reshapes take no step.
            Op::Input { .. } | Op::Reshape => {}
            Op::Attention { .. } => self.attention(step)?,
            Op::Rope { .. } => self.rope(step, step.inputs[0], false)?,
            Op::Dropout { .. } => self.dropout(step)?,
            Op::Scalar(x) => cuda::fill(device, *x as f32, out)?,
            Op::Read(param) => device.copy(self.matrix(*param)?, out)?,
            Op::Embed { table } => cuda::embed(device, input(0)?, self.matrix(*table)?, width, out)?,
            Op::Linear { weight, bias } => {
                let k = graph.param(*weight).shape[1] as usize;
                let bias = bias.map(|b| self.matrix(b)).transpose()?;
                if let Some(matrix) =
                    self.weights.quantized(*weight).filter(|_| rows <= QUANTIZED_ROWS && bias.is_none())
                {
                    return Ok(matrix.linear_few_rows(device, input(0)?, out)?);
                }
                let weight = self.weights.operand(device, *weight, width, k, self.matrix_scratch)?;
                let (x, out) = (Operand::new(input(0)?, rows, k), Operand::new(out, rows, width));
                cuda::matmul(device, x, false, weight, true, 1.0, 0.0, bias, out)?;
            }
            Op::LinearAdd { weight, scale } => {
                let k = graph.param(*weight).shape[1] as usize;
                let (out, _) = self.accumulator(step)?;
                let weight = self.matrix(*weight)?;
                cuda::linear(device, input(1)?, rows, k, weight, width, None, *scale as f32, 1.0, out)?;
            }
            Op::Logits { table, scale, soft_cap } => {
                let k = graph.param(*table).shape[1] as usize;
                let table = self.matrix(*table)?;
                cuda::linear(device, input(0)?, rows, k, table, width, None, *scale as f32, 0.0, out)?;
                if let Some(cap) = soft_cap {
                    cuda::soft_cap(device, *cap as f32, out)?;
                }
            }
            Op::RmsNorm { weight, eps, offset } => {
                let x = input(0)?;
                // Norms of heads have several rows of their own in each row.
                let each = node.ty.width() / width.max(1);
                let stride = if each == 1 { self.stride(step.outputs[0], width) } else { width };
                let rows = x.elements() / width;
                let weight = self.vector(*weight)?;
                cuda::rms_norm_strided(device, x, rows, width, weight, *offset, *eps, out, stride)?;
            }
            Op::LayerNorm { weight, bias, eps } => {
                let (weight, bias) = (self.vector(*weight)?, self.vector(*bias)?);
                cuda::layer_norm(device, input(0)?, rows, width, weight, bias, *eps, out)?;
            }
            Op::L2Norm { eps } => cuda::l2_norm(device, input(0)?, rows, width, *eps, out)?,
            Op::Softmax => cuda::softmax(device, input(0)?, rows, width, out)?,
            Op::Unary(op) => cuda::unary(device, activation(*op), input(0)?, out)?,
            Op::Binary(op) => {
                let (big, small, kind, swapped) = self.operands(step)?;
                if swapped && !commutes(*op) {
                    // The smaller operand comes first and order matters: as equal shapes.
                    let full = self.device.allocate(big.bytes())?;
                    let full = full.tensor(big.dtype());
                    cuda::expand(device, small, broadcast_kernel(kind), full)?;
                    cuda::binary(device, binary_kernel(*op), full, big, swift_kernels::Broadcast::Repeat, out)?;
                } else {
                    cuda::binary(device, binary_kernel(*op), big, small, broadcast_kernel(kind), out)?;
                }
            }
            Op::Glu(op) => cuda::glu(device, activation(*op), input(0)?, input(1)?, out)?,
            Op::Slice { axis, start, end } => {
                let (size, inner) = split(&graph.ty(node.inputs[0]).tail, *axis);
                cuda::copy_out(device, input(0)?, size, inner, *start as usize, *end as usize, out)?;
            }
            Op::Concat { axis } => {
                let (size, inner) = split(&node.ty.tail, *axis);
                let mut start = 0;
                for (i, part) in node.inputs.iter().enumerate() {
                    let end = start + graph.ty(*part).tail[*axis as usize] as usize;
                    cuda::copy_in(device, input(i)?, out, size, inner, start, end)?;
                    start = end;
                }
            }
        }
        Ok(())
    }

    fn head_loss(&self, step: &Step) -> Result<(), EngineError> {
        let Op::Logits { table, scale, soft_cap } = self.graph.node(step.node).op else { return Ok(()) };
        let shape = &self.graph.param(table).shape;
        let dh = step.outputs.first().map(|slot| self.slot(*slot)).transpose()?;
        let scratch = self.loss_scratch.ok_or_else(|| CudaError::invalid("no room for logits"))?;
        cuda::linear_cross_entropy(
            self.device,
            &CrossEntropy {
                h: self.slot(step.inputs[0])?,
                rows: self.feed.rows(),
                k: shape[1] as usize,
                table: self.matrix(table)?,
                vocab: shape[0] as usize,
                targets: self.feed.targets(),
                weights: self.feed.weights(),
                soft_cap: soft_cap.map(|c| c as f32),
                logit_scale: scale as f32,
                scale: self.feed.scale(),
                dh,
                dtable: self.gradient(table),
                per_row: None,
                sums: self.feed.sums(),
                chunk_bytes: LOSS_CHUNK,
                logits_dtype: self.weights.element(),
            },
            scratch.tensor(Dtype::U8),
        )?;
        Ok(())
    }

    fn norm_grad(&self, step: &Step) -> Result<(), EngineError> {
        let node = self.graph.node(step.node);
        let width = node.ty.last();
        let (x, dy) = (self.slot(step.inputs[0])?, self.slot(step.inputs[1])?);
        let rows = x.elements() / width;
        let unread;
        let (dx, accumulated) = match step.outputs.first() {
            Some(_) => self.accumulator(step)?,
            None => {
                unread = self.device.allocate(x.bytes())?;
                (unread.tensor(x.dtype()), false)
            }
        };
        let device = self.device;
        match node.op {
            Op::RmsNorm { weight, eps, offset } => {
                let dweight = weight.and_then(|w| self.gradient(w));
                let weight = self.vector(weight)?;
                cuda::rms_norm_grad(device, x, dy, rows, width, weight, offset, eps, dx, accumulated, dweight)?;
            }
            Op::LayerNorm { weight, bias, eps } => {
                let (dweight, dbias) = (weight.and_then(|w| self.gradient(w)), bias.and_then(|b| self.gradient(b)));
                let weight = self.vector(weight)?;
                cuda::layer_norm_grad(device, x, dy, rows, width, weight, eps, dx, accumulated, dweight, dbias)?;
            }
            Op::L2Norm { eps } => cuda::l2_norm_grad(device, x, dy, rows, width, eps, dx, accumulated)?,
            _ => {}
        }
        Ok(())
    }

    fn dropout(&self, step: &Step) -> Result<(), EngineError> {
        let (x, out) = (self.slot(step.inputs[0])?, self.slot(step.outputs[0])?);
        match self.graph.node(step.node).op {
            Op::Dropout { probability, salt } if self.training => {
                cuda::dropout(self.device, x, probability as f32, self.feed.dropout_key(), salt, out)?;
            }
            _ => self.device.copy(x, out)?,
        }
        Ok(())
    }

    fn rope(&self, step: &Step, x: Slot, inverse: bool) -> Result<(), EngineError> {
        let node = self.graph.node(step.node);
        let Op::Rope { dims, interleaved, .. } = node.op else { return Ok(()) };
        let (cos, sin) = self.feed.rotation(step.node)?;
        let (heads, head_dim) = (node.ty.tail[0] as usize, node.ty.tail[1] as usize);
        let (x, out, rows) = (self.slot(x)?, self.slot(step.outputs[0])?, self.feed.rows());
        cuda::rope(self.device, x, rows, heads, head_dim, dims as usize, cos, sin, interleaved, inverse, out)?;
        Ok(())
    }

    fn attention(&self, step: &Step) -> Result<(), EngineError> {
        let (shape, mask) = attention_numbers(self.graph, step.node)?;
        let (q, k, v) = (self.slot(step.inputs[0])?, self.slot(step.inputs[1])?, self.slot(step.inputs[2])?);
        let out = self.slot(step.outputs[0])?;
        if let Some(cached) = self.cached
            && cached.attend(self.device, step.node, q, k, v, &shape, mask, out)?
        {
            return Ok(());
        }
        // Nobody reads the statistics of a forward run.
        let own;
        let logsumexp = match step.outputs.get(1) {
            Some(slot) => self.slot(*slot)?,
            None => {
                own = self.device.allocate(4 * self.feed.rows() * shape.heads)?;
                own.tensor(Dtype::F32)
            }
        };
        match self.cudnn.filter(|cudnn| cudnn.supports(q.dtype(), &shape, mask)) {
            Some(cudnn) => {
                let sequences = self.feed.cudnn_sequences();
                cudnn.attention(self.device, q, k, v, &sequences, &shape, mask, out, logsumexp)?;
            }
            None => cuda::attention(self.device, q, k, v, &self.feed.sequences(), &shape, mask, out, logsumexp)?,
        }
        Ok(())
    }

    fn attention_grad(&self, step: &Step) -> Result<(), EngineError> {
        let (shape, mask) = attention_numbers(self.graph, step.node)?;
        let i = |n: usize| self.slot(step.inputs[n]);
        let (q, k, v, out, dout) = (i(0)?, i(1)?, i(2)?, i(3)?, i(5)?);
        let logsumexp = self.slot(step.inputs[4])?;
        let o = |n: usize| self.slot(step.outputs[n]);
        let (dq, dk, dv) = (o(0)?, o(1)?, o(2)?);
        match self.cudnn.filter(|cudnn| cudnn.supports(q.dtype(), &shape, mask)) {
            Some(cudnn) => {
                let sequences = self.feed.cudnn_sequences();
                cudnn.attention_grad(
                    self.device,
                    q,
                    k,
                    v,
                    out,
                    logsumexp,
                    dout,
                    &sequences,
                    &shape,
                    mask,
                    dq,
                    dk,
                    dv,
                )?;
            }
            None => {
                let sequences = self.feed.sequences();
                cuda::attention_grad(self.device, q, k, v, out, logsumexp, dout, &sequences, &shape, mask, dq, dk, dv)?;
            }
        }
        Ok(())
    }

    /// Both operands of a pointwise op, the smaller one second, and how it broadcasts.
    fn operands(&self, step: &Step) -> Result<(Tensor, Tensor, Broadcast, bool), EngineError> {
        let inputs = &self.graph.node(step.node).inputs;
        let rule = shape::broadcast(self.graph.ty(inputs[0]), self.graph.ty(inputs[1]))?;
        let (a, b) = (self.slot(step.inputs[0])?, self.slot(step.inputs[1])?);
        Ok(if rule.swapped { (b, a, rule.kind, true) } else { (a, b, rule.kind, false) })
    }

    fn binary_grad(&self, step: &Step, operand: usize) -> Result<(), EngineError> {
        let Op::Binary(op) = self.graph.node(step.node).op else { return Ok(()) };
        let (device, op_kernel) = (self.device, binary_kernel(op));
        let d = self.slot(step.outputs[0])?;
        let (big, small, kind, swapped) = self.operands(step)?;
        let dy = self.slot(step.inputs[2])?;
        let of_big = (operand == 0) != swapped;
        let repeat = swift_kernels::Broadcast::Repeat;
        if !swapped || commutes(op) {
            let (da, db) = if of_big { (Some(d), None) } else { (None, Some(d)) };
            cuda::binary_grad(device, op_kernel, big, small, broadcast_kernel(kind), dy, da, db, false)?;
            return Ok(());
        }
        // The smaller operand comes first and order matters: as equal shapes, then summed over what was repeated. The
        // buffers are of this op alone, and the stream frees them behind its work.
        let full = device.allocate(big.bytes())?;
        let full = full.tensor(big.dtype());
        cuda::expand(device, small, broadcast_kernel(kind), full)?;
        if of_big {
            cuda::binary_grad(device, op_kernel, full, big, repeat, dy, None, Some(d), false)?;
        } else {
            let each = device.allocate(big.bytes())?;
            let each = each.tensor(big.dtype());
            cuda::binary_grad(device, op_kernel, full, big, repeat, dy, Some(each), None, false)?;
            cuda::reduce(device, each, broadcast_kernel(kind), d)?;
        }
        Ok(())
    }
}
