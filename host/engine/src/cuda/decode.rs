//! Decode steps: one token of each sequence. A forward program of hundreds of small kernels becomes a few for each layer.
//!
//! As in [`super::lower`], rules look for patterns of steps: projections that read one value run in one launch, with the
//! norm before them, the gate behind them or the residual sum behind them; norm and rotation of the heads, the cache and
//! attention run in one launch.

use std::collections::HashSet;

use swift_graph::ir::{Binary, Op};
use swift_graph::program::{Action, Program, Slot, Step};
use swift_graph::{Graph, Param, Value};
use swift_kernels::cuda::Dtype;

use super::lower::{Kernel, Lowered};

/// Rows up to which matrix-vector kernels beat cuBLASLt.
pub(crate) const FEW_ROWS: usize = 16;

/// Matrices of one launch.
const MATRICES: usize = 4;

/// A fused decode step.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decode {
    /// `(x[, residual])` -> one output for each linear, or one for all behind a gate.
    FewRows { norm: Option<Value>, linears: Vec<Value>, residual: bool, glu: Option<Value> },
    /// `(q, k, v, positions)`: projections as they are; the step's node is the attention.
    Attention { q_norm: Option<Value>, k_norm: Option<Value>, rope: Option<Value> },
}

/// A forward program for decode steps. `few` also fuses projections, which is right for up to [`FEW_ROWS`] rows;
/// `is_dense` says which matrices are not quantised.
pub(crate) fn decode(
    program: &Program,
    graph: &Graph,
    element: Dtype,
    few: bool,
    is_dense: impl Fn(Param) -> bool,
) -> Lowered {
    let mut lowered = Lowered::plain(program, graph, element);
    fuse_attention(&mut lowered, graph);
    if few {
        fuse_projections(&mut lowered, graph, is_dense);
    } else {
        lowered.fuse_add_norm(graph);
    }
    lowered.reschedule();
    lowered
}

/// A query or key on its way to attention: its projection, the norm of its heads, its rotation, and the steps in between.
struct Path {
    from: Slot,
    norm: Option<Value>,
    rope: Option<(Value, Slot)>,
    steps: Vec<usize>,
}

fn fuse_attention(lowered: &mut Lowered, graph: &Graph) {
    let (readers, writers) = (lowered.readers(), lowered.writers());
    let mut gone = HashSet::new();
    for i in 0..lowered.steps.len() {
        let step = &lowered.steps[i];
        let Op::Attention { .. } = graph.node(step.node).op else { continue };
        if step.action != Action::Forward {
            continue;
        }
        let width = graph.ty(graph.node(step.node).inputs[0]).last();
        let path = |slot: Slot| -> Path {
            let mut path = Path { from: slot, norm: None, rope: None, steps: Vec::new() };
            loop {
                let Some(&j) = writers.get(&path.from) else { return path };
                let made: &Step = &lowered.steps[j];
                if readers.get(&path.from) != Some(&1) || made.action != Action::Forward {
                    return path;
                }
                let node = graph.node(made.node);
                match node.op {
                    Op::Rope { .. } if path.rope.is_none() && path.norm.is_none() && node.ty.last() == width => {
                        path.rope = Some((made.node, made.inputs[1]));
                    }
                    // A norm of whole rows, not of heads, stays.
                    Op::RmsNorm { weight: Some(_), .. }
                        if path.norm.is_none() && node.ty.tail.len() == 2 && node.ty.last() == width =>
                    {
                        path.norm = Some(made.node);
                    }
                    _ => return path,
                }
                path.steps.push(j);
                path.from = made.inputs[0];
            }
        };
        let (q, k) = (path(step.inputs[0]), path(step.inputs[1]));
        let same_rotation = match (&q.rope, &k.rope) {
            (None, None) => true,
            (Some((a, p)), Some((b, r))) => p == r && graph.node(*a).op == graph.node(*b).op,
            _ => false,
        };
        if !same_rotation {
            continue;
        }
        gone.extend(q.steps.iter().chain(&k.steps).copied());
        let mut inputs = vec![q.from, k.from, lowered.steps[i].inputs[2]];
        inputs.extend(q.rope.map(|(_, positions)| positions));
        lowered.steps[i].inputs = inputs;
        let rope = q.rope.map(|(node, _)| node);
        lowered.kernels[i] = Kernel::Decode(Box::new(Decode::Attention { q_norm: q.norm, k_norm: k.norm, rope }));
    }
    lowered.remove(&gone);
}

fn fuse_projections(lowered: &mut Lowered, graph: &Graph, is_dense: impl Fn(Param) -> bool) {
    let (readers, writers) = (lowered.readers(), lowered.writers());
    let mut by_input: Vec<(Slot, Vec<usize>)> = Vec::new();
    for (i, step) in lowered.steps.iter().enumerate() {
        let Op::Linear { weight, .. } = graph.node(step.node).op else { continue };
        // Products on heads have several rows in each, and are left alone.
        let whole = graph.ty(step.node).tail.len() == 1;
        if step.action != Action::Forward || !whole || !is_dense(weight) {
            continue;
        }
        match by_input.iter_mut().find(|(slot, _)| *slot == step.inputs[0]) {
            Some((_, members)) => members.push(i),
            None => by_input.push((step.inputs[0], vec![i])),
        }
    }
    let single_reader = |slot: Slot, of: &dyn Fn(&Step) -> bool| -> Option<usize> {
        if readers.get(&slot) != Some(&1) {
            return None;
        }
        lowered.steps.iter().position(|s| s.inputs.contains(&slot)).filter(|i| of(&lowered.steps[*i]))
    };
    let mut gone: HashSet<usize> = HashSet::new();
    let mut placed: Vec<(usize, Step, Kernel)> = Vec::new();
    for (input, members) in &by_input {
        let norm = writers.get(input).copied().filter(|j| {
            let made = &lowered.steps[*j];
            let node = graph.node(made.node);
            made.action == Action::Forward
                && matches!(node.op, Op::RmsNorm { .. })
                && node.ty.tail.len() == 1
                && members.iter().all(|m| graph.ty(graph.node(lowered.steps[*m].node).inputs[0]).tail == node.ty.tail)
                && readers.get(input) == Some(&members.len())
        });
        let x = norm.map_or(*input, |j| lowered.steps[j].inputs[0]);
        let norm_node = norm.map(|j| lowered.steps[j].node);
        gone.extend(norm);
        // Gate and up alone: the gated unit goes with them.
        let gated = (members.len() == 2)
            .then(|| {
                let out = |m: usize| lowered.steps[members[m]].outputs[0];
                let is_glu = |s: &Step| {
                    s.action == Action::Forward
                        && matches!(graph.node(s.node).op, Op::Glu(_))
                        && s.inputs == [out(0), out(1)]
                };
                single_reader(out(0), &is_glu).filter(|_| readers.get(&out(1)) == Some(&1))
            })
            .flatten();
        if let Some(glu) = gated {
            let linears = members.iter().map(|m| lowered.steps[*m].node).collect();
            let mut step = lowered.steps[members[1]].clone();
            step.inputs = vec![x];
            step.outputs = lowered.steps[glu].outputs.clone();
            let glu_node = lowered.steps[glu].node;
            let work = Decode::FewRows { norm: norm_node, linears, residual: false, glu: Some(glu_node) };
            placed.push((members[1], step, Kernel::Decode(Box::new(work))));
            gone.extend(members.iter().copied());
            gone.insert(glu);
            continue;
        }
        // One projection behind which the residual is added.
        if let [only] = members[..] {
            let out = lowered.steps[only].outputs[0];
            let is_sum = |s: &Step| {
                let node = graph.node(s.node);
                s.action == Action::Forward
                    && matches!(node.op, Op::Binary(Binary::Add))
                    && node.inputs.iter().all(|v| *graph.ty(*v) == node.ty)
                    && s.inputs[0] != s.inputs[1]
            };
            if let Some(sum) = single_reader(out, &is_sum) {
                let residual = lowered.steps[sum].inputs.iter().copied().find(|s| *s != out).unwrap_or(out);
                let mut step = lowered.steps[sum].clone();
                step.inputs = vec![x, residual];
                let linears = vec![lowered.steps[only].node];
                let work = Decode::FewRows { norm: norm_node, linears, residual: true, glu: None };
                placed.push((sum, step, Kernel::Decode(Box::new(work))));
                gone.insert(only);
                gone.insert(sum);
                continue;
            }
        }
        for chunk in members.chunks(MATRICES) {
            let mut step = lowered.steps[chunk[0]].clone();
            step.inputs = vec![x];
            step.outputs = chunk.iter().map(|m| lowered.steps[*m].outputs[0]).collect();
            let linears = chunk.iter().map(|m| lowered.steps[*m].node).collect();
            let work = Decode::FewRows { norm: norm_node, linears, residual: false, glu: None };
            placed.push((chunk[0], step, Kernel::Decode(Box::new(work))));
            gone.extend(chunk.iter().copied());
        }
    }
    for (i, mut step, kernel) in placed {
        step.accumulate = None;
        lowered.steps[i] = step;
        lowered.kernels[i] = kernel;
        gone.remove(&i);
    }
    lowered.remove(&gone);
}
