//! Forward runs on the CPU, with a cache of keys and values for each sequence and attention node.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use swift_graph::checkpoint::WeightSource;
use swift_graph::ir::Op;
use swift_graph::program::Program;
use swift_graph::{Graph, Param, Value};
use swift_kernels as kernels;
use swift_kernels::cuda::ProfileRow;
use swift_kernels::{AttentionMask, AttentionShape};

use crate::batch::Batch;
use crate::bridge::soft_cap_in_place;
use crate::error::EngineError;
use crate::execute::{Context, Run};
use crate::infer::{Choice, InferDevice, SequenceId};
use crate::pool::Pool;
use crate::weights::Weights;

/// Rows of a prompt run at once.
const PREFILL_CHUNK: usize = 512;

#[derive(Default)]
struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The caches of one sequence, by attention node.
#[derive(Default)]
pub(crate) struct SequenceState {
    attention: HashMap<Value, Cache>,
}

/// The caches of the sequences of one step, in the step's order.
pub(crate) struct Caches {
    sequences: Vec<SequenceState>,
}

impl Caches {
    /// Appends the step's keys and values to each sequence's cache and attends over all of it.
    pub(crate) fn attend(
        &mut self,
        node: Value,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        lengths: &[u32],
        shape: &AttentionShape,
        mask: AttentionMask,
        out: &mut [f32],
    ) -> Result<(), EngineError> {
        let (qw, kw) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let (vw, ow) = (shape.kv_heads * shape.value_dim, shape.heads * shape.value_dim);
        let mut start = 0;
        for (state, &length) in self.sequences.iter_mut().zip(lengths) {
            let end = start + length as usize;
            let cache = state.attention.entry(node).or_default();
            cache.keys.extend_from_slice(&k[start * kw..end * kw]);
            cache.values.extend_from_slice(&v[start * vw..end * vw]);
            kernels::attention_cached(
                &q[start * qw..end * qw],
                &cache.keys,
                &cache.values,
                shape,
                mask,
                &mut out[start * ow..end * ow],
            );
            start = end;
        }
        Ok(())
    }
}

/// A model on the CPU.
pub(crate) struct CpuInfer {
    graph: Arc<Graph>,
    program: Program,
    weights: Weights,
    pool: Pool,
    sequences: BTreeMap<SequenceId, SequenceState>,
}

impl CpuInfer {
    pub(crate) fn new(
        graph: Arc<Graph>,
        program: Program,
        weights: Arc<dyn WeightSource>,
    ) -> Result<Self, EngineError> {
        let weights = Weights::bind(&graph, weights, &HashSet::new())?;
        Ok(Self { graph, program, weights, pool: Pool::default(), sequences: BTreeMap::new() })
    }

    /// Inputs of the head for every row.
    fn hidden(&mut self, batch: &Batch, caches: Option<&mut Caches>) -> Result<Vec<f32>, EngineError> {
        let context = Context { graph: &self.graph, weights: &self.weights, batch, scale: 0.0, dropout_key: None };
        let run = Run::new(context, &self.program, &mut self.pool, None, caches);
        let (_, result) = rayon::scope(|_| run.run())?;
        result.ok_or_else(|| EngineError::Unknown("the program has no result".into()))
    }

    /// The vocabulary head on rows of its input.
    fn head(&self, h: &[f32]) -> Result<Vec<f32>, EngineError> {
        let Op::Logits { table, scale, soft_cap } = self.graph.node(self.program.head).op else {
            return Err(EngineError::Unknown("the graph has no head".into()));
        };
        let shape = &self.graph.param(table).shape;
        let (vocabulary, k) = (shape[0] as usize, shape[1] as usize);
        let rows = h.len() / k;
        let mut out = vec![0.0; rows * vocabulary];
        let table = self.weights.get(table)?;
        rayon::scope(|_| kernels::linear(h, rows, k, table, vocabulary, None, scale as f32, 0.0, &mut out));
        soft_cap_in_place(&mut out, soft_cap);
        Ok(out)
    }
}

impl InferDevice for CpuInfer {
    fn set_values(&mut self, param: Param, values: &[f32]) -> Result<(), EngineError> {
        self.weights.set(param, values, self.graph.param(param).elements())
    }

    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let h = self.hidden(batch, None)?;
        self.head(&h)
    }

    fn chunk(&self) -> usize {
        PREFILL_CHUNK
    }

    fn start(&mut self, id: SequenceId) {
        self.sequences.insert(id, SequenceState::default());
    }

    fn end(&mut self, id: SequenceId) {
        self.sequences.remove(&id);
    }

    fn extend(&mut self, batch: &Batch, ids: &[SequenceId], wanted: &[usize]) -> Result<Vec<f32>, EngineError> {
        let states = ids.iter().map(|id| self.sequences.remove(id).unwrap_or_default()).collect();
        let mut caches = Caches { sequences: states };
        let h = self.hidden(batch, Some(&mut caches))?;
        self.sequences.extend(ids.iter().copied().zip(caches.sequences));
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let width = h.len() / batch.rows();
        let last: Vec<f32> = wanted.iter().flat_map(|r| &h[r * width..(r + 1) * width]).copied().collect();
        self.head(&last)
    }

    fn can_choose(&self) -> bool {
        false
    }

    fn choose(&mut self, _: &Batch, _: &[SequenceId], _: &[usize], _: &[Choice]) -> Result<Vec<u32>, EngineError> {
        Err(EngineError::Unknown("on the CPU the caller chooses tokens from logits".into()))
    }

    fn cache_bytes(&self) -> u64 {
        let caches = self.sequences.values().flat_map(|s| s.attention.values());
        caches.map(|c| 4 * (c.keys.len() + c.values.len()) as u64).sum()
    }

    fn start_profile(&mut self) {}

    fn end_profile(&mut self) -> Result<Vec<ProfileRow>, EngineError> {
        Ok(Vec::new())
    }
}
