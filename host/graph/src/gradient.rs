//! Gradients as a table: for every op, which steps carry the gradient of its result to its operands and parameters.
//!
//! The match in [`Backward::rule`] is exhaustive, so an op without a gradient does not compile. Nothing is computed
//! for frozen parameters or for values no trained parameter lies behind. What the way back needs is either kept from
//! the forward pass or computed again (cheap ops always, whole blocks when asked), by one mechanism: [`Backward::need`].

use std::collections::{HashMap, HashSet};

use crate::ir::{Graph, Op, Param, Value};
use crate::program::{Action, Emitter, Phase, Slot};

pub(crate) struct Backward<'e, 'g> {
    out: &'e mut Emitter<'g>,
    graph: &'g Graph,
    /// Slots of the forward pass.
    made: HashMap<Value, Vec<Slot>>,
    /// Slots computed again while going back through the current block.
    again: HashMap<Value, Vec<Slot>>,
    gradients: HashMap<Value, Slot>,
    trainable: &'e HashSet<Param>,
    /// Values with a trained parameter behind them.
    needs_gradient: HashSet<Value>,
    recomputed: HashSet<Value>,
    live: &'e HashSet<Value>,
}

/// Ops so cheap beside a matmul that keeping their result costs more than making it again; a reshape is no work at all.
fn is_cheap(op: &Op) -> bool {
    matches!(op, Op::RmsNorm { .. } | Op::Glu(_) | Op::Unary(_) | Op::Dropout { .. } | Op::Slice { .. } | Op::Reshape)
}

/// A rotation of normalised heads: the norm's operand is kept for its own gradient, so that the rotation's result is one
/// cheap pass away. (Without a norm the product before it would have to be kept instead, which saves nothing.)
fn is_rotated_norm(graph: &Graph, value: Value) -> bool {
    let node = graph.node(value);
    if !matches!(node.op, Op::Rope { .. }) {
        return false;
    }
    let mut x = node.inputs[0];
    while let Op::Reshape = graph.node(x).op {
        x = graph.node(x).inputs[0];
    }
    matches!(graph.node(x).op, Op::RmsNorm { .. })
}

impl<'e, 'g> Backward<'e, 'g> {
    pub(crate) fn new(
        out: &'e mut Emitter<'g>,
        made: HashMap<Value, Vec<Slot>>,
        live: &'e HashSet<Value>,
        trainable: &'e HashSet<Param>,
        recompute_blocks: bool,
    ) -> Self {
        let graph = out.graph;
        let mut needs_gradient = HashSet::new();
        // Values used outside the block that makes them are the cuts: kept.
        let mut crossing = HashSet::new();
        for index in 0..graph.nodes.len() {
            let value = Value(index as u32);
            if !live.contains(&value) {
                continue;
            }
            let node = graph.node(value);
            if node.op.params().iter().any(|p| trainable.contains(p))
                || node.inputs.iter().any(|v| needs_gradient.contains(v))
            {
                needs_gradient.insert(value);
            }
            for input in &node.inputs {
                if graph.block_of(*input) != graph.block_of(value) {
                    crossing.insert(*input);
                }
            }
        }
        let recomputed = live
            .iter()
            .copied()
            .filter(|v| {
                let op = &graph.node(*v).op;
                let block = recompute_blocks && graph.block_of(*v).is_some() && !crossing.contains(v);
                !matches!(op, Op::Input { .. }) && (block || is_cheap(op) || is_rotated_norm(graph, *v))
            })
            .collect();
        Self {
            out,
            graph,
            made,
            again: HashMap::new(),
            gradients: HashMap::new(),
            trainable,
            needs_gradient,
            recomputed,
            live,
        }
    }

    /// Emits the head and everything behind it.
    pub(crate) fn run(mut self, head: Value, h: Value, h_slot: Slot) {
        let wanted = self.needs_gradient.contains(&h);
        let outputs = if wanted { vec![self.out.slot_like(h)] } else { Vec::new() };
        self.out.emit(Action::HeadLoss, head, vec![h_slot], outputs.clone(), None, Phase::Forward);
        if let Some(&dh) = outputs.first() {
            self.gradients.insert(h, dh);
        }
        let mut block = None;
        for index in (0..=h.index()).rev() {
            let value = Value(index as u32);
            if !self.live.contains(&value) {
                continue;
            }
            if self.graph.block_of(value) != block {
                block = self.graph.block_of(value);
                self.again.clear();
            }
            if let Some(dy) = self.gradients.remove(&value) {
                self.rule(value, dy);
            }
        }
    }

    /// The slots of a forward value on the way back.
    fn need_all(&mut self, value: Value) -> Vec<Slot> {
        if !self.recomputed.contains(&value) {
            return self.made[&value].clone();
        }
        if let Some(slots) = self.again.get(&value) {
            return slots.clone();
        }
        let node = self.graph.node(value);
        let operands: Vec<Slot> = node.inputs.iter().map(|v| self.need_all(*v)[0]).collect();
        let slots = if matches!(node.op, Op::Reshape) {
            operands
        } else {
            self.out.forward(value, operands, true, Phase::Recompute)
        };
        self.again.insert(value, slots.clone());
        slots
    }

    fn need(&mut self, value: Value) -> Slot {
        self.need_all(value)[0]
    }

    fn wants(&self, value: Value) -> bool {
        self.needs_gradient.contains(&value)
    }

    fn trains(&self, param: Param) -> bool {
        self.trainable.contains(&param)
    }

    fn emit(&mut self, action: Action, node: Value, inputs: Vec<Slot>, outputs: Vec<Slot>, accumulate: Option<usize>) {
        self.out.emit(action, node, inputs, outputs, accumulate, Phase::Backward);
    }

    /// `dy` itself is (part of) the gradient of `value`.
    fn pass(&mut self, node: Value, value: Value, dy: Slot) {
        if !self.wants(value) {
            return;
        }
        if let Some(&acc) = self.gradients.get(&value) {
            let sum = self.out.slot_like(value);
            self.emit(Action::AddInto, node, vec![acc, dy], vec![sum], Some(0));
            self.gradients.insert(value, sum);
        } else {
            self.gradients.insert(value, dy);
        }
    }

    /// A step that can add to what is there: its inputs get the accumulator behind them.
    fn accumulate(&mut self, action: Action, node: Value, value: Value, mut inputs: Vec<Slot>) {
        let dx = self.out.slot_like(value);
        let accumulate = self.gradients.get(&value).map(|&acc| {
            inputs.push(acc);
            inputs.len() - 1
        });
        self.emit(action, node, inputs, vec![dx], accumulate);
        self.gradients.insert(value, dx);
    }

    /// A step that makes a new gradient, added to what is there by a step of its own.
    fn contribute(&mut self, action: Action, node: Value, value: Value, inputs: Vec<Slot>) {
        let dx = self.out.slot_like(value);
        self.emit(action, node, inputs, vec![dx], None);
        self.pass(node, value, dx);
    }

    fn linear_rule(&mut self, y: Value, x: Value, weight: Param, scale: f64, dy: Slot) {
        if self.trains(weight) {
            let x_slot = self.need(x);
            self.emit(Action::LinearGradWeight { weight, scale }, y, vec![dy, x_slot], Vec::new(), None);
        }
        if self.wants(x) {
            self.accumulate(Action::LinearGradInput { weight, scale }, y, x, vec![dy]);
        }
    }

    /// The table: `dy` is the gradient of node `y`.
    fn rule(&mut self, y: Value, dy: Slot) {
        let graph = self.graph;
        let node = graph.node(y);
        let x = node.inputs.first().copied();
        match (&node.op, x) {
            (Op::Input { .. } | Op::Scalar(_), _) => {}
            (Op::Read(param), _) => {
                if self.trains(*param) {
                    self.emit(Action::ReadGrad { param: *param }, y, vec![dy], Vec::new(), None);
                }
            }
            (Op::Embed { table }, Some(ids)) => {
                if self.trains(*table) {
                    let ids = self.need(ids);
                    self.emit(Action::EmbedGrad { table: *table }, y, vec![ids, dy], Vec::new(), None);
                }
            }
            (Op::Linear { weight, bias }, Some(x)) => {
                if let Some(bias) = bias.filter(|b| self.trains(*b)) {
                    self.emit(Action::BiasGrad { bias }, y, vec![dy], Vec::new(), None);
                }
                self.linear_rule(y, x, *weight, 1.0, dy);
            }
            (Op::LinearAdd { weight, scale }, Some(base)) => {
                self.linear_rule(y, node.inputs[1], *weight, *scale, dy);
                self.pass(y, base, dy);
            }
            // The head's gradient is made together with the loss; a head anywhere else is an ordinary product.
            (Op::Logits { table, scale, .. }, Some(x)) => self.linear_rule(y, x, *table, *scale, dy),
            (Op::RmsNorm { .. } | Op::LayerNorm { .. } | Op::L2Norm { .. }, Some(x)) => {
                let x_slot = self.need(x);
                if self.wants(x) {
                    self.accumulate(Action::NormGrad, y, x, vec![x_slot, dy]);
                } else {
                    self.emit(Action::NormGrad, y, vec![x_slot, dy], Vec::new(), None);
                }
            }
            (Op::Softmax, Some(x)) => {
                let y_slot = self.need(y);
                self.contribute(Action::SoftmaxGrad, y, x, vec![y_slot, dy]);
            }
            (Op::Rope { .. }, Some(x)) => {
                let positions = self.need(node.inputs[1]);
                self.contribute(Action::RopeGrad, y, x, vec![dy, positions]);
            }
            (Op::Attention { .. }, Some(q)) => self.attention_rule(y, q, dy),
            (Op::Unary(_), Some(x)) => {
                let x_slot = self.need(x);
                self.contribute(Action::UnaryGrad, y, x, vec![x_slot, dy]);
            }
            (Op::Binary(op), Some(_)) => self.binary_rule(y, *op, dy),
            (Op::Glu(_), Some(gate)) => {
                let up = node.inputs[1];
                let (gate_slot, up_slot) = (self.need(gate), self.need(up));
                let outputs = vec![self.out.slot_like(gate), self.out.slot_like(up)];
                self.emit(Action::GluGrad, y, vec![gate_slot, up_slot, dy], outputs.clone(), None);
                self.pass(y, gate, outputs[0]);
                self.pass(y, up, outputs[1]);
            }
            (Op::Reshape, Some(x)) => self.pass(y, x, dy),
            (Op::Slice { .. }, Some(x)) => self.accumulate(Action::SliceGrad, y, x, vec![dy]),
            (Op::Concat { .. }, Some(_)) => {
                for (operand, &part) in node.inputs.iter().enumerate() {
                    if self.wants(part) {
                        self.contribute(Action::ConcatGrad { operand }, y, part, vec![dy]);
                    }
                }
            }
            (Op::Dropout { .. }, Some(x)) => self.contribute(Action::DropoutGrad, y, x, vec![dy]),
            // An op that takes operands has them: the verifier checked.
            (_, None) => {}
        }
    }

    fn attention_rule(&mut self, y: Value, q: Value, dy: Slot) {
        let inputs = &self.graph.node(y).inputs;
        let (k, v) = (inputs[1], inputs[2]);
        let slots = self.need_all(y);
        let operands = vec![self.need(q), self.need(k), self.need(v), slots[0], slots[1], dy];
        let outputs = vec![self.out.slot_like(q), self.out.slot_like(k), self.out.slot_like(v)];
        self.emit(Action::AttentionGrad, y, operands, outputs.clone(), None);
        for (value, slot) in [q, k, v].into_iter().zip(outputs) {
            self.pass(y, value, slot);
        }
    }

    fn binary_rule(&mut self, y: Value, op: crate::ir::Binary, dy: Slot) {
        let inputs = self.graph.node(y).inputs.clone();
        for operand in 0..2 {
            let value = inputs[operand];
            if !self.wants(value) {
                continue;
            }
            // The sum hands its gradient on unchanged to operands of its own shape.
            let unchanged = op == crate::ir::Binary::Add || (op == crate::ir::Binary::Sub && operand == 0);
            if unchanged && self.graph.ty(value) == self.graph.ty(y) {
                self.pass(y, value, dy);
                continue;
            }
            let (a, b) = (self.need(inputs[0]), self.need(inputs[1]));
            self.contribute(Action::BinaryGrad { operand }, y, value, vec![a, b, dy]);
        }
    }
}
