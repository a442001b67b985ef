//! From a program to what a GPU runs: steps that stand next to each other become one kernel where a kernel for both exists.
//!
//! Each rule looks for a pattern of steps and slots, not for a model. A rewritten program is scheduled again, so that
//! lifetimes and memory follow what is really run.

use std::collections::{HashMap, HashSet};

use swift_graph::ir::{Binary, Op};
use swift_graph::program::{Action, Phase, Program, Slot, SlotInfo, Step, schedule_frees};
use swift_graph::{Graph, Param, Value};
use swift_kernels::cuda::Dtype;

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
    /// `(x)` -> x·Aᵀ of all adapters that read x, side by side.
    LowRank { members: Vec<Param> },
    /// `(base, low)`: the step's own `LinearAdd`, reading its columns of the group's product.
    LowRankAdd { column: usize },
    /// `(dy, low)`: the gradient of B from its columns.
    LowRankGradB { weight: Param, scale: f64, column: usize },
    /// `(dy, low gradient)` -> the same, with this adapter's columns written: dy·B.
    LowRankGrad { weight: Param, scale: f64, column: usize },
    /// `(low gradient, x)`: the gradients of all A of the group.
    LowRankGradA { members: Vec<Param> },
    /// `(low gradient[, acc])` -> acc + low gradient · A.
    LowRankGradInput { members: Vec<Param> },
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

/// Adapters that read one value: their A lie one after another in the arena.
pub(crate) type Groups = Vec<Vec<Param>>;

/// Which adapters read the same value, in the order of the program. Only matrices whose elements fill whole stretches of
/// `alignment` can lie one after another.
pub(crate) fn groups(program: &Program, graph: &Graph, down: &HashSet<Param>, alignment: usize) -> Groups {
    let mut by_input: Vec<(Slot, Vec<Param>)> = Vec::new();
    for step in &program.steps {
        let Some(weight) = low_rank(step, graph, down) else { continue };
        if step.phase != Phase::Forward || !graph.param(weight).elements().is_multiple_of(alignment) {
            continue;
        }
        match by_input.iter_mut().find(|(slot, _)| *slot == step.inputs[0]) {
            Some((_, members)) if !members.contains(&weight) => members.push(weight),
            Some(_) => {}
            None => by_input.push((step.inputs[0], vec![weight])),
        }
    }
    let groups: Groups = by_input.into_iter().map(|(_, members)| members).collect();
    // A matrix used twice would have two places.
    let mut seen = HashSet::new();
    let repeated: HashSet<Param> = groups.iter().flatten().copied().filter(|p| !seen.insert(*p)).collect();
    groups.into_iter().filter(|members| members.iter().all(|p| !repeated.contains(p))).collect()
}

/// The A of a step that multiplies by one.
fn low_rank(step: &Step, graph: &Graph, down: &HashSet<Param>) -> Option<Param> {
    match (step.action, &graph.node(step.node).op) {
        (Action::Forward, Op::Linear { weight, bias: None }) if down.contains(weight) => Some(*weight),
        _ => None,
    }
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
    pub(crate) fn fused(program: &Program, graph: &Graph, element: Dtype, groups: &Groups) -> Self {
        let mut lowered = Self::plain(program, graph, element);
        lowered.group_low_rank(graph, groups, element);
        lowered.fuse_norm_rope(graph);
        lowered.fuse_norm_rope_grad(graph);
        lowered.fuse_add_norm(graph);
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

    fn slot(&mut self, width: usize, dtype: Dtype) -> Slot {
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

    /// Products with the A of adapters that read the same value become one, forward and backward.
    fn group_low_rank(&mut self, graph: &Graph, groups: &Groups, element: Dtype) {
        let mut place: HashMap<Param, (usize, usize)> = HashMap::new();
        let mut widths = Vec::new();
        for (g, members) in groups.iter().enumerate().filter(|(_, members)| members.len() > 1) {
            let mut column = 0;
            for a in members {
                place.insert(*a, (g, column));
                column += graph.param(*a).shape[0] as usize;
            }
            widths.push((g, column));
        }
        let widths: HashMap<usize, usize> = widths.into_iter().collect();
        // Where each adapter's low product and its gradient went: slot of the group and column.
        let mut moved: HashMap<Slot, (Slot, usize)> = HashMap::new();
        let mut group_slots: HashMap<(usize, Slot, Phase), Slot> = HashMap::new();
        // Gradient slots of each group: made by the first member on the way back.
        let mut gradient_slots: HashMap<usize, Slot> = HashMap::new();
        // A group's gradients are made where its last member's were.
        let (mut last_weight, mut last_input) = (HashMap::new(), HashMap::new());
        for (i, step) in self.steps.iter().enumerate() {
            let (last, weight) = match step.action {
                Action::LinearGradWeight { weight, .. } => (&mut last_weight, weight),
                Action::LinearGradInput { weight, .. } => (&mut last_input, weight),
                _ => continue,
            };
            if let Some((g, _)) = place.get(&weight) {
                last.insert(*g, i);
            }
        }
        // Slots of removed steps are what they would have added to, if anything.
        let mut renamed: HashMap<Slot, Option<Slot>> = HashMap::new();
        let mut gone = HashSet::new();
        for i in 0..self.steps.len() {
            self.rename_accumulator(i, &renamed);
            let step = self.steps[i].clone();
            let op = &graph.node(step.node).op;
            match (step.action, op) {
                (Action::Forward, Op::Linear { weight, bias: None }) if place.contains_key(weight) => {
                    let (g, column) = place[weight];
                    let key = (g, step.inputs[0], step.phase);
                    let slot = match group_slots.get(&key) {
                        Some(slot) => {
                            gone.insert(i);
                            *slot
                        }
                        None => {
                            let slot = self.slot(widths[&g], element);
                            group_slots.insert(key, slot);
                            self.steps[i].outputs = vec![slot];
                            self.kernels[i] = Kernel::LowRank { members: groups[g].clone() };
                            slot
                        }
                    };
                    moved.insert(step.outputs[0], (slot, column));
                }
                (Action::Forward, Op::LinearAdd { .. }) => {
                    if let Some((slot, column)) = moved.get(&step.inputs[1]) {
                        self.steps[i].inputs[1] = *slot;
                        self.kernels[i] = Kernel::LowRankAdd { column: *column };
                    }
                }
                (Action::LinearGradWeight { weight, scale }, Op::LinearAdd { .. }) => {
                    if let Some((slot, column)) = moved.get(&step.inputs[1]) {
                        self.steps[i].inputs[1] = *slot;
                        self.kernels[i] = Kernel::LowRankGradB { weight, scale, column: *column };
                    }
                }
                (Action::LinearGradInput { weight, scale }, Op::LinearAdd { .. }) => {
                    // The product's node is the second operand; its A says which group.
                    let low = graph.node(step.node).inputs[1];
                    let Op::Linear { weight: a, .. } = graph.node(low).op else { continue };
                    let Some(&(g, column)) = place.get(&a) else { continue };
                    let first = !gradient_slots.contains_key(&g);
                    let slot = *gradient_slots.entry(g).or_insert_with(|| {
                        self.slots.push(SlotInfo { width: widths[&g], has_rows: true });
                        self.types.push(element);
                        Slot(self.slots.len() as u32 - 1)
                    });
                    moved.insert(step.outputs[0], (slot, column));
                    self.kernels[i] = Kernel::LowRankGrad { weight, scale, column };
                    let next = if first { slot } else { self.slot(widths[&g], element) };
                    self.steps[i].outputs = vec![next];
                    self.steps[i].inputs = if first { vec![step.inputs[0]] } else { vec![step.inputs[0], slot] };
                    self.steps[i].accumulate = if first { None } else { Some(1) };
                    gradient_slots.insert(g, next);
                }
                (Action::LinearGradWeight { weight, .. }, Op::Linear { .. }) if place.contains_key(&weight) => {
                    let (g, _) = place[&weight];
                    if last_weight[&g] != i {
                        gone.insert(i);
                        continue;
                    }
                    self.steps[i].inputs[0] = gradient_slots[&g];
                    self.kernels[i] = Kernel::LowRankGradA { members: groups[g].clone() };
                }
                (Action::LinearGradInput { weight, .. }, Op::Linear { .. }) if place.contains_key(&weight) => {
                    let (g, _) = place[&weight];
                    if last_input[&g] != i {
                        gone.insert(i);
                        renamed.insert(step.outputs[0], step.accumulate.map(|a| self.steps[i].inputs[a]));
                    } else {
                        self.steps[i].inputs[0] = gradient_slots[&g];
                        self.kernels[i] = Kernel::LowRankGradInput { members: groups[g].clone() };
                    }
                }
                _ => {}
            }
        }
        self.remove(&gone);
    }

    fn rename_accumulator(&mut self, i: usize, renamed: &HashMap<Slot, Option<Slot>>) {
        for index in 0..self.steps[i].inputs.len() {
            // Chains of removed steps lead to the first that stays.
            while let Some(to) = self.steps[i].inputs.get(index).and_then(|slot| renamed.get(slot)) {
                match to {
                    Some(slot) => self.steps[i].inputs[index] = *slot,
                    None => {
                        self.steps[i].inputs.remove(index);
                        self.steps[i].accumulate = None;
                    }
                }
            }
        }
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
