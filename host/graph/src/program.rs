//! From a graph to a list of steps a device can run: what is computed when, what it needs, and when it is freed.
//!
//! A program is still free of devices and of numbers of rows. Slots are buffers of `width` elements a row; every slot
//! is written by one step and freed after its last use. Reshapes take no step: they name the same slot.

use std::collections::{HashMap, HashSet};

use crate::error::BuildError;
use crate::gradient::Backward;
use crate::ir::{DataType, Graph, Op, Param, Value};

/// One buffer of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Size of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotInfo {
    /// Elements of a row, or of the whole value when it has no rows.
    pub width: usize,
    pub has_rows: bool,
}

/// What a step does. `node` of the [`Step`] says with which sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Action {
    /// The node's own op. `attention` also writes its log-sum-exp `[rows, heads]` when asked for two outputs.
    Forward,
    /// `(h)` -> `(dh)`: head and cross-entropy fused, its loss summed beside; also the head's gradient if trained.
    HeadLoss,
    /// `(dy[, acc])` -> dx: acc + scale * dy·W.
    LinearGradInput { weight: Param, scale: f64 },
    /// `(dy, x)`: gradient of W += scale * dyᵀ·x.
    LinearGradWeight { weight: Param, scale: f64 },
    /// `(dy)`: gradient of the bias += column sums.
    BiasGrad { bias: Param },
    /// `(ids, dy)`: gradient of the table += dy at its rows.
    EmbedGrad { table: Param },
    /// `(d)`: gradient of a parameter that was read as a value += d.
    ReadGrad { param: Param },
    /// `(x, dy[, acc])` -> dx, of the three norms; also the gradients of their parameters. Without outputs: those alone.
    NormGrad,
    /// `(y, dy)` -> dx.
    SoftmaxGrad,
    /// `(dy, positions)` -> dx: the rotation backwards.
    RopeGrad,
    /// `(q, k, v, out, logsumexp, dout)` -> `(dq, dk, dv)`.
    AttentionGrad,
    /// `(x, dy)` -> dx.
    UnaryGrad,
    /// `(a, b, dy)` -> gradient of operand 0 or 1, summed over what it was repeated for.
    BinaryGrad { operand: usize },
    /// `(gate, up, dy)` -> `(dgate, dup)`.
    GluGrad,
    /// `(dy[, acc])` -> dx: acc (or zero) with dy added at the slice.
    SliceGrad,
    /// `(dy)` -> the part of operand `operand` of a concat.
    ConcatGrad { operand: usize },
    /// `(dy)` -> dx.
    DropoutGrad,
    /// `(acc, g)` -> acc + g.
    AddInto,
}

/// Why a step is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    Forward,
    /// A forward op run again on the way back, so that its result need not be kept.
    Recompute,
    Backward,
}

/// One step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    pub action: Action,
    /// The graph node whose op, types and parameters the action refers to.
    pub node: Value,
    pub inputs: Vec<Slot>,
    pub outputs: Vec<Slot>,
    /// The input that is added to and becomes `outputs[0]`, in its own buffer when `reuse` says so.
    pub accumulate: Option<usize>,
    /// The accumulated input is used here for the last time.
    pub reuse: bool,
    /// Slots whose last use this step is (a reused input is not among them).
    pub frees: Vec<Slot>,
    pub phase: Phase,
}

/// What a program is for.
#[derive(Debug, Clone, PartialEq)]
pub enum Purpose {
    /// Inputs of the head for every row, in [`Program::result`].
    Inference,
    /// The loss alone.
    Loss,
    /// The loss and the gradients of `trainable`.
    Training { trainable: HashSet<Param>, recompute_blocks: bool },
}

/// Steps in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    pub steps: Vec<Step>,
    pub slots: Vec<SlotInfo>,
    /// Input name and its slot; the caller holds the data.
    pub inputs: Vec<(String, Slot)>,
    /// What the head takes, for [`Purpose::Inference`].
    pub result: Option<Slot>,
    /// The head's node.
    pub head: Value,
}

/// The head of a model: the `logits` node behind the output `logits`.
///
/// # Errors
/// When there is none.
pub fn head(graph: &Graph) -> Result<Value, BuildError> {
    let hint = "a causal language model ends in `output(\"logits\", logits(hidden, table))`";
    let value =
        graph.output("logits").ok_or_else(|| BuildError::new("the model publishes no output `logits`").hint(hint))?;
    if matches!(graph.node(value).op, Op::Logits { .. }) {
        return Ok(value);
    }
    Err(BuildError::new(format!("the output `logits` is made by `{}`, not by `logits`", graph.node(value).op.name()))
        .hint(hint))
}

/// Collects steps; also used by the gradient table.
pub(crate) struct Emitter<'g> {
    pub(crate) graph: &'g Graph,
    pub(crate) steps: Vec<Step>,
    pub(crate) slots: Vec<SlotInfo>,
}

impl Emitter<'_> {
    pub(crate) fn slot(&mut self, width: usize, has_rows: bool) -> Slot {
        self.slots.push(SlotInfo { width, has_rows });
        Slot(self.slots.len() as u32 - 1)
    }

    pub(crate) fn slot_like(&mut self, value: Value) -> Slot {
        let ty = self.graph.ty(value);
        self.slot(ty.width(), ty.rows.is_some())
    }

    pub(crate) fn emit(
        &mut self,
        action: Action,
        node: Value,
        inputs: Vec<Slot>,
        outputs: Vec<Slot>,
        accumulate: Option<usize>,
        phase: Phase,
    ) {
        self.steps.push(Step { action, node, inputs, outputs, accumulate, reuse: false, frees: Vec::new(), phase });
    }

    /// Emits the node's own op and gives its outputs (two for attention with statistics).
    pub(crate) fn forward(&mut self, node: Value, inputs: Vec<Slot>, statistics: bool, phase: Phase) -> Vec<Slot> {
        let mut outputs = vec![self.slot_like(node)];
        if statistics && matches!(self.graph.node(node).op, Op::Attention { .. }) {
            let heads = self.graph.ty(node).tail[0] as usize;
            outputs.push(self.slot(heads, true));
        }
        let accumulate = matches!(self.graph.node(node).op, Op::LinearAdd { .. }).then_some(0);
        self.emit(Action::Forward, node, inputs, outputs.clone(), accumulate, phase);
        outputs
    }
}

impl Program {
    /// Lowers `graph`.
    ///
    /// # Errors
    /// When the graph has no head, or uses what a program cannot do.
    pub fn new(graph: &Graph, purpose: &Purpose) -> Result<Self, BuildError> {
        let head = head(graph)?;
        let h = graph.node(head).inputs[0];
        let live = reachable(graph, h);
        let capped = |v: &&Value| matches!(graph.node(**v).op, Op::Logits { soft_cap: Some(_), .. });
        if let Some(inner) = live.iter().find(capped).filter(|_| matches!(purpose, Purpose::Training { .. })) {
            return Err(BuildError::new(format!(
                "a capped `logits` in `{}` is not the model's head",
                graph.scope_path(*inner)
            ))
            .hint("its gradient is made together with the loss; use `linear` and `unary` for anything else"));
        }
        let mut out = Emitter { graph, steps: Vec::new(), slots: Vec::new() };
        let training = matches!(purpose, Purpose::Training { .. });
        let mut made: HashMap<Value, Vec<Slot>> = HashMap::new();
        let mut inputs = Vec::new();
        for index in 0..graph.nodes.len() {
            let value = Value(index as u32);
            if !live.contains(&value) {
                continue;
            }
            let node = graph.node(value);
            let slots = match &node.op {
                Op::Input { name } => {
                    if node.ty.dtype != DataType::Int32 {
                        return Err(BuildError::new(format!(
                            "the input `{name}` is {}, which this host cannot feed",
                            node.ty.dtype.name()
                        ))
                        .hint("causal language models take `tokens` and `positions`, both int32"));
                    }
                    let slot = out.slot_like(value);
                    inputs.push((name.clone(), slot));
                    vec![slot]
                }
                Op::Reshape => vec![made[&node.inputs[0]][0]],
                _ => {
                    let operands = node.inputs.iter().map(|v| made[v][0]).collect();
                    out.forward(value, operands, training, Phase::Forward)
                }
            };
            made.insert(value, slots);
        }
        let h_slot = made[&h][0];
        let mut result = None;
        match purpose {
            Purpose::Inference => result = Some(h_slot),
            Purpose::Loss => out.emit(Action::HeadLoss, head, vec![h_slot], Vec::new(), None, Phase::Forward),
            Purpose::Training { trainable, recompute_blocks } => {
                Backward::new(&mut out, made, &live, trainable, *recompute_blocks).run(head, h, h_slot);
            }
        }
        let Emitter { mut steps, slots, .. } = out;
        let external: HashSet<Slot> = inputs.iter().map(|(_, s)| *s).chain(result).collect();
        schedule_frees(&mut steps, &external);
        Ok(Self { steps, slots, inputs, result, head })
    }

    /// Largest number of bytes of live slots over the program for `rows` rows, if each element takes four.
    pub fn peak_bytes(&self, rows: usize) -> u64 {
        let size = |s: &Slot| {
            let info = self.slots[s.0 as usize];
            4 * info.width as u64 * if info.has_rows { rows as u64 } else { 1 }
        };
        let (mut live, mut peak) = (0u64, 0u64);
        for step in &self.steps {
            let reused = if step.reuse { step.accumulate.map_or(0, |i| size(&step.inputs[i])) } else { 0 };
            live += step.outputs.iter().map(size).sum::<u64>();
            live -= reused;
            peak = peak.max(live);
            live -= step.frees.iter().map(size).sum::<u64>();
        }
        peak
    }
}

fn reachable(graph: &Graph, from: Value) -> HashSet<Value> {
    let mut seen = HashSet::from([from]);
    let mut stack = vec![from];
    while let Some(v) = stack.pop() {
        for &input in &graph.node(v).inputs {
            if seen.insert(input) {
                stack.push(input);
            }
        }
    }
    seen
}

/// Marks each slot's last use; `external` ones are never freed. Outputs nobody reads are freed by the step that makes them.
/// A backend that rewrites steps (fusion) calls it again.
pub fn schedule_frees(steps: &mut [Step], external: &HashSet<Slot>) {
    let mut seen: HashSet<Slot> = external.clone();
    for step in steps.iter_mut().rev() {
        step.frees.clear();
        let accumulated = step.accumulate.map(|i| step.inputs[i]);
        step.reuse = accumulated
            .is_some_and(|slot| !seen.contains(&slot) && step.inputs.iter().filter(|s| **s == slot).count() == 1);
        for &slot in step.inputs.iter().chain(&step.outputs) {
            if seen.insert(slot) && !(step.reuse && accumulated == Some(slot)) {
                step.frees.push(slot);
            }
        }
    }
}
