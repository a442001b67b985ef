//! From the graph's ops to the kernels' names, and the moves that need no kernel: repeating, widening, slicing.

use swift_graph::ir;
use swift_graph::shape::Broadcast;
use swift_kernels as kernels;

pub(crate) fn expand(small: &[f32], length: usize, kind: Broadcast) -> Vec<f32> {
    let span = length / small.len();
    match kind {
        Broadcast::Span => small.iter().flat_map(|x| std::iter::repeat_n(*x, span)).collect(),
        Broadcast::Same | Broadcast::Repeat => small.repeat(span),
    }
}

pub(crate) fn commutes(op: ir::Binary) -> bool {
    !matches!(op, ir::Binary::Sub | ir::Binary::Div)
}

pub(crate) fn broadcast_kernel(kind: Broadcast) -> kernels::Broadcast {
    match kind {
        Broadcast::Same | Broadcast::Repeat => kernels::Broadcast::Repeat,
        Broadcast::Span => kernels::Broadcast::Span,
    }
}

pub(crate) fn binary_kernel(op: ir::Binary) -> kernels::Binary {
    match op {
        ir::Binary::Add => kernels::Binary::Add,
        ir::Binary::Sub => kernels::Binary::Sub,
        ir::Binary::Mul => kernels::Binary::Mul,
        ir::Binary::Div => kernels::Binary::Div,
        ir::Binary::Maximum => kernels::Binary::Maximum,
        ir::Binary::Minimum => kernels::Binary::Minimum,
    }
}

pub(crate) fn activation(op: ir::Unary) -> kernels::Activation {
    use kernels::Activation as A;
    match op {
        ir::Unary::Silu => A::Silu,
        ir::Unary::Gelu => A::Gelu,
        ir::Unary::GeluTanh => A::GeluTanh,
        ir::Unary::Relu => A::Relu,
        ir::Unary::Sigmoid => A::Sigmoid,
        ir::Unary::Tanh => A::Tanh,
        ir::Unary::Exp => A::Exp,
        ir::Unary::Square => A::Square,
        ir::Unary::Sqrt => A::Sqrt,
        ir::Unary::Rsqrt => A::Rsqrt,
        ir::Unary::Neg => A::Neg,
        ir::Unary::Log => A::Log,
        ir::Unary::Softplus => A::Softplus,
        ir::Unary::Relu2 => A::Relu2,
    }
}

pub(crate) fn widen(weight: kernels::Weight<'_>, out: &mut [f32]) {
    match weight {
        kernels::Weight::F32(w) => out.copy_from_slice(w),
        kernels::Weight::Bf16(w) => kernels::bf16_to_f32(w, out),
        kernels::Weight::F16(w) => kernels::f16_to_f32(w, out),
    }
}

/// `cap * tanh(x / cap)`.
pub(crate) fn soft_cap_in_place(x: &mut [f32], cap: Option<f64>) {
    if let Some(cap) = cap.map(|c| c as f32) {
        for v in x {
            *v = cap * (*v / cap).tanh();
        }
    }
}

/// One tail axis of a row-major value: `outer` repetitions of `size` groups of `inner` elements.
pub(crate) struct Split {
    size: usize,
    inner: usize,
}

impl Split {
    pub(crate) fn of(tail: &[u32], axis: u32) -> Self {
        let axis = axis as usize;
        Self { size: tail[axis] as usize, inner: tail[axis + 1..].iter().map(|&n| n as usize).product() }
    }

    pub(crate) fn copy_out(&self, whole: &[f32], part: &mut [f32], start: usize, end: usize) {
        let width = (end - start) * self.inner;
        for (from, to) in whole.chunks_exact(self.size * self.inner).zip(part.chunks_exact_mut(width)) {
            to.copy_from_slice(&from[start * self.inner..end * self.inner]);
        }
    }

    pub(crate) fn copy_in(&self, part: &[f32], whole: &mut [f32], start: usize, end: usize) {
        let width = (end - start) * self.inner;
        for (from, to) in part.chunks_exact(width).zip(whole.chunks_exact_mut(self.size * self.inner)) {
            to[start * self.inner..end * self.inner].copy_from_slice(from);
        }
    }

    pub(crate) fn add(&self, part: &[f32], whole: &mut [f32], start: usize, end: usize) {
        let width = (end - start) * self.inner;
        for (from, to) in part.chunks_exact(width).zip(whole.chunks_exact_mut(self.size * self.inner)) {
            for (t, f) in to[start * self.inner..end * self.inner].iter_mut().zip(from) {
                *t += f;
            }
        }
    }
}
