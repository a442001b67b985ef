//! Forward runs: whole sequences for logits, or token by token with a cache.
//!
//! Caches are derived from the graph: every attention node keeps the keys and values of the rows its sequence has had.
//! A graph can be decoded if no row sees later ones, and if nothing else mixes rows. Where it runs is behind [`InferDevice`].

use std::collections::BTreeMap;
use std::sync::Arc;

use swift_graph::checkpoint::WeightSource;
use swift_graph::ir::{MaskRule, Op};
use swift_graph::program::{Program, Purpose};
use swift_graph::{Graph, Param, Value};
use swift_kernels::cuda::ProfileRow;

use crate::batch::Batch;
use crate::cpu_infer::CpuInfer;
use crate::cuda::CudaInfer;
use crate::error::EngineError;
use crate::placement::Placement;

/// A sequence being decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub(crate) u64);

/// How the next token of a sequence is chosen on the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// 0 takes the most likely token (the first of several).
    pub temperature: f32,
    /// 1 keeps all.
    pub top_p: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// 0 keeps all.
    pub min_p: f32,
    pub seed: u64,
    /// Tokens chosen so far: with the seed, it picks the random number.
    pub position: u64,
}

/// A device with a model to run.
pub(crate) trait InferDevice: Send {
    /// Sets a parameter, such as an adapter's matrix.
    fn set_values(&mut self, param: Param, values: &[f32]) -> Result<(), EngineError>;
    /// Logits of every row of whole sequences.
    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError>;
    /// Rows of prompts run at once: bounds the activations of long prompts.
    fn chunk(&self) -> usize;
    /// Makes room for a new sequence.
    fn start(&mut self, id: SequenceId);
    /// Forgets a sequence.
    fn end(&mut self, id: SequenceId);
    /// Runs rows behind what their sequences have had (`batch.sequence_lengths` are the new rows of each); gives the logits
    /// behind the rows `wanted`.
    fn extend(&mut self, batch: &Batch, ids: &[SequenceId], wanted: &[usize]) -> Result<Vec<f32>, EngineError>;
    /// Whether [`InferDevice::choose`] works.
    fn can_choose(&self) -> bool;
    /// As `extend`, and chooses a token behind each of the rows `wanted`.
    fn choose(
        &mut self,
        batch: &Batch,
        ids: &[SequenceId],
        wanted: &[usize],
        choices: &[Choice],
    ) -> Result<Vec<u32>, EngineError>;
    /// Bytes the caches of all sequences take.
    fn cache_bytes(&self) -> u64;
    /// Times every kernel from now on, where the device can.
    fn start_profile(&mut self);
    /// Ends timing; the sums by kernel.
    fn end_profile(&mut self) -> Result<Vec<ProfileRow>, EngineError>;
}

/// Runs one model forward.
pub struct InferSession {
    graph: Arc<Graph>,
    device: Box<dyn InferDevice>,
    /// Tokens each sequence has had.
    lengths: BTreeMap<SequenceId, usize>,
    next: u64,
    vocabulary: usize,
    /// Longest sequence that can be decoded with a cache, where the model sets one.
    limit: Option<usize>,
    not_decodable: Option<String>,
}

impl InferSession {
    /// Lowers `graph` and binds weights.
    ///
    /// # Errors
    /// When the graph has no head, a weight is not as traced, or the device cannot be used.
    pub fn new(graph: Graph, weights: Arc<dyn WeightSource>, placement: &Placement) -> Result<Self, EngineError> {
        let program = Program::new(&graph, &Purpose::Inference)?;
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
        let graph = Arc::new(graph);
        let device: Box<dyn InferDevice> = match placement {
            Placement::Cpu => Box::new(CpuInfer::new(graph.clone(), program, weights)?),
            Placement::Cuda(place) => Box::new(CudaInfer::new(graph.clone(), program, weights, place)?),
        };
        Ok(Self { graph, device, lengths: BTreeMap::new(), next: 0, vocabulary, limit, not_decodable })
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
        let Some(index) = self.graph.params.iter().position(|p| p.name == name) else {
            return Err(EngineError::Unknown(format!("there is no parameter `{name}`")));
        };
        let elements = self.graph.params[index].elements();
        if values.len() != elements {
            let message = format!("takes {elements} elements, got {}", values.len());
            return Err(EngineError::Mismatch { name: name.to_owned(), message });
        }
        self.device.set_values(Param(index as u32), values)
    }

    /// Logits of every row of a batch of whole sequences: `[rows, vocabulary]`.
    ///
    /// # Errors
    /// When the batch is malformed.
    pub fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        batch.check(self.vocabulary)?;
        self.device.logits(batch)
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
        self.lengths.insert(id, 0);
        self.device.start(id);
        Ok(id)
    }

    /// Forgets a sequence.
    pub fn end(&mut self, id: SequenceId) {
        if self.lengths.remove(&id).is_some() {
            self.device.end(id);
        }
    }

    /// Tokens a sequence has had.
    pub fn length(&self, id: SequenceId) -> usize {
        self.lengths.get(&id).copied().unwrap_or(0)
    }

    /// Bytes the caches of all sequences take.
    pub fn cache_bytes(&self) -> u64 {
        self.device.cache_bytes()
    }

    /// Times every kernel from now on; on the CPU it does nothing.
    pub fn start_profile(&mut self) {
        self.device.start_profile();
    }

    /// Ends timing and gives the sums by kernel, longest first; empty on the CPU.
    ///
    /// # Errors
    /// When work on the device failed.
    pub fn end_profile(&mut self) -> Result<Vec<ProfileRow>, EngineError> {
        self.device.end_profile()
    }

    /// Whether the device chooses tokens itself ([`Self::choose`]).
    pub fn can_choose(&self) -> bool {
        self.device.can_choose()
    }

    /// Feeds each sequence its next tokens and gives the logits behind the last of them, in the order of `work`.
    /// Prompts and single tokens may be mixed; long prompts are run in chunks.
    ///
    /// # Errors
    /// When a sequence is unknown, stands twice, has no new token, or a token is out of range. After a failure of the
    /// device the sequences are lost; the session is not.
    pub fn extend(&mut self, work: &[(SequenceId, &[u32])]) -> Result<Vec<Vec<f32>>, EngineError> {
        let mut results: Vec<Vec<f32>> = vec![Vec::new(); work.len()];
        let vocabulary = self.vocabulary;
        self.feed(work, &mut |device, batch, ids, wanted, places| {
            let logits = device.extend(batch, ids, wanted)?;
            for (place, row) in places.iter().zip(logits.chunks_exact(vocabulary)) {
                results[*place] = row.to_vec();
            }
            Ok(())
        })?;
        Ok(results)
    }

    /// As [`Self::extend`], but chooses the next token of each sequence on the device and gives those.
    ///
    /// # Errors
    /// As [`Self::extend`], and when the device cannot choose or logits are not finite.
    pub fn choose(&mut self, work: &[(SequenceId, &[u32])], choices: &[Choice]) -> Result<Vec<u32>, EngineError> {
        if choices.len() != work.len() {
            return Err(EngineError::Batch(format!("{} choices for {} sequences", choices.len(), work.len())));
        }
        let mut results = vec![0; work.len()];
        self.feed(work, &mut |device, batch, ids, wanted, places| {
            let choices: Vec<Choice> = places.iter().map(|place| choices[*place]).collect();
            let tokens = device.choose(batch, ids, wanted, &choices)?;
            for (place, token) in places.iter().zip(tokens) {
                results[*place] = token;
            }
            Ok(())
        })?;
        Ok(results)
    }

    /// Runs `work` in chunks of as many tokens as fit, in order. `run` gets the rows behind which something is wanted and
    /// the places of their sequences in `work`.
    fn feed(
        &mut self,
        work: &[(SequenceId, &[u32])],
        run: &mut dyn FnMut(&mut dyn InferDevice, &Batch, &[SequenceId], &[usize], &[usize]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        for (i, (id, tokens)) in work.iter().enumerate() {
            let Some(length) = self.lengths.get(id) else {
                return Err(EngineError::Unknown("this sequence was ended or never started".into()));
            };
            if tokens.is_empty() || work[..i].iter().any(|(other, _)| other == id) {
                return Err(EngineError::Batch("each sequence must stand once, with at least one new token".into()));
            }
            if let Some(token) = tokens.iter().find(|token| **token as usize >= self.vocabulary) {
                return Err(EngineError::Batch(format!(
                    "token id {token} is outside of the vocabulary of {}",
                    self.vocabulary
                )));
            }
            if let Some(limit) = self.limit.filter(|limit| length + tokens.len() > *limit) {
                return Err(EngineError::NotDecodable(format!(
                    "its dynamic rope scaling changes with the length beyond {limit} tokens, so earlier keys would be wrong"
                )));
            }
        }
        let mut done = vec![0usize; work.len()];
        loop {
            let mut room = self.device.chunk();
            let mut batch = Batch::default();
            let (mut ids, mut wanted, mut places) = (Vec::new(), Vec::new(), Vec::new());
            let mut parts = Vec::new();
            for (i, (id, tokens)) in work.iter().enumerate() {
                let take = (tokens.len() - done[i]).min(room);
                if take == 0 {
                    continue;
                }
                room -= take;
                let (start, first) = (done[i], self.length(*id));
                batch.tokens.extend_from_slice(&tokens[start..start + take]);
                batch.sequence_lengths.push(take as u32);
                batch.positions.extend((first..first + take).map(|p| p as u32));
                ids.push(*id);
                parts.push((i, take));
                if start + take == tokens.len() {
                    wanted.push(batch.tokens.len() - 1);
                    places.push(i);
                }
            }
            if parts.is_empty() {
                return Ok(());
            }
            batch.targets = vec![0; batch.tokens.len()];
            batch.weights = vec![0.0; batch.tokens.len()];
            batch.check(self.vocabulary)?;
            if let Err(error) = run(self.device.as_mut(), &batch, &ids, &wanted, &places) {
                // The caches are half-extended, and results of earlier chunks are lost.
                for (id, _) in work {
                    self.end(*id);
                }
                return Err(error);
            }
            for (i, take) in parts {
                done[i] += take;
                *self.lengths.entry(work[i].0).or_default() += take;
            }
        }
    }
}
