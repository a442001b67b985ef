//! A training session: forward and backward of one graph, gradient accumulation, and the optimizer.

use std::collections::HashSet;
use std::sync::Arc;

use swift_graph::checkpoint::WeightSource;
use swift_graph::lora::{self, Adapter, LoraConfig, LoraInit};
use swift_graph::program::{Program, Purpose};
use swift_graph::{Graph, Param};
use swift_kernels as kernels;
use swift_kernels::LossSums;

use crate::batch::Batch;
use crate::error::EngineError;
use crate::execute::{Context, Gradients, Run};
use crate::plan::MemoryPlan;
use crate::pool::Pool;
use crate::weights::Weights;

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
}

/// A trained parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainableInfo {
    pub name: String,
    pub shape: Vec<usize>,
    pub elements: usize,
}

struct Trained {
    param: Param,
    decay: bool,
    first: Vec<f32>,
    second: Vec<f32>,
}

/// One model in training.
pub struct TrainSession {
    graph: Graph,
    weights: Weights,
    program: Program,
    evaluation: Program,
    pool: Pool,
    gradients: Gradients,
    trained: Vec<Trained>,
    adapters: Vec<Adapter>,
    options: TrainOptions,
    steps: u64,
    vocabulary: usize,
    last_rows: usize,
}

impl TrainSession {
    /// Rewrites `graph` for the tuner, lowers it with gradients, and binds weights.
    ///
    /// # Errors
    /// When a target matches nothing, the graph has no head, or a weight is not as traced.
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
        let purpose = Purpose::Training { trainable: trainable.clone(), recompute_blocks: options.recompute_blocks };
        let program = Program::new(&graph, &purpose)?;
        let evaluation = Program::new(&graph, &Purpose::Loss)?;
        let mut bound = Weights::bind(&graph, weights, &trainable)?;
        if let Tuner::Lora(config) = &options.tuner {
            start_adapters(&graph, &mut bound, &adapters, config.init, options.seed);
        }
        let mut gradients: Gradients = (0..graph.params.len()).map(|_| None).collect();
        let mut trained = Vec::new();
        for param in params {
            let info = graph.param(param);
            let elements = info.elements();
            gradients[param.index()] = Some(vec![0.0; elements]);
            // Hugging Face's Trainer decays neither norms nor biases: in a checkpoint these are the vectors.
            let decay = options.optimizer.decay_norms_and_biases || info.shape.len() >= 2;
            trained.push(Trained { param, decay, first: vec![0.0; elements], second: vec![0.0; elements] });
        }
        let vocabulary = graph.ty(program.head).last();
        Ok(Self {
            graph,
            weights: bound,
            program,
            evaluation,
            pool: Pool::default(),
            gradients,
            trained,
            adapters,
            options,
            steps: 0,
            vocabulary,
            last_rows: 0,
        })
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
    /// When the batch is malformed.
    pub fn accumulate(&mut self, batch: &Batch, scale: f32, dropout_key: u64) -> Result<LossSums, EngineError> {
        self.run(batch, Some((scale, dropout_key)))
    }

    /// The loss of a batch without dropout and without gradients.
    ///
    /// # Errors
    /// When the batch is malformed.
    pub fn evaluate(&mut self, batch: &Batch) -> Result<LossSums, EngineError> {
        self.run(batch, None)
    }

    fn run(&mut self, batch: &Batch, training: Option<(f32, u64)>) -> Result<LossSums, EngineError> {
        batch.check(self.vocabulary)?;
        // Buffers fit a number of rows; keep them only while it stays much the same.
        if batch.rows() * 2 < self.last_rows || self.last_rows * 2 < batch.rows() {
            self.pool.clear();
            self.last_rows = batch.rows();
        }
        let (scale, dropout_key) = training.map_or((0.0, None), |(scale, key)| (scale, Some(key)));
        let program = if training.is_some() { &self.program } else { &self.evaluation };
        let context = Context { graph: &self.graph, weights: &self.weights, batch, scale, dropout_key };
        let gradients = training.map(|_| &mut self.gradients);
        let run = Run::new(context, program, &mut self.pool, gradients, None);
        let (loss, _) = rayon::scope(|_| run.run())?;
        Ok(loss)
    }

    /// Norm of all gradients together.
    pub fn gradient_norm(&self) -> f64 {
        let squares = self.gradients.iter().flatten().map(|g| kernels::sum_squares(g)).sum::<f64>();
        squares.sqrt()
    }

    /// The gradient of a trained parameter.
    pub fn gradient(&self, name: &str) -> Option<&[f32]> {
        let param = self.weights.find(name).ok()?;
        self.gradients[param.index()].as_deref()
    }

    /// Clips by global norm, steps AdamW, and zeroes the gradients; gives the norm before clipping. A norm that is not
    /// finite changes nothing but the gradients, and is given back for the caller to act on.
    pub fn step(&mut self, learning_rate: f64, max_grad_norm: Option<f64>) -> f64 {
        let norm = rayon::scope(|_| self.gradient_norm());
        if norm.is_finite() {
            // As torch.nn.utils.clip_grad_norm_: max / (norm + 1e-6), at most 1.
            let factor = max_grad_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0)) as f32;
            self.steps += 1;
            let o = &self.options.optimizer;
            for t in &mut self.trained {
                let settings = kernels::AdamW {
                    lr: learning_rate,
                    beta1: o.beta1,
                    beta2: o.beta2,
                    eps: o.eps,
                    weight_decay: if t.decay { o.weight_decay } else { 0.0 },
                    step: self.steps,
                };
                let gradient = self.gradients[t.param.index()].as_deref().unwrap_or(&[]);
                if let Some(values) = self.weights.owned_mut(t.param) {
                    rayon::scope(|_| kernels::adamw(values, gradient, factor, &mut t.first, &mut t.second, &settings));
                }
            }
        }
        for gradient in self.gradients.iter_mut().flatten() {
            gradient.fill(0.0);
        }
        norm
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
    pub fn values(&self, name: &str) -> Option<&[f32]> {
        self.weights.owned(self.weights.find(name).ok()?)
    }

    /// Replaces the values of a trained parameter.
    ///
    /// # Errors
    /// When nothing of this name is trained, or it has another size.
    pub fn set_values(&mut self, name: &str, values: &[f32]) -> Result<(), EngineError> {
        let param = self.weights.find(name)?;
        if !self.trained.iter().any(|t| t.param == param) {
            return Err(EngineError::Unknown(format!("`{name}` is not trained by this session")));
        }
        self.weights.set(param, values, self.graph.param(param).elements())
    }

    /// Optimizer steps taken, and both moments of each trained parameter.
    pub fn optimizer_state(&self) -> (u64, Vec<(String, &[f32], &[f32])>) {
        let name = |t: &Trained| self.graph.param(t.param).name.clone();
        (self.steps, self.trained.iter().map(|t| (name(t), t.first.as_slice(), t.second.as_slice())).collect())
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
        for t in &mut self.trained {
            let name = &self.graph.params[t.param.index()].name;
            let Some((_, first, second)) = state.iter().find(|(n, _, _)| n == name) else {
                return Err(EngineError::Unknown(format!("the optimizer state has nothing for `{name}`")));
            };
            if first.len() != t.first.len() || second.len() != t.second.len() {
                let message = format!("its optimizer state has {} elements, not {}", first.len(), t.first.len());
                return Err(EngineError::Mismatch { name: name.clone(), message });
            }
            t.first.copy_from_slice(first);
            t.second.copy_from_slice(second);
        }
        self.steps = steps;
        Ok(())
    }

    /// Memory of a step of `rows` rows.
    pub fn memory_plan(&self, rows: usize) -> MemoryPlan {
        let trained: u64 = self.trained.iter().map(|t| 4 * t.first.len() as u64).sum();
        MemoryPlan {
            mapped_weights: self.weights.mapped_bytes(),
            owned_weights: self.weights.owned_bytes(),
            gradients: trained,
            optimizer: 2 * trained,
            activations: self.program.peak_bytes(rows),
            loss_chunk: (4 * self.vocabulary as u64 * rows as u64).min(32 << 20),
        }
    }
}

/// First values of the adapters; each matrix has its own stream, so that values do not depend on the order of modules.
fn start_adapters(graph: &Graph, weights: &mut Weights, adapters: &[Adapter], init: LoraInit, seed: u64) {
    for adapter in adapters {
        let fan_in = f64::from(graph.param(adapter.a).shape[1]);
        let rank = f64::from(graph.param(adapter.a).shape[0]);
        let mut fill = |param: Param, draw: &mut dyn FnMut(&mut Stream) -> f64| {
            let mut stream = Stream::new(seed, &graph.param(param).name);
            if let Some(values) = weights.owned_mut(param) {
                values.iter_mut().for_each(|v| *v = draw(&mut stream) as f32);
            }
        };
        // Kaiming uniform with a = sqrt(5): bound sqrt(6 / (6 * fan_in)).
        match init {
            LoraInit::Kaiming => fill(adapter.a, &mut |s| s.uniform() / fan_in.sqrt()),
            LoraInit::Gaussian => fill(adapter.a, &mut |s| s.normal() / rank),
            LoraInit::Random => {
                fill(adapter.a, &mut |s| s.uniform() / fan_in.sqrt());
                fill(adapter.b, &mut |s| s.uniform() / rank.sqrt());
            }
        }
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
