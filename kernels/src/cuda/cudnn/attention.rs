//! Attention and its gradient as operation graphs: the patterns that cuDNN fuses into one kernel (flash attention; Dao et
//! al., arXiv:2205.14135).

use cudarc::cudnn::sys::{
    cudnnDataType_t as Data, cudnnPointwiseMode_t as Pointwise, cudnnReduceTensorOp_t as Reduction,
};

use super::graph::{Graph, Layout, Node, Operand};
use crate::cuda::CudaError;

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Problem {
    pub gradient: bool,
    /// The gradient adds in a fixed order, for more scratch and time.
    pub deterministic: bool,
    /// f16 instead of bf16.
    pub half: bool,
    pub causal: bool,
    /// The sequences have lengths of their own and lie end to end; `length` is the longest that fits.
    pub packed: bool,
    pub batch: i64,
    pub length: i64,
    pub heads: i64,
    pub kv_heads: i64,
    pub head_dim: i64,
    pub value_dim: i64,
}

const F32: Data = Data::CUDNN_DATA_FLOAT;

/// Tensors that say where packed sequences begin and how long they are; nothing for sequences of one length.
#[derive(Clone, Copy, Default)]
struct Packing {
    query: Option<Node>,
    key: Option<Node>,
    value: Option<Node>,
    out: Option<Node>,
    log_sum_exp: Option<Node>,
    query_lengths: Option<Node>,
    key_lengths: Option<Node>,
}

impl Problem {
    fn data(&self) -> Data {
        if self.half { Data::CUDNN_DATA_HALF } else { Data::CUDNN_DATA_BFLOAT16 }
    }

    /// Scratch is as long as all sequences together, not as the batch times the longest. cuDNN has a fault there unless
    /// widths are multiples of 16 (its own front end avoids it likewise).
    fn packed_scratch(&self) -> bool {
        self.packed && self.head_dim % 16 == 0 && self.value_dim % 16 == 0
    }

    /// Bytes of the gradient of all scores, which a fixed order of sums takes.
    pub(super) fn score_bytes(&self) -> Option<usize> {
        let scores = [self.batch, self.heads, self.length, self.length];
        scores.into_iter().try_fold(2usize, |bytes, n| bytes.checked_mul(usize::try_from(n).ok()?))
    }

    /// Bytes of the scratch tensors among a gradient's operands, for `rows` rows in all.
    pub(super) fn scratch(&self, rows: i64) -> [(Operand, i64); 4] {
        // Whole tiles may be written past the last row.
        let rows = if self.packed_scratch() { rows + 128 } else { self.batch * self.length };
        [
            (Operand::QueryGradSum, rows * self.heads * self.head_dim * 4),
            (Operand::OutDot, rows * self.heads * 4),
            (Operand::KeyGradHeads, rows * self.heads * self.head_dim * 4),
            (Operand::ValueGradHeads, rows * self.heads * self.value_dim * 4),
        ]
    }

    fn packing(&self, graph: &mut Graph) -> Result<Packing, CudaError> {
        if !self.packed {
            return Ok(Packing::default());
        }
        let mut line = |operand, count, data| graph.operand(operand, Layout::line(count), data, None).map(Some);
        let (starts, i64, i32) = (self.batch + 1, Data::CUDNN_DATA_INT64, Data::CUDNN_DATA_INT32);
        Ok(Packing {
            query: line(Operand::QueryStarts, starts, i64)?,
            key: line(Operand::KeyStarts, starts, i64)?,
            value: line(Operand::ValueStarts, starts, i64)?,
            out: line(Operand::OutStarts, starts, i64)?,
            log_sum_exp: line(Operand::LogSumExpStarts, starts, i64)?,
            query_lengths: line(Operand::QueryLengths, self.batch, i32)?,
            key_lengths: line(Operand::KeyLengths, self.batch, i32)?,
        })
    }

    fn queries(&self, width: i64) -> Layout {
        Layout::rows(self.batch, self.heads, self.length, width)
    }

    fn keys(&self, width: i64) -> Layout {
        Layout::rows(self.batch, self.kv_heads, self.length, width)
    }

    fn scores(&self) -> Layout {
        Layout::planes(self.batch, self.heads, self.length, self.length)
    }

    /// One number for each query and head, inside of the kernel.
    fn column(&self) -> Layout {
        Layout::planes(self.batch, self.heads, self.length, 1)
    }

    /// Scores beyond a sequence's end become minus infinity.
    fn hide_padding(
        &self,
        graph: &mut Graph,
        scores: Node,
        hidden: Node,
        packing: &Packing,
    ) -> Result<Node, CudaError> {
        let (Some(query_lengths), Some(key_lengths)) = (packing.query_lengths, packing.key_lengths) else {
            return Ok(scores);
        };
        let row = graph.index(scores, 2)?;
        let column = graph.index(scores, 3)?;
        let row_inside = graph.test(Pointwise::CUDNN_POINTWISE_CMP_LT, row, query_lengths)?;
        let column_inside = graph.test(Pointwise::CUDNN_POINTWISE_CMP_LT, column, key_lengths)?;
        let inside = graph.test(Pointwise::CUDNN_POINTWISE_LOGICAL_AND, row_inside, column_inside)?;
        graph.map(Pointwise::CUDNN_POINTWISE_BINARY_SELECT, &[scores, hidden, inside])
    }

    /// Scores of keys after the query become minus infinity.
    fn hide_later(&self, graph: &mut Graph, scores: Node, hidden: Node) -> Result<Node, CudaError> {
        if !self.causal {
            return Ok(scores);
        }
        let row = graph.index(scores, 2)?;
        let column = graph.index(scores, 3)?;
        let visible = graph.test(Pointwise::CUDNN_POINTWISE_CMP_GE, row, column)?;
        graph.map(Pointwise::CUDNN_POINTWISE_BINARY_SELECT, &[scores, hidden, visible])
    }

    /// The graph of the forward pass or of the gradient.
    pub(super) fn graph(&self) -> Result<Graph, CudaError> {
        let mut graph = Graph::new();
        if self.gradient {
            self.backward(&mut graph)?;
        } else {
            self.forward(&mut graph)?;
        }
        Ok(graph)
    }

    fn forward(&self, graph: &mut Graph) -> Result<(), CudaError> {
        let data = self.data();
        let packing = self.packing(graph)?;
        let (rows, columns) = (packing.query_lengths, packing.key_lengths);
        let query = graph.operand(Operand::Query, self.queries(self.head_dim), data, packing.query)?;
        let key = graph.operand(Operand::Key, self.keys(self.head_dim).transposed(), data, packing.key)?;
        let value = graph.operand(Operand::Value, self.keys(self.value_dim), data, packing.value)?;
        let out = graph.operand(Operand::Out, self.queries(self.value_dim), data, packing.out)?;
        let log_sum_exp = graph.operand(Operand::LogSumExp, self.queries(1), F32, packing.log_sum_exp)?;
        let scale = graph.number(Operand::Scale)?;

        let products = graph.inner(self.scores(), F32)?;
        graph.matmul(query, key, products, [rows, columns, None])?;
        let mut scores = graph.map(Pointwise::CUDNN_POINTWISE_MUL, &[products, scale])?;
        if self.causal || self.packed {
            let hidden = graph.number(Operand::Hidden)?;
            scores = self.hide_padding(graph, scores, hidden, &packing)?;
            scores = self.hide_later(graph, scores, hidden)?;
        }

        let maximum = graph.inner(self.column(), F32)?;
        graph.reduce(Reduction::CUDNN_REDUCE_TENSOR_MAX, scores, maximum)?;
        let below = graph.map(Pointwise::CUDNN_POINTWISE_SUB, &[scores, maximum])?;
        let exponentials = graph.map(Pointwise::CUDNN_POINTWISE_EXP, &[below])?;
        let sum = graph.inner(self.column(), F32)?;
        graph.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, exponentials, sum)?;
        let log = graph.map(Pointwise::CUDNN_POINTWISE_LOG, &[sum])?;
        graph.map_to(Pointwise::CUDNN_POINTWISE_ADD, &[maximum, log], log_sum_exp)?;
        // A product's operands have the type of the activations.
        let probabilities = graph.inner(self.scores(), data)?;
        graph.map_to(Pointwise::CUDNN_POINTWISE_DIV, &[exponentials, sum], probabilities)?;
        graph.matmul(probabilities, value, out, [rows, None, columns])
    }

    fn backward(&self, graph: &mut Graph) -> Result<(), CudaError> {
        let data = self.data();
        let packing = self.packing(graph)?;
        let (rows, columns) = (packing.query_lengths, packing.key_lengths);
        let key_layout = self.keys(self.head_dim);
        let query = graph.operand(Operand::Query, self.queries(self.head_dim), data, packing.query)?;
        let key = graph.operand(Operand::Key, key_layout.transposed(), data, packing.key)?;
        let value = graph.operand(Operand::Value, self.keys(self.value_dim).transposed(), data, packing.value)?;
        let out = graph.operand(Operand::Out, self.queries(self.value_dim), data, packing.out)?;
        let out_grad = graph.operand(Operand::OutGrad, self.queries(self.value_dim), data, packing.out)?;
        let log_sum_exp = graph.operand(Operand::LogSumExp, self.queries(1), F32, packing.log_sum_exp)?;
        let query_grad = graph.operand(Operand::QueryGrad, self.queries(self.head_dim), data, packing.query)?;
        let key_grad = graph.operand(Operand::KeyGrad, key_layout, data, packing.key)?;
        let value_grad = graph.operand(Operand::ValueGrad, self.keys(self.value_dim), data, packing.value)?;
        let scale = graph.number(Operand::Scale)?;
        let one = graph.number(Operand::One)?;
        let transposed_scores = self.scores().transposed();

        // Dot product of each output row and its gradient: what the softmax's gradient subtracts.
        let mut layout = Layout::planes(self.batch, self.heads, self.length, self.value_dim);
        layout.strides[2] = self.heads * self.value_dim;
        let products = graph.inner(layout, F32)?;
        graph.map_to(Pointwise::CUDNN_POINTWISE_MUL, &[out_grad, out], products)?;
        let sums = graph.inner(self.column(), F32)?;
        graph.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, products, sums)?;
        let out_dot = if self.packed_scratch() {
            graph.operand(Operand::OutDot, self.queries(1), F32, packing.log_sum_exp)?
        } else {
            graph.operand(Operand::OutDot, self.column(), F32, None)?
        };
        graph.map_to(Pointwise::CUDNN_POINTWISE_MUL, &[sums, one], out_dot)?;

        // P = exp(scale Q K^T - logsumexp)
        let products = graph.inner(self.scores(), F32)?;
        graph.matmul(query, key, products, [rows, columns, None])?;
        let mut scores = graph.map(Pointwise::CUDNN_POINTWISE_MUL, &[products, scale])?;
        let hidden = if self.causal || self.packed { Some(graph.number(Operand::Hidden)?) } else { None };
        if let Some(hidden) = hidden {
            scores = self.hide_padding(graph, scores, hidden, &packing)?;
        }
        scores = graph.map(Pointwise::CUDNN_POINTWISE_SUB, &[scores, log_sum_exp])?;
        if let Some(hidden) = hidden {
            scores = self.hide_later(graph, scores, hidden)?;
        }
        let probabilities = graph.map(Pointwise::CUDNN_POINTWISE_EXP, &[scores])?;

        // dV = P^T dO
        let transposed = graph.reshape(probabilities, transposed_scores, data, None)?;
        self.key_side(
            graph,
            [transposed, out_grad, value_grad],
            Operand::ValueGradHeads,
            packing.value,
            [columns, None, rows],
        )?;

        // dS = P * (dO V^T - out_dot) * scale
        let products = graph.inner(self.scores(), F32)?;
        graph.matmul(out_grad, value, products, [rows, columns, None])?;
        let centered = graph.map(Pointwise::CUDNN_POINTWISE_SUB, &[products, out_dot])?;
        let weighted = graph.map(Pointwise::CUDNN_POINTWISE_MUL, &[centered, probabilities])?;
        let score_grad = graph.map(Pointwise::CUDNN_POINTWISE_MUL, &[weighted, scale])?;

        // dK = dS^T Q
        let transposed = graph.reshape(score_grad, transposed_scores, data, None)?;
        self.key_side(graph, [transposed, query, key_grad], Operand::KeyGradHeads, packing.key, [columns, None, rows])?;

        // dQ = dS K. Blocks of keys add to an f32 sum in whatever order they finish, unless there is no such sum.
        let key = graph.reshape(key, key_layout, data, packing.key)?;
        if self.deterministic {
            return graph.matmul(score_grad, key, query_grad, [rows, None, columns]);
        }
        let query_grad_sum = if self.packed_scratch() {
            graph.operand(Operand::QueryGradSum, self.queries(self.head_dim), F32, packing.query)?
        } else {
            let layout = Layout::planes(self.batch, self.heads, self.length, self.head_dim);
            graph.operand(Operand::QueryGradSum, layout, F32, None)?
        };
        graph.matmul(score_grad, key, query_grad_sum, [rows, None, columns])?;
        graph.map_to(Pointwise::CUDNN_POINTWISE_IDENTITY, &[query_grad_sum], query_grad)
    }

    /// `to = a b`, where `to` sums the query heads that share a key-value head.
    fn key_side(
        &self,
        graph: &mut Graph,
        [a, b, to]: [Node; 3],
        per_head: Operand,
        starts: Option<Node>,
        sizes: [Option<Node>; 3],
    ) -> Result<(), CudaError> {
        if self.heads == self.kv_heads {
            return graph.matmul(a, b, to, sizes);
        }
        let width = to.layout.dims[3];
        let all_heads = if self.packed_scratch() {
            // cuDNN multiplies the starts by the ratio of the heads.
            graph.operand(per_head, self.queries(width), self.data(), starts)?
        } else {
            graph.inner(Layout::planes(self.batch, self.heads, self.length, width), self.data())?
        };
        graph.matmul(a, b, all_heads, sizes)?;
        graph.reduce(Reduction::CUDNN_REDUCE_TENSOR_ADD, all_heads, to)
    }
}
