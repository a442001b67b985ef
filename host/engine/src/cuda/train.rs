//! Training on one GPU.

use std::borrow::Cow;
use std::collections::HashMap;

use swift_graph::program::Action;
use swift_kernels::cuda::nccl::Communicator;
use swift_kernels::cuda::{self, Buffer, CudaError, Cudnn, Device, Dtype, Graph, ProfileRow, Tensor};
use swift_kernels::{AdamW, LossSums};

use super::adapters;
use super::execute::{LOSS_CHUNK, Run, layout};
use super::feed::Feed;
use super::layout::Layout;
use super::lower::Lowered;
use super::weights::{ALIGNMENT, Arena, CudaWeights};
use crate::batch::Batch;
use crate::error::EngineError;
use crate::placement::{Compute, CudaPlacement};
use crate::plan::MemoryPlan;
use crate::train::{TrainDevice, TrainModel, Update};

/// Layouts kept; batches of ever new lengths make new ones.
const LAYOUTS: usize = 64;

/// A model in training on a GPU.
pub(crate) struct CudaTrain {
    device: Device,
    model: TrainModel,
    weights: CudaWeights,
    feed: Feed,
    cudnn: Option<Cudnn>,
    communicator: Option<Communicator>,
    training: Lowered,
    evaluation: Lowered,
    /// By whether gradients are made, and rows.
    layouts: HashMap<(bool, usize), Layout>,
    memory: Option<Buffer>,
    loss_scratch: Option<Buffer>,
    matrix_scratch: Option<Buffer>,
    /// Sum of squares (f64), clip factor (f32), norm (f32).
    norm: Buffer,
    /// Whether the table behind the tokens is trained: its gradient takes the rows by token.
    sorts_tokens: bool,
    captured: Option<Captured>,
    last: Option<(bool, Vec<u32>)>,
    profiling: bool,
}

/// A micro-batch's launches, for batches of the same sequence lengths.
struct Captured {
    training: bool,
    lengths: Vec<u32>,
    graph: Graph,
}

pub(crate) fn element_of(compute: Compute) -> Dtype {
    match compute {
        Compute::F32 => Dtype::F32,
        Compute::Bf16 => Dtype::Bf16,
    }
}

/// cuDNN, if it is on this machine; without it, attention runs on our own kernels.
pub(crate) fn open_cudnn(device: &Device, element: Dtype) -> Result<Option<Cudnn>, CudaError> {
    // It is asked for Hopper's kernels; ours serve older GPUs.
    if element == Dtype::F32 || device.compute_capability().0 < 9 {
        return Ok(None);
    }
    match Cudnn::open(device) {
        Ok(cudnn) => Ok(Some(cudnn)),
        // Missing, or older than what is known to be right.
        Err(CudaError::MissingLibrary { .. } | CudaError::Invalid(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A buffer of at least `bytes`.
pub(crate) fn grow<'b>(device: &Device, buffer: &'b mut Option<Buffer>, bytes: usize) -> Result<&'b Buffer, CudaError> {
    if buffer.as_ref().is_none_or(|b| b.bytes() < bytes) {
        // The old one goes first: both together may not fit.
        *buffer = None;
        *buffer = Some(device.allocate(bytes)?);
    }
    buffer.as_ref().ok_or_else(|| CudaError::invalid("no memory"))
}

impl CudaTrain {
    pub(crate) fn new(model: TrainModel, place: &CudaPlacement) -> Result<Self, EngineError> {
        let device = Device::open(place.ordinal)?;
        let element = element_of(place.compute);
        let dense = place.quantization.is_none();
        let groups = adapters::groups(&model.training, &model.graph, &model.adapters, ALIGNMENT, dense);
        let training = Lowered::fused(&model.training, &model.graph, element, &groups);
        let evaluation = Lowered::fused(&model.evaluation, &model.graph, element, &groups);
        let (graph, source, trained) = (&model.graph, &model.weights, &model.trained);
        let weights = CudaWeights::bind(&device, graph, source, element, trained, &groups, place.quantization)?;
        let feed = Feed::new(&device, &model.graph)?;
        let cudnn = open_cudnn(&device, element)?;
        let sorts_tokens = model.training.steps.iter().any(|s| matches!(s.action, Action::EmbedGrad { .. }));
        let norm = device.allocate(16)?;
        // Last: what fails before it fails before the ranks wait for each other.
        let communicator = match &place.ranks {
            Some(ranks) => ranks.connect(&device)?,
            None => None,
        };
        Ok(Self {
            device,
            model,
            weights,
            feed,
            cudnn,
            communicator,
            training,
            evaluation,
            layouts: HashMap::new(),
            memory: None,
            loss_scratch: None,
            matrix_scratch: None,
            norm,
            sorts_tokens,
            captured: None,
            last: None,
            profiling: false,
        })
    }

    fn vocabulary(&self) -> usize {
        self.model.graph.ty(self.model.training.head).last()
    }

    fn loss_bytes(&self, rows: usize) -> usize {
        cuda::cross_entropy_scratch(rows, self.vocabulary(), self.weights.element(), LOSS_CHUNK)
    }

    fn run(&mut self, batch: &Batch, training: Option<(f32, u64)>) -> Result<LossSums, EngineError> {
        self.enqueue(batch, training).map_err(|error| self.explain(error, batch.rows()))?;
        let mut sums = [0u8; 32];
        self.device.download(self.feed.sums(), &mut sums).map_err(EngineError::from)?;
        let number = |i: usize| f64::from_le_bytes(std::array::from_fn(|b| sums[8 * i + b]));
        Ok(LossSums { loss: number(0), weight: number(1), correct: number(2) as u64, counted: number(3) as u64 })
    }

    fn enqueue(&mut self, batch: &Batch, training: Option<(f32, u64)>) -> Result<(), EngineError> {
        let rows = batch.rows();
        let (scale, key) = training.unwrap_or((0.0, 0));
        let training = training.is_some();
        let lowered = if training { &self.training } else { &self.evaluation };
        self.feed.load(&self.device, batch, scale, key, training && self.sorts_tokens)?;
        if self.feed.take_moved() {
            self.captured = None;
        }
        self.weights.refresh(&self.device)?;
        if let Some(captured) = &self.captured
            && captured.training == training
            && captured.lengths == batch.sequence_lengths
        {
            return Ok(captured.graph.launch()?);
        }
        if self.layouts.len() >= LAYOUTS {
            self.layouts.clear();
        }
        let layout = self.layouts.entry((training, rows)).or_insert_with(|| layout(lowered, rows));
        let loss_bytes = cuda::cross_entropy_scratch(
            rows,
            self.model.graph.ty(self.model.training.head).last(),
            self.weights.element(),
            LOSS_CHUNK,
        );
        let matrix_bytes = self.weights.largest_quantized() * self.weights.element().size();
        let wanted =
            [(&self.memory, layout.bytes), (&self.loss_scratch, loss_bytes), (&self.matrix_scratch, matrix_bytes)];
        if wanted.iter().any(|(buffer, bytes)| buffer.as_ref().is_none_or(|b| b.bytes() < *bytes)) {
            // Captured launches name the buffers that go.
            self.captured = None;
        }
        let memory = grow(&self.device, &mut self.memory, layout.bytes)?;
        let loss_scratch = grow(&self.device, &mut self.loss_scratch, loss_bytes)?;
        let matrix_scratch = grow(&self.device, &mut self.matrix_scratch, matrix_bytes)?;
        let run = Run {
            device: &self.device,
            graph: &self.model.graph,
            lowered,
            weights: &self.weights,
            layout,
            memory,
            feed: &self.feed,
            cudnn: self.cudnn.as_ref(),
            loss_scratch: Some(loss_scratch),
            matrix_scratch: Some(matrix_scratch),
            training,
            cached: None,
        };
        // Batches of the same lengths one after another (packing, benchmarks) are worth capturing: the first run has made
        // every plan and buffer. A trained table's rows by token lie elsewhere each time.
        let key = (training, batch.sequence_lengths.clone());
        if training && !self.sorts_tokens && !self.profiling && self.last.as_ref() == Some(&key) {
            // What cannot be captured is run as it is, and tried again after another batch.
            if let Ok(graph) = self.device.capture(|| run.run()) {
                graph.launch()?;
                self.captured = Some(Captured { training, lengths: key.1, graph });
                return Ok(());
            }
            self.last = None;
            return run.run();
        }
        self.last = Some(key);
        run.run()
    }

    /// An out-of-memory error with the plan: what takes how much.
    fn explain(&self, error: EngineError, rows: usize) -> EngineError {
        let EngineError::Cuda(CudaError::OutOfMemory { wanted, free, total }) = error else { return error };
        let gibibytes = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let plan = self.memory_plan(rows);
        let rows_text = plan
            .rows()
            .iter()
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(what, bytes)| format!("  {what:<18} {:8.2} GiB\n", gibibytes(*bytes)))
            .collect::<String>();
        EngineError::OutOfMemory {
            message: format!(
                "the GPU is out of memory: {:.2} GiB more were needed, {:.2} of {:.2} GiB are free. A step of {rows} tokens \
                 takes\n{rows_text}  {:<18} {:8.2} GiB",
                gibibytes(wanted as u64),
                gibibytes(free as u64),
                gibibytes(total as u64),
                "together",
                gibibytes(plan.total())
            ),
        }
    }

    fn arena(&self) -> Result<&Arena, CudaError> {
        self.weights.arena.as_ref().ok_or_else(|| CudaError::invalid("nothing is trained"))
    }

    fn read(&self, tensor: Tensor) -> Result<Cow<'_, [f32]>, EngineError> {
        Ok(Cow::Owned(self.device.to_f32(tensor)?))
    }
}

impl TrainDevice for CudaTrain {
    fn accumulate(&mut self, batch: &Batch, scale: f32, dropout_key: u64) -> Result<LossSums, EngineError> {
        self.run(batch, Some((scale, dropout_key)))
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<LossSums, EngineError> {
        self.run(batch, None)
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        let arena = self.arena()?;
        cuda::sum_squares(&self.device, arena.gradients.tensor(Dtype::F32), self.norm.at(0, 8, Dtype::U8))?;
        let mut bytes = [0; 8];
        self.device.download(self.norm.at(0, 8, Dtype::U8), &mut bytes)?;
        Ok(f64::from_le_bytes(bytes).sqrt())
    }

    fn update(&mut self, update: &Update) -> Result<f64, EngineError> {
        let arena = self.arena()?;
        let gradients = arena.gradients.tensor(Dtype::F32);
        if let Some(communicator) = &self.communicator {
            communicator.all_reduce_sum(&self.device, gradients)?;
        }
        let squares = self.norm.at(0, 8, Dtype::U8);
        let (factor, norm) = (self.norm.at(8, 1, Dtype::F32), self.norm.at(12, 1, Dtype::F32));
        cuda::sum_squares(&self.device, gradients, squares)?;
        cuda::clip_factor(
            &self.device,
            squares,
            update.max_grad_norm.map_or(f32::INFINITY, |n| n as f32),
            factor,
            norm,
        )?;
        for (start, end, decays) in [(0, arena.decayed, true), (arena.decayed, arena.elements, false)] {
            let part = |buffer: &Buffer| buffer.at(4 * start, end - start, Dtype::F32);
            let element = self.weights.element();
            let working = arena.working.as_ref().map(|w| w.at(element.size() * start, end - start, element));
            let weight_decay = if decays { update.adamw.weight_decay } else { 0.0 };
            let settings = AdamW { weight_decay, ..update.adamw };
            cuda::adamw(
                &self.device,
                part(&arena.values),
                part(&arena.gradients),
                part(&arena.first),
                part(&arena.second),
                working,
                &settings,
                factor,
            )?;
        }
        self.weights.changed();
        self.device.zero(gradients)?;
        if let Some(communicator) = &self.communicator {
            // Not for ever, if another rank is gone.
            communicator.wait(&self.device)?;
        }
        let mut bytes = [0; 8];
        self.device.download(squares, &mut bytes)?;
        Ok(f64::from_le_bytes(bytes).sqrt())
    }

    fn values(&self, index: usize) -> Result<Cow<'_, [f32]>, EngineError> {
        let arena = self.arena()?;
        self.read(arena.part(&arena.values, index))
    }

    fn set_values(&mut self, index: usize, values: &[f32]) -> Result<(), EngineError> {
        let param = self.model.trained[index].param;
        self.weights.set(&self.device, param, values)
    }

    fn gradient(&self, index: usize) -> Result<Cow<'_, [f32]>, EngineError> {
        let arena = self.arena()?;
        self.read(arena.part(&arena.gradients, index))
    }

    fn moments(&self, index: usize) -> Result<(Cow<'_, [f32]>, Cow<'_, [f32]>), EngineError> {
        let arena = self.arena()?;
        Ok((self.read(arena.part(&arena.first, index))?, self.read(arena.part(&arena.second, index))?))
    }

    fn set_moments(&mut self, index: usize, first: &[f32], second: &[f32]) -> Result<(), EngineError> {
        let arena = self.arena()?;
        self.device.write_f32(first, arena.part(&arena.first, index))?;
        self.device.write_f32(second, arena.part(&arena.second, index))?;
        Ok(())
    }

    fn memory_plan(&self, rows: usize) -> MemoryPlan {
        let (trained, working) = self.weights.arena.as_ref().map_or((0, 0), |arena| {
            (4 * arena.elements as u64, arena.working.as_ref().map_or(0, |w| w.bytes() as u64))
        });
        MemoryPlan {
            mapped_weights: 0,
            owned_weights: self.weights.frozen_bytes + trained + working,
            gradients: trained,
            optimizer: 2 * trained,
            activations: layout(&self.training, rows).bytes as u64,
            loss_chunk: self.loss_bytes(rows) as u64
                + (self.weights.largest_quantized() * self.weights.element().size()) as u64
                + self.device.workspace_bytes() as u64,
        }
    }

    fn sum_over_ranks(&mut self, sums: &mut [f64]) -> Result<(), EngineError> {
        if let Some(communicator) = &self.communicator {
            communicator.all_reduce_sum_f64(&self.device, sums)?;
        }
        Ok(())
    }

    fn device_memory(&self) -> Option<u64> {
        self.device.most_allocated().ok().map(|bytes| bytes as u64)
    }

    fn start_profile(&mut self) {
        // Captured launches cannot be told apart.
        self.profiling = true;
        self.captured = None;
        self.device.start_profile();
    }

    fn end_profile(&mut self) -> Result<Vec<ProfileRow>, EngineError> {
        self.profiling = false;
        Ok(self.device.end_profile()?)
    }
}
