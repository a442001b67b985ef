//! Forward runs: whole sequences for logits, or token by token with a cache.
//!
//! Caches are derived from the graph: every attention node keeps the keys and values of the rows its sequence has had.
//! A graph can be decoded if no row sees later ones, and if nothing else mixes rows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use swift_graph::checkpoint::WeightSource;
use swift_graph::ir::{MaskRule, Op};
use swift_graph::program::{Program, Purpose};
use swift_graph::{Graph, Value};
use swift_kernels as kernels;
use swift_kernels::{AttentionMask, AttentionShape};

use crate::batch::Batch;
use crate::bridge::soft_cap_in_place;
use crate::error::EngineError;
use crate::execute::{Context, Run};
use crate::pool::Pool;
use crate::weights::Weights;

/// Rows of a prompt run at once: bounds the activations of long prompts.
const PREFILL_CHUNK: usize = 512;

/// A sequence being decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(u64);

#[derive(Default)]
struct Cache {
    keys: Vec<f32>,
    values: Vec<f32>,
}

#[derive(Default)]
struct SequenceState {
    length: usize,
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

/// Runs one model forward.
pub struct InferSession {
    graph: Graph,
    weights: Weights,
    program: Program,
    pool: Pool,
    sequences: BTreeMap<SequenceId, SequenceState>,
    next: u64,
    vocabulary: usize,
    /// Longest sequence that can be decoded with a cache, where the model sets one.
    limit: Option<usize>,
    not_decodable: Option<String>,
}

impl InferSession {
    /// Binds `graph` (with or without adapters rewritten into it) to `weights`.
    ///
    /// # Errors
    /// When the graph has no head or a weight is not as traced.
    pub fn new(graph: Graph, weights: Arc<dyn WeightSource>) -> Result<Self, EngineError> {
        let program = Program::new(&graph, &Purpose::Inference)?;
        let bound = Weights::bind(&graph, weights, &HashSet::new())?;
        let vocabulary = graph.ty(program.head).last();
        let limit = graph
            .nodes
            .iter()
            .filter_map(|n| if let Op::Rope { frequencies, .. } = &n.op { frequencies.fixed_up_to() } else { None })
            .min();
        let not_decodable = (0..graph.nodes.len() as u32).map(Value).find_map(|v| match graph.node(v).op {
            Op::Attention { mask: MaskRule::All | MaskRule::Window { right: 1.., .. }, .. } => {
                Some(format!("attention in `{}` lets a row see later ones", graph.scope_path(v)))
            }
            _ => None,
        });
        Ok(Self {
            graph,
            weights: bound,
            program,
            pool: Pool::default(),
            sequences: BTreeMap::new(),
            next: 0,
            vocabulary,
            limit,
            not_decodable,
        })
    }

    /// Elements of one row of logits.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Sets a parameter, such as an adapter's matrix.
    ///
    /// # Errors
    /// When there is no such parameter or it has another size.
    pub fn set_values(&mut self, name: &str, values: &[f32]) -> Result<(), EngineError> {
        let param = self.weights.find(name)?;
        self.weights.set(param, values, self.graph.param(param).elements())
    }

    /// Logits of every row of a batch of whole sequences: `[rows, vocabulary]`.
    ///
    /// # Errors
    /// When the batch is malformed.
    pub fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        let h = self.hidden(batch, None)?.0;
        self.head(&h)
    }

    /// Starts a sequence with an empty cache.
    ///
    /// # Errors
    /// When the graph cannot be decoded with a cache.
    pub fn start(&mut self) -> Result<SequenceId, EngineError> {
        if let Some(reason) = &self.not_decodable {
            return Err(EngineError::NotDecodable(reason.clone()));
        }
        self.next += 1;
        let id = SequenceId(self.next);
        self.sequences.insert(id, SequenceState::default());
        Ok(id)
    }

    /// Forgets a sequence.
    pub fn end(&mut self, id: SequenceId) {
        self.sequences.remove(&id);
    }

    /// Tokens a sequence has had.
    pub fn length(&self, id: SequenceId) -> usize {
        self.sequences.get(&id).map_or(0, |s| s.length)
    }

    /// Bytes the caches of all sequences take.
    pub fn cache_bytes(&self) -> u64 {
        let caches = self.sequences.values().flat_map(|s| s.attention.values());
        caches.map(|c| 4 * (c.keys.len() + c.values.len()) as u64).sum()
    }

    /// Feeds each sequence its next tokens and gives the logits behind the last of them, in the order of `work`.
    /// Prompts and single tokens may be mixed; long prompts are run in chunks.
    ///
    /// # Errors
    /// When a sequence is unknown, stands twice, has no new token, or a token is out of range.
    pub fn extend(&mut self, work: &[(SequenceId, &[u32])]) -> Result<Vec<Vec<f32>>, EngineError> {
        for (i, (id, tokens)) in work.iter().enumerate() {
            let Some(state) = self.sequences.get(id) else {
                return Err(EngineError::Unknown("this sequence was ended or never started".into()));
            };
            if tokens.is_empty() || work[..i].iter().any(|(other, _)| other == id) {
                return Err(EngineError::Batch("each sequence must stand once, with at least one new token".into()));
            }
            if let Some(limit) = self.limit.filter(|limit| state.length + tokens.len() > *limit) {
                return Err(EngineError::NotDecodable(format!(
                    "its dynamic rope scaling changes with the length beyond {limit} tokens, so earlier keys would be wrong"
                )));
            }
        }
        let mut done = vec![0usize; work.len()];
        let mut results: Vec<Vec<f32>> = vec![Vec::new(); work.len()];
        loop {
            // One chunk: as many tokens as fit, in order.
            let mut room = PREFILL_CHUNK;
            let mut parts = Vec::new();
            for (i, (_, tokens)) in work.iter().enumerate() {
                let take = (tokens.len() - done[i]).min(room);
                if take > 0 {
                    parts.push((i, done[i]..done[i] + take));
                    room -= take;
                }
            }
            if parts.is_empty() {
                return Ok(results);
            }
            let mut batch = Batch::default();
            let mut states = Vec::new();
            for (i, range) in &parts {
                let (id, tokens) = &work[*i];
                let mut state = self.sequences.remove(id).unwrap_or_default();
                batch.tokens.extend_from_slice(&tokens[range.clone()]);
                batch.sequence_lengths.push(range.len() as u32);
                batch.positions.extend((state.length..state.length + range.len()).map(|p| p as u32));
                state.length += range.len();
                states.push(state);
            }
            batch.targets = vec![0; batch.tokens.len()];
            batch.weights = vec![0.0; batch.tokens.len()];
            let outcome = self.hidden(&batch, Some(Caches { sequences: states }));
            let (h, caches) = match outcome {
                Ok(done) => done,
                Err(error) => {
                    // The caches are half-extended: these sequences are lost, the session is not.
                    return Err(error);
                }
            };
            let mut wanted = Vec::new();
            let mut row = 0;
            let width = h.len() / batch.rows();
            for ((i, range), state) in parts.iter().zip(caches) {
                self.sequences.insert(work[*i].0, state);
                row += range.len();
                done[*i] = range.end;
                if range.end == work[*i].1.len() {
                    wanted.push((*i, row - 1));
                }
            }
            let last: Vec<f32> = wanted.iter().flat_map(|(_, r)| &h[r * width..(r + 1) * width]).copied().collect();
            if !wanted.is_empty() {
                let logits = self.head(&last)?;
                for ((i, _), row) in wanted.iter().zip(logits.chunks_exact(self.vocabulary)) {
                    results[*i] = row.to_vec();
                }
            }
        }
    }

    fn hidden(&mut self, batch: &Batch, caches: Option<Caches>) -> Result<(Vec<f32>, Vec<SequenceState>), EngineError> {
        batch.check(self.vocabulary)?;
        let mut caches = caches;
        let context = Context { graph: &self.graph, weights: &self.weights, batch, scale: 0.0, dropout_key: None };
        let run = Run::new(context, &self.program, &mut self.pool, None, caches.as_mut());
        let (_, result) = rayon::scope(|_| run.run())?;
        let h = result.ok_or_else(|| EngineError::Unknown("the program has no result".into()))?;
        Ok((h, caches.map_or_else(Vec::new, |c| c.sequences)))
    }

    /// The vocabulary head on rows of its input.
    fn head(&self, h: &[f32]) -> Result<Vec<f32>, EngineError> {
        let Op::Logits { table, scale, soft_cap } = self.graph.node(self.program.head).op else {
            return Err(EngineError::Unknown("the graph has no head".into()));
        };
        let k = self.graph.param(table).shape[1] as usize;
        let rows = h.len() / k;
        let mut out = vec![0.0; rows * self.vocabulary];
        let table = self.weights.get(table)?;
        rayon::scope(|_| kernels::linear(h, rows, k, table, self.vocabulary, None, scale as f32, 0.0, &mut out));
        soft_cap_in_place(&mut out, soft_cap);
        Ok(out)
    }
}
