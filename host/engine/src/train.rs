//! A training session: forward and backward of one graph, gradient accumulation, and the optimizer.
//!
//! The session rewrites and lowers the graph; where it runs is behind [`TrainDevice`].

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use swift_graph::checkpoint::WeightSource;
use swift_graph::lora::{self, Adapter, LoraConfig, LoraInit};
use swift_graph::program::{Program, Purpose};
use swift_graph::{Graph, Param};
use swift_kernels::cuda::ProfileRow;
use swift_kernels::{AdamW, LossSums};

use crate::batch::Batch;
use crate::cpu::CpuTrain;
use crate::cuda::CudaTrain;
use crate::error::EngineError;
use crate::placement::Placement;
use crate::plan::MemoryPlan;

/// What is trained.
#[derive(Debug, Clone, PartialEq)]
pub enum Tuner {
    /// Every parameter of the model, with f32 masters.
    Full,
    /// Low-rank adapters (and `modules_to_save`).
    Lora(LoraConfig),
}

/// AdamW's numbers, as in `torch.optim.AdamW`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWOptions {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    /// Whether norms and biases decay too. Hugging Face's Trainer leaves them out.
    pub decay_norms_and_biases: bool,
}

impl Default for AdamWOptions {
    /// ms-swift's defaults.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, decay_norms_and_biases: false }
    }
}

/// Settings of a session.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainOptions {
    pub tuner: Tuner,
    /// Keep only the edges of blocks and compute their insides again on the way back.
    pub recompute_blocks: bool,
    /// Seed of the adapters' first values.
    pub seed: u64,
    pub optimizer: AdamWOptions,
    pub placement: Placement,
}

/// A trained parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainableInfo {
    pub name: String,
    pub shape: Vec<usize>,
    pub elements: usize,
}

/// Moments of a trained parameter: name, first, second.
pub type Moments<'a> = (String, Cow<'a, [f32]>, Cow<'a, [f32]>);

/// A trained parameter as devices see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Trained {
    pub(crate) param: Param,
    pub(crate) elements: usize,
    /// Whether weight decay applies.
    pub(crate) decay: bool,
}

/// What a device is given to train.
pub(crate) struct TrainModel {
    pub(crate) graph: Arc<Graph>,
    pub(crate) adapters: Vec<Adapter>,
    pub(crate) weights: Arc<dyn WeightSource>,
    pub(crate) training: Program,
    pub(crate) evaluation: Program,
    pub(crate) trained: Vec<Trained>,
}

/// One optimizer step.
pub(crate) struct Update {
    /// Decay as set; 0 is used for parameters without.
    pub(crate) adamw: AdamW,
    pub(crate) max_grad_norm: Option<f64>,
}

/// A device with a model in training. Parameters are named by their index in [`TrainModel::trained`].
pub(crate) trait TrainDevice: Send {
    fn accumulate(&mut self, batch: &Batch, scale: f32, dropout_key: u64) -> Result<LossSums, EngineError>;
    fn evaluate(&mut self, batch: &Batch) -> Result<LossSums, EngineError>;
    fn gradient_norm(&mut self) -> Result<f64, EngineError>;
    /// Clips, steps unless the norm is not finite, zeroes the gradients; gives the norm.
    fn update(&mut self, update: &Update) -> Result<f64, EngineError>;
    fn values(&self, index: usize) -> Result<Cow<'_, [f32]>, EngineError>;
    fn set_values(&mut self, index: usize, values: &[f32]) -> Result<(), EngineError>;
    fn gradient(&self, index: usize) -> Result<Cow<'_, [f32]>, EngineError>;
    fn moments(&self, index: usize) -> Result<(Cow<'_, [f32]>, Cow<'_, [f32]>), EngineError>;
    fn set_moments(&mut self, index: usize, first: &[f32], second: &[f32]) -> Result<(), EngineError>;
    fn memory_plan(&self, rows: usize) -> MemoryPlan;
    /// Sums over all ranks, in place.
    fn sum_over_ranks(&mut self, sums: &mut [f64]) -> Result<(), EngineError>;
    /// Most bytes taken of a device's own memory.
    fn device_memory(&self) -> Option<u64>;
    /// Times every kernel from now on, where the device can.
    fn start_profile(&mut self);
    /// Ends timing; the sums by kernel.
    fn end_profile(&mut self) -> Result<Vec<ProfileRow>, EngineError>;
}

/// One model in training.
pub struct TrainSession {
    graph: Arc<Graph>,
    adapters: Vec<Adapter>,
    trained: Vec<Trained>,
    device: Box<dyn TrainDevice>,
    options: TrainOptions,
    steps: u64,
    vocabulary: usize,
}

impl TrainSession {
    /// Rewrites `graph` for the tuner, lowers it with gradients, and binds weights.
    ///
    /// # Errors
    /// When a target matches nothing, the graph has no head, a weight is not as traced, or the device cannot be used.
    pub fn new(graph: Graph, weights: Arc<dyn WeightSource>, options: TrainOptions) -> Result<Self, EngineError> {
        let (graph, adapters, params): (Graph, Vec<Adapter>, Vec<Param>) = match &options.tuner {
            Tuner::Full => {
                let all = (0..graph.params.len() as u32).map(Param).collect();
                (graph, Vec::new(), all)
            }
            Tuner::Lora(config) => {
                let rewritten = lora::apply(&graph, config)?;
                let params =
                    rewritten.adapters.iter().flat_map(|a| [a.a, a.b]).chain(rewritten.saved.iter().copied()).collect();
                (rewritten.graph, rewritten.adapters, params)
            }
        };
        let trainable: HashSet<Param> = params.iter().copied().collect();
        let purpose = Purpose::Training { trainable, recompute_blocks: options.recompute_blocks };
        let training = Program::new(&graph, &purpose)?;
        let evaluation = Program::new(&graph, &Purpose::Loss)?;
        let vocabulary = graph.ty(training.head).last();
        let trained: Vec<Trained> = params
            .into_iter()
            .map(|param| {
                let info = graph.param(param);
                // Hugging Face's Trainer decays neither norms nor biases: in a checkpoint these are the vectors.
                let decay = options.optimizer.decay_norms_and_biases || info.shape.len() >= 2;
                Trained { param, elements: info.elements(), decay }
            })
            .collect();
        let graph = Arc::new(graph);
        let model = TrainModel {
            graph: graph.clone(),
            adapters: adapters.clone(),
            weights,
            training,
            evaluation,
            trained: trained.clone(),
        };
        let device: Box<dyn TrainDevice> = match &options.placement {
            Placement::Cpu => Box::new(CpuTrain::new(model)?),
            Placement::Cuda(place) => Box::new(CudaTrain::new(model, place)?),
        };
        let mut session = Self { graph, adapters, trained, device, options, steps: 0, vocabulary };
        session.start_adapters()?;
        Ok(session)
    }

    /// The graph as it is run, adapters included.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The adapted matrices; empty for full tuning.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// Forward and backward of one micro-batch; gradients of `scale * loss` are added to what is there.
    /// `dropout_key` must differ between micro-batches and be the same when one is run again.
    ///
    /// # Errors
    /// When the batch is malformed or the device fails.
    pub fn accumulate(&mut self, batch: &Batch, scale: f32, dropout_key: u64) -> Result<LossSums, EngineError> {
        batch.check(self.vocabulary)?;
        self.device.accumulate(batch, scale, dropout_key)
    }

    /// The loss of a batch without dropout and without gradients.
    ///
    /// # Errors
    /// When the batch is malformed or the device fails.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<LossSums, EngineError> {
        batch.check(self.vocabulary)?;
        self.device.evaluate(batch)
    }

    /// Norm of all gradients together.
    ///
    /// # Errors
    /// When the device fails.
    pub fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        self.device.gradient_norm()
    }

    /// Sums numbers over all ranks; with one rank they stay as they are.
    ///
    /// # Errors
    /// When the ranks cannot talk.
    pub fn sum_over_ranks(&mut self, sums: &mut [f64]) -> Result<(), EngineError> {
        self.device.sum_over_ranks(sums)
    }

    /// Most bytes taken of the GPU's memory so far; `None` on the CPU.
    pub fn device_memory(&self) -> Option<u64> {
        self.device.device_memory()
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

    fn index(&self, name: &str) -> Option<usize> {
        self.trained.iter().position(|t| self.graph.param(t.param).name == name)
    }

    /// The gradient of a trained parameter.
    pub fn gradient(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.device.gradient(self.index(name)?).ok()
    }

    /// Clips by global norm, steps AdamW, and zeroes the gradients; gives the norm before clipping. A norm that is not
    /// finite changes nothing but the gradients, and is given back for the caller to act on.
    ///
    /// # Errors
    /// When the device fails.
    pub fn step(&mut self, learning_rate: f64, max_grad_norm: Option<f64>) -> Result<f64, EngineError> {
        let o = &self.options.optimizer;
        let adamw = AdamW {
            lr: learning_rate,
            beta1: o.beta1,
            beta2: o.beta2,
            eps: o.eps,
            weight_decay: o.weight_decay,
            step: self.steps + 1,
        };
        let norm = self.device.update(&Update { adamw, max_grad_norm })?;
        self.steps += u64::from(norm.is_finite());
        Ok(norm)
    }

    /// What is trained, in a fixed order.
    pub fn trainable(&self) -> Vec<TrainableInfo> {
        self.trained
            .iter()
            .map(|t| {
                let info = self.graph.param(t.param);
                TrainableInfo {
                    name: info.name.clone(),
                    shape: info.shape.iter().map(|&n| n as usize).collect(),
                    elements: info.elements(),
                }
            })
            .collect()
    }

    /// Values of a trained parameter.
    pub fn values(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.device.values(self.index(name)?).ok()
    }

    /// Replaces the values of a trained parameter.
    ///
    /// # Errors
    /// When nothing of this name is trained, or it has another size.
    pub fn set_values(&mut self, name: &str, values: &[f32]) -> Result<(), EngineError> {
        let Some(index) = self.index(name) else {
            return Err(EngineError::Unknown(format!("`{name}` is not trained by this session")));
        };
        let elements = self.trained[index].elements;
        if values.len() != elements {
            let message = format!("takes {elements} elements, got {}", values.len());
            return Err(EngineError::Mismatch { name: name.to_owned(), message });
        }
        self.device.set_values(index, values)
    }

    /// Optimizer steps taken, and both moments of each trained parameter.
    ///
    /// # Errors
    /// When the device fails.
    pub fn optimizer_state(&self) -> Result<(u64, Vec<Moments<'_>>), EngineError> {
        let moments = self.trained.iter().enumerate().map(|(i, t)| {
            let (first, second) = self.device.moments(i)?;
            Ok((self.graph.param(t.param).name.clone(), first, second))
        });
        Ok((self.steps, moments.collect::<Result<_, EngineError>>()?))
    }

    /// Restores what [`Self::optimizer_state`] gave.
    ///
    /// # Errors
    /// When a parameter is missing or has another size.
    pub fn set_optimizer_state(
        &mut self,
        steps: u64,
        state: &[(String, Vec<f32>, Vec<f32>)],
    ) -> Result<(), EngineError> {
        for (i, t) in self.trained.iter().enumerate() {
            let name = &self.graph.param(t.param).name;
            let Some((_, first, second)) = state.iter().find(|(n, _, _)| n == name) else {
                return Err(EngineError::Unknown(format!("the optimizer state has nothing for `{name}`")));
            };
            if first.len() != t.elements || second.len() != t.elements {
                let message = format!("its optimizer state has {} elements, not {}", first.len(), t.elements);
                return Err(EngineError::Mismatch { name: name.clone(), message });
            }
            self.device.set_moments(i, first, second)?;
        }
        self.steps = steps;
        Ok(())
    }

    /// Memory of a step of `rows` rows.
    pub fn memory_plan(&self, rows: usize) -> MemoryPlan {
        self.device.memory_plan(rows)
    }

    /// First values of the adapters; each matrix has its own stream, so that values do not depend on the order of modules.
    fn start_adapters(&mut self) -> Result<(), EngineError> {
        let Tuner::Lora(LoraConfig { init, .. }) = &self.options.tuner else { return Ok(()) };
        let (init, seed) = (*init, self.options.seed);
        for adapter in self.adapters.clone() {
            let fan_in = f64::from(self.graph.param(adapter.a).shape[1]);
            let rank = f64::from(self.graph.param(adapter.a).shape[0]);
            let mut fill = |param: Param, draw: &mut dyn FnMut(&mut Stream) -> f64| {
                let info = self.graph.param(param);
                let mut stream = Stream::new(seed, &info.name);
                let values: Vec<f32> = (0..info.elements()).map(|_| draw(&mut stream) as f32).collect();
                let name = info.name.clone();
                self.set_values(&name, &values)
            };
            // Kaiming uniform with a = sqrt(5): bound sqrt(6 / (6 * fan_in)).
            match init {
                LoraInit::Kaiming => fill(adapter.a, &mut |s| s.uniform() / fan_in.sqrt())?,
                LoraInit::Gaussian => fill(adapter.a, &mut |s| s.normal() / rank)?,
                LoraInit::Random => {
                    fill(adapter.a, &mut |s| s.uniform() / fan_in.sqrt())?;
                    fill(adapter.b, &mut |s| s.uniform() / rank.sqrt())?;
                }
            }
        }
        Ok(())
    }
}

/// splitmix64 (Steele, Lea and Flood, 2014), written here so that no crate's release changes a run.
struct Stream(u64);

impl Stream {
    fn new(seed: u64, name: &str) -> Self {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (0.5 - self.uniform() / 2.0).max(f64::MIN_POSITIVE).ln()).sqrt();
        radius * (std::f64::consts::PI * self.uniform()).cos()
    }
}
