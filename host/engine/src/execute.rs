//! Runs a program's steps with the CPU kernels. The one place where actions meet kernels.

use std::collections::HashMap;

use swift_graph::interpret::dropout_stream;
use swift_graph::ir::{self, MaskRule, Op};
use swift_graph::program::{Action, Program, Slot, Step};
use swift_graph::rope::RopeFrequencies;
use swift_graph::shape::{self, Broadcast};
use swift_graph::{Graph, Param, Value};
use swift_kernels as kernels;
use swift_kernels::{AttentionMask, AttentionShape, LossSums};

use crate::batch::Batch;
use crate::bridge::{Split, activation, binary_kernel, broadcast_kernel, commutes, expand, soft_cap_in_place, widen};
use crate::cpu_infer::Caches;
use crate::error::EngineError;
use crate::pool::Pool;
use crate::weights::Weights;

/// Gradients of trained parameters, by parameter.
pub(crate) type Gradients = Vec<Option<Vec<f32>>>;

/// What a run reads beside the program.
pub(crate) struct Context<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) weights: &'a Weights,
    pub(crate) batch: &'a Batch,
    /// Factor on the loss's gradients: one over the step's number of labelled tokens.
    pub(crate) scale: f32,
    /// `None` while evaluating: dropout is the identity.
    pub(crate) dropout_key: Option<u64>,
}

/// One run of a program.
pub(crate) struct Run<'a> {
    context: Context<'a>,
    program: &'a Program,
    pool: &'a mut Pool,
    gradients: Option<&'a mut Gradients>,
    caches: Option<&'a mut Caches>,
    buffers: Vec<Option<Vec<f32>>>,
    ropes: HashMap<Value, (Vec<f32>, Vec<f32>)>,
    rope_nodes: Vec<(RopeFrequencies, u32, Value)>,
    loss: LossSums,
}

impl<'a> Run<'a> {
    pub(crate) fn new(
        context: Context<'a>,
        program: &'a Program,
        pool: &'a mut Pool,
        gradients: Option<&'a mut Gradients>,
        caches: Option<&'a mut Caches>,
    ) -> Self {
        let buffers = (0..program.slots.len()).map(|_| None).collect();
        Self {
            context,
            program,
            pool,
            gradients,
            caches,
            buffers,
            ropes: HashMap::new(),
            rope_nodes: Vec::new(),
            loss: LossSums::default(),
        }
    }

    /// Runs all steps; gives the sums of the loss and the result slot's data.
    pub(crate) fn run(mut self) -> Result<(LossSums, Option<Vec<f32>>), EngineError> {
        for (name, _) in &self.program.inputs {
            if !matches!(name.as_str(), "tokens" | "positions") {
                return Err(EngineError::Input(name.clone()));
            }
        }
        let program = self.program;
        for step in &program.steps {
            self.step(step)?;
            for slot in &step.frees {
                if let Some(buffer) = self.buffers[slot.0 as usize].take() {
                    self.pool.give(buffer);
                }
            }
        }
        let result = program.result.and_then(|slot| self.buffers[slot.0 as usize].take());
        Ok((self.loss, result))
    }

    fn rows(&self) -> usize {
        self.context.batch.rows()
    }

    fn size(&self, slot: Slot) -> usize {
        let info = self.program.slots[slot.0 as usize];
        info.width * if info.has_rows { self.rows() } else { 1 }
    }

    fn read(&self, slot: Slot) -> &[f32] {
        self.buffers[slot.0 as usize].as_deref().unwrap_or(&[])
    }

    /// The integers of an input slot.
    fn integers(&self, slot: Slot) -> &'a [u32] {
        let batch: &'a Batch = self.context.batch;
        match self.program.inputs.iter().find(|(_, s)| *s == slot) {
            Some((name, _)) if name == "tokens" => &batch.tokens,
            _ => &batch.positions,
        }
    }

    fn gradient(&mut self, param: Param) -> Option<Vec<f32>> {
        self.gradients.as_mut().and_then(|g| g[param.index()].take())
    }

    fn put_gradient(&mut self, param: Param, gradient: Option<Vec<f32>>) {
        if let Some(g) = self.gradients.as_mut() {
            g[param.index()] = gradient;
        }
    }

    /// The output buffer of an accumulating step: the accumulator itself if this is its last use, else a copy of it;
    /// a fresh buffer without one. The flag says whether it holds the accumulator.
    fn accumulator(&mut self, step: &Step) -> (Vec<f32>, bool) {
        let length = self.size(step.outputs[0]);
        let Some(index) = step.accumulate else { return (self.pool.take(length), false) };
        let slot = step.inputs[index];
        if step.reuse
            && let Some(buffer) = self.buffers[slot.0 as usize].take()
        {
            return (buffer, true);
        }
        let mut buffer = self.pool.take(length);
        buffer.copy_from_slice(self.read(slot));
        (buffer, true)
    }

    fn step(&mut self, step: &Step) -> Result<(), EngineError> {
        if step.action == Action::Forward {
            return self.forward(step);
        }
        let graph = self.context.graph;
        let node = graph.node(step.node);
        let weights = self.context.weights;
        let input = |i: usize| step.inputs[i];
        match step.action {
            Action::Forward => {}
            Action::HeadLoss => self.head_loss(step)?,
            Action::LinearGradInput { weight, scale } => {
                let shape = &graph.param(weight).shape;
                let (n, k) = (shape[0] as usize, shape[1] as usize);
                let (mut dx, accumulated) = self.accumulator(step);
                let dy = self.read(input(0));
                let beta = if accumulated { 1.0 } else { 0.0 };
                kernels::linear_grad_input(dy, dy.len() / n, n, weights.get(weight)?, k, scale as f32, beta, &mut dx);
                self.store(step.outputs[0], dx);
            }
            Action::LinearGradWeight { weight, scale } => {
                let shape = &graph.param(weight).shape;
                let (n, k) = (shape[0] as usize, shape[1] as usize);
                if let Some(mut dw) = self.gradient(weight) {
                    let (dy, x) = (self.read(input(0)), self.read(input(1)));
                    kernels::linear_grad_weight(dy, x, dy.len() / n, n, k, scale as f32, 1.0, &mut dw);
                    self.put_gradient(weight, Some(dw));
                }
            }
            Action::BiasGrad { bias } => {
                if let Some(mut db) = self.gradient(bias) {
                    let (dy, n) = (self.read(input(0)), db.len());
                    kernels::column_sums(dy, dy.len() / n, n, 1.0, &mut db);
                    self.put_gradient(bias, Some(db));
                }
            }
            Action::EmbedGrad { table } => {
                if let Some(mut dt) = self.gradient(table) {
                    kernels::embed_grad(self.integers(input(0)), self.read(input(1)), node.ty.last(), &mut dt);
                    self.put_gradient(table, Some(dt));
                }
            }
            Action::ReadGrad { param } => {
                if let Some(mut d) = self.gradient(param) {
                    kernels::add_assign(&mut d, self.read(input(0)));
                    self.put_gradient(param, Some(d));
                }
            }
            Action::NormGrad => self.norm_grad(step)?,
            Action::SoftmaxGrad => {
                let mut dx = self.pool.take(self.size(step.outputs[0]));
                let (y, dy) = (self.read(input(0)), self.read(input(1)));
                let width = node.ty.last();
                kernels::softmax_grad(y, dy, y.len() / width, width, &mut dx, false);
                self.store(step.outputs[0], dx);
            }
            Action::RopeGrad => self.rope(step, input(0), input(1), true)?,
            Action::AttentionGrad => self.attention_grad(step),
            Action::UnaryGrad => {
                let mut dx = self.pool.take(self.size(step.outputs[0]));
                if let Op::Unary(op) = node.op {
                    kernels::unary_grad(activation(op), self.read(input(0)), self.read(input(1)), &mut dx, false);
                }
                self.store(step.outputs[0], dx);
            }
            Action::BinaryGrad { operand } => self.binary_grad(step, operand)?,
            Action::GluGrad => {
                let mut dgate = self.pool.take(self.size(step.outputs[0]));
                let mut dup = self.pool.take(self.size(step.outputs[1]));
                if let Op::Glu(op) = node.op {
                    kernels::glu_grad(
                        activation(op),
                        self.read(input(0)),
                        self.read(input(1)),
                        self.read(input(2)),
                        &mut dgate,
                        &mut dup,
                    );
                }
                self.store(step.outputs[0], dgate);
                self.store(step.outputs[1], dup);
            }
            Action::SliceGrad => {
                let (mut dx, accumulated) = self.accumulator(step);
                if !accumulated {
                    dx.fill(0.0);
                }
                if let Op::Slice { axis, start, end } = node.op {
                    let split = Split::of(&graph.ty(node.inputs[0]).tail, axis);
                    split.add(self.read(input(0)), &mut dx, start as usize, end as usize);
                }
                self.store(step.outputs[0], dx);
            }
            Action::ConcatGrad { operand } => {
                let mut part = self.pool.take(self.size(step.outputs[0]));
                if let Op::Concat { axis } = node.op {
                    let size = |v: &Value| graph.ty(*v).tail[axis as usize] as usize;
                    let start: usize = node.inputs[..operand].iter().map(size).sum();
                    Split::of(&node.ty.tail, axis).copy_out(
                        self.read(input(0)),
                        &mut part,
                        start,
                        start + size(&node.inputs[operand]),
                    );
                }
                self.store(step.outputs[0], part);
            }
            Action::DropoutGrad => self.dropout(step),
            Action::AddInto => {
                let (mut sum, _) = self.accumulator(step);
                kernels::add_assign(&mut sum, self.read(input(1)));
                self.store(step.outputs[0], sum);
            }
        }
        Ok(())
    }

    fn store(&mut self, slot: Slot, buffer: Vec<f32>) {
        self.buffers[slot.0 as usize] = Some(buffer);
    }

    fn forward(&mut self, step: &Step) -> Result<(), EngineError> {
        let graph = self.context.graph;
        let node = graph.node(step.node);
        let weights = self.context.weights;
        let input = |i: usize| step.inputs[i];
        match &node.op {
            Op::Attention { .. } => return self.attention(step),
            Op::Rope { .. } => return self.rope(step, input(0), input(1), false),
            Op::Dropout { .. } => {
                self.dropout(step);
                return Ok(());
            }
            Op::LinearAdd { weight, scale } => {
                let shape = &graph.param(*weight).shape;
                let (n, k) = (shape[0] as usize, shape[1] as usize);
                let (mut out, _) = self.accumulator(step);
                let x = self.read(input(1));
                kernels::linear(x, x.len() / k, k, weights.get(*weight)?, n, None, *scale as f32, 1.0, &mut out);
                self.store(step.outputs[0], out);
                return Ok(());
            }
            _ => {}
        }
        let mut out = self.pool.take(self.size(step.outputs[0]));
        let width = node.ty.last();
        let rows = out.len() / width.max(1);
        match &node.op {
            Op::Scalar(x) => out[0] = *x as f32,
            Op::Read(param) => widen(weights.get(*param)?, &mut out),
            Op::Embed { table } => kernels::embed(self.integers(input(0)), weights.get(*table)?, width, &mut out),
            Op::Linear { weight, bias } => {
                let k = graph.param(*weight).shape[1] as usize;
                let bias = bias.map(|b| weights.get(b)).transpose()?;
                kernels::linear(self.read(input(0)), rows, k, weights.get(*weight)?, width, bias, 1.0, 0.0, &mut out);
            }
            Op::Logits { table, scale, soft_cap } => {
                let k = graph.param(*table).shape[1] as usize;
                kernels::linear(
                    self.read(input(0)),
                    rows,
                    k,
                    weights.get(*table)?,
                    width,
                    None,
                    *scale as f32,
                    0.0,
                    &mut out,
                );
                soft_cap_in_place(&mut out, *soft_cap);
            }
            Op::RmsNorm { weight, eps, offset } => {
                let weight = weight.map(|w| weights.get(w)).transpose()?;
                kernels::rms_norm(self.read(input(0)), rows, width, weight, *offset, *eps, &mut out);
            }
            Op::LayerNorm { weight, bias, eps } => {
                let weight = weight.map(|w| weights.get(w)).transpose()?;
                let bias = bias.map(|b| weights.get(b)).transpose()?;
                kernels::layer_norm(self.read(input(0)), rows, width, weight, bias, *eps, &mut out);
            }
            Op::L2Norm { eps } => kernels::l2_norm(self.read(input(0)), rows, width, *eps, &mut out),
            Op::Softmax => kernels::softmax(self.read(input(0)), rows, width, &mut out),
            Op::Unary(op) => kernels::unary(activation(*op), self.read(input(0)), &mut out),
            Op::Binary(op) => self.binary(step, *op, &mut out)?,
            Op::Glu(op) => kernels::glu(activation(*op), self.read(input(0)), self.read(input(1)), &mut out),
            Op::Slice { axis, start, end } => {
                let split = Split::of(&graph.ty(node.inputs[0]).tail, *axis);
                split.copy_out(self.read(input(0)), &mut out, *start as usize, *end as usize);
            }
            Op::Concat { axis } => {
                let split = Split::of(&node.ty.tail, *axis);
                let mut start = 0;
                for (i, part) in node.inputs.iter().enumerate() {
                    let size = graph.ty(*part).tail[*axis as usize] as usize;
                    split.copy_in(self.read(input(i)), &mut out, start, start + size);
                    start += size;
                }
            }
            // Inputs and reshapes take no step; the rest was handled above.
            Op::Input { .. }
            | Op::Reshape
            | Op::Attention { .. }
            | Op::Rope { .. }
            | Op::Dropout { .. }
            | Op::LinearAdd { .. } => {}
        }
        self.store(step.outputs[0], out);
        Ok(())
    }

    fn head_loss(&mut self, step: &Step) -> Result<(), EngineError> {
        let graph = self.context.graph;
        let Op::Logits { table, scale, soft_cap } = graph.node(step.node).op else { return Ok(()) };
        let shape = &graph.param(table).shape;
        let (vocabulary, k) = (shape[0] as usize, shape[1] as usize);
        let mut dh = step.outputs.first().map(|slot| self.pool.take(self.size(*slot)));
        let mut dtable = self.gradient(table);
        let batch = self.context.batch;
        self.loss = kernels::linear_cross_entropy(
            self.read(step.inputs[0]),
            batch.rows(),
            k,
            self.context.weights.get(table)?,
            vocabulary,
            None,
            &batch.targets,
            &batch.weights,
            soft_cap.map(|c| c as f32),
            scale as f32,
            self.context.scale,
            dh.as_deref_mut(),
            dtable.as_deref_mut(),
            None,
        );
        self.put_gradient(table, dtable);
        if let Some(dh) = dh {
            self.store(step.outputs[0], dh);
        }
        Ok(())
    }

    fn norm_grad(&mut self, step: &Step) -> Result<(), EngineError> {
        let graph = self.context.graph;
        let node = graph.node(step.node);
        let weights = self.context.weights;
        let width = node.ty.last();
        let (mut dx, accumulated) = match step.outputs.first() {
            Some(_) => self.accumulator(step),
            None => (self.pool.take(self.read(step.inputs[0]).len()), false),
        };
        let (weight, bias) = match node.op {
            Op::RmsNorm { weight, .. } => (weight, None),
            Op::LayerNorm { weight, bias, .. } => (weight, bias),
            _ => (None, None),
        };
        let mut dweight = weight.and_then(|w| self.gradient(w));
        let mut dbias = bias.and_then(|b| self.gradient(b));
        let (x, dy) = (self.read(step.inputs[0]), self.read(step.inputs[1]));
        let rows = x.len() / width;
        let data = weight.map(|w| weights.get(w)).transpose()?;
        match node.op {
            Op::RmsNorm { eps, offset, .. } => {
                kernels::rms_norm_grad(
                    x,
                    dy,
                    rows,
                    width,
                    data,
                    offset,
                    eps,
                    &mut dx,
                    accumulated,
                    dweight.as_deref_mut(),
                );
            }
            Op::LayerNorm { eps, .. } => {
                kernels::layer_norm_grad(
                    x,
                    dy,
                    rows,
                    width,
                    data,
                    eps,
                    &mut dx,
                    accumulated,
                    dweight.as_deref_mut(),
                    dbias.as_deref_mut(),
                );
            }
            Op::L2Norm { eps } => kernels::l2_norm_grad(x, dy, rows, width, eps, &mut dx, accumulated),
            _ => {}
        }
        if let Some(w) = weight {
            self.put_gradient(w, dweight);
        }
        if let Some(b) = bias {
            self.put_gradient(b, dbias);
        }
        match step.outputs.first() {
            Some(slot) => self.store(*slot, dx),
            None => self.pool.give(dx),
        }
        Ok(())
    }

    fn dropout(&mut self, step: &Step) {
        let mut out = self.pool.take(self.size(step.outputs[0]));
        let x = self.read(step.inputs[0]);
        match (&self.context.graph.node(step.node).op, self.context.dropout_key) {
            (Op::Dropout { probability, salt }, Some(key)) => {
                kernels::dropout(x, *probability as f32, dropout_stream(key, *salt), &mut out);
            }
            _ => out.copy_from_slice(x),
        }
        self.store(step.outputs[0], out);
    }

    /// Cos and sin of every row for one rotary embedding; equal embeddings share them.
    fn rope_tables(&mut self, node: Value, positions: &[u32], frequencies: RopeFrequencies, dims: u32) -> Value {
        if let Some((_, _, first)) = self.rope_nodes.iter().find(|(f, d, _)| *f == frequencies && *d == dims) {
            return *first;
        }
        let half = dims as usize / 2;
        let mut cos = vec![0.0; positions.len() * half];
        let mut sin = cos.clone();
        let mut start = 0;
        for &length in &self.context.batch.sequence_lengths {
            let rows = start..start + length as usize;
            let reach = positions[rows.clone()].iter().max().map_or(0, |p| *p as usize + 1);
            let inverse = frequencies.inverse(dims as usize, reach);
            let part = rows.start * half..rows.end * half;
            kernels::rope_tables(
                &positions[rows.clone()],
                &inverse,
                frequencies.attention_factor(),
                &mut cos[part.clone()],
                &mut sin[part],
            );
            start = rows.end;
        }
        self.ropes.insert(node, (cos, sin));
        self.rope_nodes.push((frequencies, dims, node));
        node
    }

    fn rope(&mut self, step: &Step, x: Slot, positions: Slot, inverse: bool) -> Result<(), EngineError> {
        let node = self.context.graph.node(step.node);
        let Op::Rope { dims, interleaved, frequencies } = node.op else { return Ok(()) };
        let positions = self.integers(positions);
        let key = self.rope_tables(step.node, positions, frequencies, dims);
        let mut out = self.pool.take(self.size(step.outputs[0]));
        let (heads, head_dim) = (node.ty.tail[0] as usize, node.ty.tail[1] as usize);
        let (cos, sin) = &self.ropes[&key];
        kernels::rope(
            self.read(x),
            self.rows(),
            heads,
            head_dim,
            dims as usize,
            cos,
            sin,
            interleaved,
            inverse,
            &mut out,
        );
        self.store(step.outputs[0], out);
        Ok(())
    }

    fn attention_numbers(&self, node: Value) -> (AttentionShape, AttentionMask) {
        let graph = self.context.graph;
        let node = graph.node(node);
        let (q, v) = (graph.ty(node.inputs[0]), graph.ty(node.inputs[2]));
        let Op::Attention { mask, scale, soft_cap } = node.op else { unreachable!("called for attention nodes alone") };
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
        (shape, mask)
    }

    fn attention(&mut self, step: &Step) -> Result<(), EngineError> {
        let (shape, mask) = self.attention_numbers(step.node);
        let mut out = self.pool.take(self.size(step.outputs[0]));
        let (q, k, v) = (step.inputs[0], step.inputs[1], step.inputs[2]);
        if let Some(caches) = self.caches.take() {
            caches.attend(
                step.node,
                self.read(q),
                self.read(k),
                self.read(v),
                &self.context.batch.sequence_lengths,
                &shape,
                mask,
                &mut out,
            )?;
            self.caches = Some(caches);
            self.store(step.outputs[0], out);
            return Ok(());
        }
        let mut logsumexp = self.pool.take(self.rows() * shape.heads);
        let lengths = &self.context.batch.sequence_lengths;
        kernels::attention(self.read(q), self.read(k), self.read(v), lengths, &shape, mask, &mut out, &mut logsumexp);
        self.store(step.outputs[0], out);
        match step.outputs.get(1) {
            Some(slot) => self.store(*slot, logsumexp),
            None => self.pool.give(logsumexp),
        }
        Ok(())
    }

    fn attention_grad(&mut self, step: &Step) {
        let (shape, mask) = self.attention_numbers(step.node);
        let mut outputs: Vec<Vec<f32>> = step.outputs.iter().map(|s| self.pool.take(self.size(*s))).collect();
        let [dq, dk, dv] = outputs.as_mut_slice() else { return };
        let r = |i: usize| self.read(step.inputs[i]);
        let lengths = &self.context.batch.sequence_lengths;
        kernels::attention_grad(r(0), r(1), r(2), r(3), r(4), r(5), lengths, &shape, mask, dq, dk, dv);
        for (slot, buffer) in step.outputs.iter().zip(outputs) {
            self.store(*slot, buffer);
        }
    }

    /// Both operands of a pointwise op, the smaller one second, and how it broadcasts.
    fn operands(&self, step: &Step) -> Result<(&[f32], &[f32], Broadcast, bool), EngineError> {
        let graph = self.context.graph;
        let inputs = &graph.node(step.node).inputs;
        let rule = shape::broadcast(graph.ty(inputs[0]), graph.ty(inputs[1]))?;
        let (a, b) = (self.read(step.inputs[0]), self.read(step.inputs[1]));
        Ok(if rule.swapped { (b, a, rule.kind, true) } else { (a, b, rule.kind, false) })
    }

    fn binary(&self, step: &Step, op: ir::Binary, out: &mut [f32]) -> Result<(), EngineError> {
        let (big, small, kind, swapped) = self.operands(step)?;
        if swapped && !commutes(op) {
            let small = expand(small, big.len(), kind);
            kernels::binary(binary_kernel(op), &small, big, kernels::Broadcast::Repeat, out);
        } else {
            kernels::binary(binary_kernel(op), big, small, broadcast_kernel(kind), out);
        }
        Ok(())
    }

    fn binary_grad(&mut self, step: &Step, operand: usize) -> Result<(), EngineError> {
        let Op::Binary(op) = self.context.graph.node(step.node).op else { return Ok(()) };
        let mut d = self.pool.take(self.size(step.outputs[0]));
        let (big, small, kind, swapped) = self.operands(step)?;
        let dy = self.read(step.inputs[2]);
        let of_big = (operand == 0) != swapped;
        if swapped && !commutes(op) {
            // The smaller operand comes first and order matters: as equal shapes, then summed over what was repeated.
            let full = expand(small, big.len(), kind);
            if of_big {
                kernels::binary_grad(
                    binary_kernel(op),
                    &full,
                    big,
                    kernels::Broadcast::Repeat,
                    dy,
                    None,
                    Some(&mut d),
                    false,
                );
            } else {
                let mut each = vec![0.0; big.len()];
                kernels::binary_grad(
                    binary_kernel(op),
                    &full,
                    big,
                    kernels::Broadcast::Repeat,
                    dy,
                    Some(&mut each),
                    None,
                    false,
                );
                d.fill(0.0);
                let (count, span) = (d.len(), big.len() / d.len());
                for (i, g) in each.iter().enumerate() {
                    d[if kind == Broadcast::Span { i / span } else { i % count }] += g;
                }
            }
        } else {
            let (da, db) = if of_big { (Some(d.as_mut_slice()), None) } else { (None, Some(d.as_mut_slice())) };
            kernels::binary_grad(binary_kernel(op), big, small, broadcast_kernel(kind), dy, da, db, false);
        }
        self.store(step.outputs[0], d);
        Ok(())
    }
}
