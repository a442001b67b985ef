//! Training on the CPU.

use std::borrow::Cow;
use std::collections::HashSet;

use swift_kernels as kernels;
use swift_kernels::LossSums;
use swift_kernels::cuda::ProfileRow;

use crate::batch::Batch;
use crate::error::EngineError;
use crate::execute::{Context, Gradients, Run};
use crate::plan::MemoryPlan;
use crate::pool::Pool;
use crate::train::{TrainDevice, TrainModel, Update};
use crate::weights::Weights;

/// A model in training on the CPU.
pub(crate) struct CpuTrain {
    model: TrainModel,
    weights: Weights,
    pool: Pool,
    gradients: Gradients,
    /// First and second moment of each trained parameter.
    moments: Vec<(Vec<f32>, Vec<f32>)>,
    last_rows: usize,
}

impl CpuTrain {
    pub(crate) fn new(model: TrainModel) -> Result<Self, EngineError> {
        let owned: HashSet<_> = model.trained.iter().map(|t| t.param).collect();
        let weights = Weights::bind(&model.graph, model.weights.clone(), &owned)?;
        let mut gradients: Gradients = (0..model.graph.params.len()).map(|_| None).collect();
        for t in &model.trained {
            gradients[t.param.index()] = Some(vec![0.0; t.elements]);
        }
        let moments = model.trained.iter().map(|t| (vec![0.0; t.elements], vec![0.0; t.elements])).collect();
        Ok(Self { model, weights, pool: Pool::default(), gradients, moments, last_rows: 0 })
    }

    fn run(&mut self, batch: &Batch, training: Option<(f32, u64)>) -> Result<LossSums, EngineError> {
        // Buffers fit a number of rows; keep them only while it stays much the same.
        if batch.rows() * 2 < self.last_rows || self.last_rows * 2 < batch.rows() {
            self.pool.clear();
            self.last_rows = batch.rows();
        }
        let (scale, dropout_key) = training.map_or((0.0, None), |(scale, key)| (scale, Some(key)));
        let program = if training.is_some() { &self.model.training } else { &self.model.evaluation };
        let context = Context { graph: &self.model.graph, weights: &self.weights, batch, scale, dropout_key };
        let gradients = training.map(|_| &mut self.gradients);
        let run = Run::new(context, program, &mut self.pool, gradients, None);
        let (loss, _) = rayon::scope(|_| run.run())?;
        Ok(loss)
    }
}

impl TrainDevice for CpuTrain {
    fn accumulate(&mut self, batch: &Batch, scale: f32, dropout_key: u64) -> Result<LossSums, EngineError> {
        self.run(batch, Some((scale, dropout_key)))
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<LossSums, EngineError> {
        self.run(batch, None)
    }

    fn gradient_norm(&mut self) -> Result<f64, EngineError> {
        let squares = |gradients: &Gradients| gradients.iter().flatten().map(|g| kernels::sum_squares(g)).sum::<f64>();
        Ok(rayon::scope(|_| squares(&self.gradients)).sqrt())
    }

    fn update(&mut self, update: &Update) -> Result<f64, EngineError> {
        let norm = self.gradient_norm()?;
        if norm.is_finite() {
            // As torch.nn.utils.clip_grad_norm_: max / (norm + 1e-6), at most 1.
            let factor = update.max_grad_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0)) as f32;
            for (t, (first, second)) in self.model.trained.iter().zip(&mut self.moments) {
                let weight_decay = if t.decay { update.adamw.weight_decay } else { 0.0 };
                let settings = kernels::AdamW { weight_decay, ..update.adamw };
                let gradient = self.gradients[t.param.index()].as_deref().unwrap_or(&[]);
                if let Some(values) = self.weights.owned_mut(t.param) {
                    rayon::scope(|_| kernels::adamw(values, gradient, factor, first, second, &settings));
                }
            }
        }
        for gradient in self.gradients.iter_mut().flatten() {
            gradient.fill(0.0);
        }
        Ok(norm)
    }

    fn values(&self, index: usize) -> Result<Cow<'_, [f32]>, EngineError> {
        Ok(Cow::Borrowed(self.weights.owned(self.model.trained[index].param).unwrap_or_default()))
    }

    fn set_values(&mut self, index: usize, values: &[f32]) -> Result<(), EngineError> {
        let trained = self.model.trained[index];
        self.weights.set(trained.param, values, trained.elements)
    }

    fn gradient(&self, index: usize) -> Result<Cow<'_, [f32]>, EngineError> {
        Ok(Cow::Borrowed(self.gradients[self.model.trained[index].param.index()].as_deref().unwrap_or_default()))
    }

    fn moments(&self, index: usize) -> Result<(Cow<'_, [f32]>, Cow<'_, [f32]>), EngineError> {
        let (first, second) = &self.moments[index];
        Ok((Cow::Borrowed(first), Cow::Borrowed(second)))
    }

    fn set_moments(&mut self, index: usize, first: &[f32], second: &[f32]) -> Result<(), EngineError> {
        self.moments[index].0.copy_from_slice(first);
        self.moments[index].1.copy_from_slice(second);
        Ok(())
    }

    fn memory_plan(&self, rows: usize) -> MemoryPlan {
        let trained: u64 = self.model.trained.iter().map(|t| 4 * t.elements as u64).sum();
        let vocabulary = self.model.graph.ty(self.model.training.head).last() as u64;
        MemoryPlan {
            mapped_weights: self.weights.mapped_bytes(),
            owned_weights: self.weights.owned_bytes(),
            gradients: trained,
            optimizer: 2 * trained,
            activations: self.model.training.peak_bytes(rows),
            loss_chunk: (4 * vocabulary * rows as u64).min(32 << 20),
        }
    }

    fn sum_over_ranks(&mut self, _: &mut [f64]) -> Result<(), EngineError> {
        // The CPU trains alone.
        Ok(())
    }

    fn device_memory(&self) -> Option<u64> {
        None
    }

    fn start_profile(&mut self) {}

    fn end_profile(&mut self) -> Result<Vec<ProfileRow>, EngineError> {
        Ok(Vec::new())
    }
}
