//! A decode step as one launch behind the embedding: the fused steps of [`super::decode`], the last norm and the head become
//! the list that one resident kernel walks ([`DecodeProgram`]). Steps that are anything else keep their launches.

use swift_graph::Value;
use swift_graph::ir::Op;
use swift_graph::program::{Action, Step};
use swift_kernels::cuda::{
    self, CudaError, DecodeAttention, DecodeOp, DecodeProgram, FewRows, HeadNorm, Matrix, Norm, Rope,
};
use swift_kernels::cuda::{MOST_PERSISTENT_ROWS, Tensor};

use super::decode::Decode;
use super::execute::{Run, attention_numbers};
use super::lower::Kernel;
use crate::bridge::activation;
use crate::error::EngineError;

/// The product that makes logits.
#[derive(Clone, Copy)]
pub(crate) struct Head {
    /// `[vocabulary, k]`.
    pub(crate) weight: Tensor,
    pub(crate) vocabulary: usize,
    /// f32 `[rows, vocabulary]`.
    pub(crate) out: Tensor,
}

/// A projection's parts, for which [`FewRows`] holds a slice.
struct Projection {
    x: Tensor,
    k: usize,
    norm: Option<Norm>,
    matrices: Vec<Matrix>,
    residual: Option<Tensor>,
    glu: Option<swift_kernels::Activation>,
}

/// A step's part of the list.
#[allow(clippy::large_enum_variant, reason = "a list of them lives for one call")]
enum Part<'a> {
    Projection(Projection),
    Attention(DecodeAttention<'a>),
}

impl Run<'_> {
    /// The run's steps behind the first, and the head, as one launch; `None` if some step or size is not for it.
    pub(crate) fn persistent(&self, head: Head) -> Result<Option<DecodeProgram>, EngineError> {
        let rows = self.feed.rows();
        let steps = &self.lowered.steps;
        let (Some((last, middle)), Some(result)) = (steps.split_last(), self.lowered.result) else { return Ok(None) };
        if rows > MOST_PERSISTENT_ROWS || !self.is_embedding() || middle.is_empty() {
            return Ok(None);
        }
        let mut parts = Vec::with_capacity(steps.len());
        for (step, kernel) in middle.iter().zip(&self.lowered.kernels).skip(1) {
            let Kernel::Decode(work) = kernel else { return Ok(None) };
            let part = match work.as_ref() {
                Decode::FewRows { norm, linears, residual, glu } => {
                    self.projection(step, *norm, linears, *residual, *glu)?.map(Part::Projection)
                }
                Decode::Attention { q_norm, k_norm, rope } => {
                    self.attention_of(step, *q_norm, *k_norm, *rope)?.map(Part::Attention)
                }
            };
            let Some(part) = part else { return Ok(None) };
            parts.push(part);
        }
        // The last norm goes with the head.
        let plain = matches!(self.lowered.kernels.last(), Some(Kernel::Plain));
        let norm =
            self.norm(last.node)?.filter(|_| plain && last.action == Action::Forward && last.outputs[0] == result);
        let Some(norm) = norm else { return Ok(None) };
        let x = self.slot(last.inputs[0])?;
        let k = x.elements() / rows;
        let matrices = vec![Matrix { weight: head.weight, n: head.vocabulary, bias: None, out: head.out }];
        parts.push(Part::Projection(Projection { x, k, norm: Some(norm), matrices, residual: None, glu: None }));

        let ops: Vec<DecodeOp> = parts
            .iter()
            .map(|part| match part {
                Part::Projection(Projection { x, k, norm, matrices, residual, glu }) => {
                    let (x, k, norm, residual, glu) = (*x, *k, *norm, *residual, *glu);
                    DecodeOp::FewRows(FewRows { x, rows, k, norm, matrices, residual, glu })
                }
                Part::Attention(work) => DecodeOp::Attention(*work),
            })
            .collect();
        Ok(DecodeProgram::new(self.device, &ops)?)
    }

    fn is_embedding(&self) -> bool {
        let (Some(step), Some(Kernel::Plain)) = (self.lowered.steps.first(), self.lowered.kernels.first()) else {
            return false;
        };
        step.action == Action::Forward && matches!(self.graph.node(step.node).op, Op::Embed { .. })
    }

    /// Enqueues the first step, which comes before [`Run::persistent`]'s program.
    pub(crate) fn embed(&self) -> Result<(), EngineError> {
        let step = self.lowered.steps.first().ok_or_else(|| CudaError::invalid("a program without steps"))?;
        let node = self.graph.node(step.node);
        let Op::Embed { table } = node.op else {
            return Err(CudaError::invalid("the first step is no embedding").into());
        };
        let weight = self.weights.matrix(self.device, table, self.matrix_scratch)?;
        let out = self.slot(step.outputs[0])?;
        Ok(cuda::embed(self.device, self.slot(step.inputs[0])?, weight, node.ty.last(), out)?)
    }

    /// The norm of whole rows that a node is.
    fn norm(&self, node: Value) -> Result<Option<Norm>, EngineError> {
        let node = self.graph.node(node);
        let Op::RmsNorm { weight, eps, offset } = node.op else { return Ok(None) };
        if node.ty.tail.len() != 1 {
            return Ok(None);
        }
        let weight = weight.map(|weight| self.weights.vector(weight)).transpose()?;
        Ok(Some(Norm { weight, offset, eps }))
    }

    fn projection(
        &self,
        step: &Step,
        norm: Option<Value>,
        linears: &[Value],
        residual: bool,
        glu: Option<Value>,
    ) -> Result<Option<Projection>, EngineError> {
        let mut matrices = Vec::with_capacity(linears.len());
        let mut k = 0;
        for (i, linear) in linears.iter().enumerate() {
            let Op::Linear { weight, bias } = self.graph.node(*linear).op else { return Ok(None) };
            let shape = &self.graph.param(weight).shape;
            k = shape[1] as usize;
            let bias = bias.map(|bias| self.weights.matrix(self.device, bias, None)).transpose()?;
            let out = self.slot(step.outputs[i.min(step.outputs.len() - 1)])?;
            let weight = self.weights.matrix(self.device, weight, None)?;
            matrices.push(Matrix { weight, n: shape[0] as usize, bias, out });
        }
        let norm = match norm {
            Some(node) => match self.norm(node)? {
                Some(norm) => Some(norm),
                None => return Ok(None),
            },
            None => None,
        };
        let glu = match glu.map(|node| &self.graph.node(node).op) {
            Some(Op::Glu(op)) => Some(activation(*op)),
            Some(_) => return Ok(None),
            None => None,
        };
        let residual = if residual { Some(self.slot(step.inputs[1])?) } else { None };
        Ok(Some(Projection { x: self.slot(step.inputs[0])?, k, norm, matrices, residual, glu }))
    }

    fn attention_of(
        &self,
        step: &Step,
        q_norm: Option<Value>,
        k_norm: Option<Value>,
        rope: Option<Value>,
    ) -> Result<Option<DecodeAttention<'_>>, EngineError> {
        let Some(cached) = self.cached else { return Ok(None) };
        let (shape, mask) = attention_numbers(self.graph, step.node)?;
        let head_norm = |node: Option<Value>| -> Result<Option<HeadNorm>, EngineError> {
            let Some(Op::RmsNorm { weight: Some(weight), eps, offset }) = node.map(|n| &self.graph.node(n).op) else {
                return Ok(None);
            };
            Ok(Some(HeadNorm { weight: self.weights.vector(*weight)?, offset: *offset, eps: *eps }))
        };
        let rope = match rope {
            Some(node) => {
                let Op::Rope { dims, interleaved, .. } = self.graph.node(node).op else { return Ok(None) };
                let (cos, sin) = self.feed.rotation(node)?;
                Some(Rope { dims: dims as usize, interleaved, cos, sin })
            }
            None => None,
        };
        Ok(Some(DecodeAttention {
            q: self.slot(step.inputs[0])?,
            k: self.slot(step.inputs[1])?,
            v: self.slot(step.inputs[2])?,
            q_norm: head_norm(q_norm)?,
            k_norm: head_norm(k_norm)?,
            rope,
            cache: cached.cache(step.node)?,
            rows: cached.rows,
            shape,
            mask,
            out: self.slot(step.outputs[0])?,
        }))
    }
}
