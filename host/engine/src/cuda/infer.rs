//! Forward runs on one GPU: whole sequences for logits, prompts, and decode steps over a paged cache, captured and replayed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use swift_graph::checkpoint::WeightSource;
use swift_graph::ir::Op;
use swift_graph::program::Program;
use swift_graph::{Graph, Param, Value};
use swift_kernels::cuda::{
    self, Buffer, CudaError, Cudnn, Device, Dtype, FewRows, Matrix, PAGE, PagedCache, PagedRows, ProfileRow,
    SampleSettings, Tensor, WIDEST_VOCABULARY,
};
use swift_kernels::{AttentionMask, AttentionShape};

use super::decode::{self, FEW_ROWS};
use super::execute::{Run, attention_numbers, layout};
use super::feed::Feed;
use super::layout::Layout;
use super::lower::Lowered;
use super::pages::{PageTable, PagesId};
use super::train::{element_of, grow, open_cudnn};
use super::weights::CudaWeights;
use crate::batch::Batch;
use crate::error::EngineError;
use crate::infer::{Choice, InferDevice, SequenceId};
use crate::placement::CudaPlacement;

/// Rows of prompts run at once.
const PREFILL_CHUNK: usize = 8192;
/// Share of the free memory that the key-value cache takes.
const CACHE_SHARE: f64 = 0.4;
/// Tokens beyond which a larger cache is of no use.
const CACHE_TOKENS: usize = 1 << 18;
/// Captured decode steps kept: one for each number of sequences and bound on their length.
const GRAPHS: usize = 64;

/// What attention nodes of a step with a cache read beside their operands.
pub(crate) struct Cached<'a> {
    pub(crate) caches: &'a HashMap<Value, PagedCache>,
    pub(crate) rows: PagedRows,
    /// No sequence has had rows before: attention needs no cache.
    pub(crate) fresh: bool,
}

impl Cached<'_> {
    pub(crate) fn cache(&self, node: Value) -> Result<&PagedCache, CudaError> {
        self.caches.get(&node).ok_or_else(|| CudaError::invalid("an attention without a cache"))
    }

    /// Appends keys and values, and attends over the cache unless there is nothing behind; says whether it attended.
    pub(crate) fn attend(
        &self,
        device: &Device,
        node: Value,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        shape: &AttentionShape,
        mask: AttentionMask,
        out: Tensor,
    ) -> Result<bool, CudaError> {
        let cache = self.cache(node)?;
        cuda::cache_append(device, k, v, cache, &self.rows)?;
        if !self.fresh {
            cuda::paged_attention(device, q, cache, &self.rows, shape, mask, out)?;
        }
        Ok(!self.fresh)
    }
}

/// What makes one captured decode step differ from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct StepKey {
    rows: usize,
    max_pages: usize,
}

fn too_small(buffer: &Option<Buffer>, bytes: usize) -> bool {
    buffer.as_ref().is_none_or(|b| b.bytes() < bytes)
}

/// A model on a GPU.
pub(crate) struct CudaInfer {
    device: Device,
    graph: Arc<Graph>,
    head: Value,
    weights: CudaWeights,
    feed: Feed,
    cudnn: Option<Cudnn>,
    whole: Lowered,
    few: Lowered,
    many: Lowered,
    layouts: HashMap<(usize, usize), Layout>,
    memory: Option<Buffer>,
    matrix_scratch: Option<Buffer>,
    /// Logits f32, and the rows they are made from.
    head_memory: Option<Buffer>,
    /// Sequences of rows, the block table and the wanted rows of a step.
    tables: Option<Buffer>,
    /// The sampler's settings, tokens and status.
    chosen: Option<Buffer>,
    caches: HashMap<Value, PagedCache>,
    pages: Option<PageTable>,
    sequences: BTreeMap<SequenceId, Option<PagesId>>,
    captured: HashMap<StepKey, cuda::Graph>,
    seen: HashSet<StepKey>,
    /// Steps that cannot be captured.
    refused: HashSet<StepKey>,
    profiling: bool,
}

impl CudaInfer {
    pub(crate) fn new(
        graph: Arc<Graph>,
        program: Program,
        source: Arc<dyn WeightSource>,
        place: &CudaPlacement,
    ) -> Result<Self, EngineError> {
        let device = Device::open(place.ordinal)?;
        let element = element_of(place.compute);
        let weights = CudaWeights::bind(&device, &graph, &source, element, &[], &[], place.quantization)?;
        let whole = Lowered::fused(&program, &graph, element, &[]);
        let few = decode::decode(&program, &graph, element, true, |p| weights.quantized(p).is_none());
        let many = decode::decode(&program, &graph, element, false, |_| true);
        let feed = Feed::new(&device, &graph)?;
        let cudnn = open_cudnn(&device, element)?;
        Ok(Self {
            device,
            head: program.head,
            graph,
            weights,
            feed,
            cudnn,
            whole,
            few,
            many,
            layouts: HashMap::new(),
            memory: None,
            matrix_scratch: None,
            head_memory: None,
            tables: None,
            chosen: None,
            caches: HashMap::new(),
            pages: None,
            sequences: BTreeMap::new(),
            captured: HashMap::new(),
            seen: HashSet::new(),
            refused: HashSet::new(),
            profiling: false,
        })
    }

    /// Caches for as many tokens as a share of the free memory holds.
    fn make_caches(&mut self) -> Result<(), EngineError> {
        if self.pages.is_some() {
            return Ok(());
        }
        let element = self.weights.element();
        let mut nodes = Vec::new();
        for i in 0..self.graph.nodes.len() as u32 {
            if matches!(self.graph.node(Value(i)).op, Op::Attention { .. }) {
                nodes.push((Value(i), attention_numbers(&self.graph, Value(i))?.0));
            }
        }
        let (free, _) = self.device.memory()?;
        let page_bytes: usize = nodes.iter().map(|(_, shape)| PagedCache::page_bytes(shape, element)).sum();
        let pages = ((free as f64 * CACHE_SHARE) as usize / page_bytes.max(1)).clamp(1, CACHE_TOKENS / PAGE);
        for (node, shape) in nodes {
            self.caches.insert(node, PagedCache::new(&self.device, pages, PREFILL_CHUNK, &shape, element)?);
        }
        self.pages = Some(PageTable::new(pages, PAGE));
        Ok(())
    }

    /// Drops captured steps: something they name is about to move.
    fn forget(&mut self) {
        self.captured.clear();
        self.seen.clear();
    }

    /// Runs the layers; the result lies in memory until the next run.
    fn hidden(&mut self, batch: &Batch, cached: Option<(PagedRows, bool)>) -> Result<Tensor, EngineError> {
        let rows = batch.rows();
        let decoding = cached.is_some_and(|(paged, _)| paged.longest_run == 1);
        let kind = match (decoding, rows <= FEW_ROWS) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => 2,
        };
        let lowered = [&self.whole, &self.few, &self.many][kind];
        if self.layouts.len() > GRAPHS {
            self.layouts.clear();
        }
        let bytes = self.layouts.entry((kind, rows)).or_insert_with(|| layout(lowered, rows)).bytes;
        let matrix_bytes = self.weights.largest_quantized() * self.weights.element().size();
        if too_small(&self.memory, bytes) || too_small(&self.matrix_scratch, matrix_bytes) {
            self.forget();
        }
        let memory = grow(&self.device, &mut self.memory, bytes)?;
        let matrix_scratch = grow(&self.device, &mut self.matrix_scratch, matrix_bytes)?;
        let cached = cached.map(|(rows, fresh)| Cached { caches: &self.caches, rows, fresh });
        let lowered = [&self.whole, &self.few, &self.many][kind];
        let run = Run {
            device: &self.device,
            graph: &self.graph,
            lowered,
            weights: &self.weights,
            layout: &self.layouts[&(kind, rows)],
            memory,
            feed: &self.feed,
            cudnn: self.cudnn.as_ref(),
            loss_scratch: None,
            matrix_scratch: Some(matrix_scratch),
            training: false,
            cached: cached.as_ref(),
        };
        run.run()?;
        let result = lowered.result.ok_or_else(|| CudaError::invalid("the program has no result"))?;
        Ok(run.slot(result)?)
    }

    fn vocabulary(&self) -> usize {
        self.graph.ty(self.head).last()
    }

    /// The head on rows of its input; f32 logits that lie in memory until the next run.
    fn logits_of(&mut self, h: Tensor, rows: usize) -> Result<Tensor, EngineError> {
        let Op::Logits { table, scale, soft_cap } = self.graph.node(self.head).op else {
            return Err(EngineError::Unknown("the graph has no head".into()));
        };
        let (vocabulary, k) = (self.vocabulary(), self.graph.param(table).shape[1] as usize);
        let bytes = rows * vocabulary * 4;
        if too_small(&self.head_memory, bytes) {
            self.forget();
        }
        let buffer = grow(&self.device, &mut self.head_memory, bytes)?;
        let out = buffer.at(0, rows * vocabulary, Dtype::F32);
        let weight = self.weights.matrix(&self.device, table, None)?;
        if rows <= FEW_ROWS && scale == 1.0 {
            let matrices = [Matrix { weight, n: vocabulary, bias: None, out }];
            let work = FewRows { x: h, rows, k, norm: None, matrices: &matrices, residual: None, glu: None };
            cuda::few_rows(&self.device, &work)?;
        } else {
            cuda::linear(&self.device, h, rows, k, weight, vocabulary, None, scale as f32, 0.0, out)?;
        }
        if let Some(cap) = soft_cap {
            cuda::soft_cap(&self.device, cap as f32, out)?;
        }
        Ok(out)
    }

    /// Room in the caches for a step's rows, and its tables on the device: rows of sequences, block table, wanted rows.
    fn prepare(
        &mut self,
        batch: &Batch,
        ids: &[SequenceId],
        wanted: &[usize],
    ) -> Result<(PagedRows, bool, Tensor), EngineError> {
        self.make_caches()?;
        let Some(table) = self.pages.as_mut() else {
            return Err(EngineError::Unknown("no caches".into()));
        };
        let mut owners = Vec::with_capacity(ids.len());
        let mut fresh = true;
        for (id, &length) in ids.iter().zip(&batch.sequence_lengths) {
            let owner = self.sequences.entry(*id).or_default();
            let owner = *owner.get_or_insert_with(|| table.start());
            fresh &= table.tokens(owner) == 0;
            table.extend(owner, length as usize).map_err(|error| EngineError::Placement {
                message: error.to_string(),
                hint: "use a smaller --max_batch_size or shorter prompts".into(),
            })?;
            owners.push(owner);
        }
        // Widths come in powers of two, so that captured steps serve while sequences grow.
        let max_pages = table.most_pages(&owners).next_power_of_two().max(4);
        let rows = batch.rows();
        let mut words: Vec<u32> = Vec::new();
        for (i, &length) in batch.sequence_lengths.iter().enumerate() {
            words.extend(std::iter::repeat_n(i as u32, length as usize));
        }
        words.resize(rows.next_multiple_of(4), 0);
        let block_table = words.len();
        words.extend(table.block_table(&owners, max_pages));
        let wanted_at = words.len();
        words.extend(wanted.iter().map(|w| *w as u32));
        let bytes = 4 * words.len();
        if too_small(&self.tables, bytes) {
            self.captured.clear();
            self.seen.clear();
        }
        let buffer = grow(&self.device, &mut self.tables, bytes.next_power_of_two())?;
        self.device.upload(bytemuck::cast_slice(&words), buffer.at(0, words.len(), Dtype::U32))?;
        let part = |start: usize, n: usize| buffer.at(4 * start, n, Dtype::U32);
        let wanted = part(wanted_at, wanted.len());
        let paged = PagedRows {
            rows,
            row_sequence: part(0, rows),
            positions: self.feed.positions(),
            block_table: part(block_table, owners.len() * max_pages),
            max_pages,
            bound_pages: max_pages,
            longest_run: batch.sequence_lengths.iter().max().copied().unwrap_or(1) as usize,
        };
        // A captured step of single rows serves later ones too, which are not fresh.
        let fresh = fresh && paged.longest_run > 1;
        Ok((paged, fresh, wanted))
    }

    /// Runs a step with its caches and gives f32 logits of the wanted rows, on the device.
    fn step(&mut self, batch: &Batch, ids: &[SequenceId], wanted: &[usize]) -> Result<Option<Tensor>, EngineError> {
        self.feed.load(&self.device, batch, 0.0, 0, false)?;
        if self.feed.take_moved() {
            self.forget();
        }
        let (paged, fresh, wanted_rows) = self.prepare(batch, ids, wanted)?;
        let paged = PagedRows { positions: self.feed.positions(), ..paged };
        let decoding = paged.longest_run == 1 && wanted.len() == batch.rows();
        let key = StepKey { rows: batch.rows(), max_pages: paged.max_pages };
        if decoding && let Some(captured) = self.captured.get(&key) {
            let memory = self.head_memory.as_ref().ok_or_else(|| CudaError::invalid("logits without memory"))?;
            captured.launch()?;
            return Ok(Some(memory.at(0, key.rows * self.vocabulary(), Dtype::F32)));
        }
        if decoding && !self.profiling && !self.refused.contains(&key) && !self.seen.insert(key) {
            // The second step of a kind is captured: the first made all plans and buffers.
            let device = self.device.clone();
            let mut logits = None;
            let captured = device.capture(|| -> Result<(), EngineError> {
                let h = self.hidden(batch, Some((paged, fresh)))?;
                logits = Some(self.logits_of(h, key.rows)?);
                Ok(())
            });
            match captured {
                Ok(graph) => {
                    graph.launch()?;
                    if self.captured.len() >= GRAPHS {
                        self.captured.clear();
                    }
                    self.captured.insert(key, graph);
                    return Ok(logits);
                }
                // What cannot be captured is run as it is, from now on.
                Err(_) => {
                    self.refused.insert(key);
                }
            }
        }
        let h = self.hidden(batch, Some((paged, fresh)))?;
        if wanted.is_empty() {
            return Ok(None);
        }
        if wanted.len() == batch.rows() {
            return Ok(Some(self.logits_of(h, wanted.len())?));
        }
        let width = h.elements() / batch.rows();
        let gathered = self.device.allocate(wanted.len() * width * h.dtype().size())?;
        let rows = gathered.tensor(h.dtype());
        cuda::gather_rows(&self.device, h, wanted_rows, width, rows)?;
        Ok(Some(self.logits_of(rows, wanted.len())?))
    }
}

impl InferDevice for CudaInfer {
    fn set_values(&mut self, param: Param, values: &[f32]) -> Result<(), EngineError> {
        self.weights.set(&self.device, param, values)
    }

    fn logits(&mut self, batch: &Batch) -> Result<Vec<f32>, EngineError> {
        self.feed.load(&self.device, batch, 0.0, 0, false)?;
        let h = self.hidden(batch, None)?;
        let logits = self.logits_of(h, batch.rows())?;
        Ok(self.device.to_f32(logits)?)
    }

    fn chunk(&self) -> usize {
        PREFILL_CHUNK
    }

    fn start(&mut self, id: SequenceId) {
        self.sequences.insert(id, None);
    }

    fn end(&mut self, id: SequenceId) {
        if let (Some(Some(owner)), Some(pages)) = (self.sequences.remove(&id), self.pages.as_mut()) {
            pages.end(owner);
        }
    }

    fn extend(&mut self, batch: &Batch, ids: &[SequenceId], wanted: &[usize]) -> Result<Vec<f32>, EngineError> {
        match self.step(batch, ids, wanted)? {
            Some(logits) => Ok(self.device.to_f32(logits)?),
            None => Ok(Vec::new()),
        }
    }

    fn can_choose(&self) -> bool {
        self.device.compute_capability().0 >= 9 && self.vocabulary() <= WIDEST_VOCABULARY
    }

    fn choose(
        &mut self,
        batch: &Batch,
        ids: &[SequenceId],
        wanted: &[usize],
        choices: &[Choice],
    ) -> Result<Vec<u32>, EngineError> {
        let Some(logits) = self.step(batch, ids, wanted)? else { return Ok(Vec::new()) };
        let (rows, vocabulary) = (wanted.len(), self.vocabulary());
        let settings: Vec<u8> = choices
            .iter()
            .flat_map(|c| {
                let Choice { temperature, top_p, top_k, min_p, seed, position } = *c;
                SampleSettings { temperature, top_p, min_p, top_k, seed, position }.to_bytes()
            })
            .collect();
        let room = rows.next_power_of_two().max(64);
        let buffer = grow(&self.device, &mut self.chosen, room * (SampleSettings::BYTES + 8))?;
        let on_device = buffer.at(0, settings.len(), Dtype::U8);
        self.device.upload(&settings, on_device)?;
        // Tokens and status lie together, so that one copy brings both.
        let results = buffer.at(room * SampleSettings::BYTES, 2 * rows, Dtype::U32);
        let (tokens, status) = (results.slice(0, rows), results.slice(rows, rows));
        cuda::sample(&self.device, logits, rows, vocabulary, on_device, tokens, status)?;
        let mut words = vec![0u32; 2 * rows];
        self.device.download(results, bytemuck::cast_slice_mut(&mut words))?;
        if let Some(row) = words[rows..].iter().position(|status| *status != 0) {
            return Err(EngineError::NotFinite { row });
        }
        words.truncate(rows);
        Ok(words)
    }

    fn cache_bytes(&self) -> u64 {
        let Some(pages) = &self.pages else { return 0 };
        let used: usize = self.sequences.values().flatten().map(|owner| pages.pages(*owner).len()).sum();
        let bytes: usize = self.caches.values().map(|c| c.bytes() / c.pages().max(1)).sum();
        (used * bytes) as u64
    }

    fn start_profile(&mut self) {
        // Captured launches cannot be told apart.
        self.profiling = true;
        self.captured.clear();
        self.device.start_profile();
    }

    fn end_profile(&mut self) -> Result<Vec<ProfileRow>, EngineError> {
        self.profiling = false;
        Ok(self.device.end_profile()?)
    }
}
