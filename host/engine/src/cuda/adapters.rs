//! Low-rank adapters on a GPU. A step with adapters moves more bytes for them than their arithmetic is worth: every output
//! is read and written again to add to it, every gradient is read again. Two rewrites take most of that away.
//!
//! - Adapters that read one value make one product with all their A ([`Group`]).
//! - A frozen matrix is stored with scale·B in columns behind it: W' = [W | s·B]. Then `[x | x·Aᵀ] · W'ᵀ` is the adapted
//!   product in one go. Nothing is rounded that was not before: the sum over both is made in f32, inside the product. (On
//!   the way back the same trick costs more than it saves: the columns behind x make the product's tiles overhang.)

use std::collections::{HashMap, HashSet};

use swift_graph::ir::Op;
use swift_graph::lora::Adapter;
use swift_graph::program::{Action, Phase, Program, Slot, Step};
use swift_graph::{Graph, Param};
use swift_kernels::cuda::Dtype;

use super::lower::{Kernel, Lowered};

/// One adapter of a group.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Member {
    pub(crate) weight: Param,
    pub(crate) a: Param,
    pub(crate) b: Param,
    pub(crate) scale: f64,
    /// Where its columns begin among the group's.
    pub(crate) column: usize,
    pub(crate) rank: usize,
}

/// Adapters that read one value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Group {
    pub(crate) members: Vec<Member>,
    /// Columns of all members.
    pub(crate) rank: usize,
    /// Whether the frozen matrices hold the B behind their own columns: when a norm, which can leave room behind its rows,
    /// makes the value for them alone.
    pub(crate) augmented: bool,
}

impl Group {
    /// The A, in order: they lie one after another.
    pub(crate) fn down(&self) -> Vec<Param> {
        self.members.iter().map(|m| m.a).collect()
    }

    fn member(&self, a: Param) -> Option<&Member> {
        self.members.iter().find(|m| m.a == a)
    }
}

/// A multiple of 16 bytes in half precision: what products and copies want of rows.
const ROW: usize = 8;

/// The A of a step that multiplies by one.
fn low_rank(step: &Step, graph: &Graph) -> Option<Param> {
    match (step.action, &graph.node(step.node).op) {
        (Action::Forward, Op::Linear { weight, bias: None }) => Some(*weight),
        _ => None,
    }
}

/// Which adapters read the same value, in the order of the program. A must fill whole stretches of `alignment` elements to
/// lie one after another; `dense` says that frozen matrices are stored as they are.
pub(crate) fn groups(
    program: &Program,
    graph: &Graph,
    adapters: &[Adapter],
    alignment: usize,
    dense: bool,
) -> Vec<Group> {
    let by_a: HashMap<Param, &Adapter> = adapters.iter().map(|adapter| (adapter.a, adapter)).collect();
    let mut by_input: Vec<(Slot, Vec<Member>)> = Vec::new();
    let mut uses: HashMap<Param, usize> = HashMap::new();
    for node in &graph.nodes {
        node.op.params().into_iter().for_each(|p| *uses.entry(p).or_default() += 1);
    }
    for step in program.steps.iter().filter(|step| step.phase == Phase::Forward) {
        let Some(adapter) = low_rank(step, graph).and_then(|a| by_a.get(&a)) else { continue };
        // A matrix used twice would have two places, one on heads has several rows in each.
        let whole = graph.ty(step.node).tail.len() == 1;
        if !whole || uses[&adapter.a] != 1 || !graph.param(adapter.a).elements().is_multiple_of(alignment) {
            continue;
        }
        let rank = graph.param(adapter.a).shape[0] as usize;
        let Adapter { weight, a, b, scale, .. } = **adapter;
        let at = match by_input.iter().position(|(slot, _)| *slot == step.inputs[0]) {
            Some(at) => at,
            None => {
                by_input.push((step.inputs[0], Vec::new()));
                by_input.len() - 1
            }
        };
        let members = &mut by_input[at].1;
        let column = members.last().map_or(0, |m| m.column + m.rank);
        members.push(Member { weight, a, b, scale, column, rank });
    }
    by_input
        .into_iter()
        .map(|(slot, members)| {
            let rank = members.last().map_or(0, |m| m.column + m.rank);
            let fits =
                |m: &Member| uses[&m.weight] == 1 && (graph.param(m.weight).shape[1] as usize).is_multiple_of(ROW);
            let mut group = Group { members, rank, augmented: false };
            group.augmented = dense
                && rank.is_multiple_of(ROW)
                && group.members.iter().all(fits)
                && is_wide(&program.steps, graph, &group, slot);
            group
        })
        .collect()
}

/// Whether a norm of whole rows makes `slot`, and the matrices of the group, all of them, and its A are all that reads it.
fn is_wide(steps: &[Step], graph: &Graph, group: &Group, slot: Slot) -> bool {
    let by_norm = steps.iter().any(|s| {
        s.outputs.first() == Some(&slot)
            && s.action == Action::Forward
            && matches!(graph.node(s.node).op, Op::RmsNorm { .. })
            && graph.ty(s.node).tail.len() == 1
    });
    let mut products = 0;
    let alone = steps.iter().filter(|s| s.inputs.contains(&slot)).all(|reader| {
        let weight = match (reader.action, &graph.node(reader.node).op) {
            (Action::Forward, Op::Linear { weight, .. }) => {
                products += usize::from(group.members.iter().any(|m| m.weight == *weight));
                *weight
            }
            (Action::LinearGradWeight { weight, .. }, Op::Linear { .. }) => weight,
            _ => return false,
        };
        group.members.iter().any(|m| m.weight == weight || m.a == weight)
    });
    by_norm && alone && products == group.members.len()
}

/// The last steps that make the gradient of an A of the group, and of x through one.
fn last_gradients(steps: &[Step], group: &Group) -> (Option<usize>, Option<usize>) {
    let is_a = |weight: Param| group.member(weight).is_some();
    let last = |of: &dyn Fn(&Step) -> bool| steps.iter().rposition(of);
    (
        last(&|s| matches!(s.action, Action::LinearGradWeight { weight, .. } if is_a(weight))),
        last(&|s| matches!(s.action, Action::LinearGradInput { weight, .. } if is_a(weight))),
    )
}

/// Rewrites `lowered` for all groups.
pub(crate) fn fuse(lowered: &mut Lowered, graph: &Graph, groups: &[Group], element: Dtype) {
    let place: HashMap<Param, (usize, Member)> =
        groups.iter().enumerate().flat_map(|(g, group)| group.members.iter().map(move |m| (m.a, (g, *m)))).collect();
    let by_weight: HashMap<Param, usize> =
        groups.iter().enumerate().flat_map(|(g, group)| group.members.iter().map(move |m| (m.weight, g))).collect();
    let last: Vec<_> = groups.iter().map(|group| last_gradients(&lowered.steps, group)).collect();
    let wide = widen(lowered, graph, groups);
    // Where each adapter's low product went: slot of the group and column.
    let mut moved: HashMap<Slot, (Slot, Member)> = HashMap::new();
    let mut low: HashMap<(usize, Slot, Phase), Slot> = HashMap::new();
    // Gradients of the low products.
    let mut gradients: HashMap<usize, Slot> = HashMap::new();
    // Products of a frozen matrix alone that are made together with the adapter's: their input.
    let mut bases: HashMap<Slot, (Slot, Param)> = HashMap::new();
    // Slots of removed steps are what they would have added to, if anything.
    let mut renamed: HashMap<Slot, Option<Slot>> = HashMap::new();
    let mut gone = HashSet::new();
    for i in 0..lowered.steps.len() {
        rename_accumulator(&mut lowered.steps[i], &renamed);
        let step = lowered.steps[i].clone();
        match (step.action, &graph.node(step.node).op) {
            (Action::Forward, Op::Linear { weight, .. }) if place.contains_key(weight) => {
                let (g, member) = place[weight];
                let key = (g, step.inputs[0], step.phase);
                let slot = match low.get(&key) {
                    Some(slot) => {
                        gone.insert(i);
                        *slot
                    }
                    None => {
                        let slot = lowered.slot(groups[g].rank, element);
                        low.insert(key, slot);
                        lowered.steps[i].outputs = vec![slot];
                        let wide = wide.contains(&step.inputs[0]);
                        lowered.kernels[i] = Kernel::LowRank { members: groups[g].down(), wide };
                        slot
                    }
                };
                moved.insert(step.outputs[0], (slot, member));
            }
            (Action::Forward, Op::Linear { weight, .. })
                if by_weight.contains_key(weight) && wide.contains(&step.inputs[0]) =>
            {
                bases.insert(step.outputs[0], (step.inputs[0], *weight));
                gone.insert(i);
            }
            (Action::Forward, Op::LinearAdd { .. }) => {
                if let Some((x, weight)) = bases.get(&step.inputs[0]) {
                    lowered.steps[i].inputs = vec![*x];
                    lowered.steps[i].accumulate = None;
                    lowered.kernels[i] = Kernel::Augmented { weight: *weight };
                } else if let Some((slot, member)) = moved.get(&step.inputs[1]) {
                    lowered.steps[i].inputs[1] = *slot;
                    lowered.kernels[i] = Kernel::LowRankAdd { column: member.column };
                }
            }
            (Action::LinearGradWeight { weight, scale }, Op::LinearAdd { .. }) => {
                if let Some((slot, member)) = moved.get(&step.inputs[1]) {
                    lowered.steps[i].inputs[1] = *slot;
                    lowered.kernels[i] = Kernel::LowRankGradB { weight, scale, column: member.column };
                }
            }
            (Action::LinearGradInput { weight, scale }, Op::LinearAdd { .. }) => {
                // The product's node is the second operand; its A says which group.
                let node = graph.node(step.node).inputs[1];
                let Op::Linear { weight: a, .. } = graph.node(node).op else { continue };
                let Some(&(g, member)) = place.get(&a) else { continue };
                let next = lowered.slot(groups[g].rank, element);
                let before = gradients.insert(g, next);
                lowered.kernels[i] = Kernel::LowRankGrad { weight, scale, column: member.column };
                lowered.steps[i].outputs = vec![next];
                lowered.steps[i].inputs = std::iter::once(step.inputs[0]).chain(before).collect();
                lowered.steps[i].accumulate = before.map(|_| 1);
            }
            (Action::LinearGradWeight { weight, .. }, Op::Linear { .. }) if place.contains_key(&weight) => {
                let (g, _) = place[&weight];
                if last[g].0 != Some(i) {
                    gone.insert(i);
                    continue;
                }
                lowered.steps[i].inputs[0] = gradients[&g];
                lowered.kernels[i] = Kernel::LowRankGradA { members: groups[g].down() };
            }
            (Action::LinearGradInput { weight, .. }, Op::Linear { .. }) if place.contains_key(&weight) => {
                let (g, _) = place[&weight];
                let before = step.accumulate.map(|a| step.inputs[a]);
                if last[g].1 != Some(i) {
                    gone.insert(i);
                    renamed.insert(step.outputs[0], before);
                } else {
                    lowered.steps[i].inputs[0] = gradients[&g];
                    lowered.kernels[i] = Kernel::LowRankGradInput { members: groups[g].down() };
                }
            }
            _ => {}
        }
    }
    lowered.remove(&gone);
}

/// The gradient of a B and that of what it multiplies stand next to each other and read the same: one kernel makes both.
pub(crate) fn fuse_gradients(lowered: &mut Lowered, graph: &Graph) {
    let mut gone = HashSet::new();
    for i in 1..lowered.steps.len() {
        let (first, second) = (&lowered.steps[i - 1], &lowered.steps[i]);
        let of_adapter = |step: &Step| matches!(graph.node(step.node).op, Op::LinearAdd { .. });
        let (Action::LinearGradWeight { weight, scale }, Action::LinearGradInput { weight: other, .. }) =
            (first.action, second.action)
        else {
            continue;
        };
        let column = match (&lowered.kernels[i - 1], &lowered.kernels[i]) {
            (Kernel::Plain, Kernel::Plain) if second.accumulate.is_none() => 0,
            (Kernel::LowRankGradB { column, .. }, Kernel::LowRankGrad { column: same, .. }) if column == same => {
                *column
            }
            _ => continue,
        };
        if weight != other || !of_adapter(first) || !of_adapter(second) || first.inputs[0] != second.inputs[0] {
            continue;
        }
        let (low, before) = (first.inputs[1], second.accumulate.map(|a| second.inputs[a]));
        let step = &mut lowered.steps[i];
        step.inputs = [step.inputs[0], low].into_iter().chain(before).collect();
        step.accumulate = before.map(|_| 2);
        lowered.kernels[i] = Kernel::AdapterGrad { weight, scale, column };
        gone.insert(i - 1);
    }
    lowered.remove(&gone);
}

/// Slots that only the matrices and A of one augmented group read: they get columns for the group's low product. A value
/// made again for the gradient of A alone stays as narrow as it was.
fn widen(lowered: &mut Lowered, graph: &Graph, groups: &[Group]) -> HashSet<Slot> {
    let mut wide = HashSet::new();
    for (i, step) in lowered.steps.iter().enumerate() {
        if lowered.kernels[i] != Kernel::Plain || !matches!(graph.node(step.node).op, Op::RmsNorm { .. }) {
            continue;
        }
        let Some(slot) = step.outputs.first().copied() else { continue };
        let of = |group: &&Group| group.augmented && is_wide(&lowered.steps, graph, group, slot);
        if let Some(group) = groups.iter().find(of) {
            wide.insert(slot);
            lowered.slots[slot.0 as usize].width += group.rank;
        }
    }
    wide
}

fn rename_accumulator(step: &mut Step, renamed: &HashMap<Slot, Option<Slot>>) {
    for index in 0..step.inputs.len() {
        // Chains of removed steps lead to the first that stays.
        while let Some(to) = step.inputs.get(index).and_then(|slot| renamed.get(slot)) {
            match to {
                Some(slot) => step.inputs[index] = *slot,
                None => {
                    step.inputs.remove(index);
                    step.accumulate = None;
                }
            }
        }
    }
}
