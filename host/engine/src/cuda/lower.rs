//! From a program to what a GPU runs: steps that stand next to each other become one kernel where a kernel for both exists.
//!
//! Each rule looks for a pattern of steps and slots, not for a model. A rewritten program is scheduled again, so that
//! lifetimes and memory follow what is really run.

use std::collections::{HashMap, HashSet};

use swift_graph::ir::{Binary, Op};
use swift_graph::program::{Action, Phase, Program, Slot, SlotInfo, Step, schedule_frees};
use swift_graph::{Graph, Param, Value};
use swift_kernels::cuda::Dtype;

use super::adapters::{self, Group};
use super::decode::Decode;

/// What a step of a lowered program runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kernel {
    /// The step's own action.
    Plain,
    /// `(x, positions)`: the norm of each head, then its rotation. The step's node is the rotation.
    NormRope { norm: Value },
    /// `(x, dy, positions)` -> dx. The step's node is the rotation.
    NormRopeGrad { norm: Value },
    /// `(a, b)` -> `(a + b, norm of it)`. The step's node is the sum.
    AddNorm { norm: Value },
    /// `(x)` -> x·Aᵀ of all adapters that read x, side by side; if `wide`, also in the columns behind x.
    LowRank { members: Vec<Param>, wide: bool },
    /// `([x | x·Aᵀ])` -> the adapted product, by the matrix with scale·B behind it.
    Augmented { weight: Param },
    /// `(base, low)`: the step's own `LinearAdd`, reading its columns of the group's product.
    LowRankAdd { column: usize },
    /// `(dy, low)`: the gradient of B from its columns.
    LowRankGradB { weight: Param, scale: f64, column: usize },
    /// `(dy, low gradient)` -> the same, with this adapter's columns written: dy·B.
    LowRankGrad { weight: Param, scale: f64, column: usize },
    /// `(dy, low[, low gradient])` -> low gradient: the two before at once, reading dy once.
    AdapterGrad { weight: Param, scale: f64, column: usize },
    /// `(low gradient, x)`: the gradients of all A of the group.
    LowRankGradA { members: Vec<Param> },
    /// `(low gradient[, acc])` -> acc + low gradient · A.
    LowRankGradInput { members: Vec<Param> },
    /// `(gate, up, dy)` -> `(dgate, dup, activation(gate) * up)`: the forward's result made again on the way.
    GluGradOutput,
    /// One token of each sequence.
    Decode(Box<Decode>),
}

/// One lowered step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Lowered {
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) steps: Vec<Step>,
    pub(crate) slots: Vec<SlotInfo>,
    pub(crate) types: Vec<Dtype>,
    pub(crate) inputs: Vec<(String, Slot)>,
    pub(crate) result: Option<Slot>,
}

impl Lowered {
    /// The program as it is.
    pub(crate) fn plain(program: &Program, graph: &Graph, element: Dtype) -> Self {
        let mut types = vec![element; program.slots.len()];
        for step in &program.steps {
            // Statistics of attention are f32, all else is in the run's precision.
            if step.action == Action::Forward
                && matches!(graph.node(step.node).op, Op::Attention { .. })
                && let Some(statistics) = step.outputs.get(1)
            {
                types[statistics.0 as usize] = Dtype::F32;
            }
        }
        Self {
            kernels: vec![Kernel::Plain; program.steps.len()],
            steps: program.steps.clone(),
            slots: program.slots.clone(),
            types,
            inputs: program.inputs.clone(),
            result: program.result,
        }
    }

    /// The program with everything fused that has a kernel.
    pub(crate) fn fused(program: &Program, graph: &Graph, element: Dtype, groups: &[Group]) -> Self {
        let mut lowered = Self::plain(program, graph, element);
        adapters::fuse(&mut lowered, graph, groups, element);
        adapters::fuse_gradients(&mut lowered, graph);
        lowered.fuse_norm_rope(graph);
        lowered.fuse_norm_rope_grad(graph);
        lowered.fuse_add_norm(graph);
        lowered.fuse_glu_grad(graph);
        lowered.reschedule();
        lowered
    }

    /// Lifetimes again, after steps changed.
    pub(crate) fn reschedule(&mut self) {
        let external: HashSet<Slot> = self.inputs.iter().map(|(_, s)| *s).chain(self.result).collect();
        schedule_frees(&mut self.steps, &external);
    }

    /// How many steps read each slot.
    pub(crate) fn readers(&self) -> HashMap<Slot, usize> {
        let mut readers: HashMap<Slot, usize> = self.result.iter().map(|s| (*s, 1)).collect();
        for step in &self.steps {
            for slot in &step.inputs {
                *readers.entry(*slot).or_default() += 1;
            }
        }
        readers
    }

    /// The step that writes each slot; in-place chains have one writer per slot.
    pub(crate) fn writers(&self) -> HashMap<Slot, usize> {
        let writes = self.steps.iter().enumerate();
        writes.flat_map(|(i, step)| step.outputs.iter().map(move |slot| (*slot, i))).collect()
    }

    /// Drops steps by index.
    pub(crate) fn remove(&mut self, gone: &HashSet<usize>) {
        let mut index = 0..;
        self.kernels.retain(|_| !gone.contains(&index.next().unwrap_or(0)));
        let mut index = 0..;
        self.steps.retain(|_| !gone.contains(&index.next().unwrap_or(0)));
    }

    /// A new slot with rows.
    pub(crate) fn slot(&mut self, width: usize, dtype: Dtype) -> Slot {
        self.slots.push(SlotInfo { width, has_rows: true });
        self.types.push(dtype);
        Slot(self.slots.len() as u32 - 1)
    }

    fn fuse_norm_rope(&mut self, graph: &Graph) {
        let (readers, writers) = (self.readers(), self.writers());
        let mut gone = HashSet::new();
        for i in 0..self.steps.len() {
            let step = &self.steps[i];
            let Some(norm) = rotation_of_norm(graph, step.node) else { continue };
            if step.action != Action::Forward || self.kernels[i] != Kernel::Plain {
                continue;
            }
            let Some(&j) = writers.get(&step.inputs[0]) else { continue };
            let made = &self.steps[j];
            if self.kernels[j] != Kernel::Plain
                || (made.action, made.node, made.phase) != (Action::Forward, norm, step.phase)
                || readers.get(&step.inputs[0]) != Some(&1)
            {
                continue;
            }
            let x = made.inputs[0];
            self.steps[i].inputs[0] = x;
            self.kernels[i] = Kernel::NormRope { norm };
            gone.insert(j);
        }
        self.remove(&gone);
    }

    fn fuse_norm_rope_grad(&mut self, graph: &Graph) {
        let (readers, writers) = (self.readers(), self.writers());
        let mut gone = HashSet::new();
        for i in 0..self.steps.len() {
            let step = &self.steps[i];
            if step.action != Action::NormGrad || step.accumulate.is_some() || step.outputs.is_empty() {
                continue;
            }
            let Some(&j) = writers.get(&step.inputs[1]) else { continue };
            let rotation = &self.steps[j];
            if rotation.action != Action::RopeGrad
                || rotation_of_norm(graph, rotation.node) != Some(step.node)
                || readers.get(&step.inputs[1]) != Some(&1)
            {
                continue;
            }
            let (dy, positions, node) = (rotation.inputs[0], rotation.inputs[1], rotation.node);
            let norm = step.node;
            self.steps[i].inputs = vec![self.steps[i].inputs[0], dy, positions];
            self.steps[i].node = node;
            self.kernels[i] = Kernel::NormRopeGrad { norm };
            gone.insert(j);
        }
        self.remove(&gone);
    }

    /// A gated unit made again for the gradient of one weight, and its own gradient: one pass over gate and up makes both.
    /// The weight's gradient then follows.
    fn fuse_glu_grad(&mut self, graph: &Graph) {
        let readers = self.readers();
        let mut i = 0;
        while i < self.steps.len() {
            let step = &self.steps[i];
            let again = step.action == Action::Forward
                && step.phase == Phase::Recompute
                && self.kernels[i] == Kernel::Plain
                && matches!(graph.node(step.node).op, Op::Glu(_));
            let made = step.outputs.first().copied().filter(|slot| again && readers.get(slot) == Some(&1));
            let found = made.and_then(|slot| {
                let reader = self.steps.iter().position(|s| s.inputs.contains(&slot))?;
                let gradient = self.steps.iter().position(|s| s.action == Action::GluGrad && s.node == step.node)?;
                let of_weight = self.steps[reader].outputs.is_empty();
                (of_weight && i < reader && reader < gradient && self.steps[gradient].inputs[..2] == step.inputs)
                    .then_some((slot, reader, gradient))
            });
            let Some((slot, reader, gradient)) = found else {
                i += 1;
                continue;
            };
            self.steps[gradient].outputs.push(slot);
            self.kernels[gradient] = Kernel::GluGradOutput;
            // Behind the gradient; then the step that is no longer needed goes.
            let (step, kernel) = (self.steps.remove(reader), self.kernels.remove(reader));
            self.steps.insert(gradient, step);
            self.kernels.insert(gradient, kernel);
            self.steps.remove(i);
            self.kernels.remove(i);
        }
    }

    pub(crate) fn fuse_add_norm(&mut self, graph: &Graph) {
        let mut gone = HashSet::new();
        for i in 0..self.steps.len().saturating_sub(1) {
            let (sum, norm) = (&self.steps[i], &self.steps[i + 1]);
            let node = graph.node(sum.node);
            let same = node.inputs.len() == 2 && node.inputs.iter().all(|v| *graph.ty(*v) == node.ty);
            let fits = sum.action == Action::Forward
                && matches!(node.op, Op::Binary(Binary::Add))
                && same
                && norm.action == Action::Forward
                && matches!(graph.node(norm.node).op, Op::RmsNorm { .. })
                && norm.inputs[0] == sum.outputs[0]
                && graph.ty(norm.node).last() == node.ty.width()
                && self.kernels[i] == Kernel::Plain
                && self.kernels[i + 1] == Kernel::Plain;
            if fits {
                let (out, norm) = (norm.outputs[0], norm.node);
                self.steps[i].outputs.push(out);
                self.kernels[i] = Kernel::AddNorm { norm };
                gone.insert(i + 1);
            }
        }
        self.remove(&gone);
    }
}

/// For a rotation of normalised heads: the norm.
fn rotation_of_norm(graph: &Graph, node: Value) -> Option<Value> {
    let Op::Rope { .. } = graph.node(node).op else { return None };
    let mut x = graph.node(node).inputs[0];
    while let Op::Reshape = graph.node(x).op {
        x = graph.node(x).inputs[0];
    }
    let of_heads = graph.ty(x).last() == graph.ty(node).last();
    (of_heads && matches!(graph.node(x).op, Op::RmsNorm { .. })).then_some(x)
}
