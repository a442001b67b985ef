//! What a recipe needs from whatever holds the weights: losses, gradients, an optimizer step, and the state to save.
//!
//! The engine's training session is the one that matters; tests train a model of a few numbers through the same trait.

use std::borrow::Cow;

use swift_engine::TrainSession;
pub use swift_engine::{Batch, LossSums};

/// Any error of the engine.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One trained tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trainable {
    /// Checkpoint name, or the name PEFT writes: `base_model.model.<module>.lora_A.weight`.
    pub name: String,
    pub shape: Vec<usize>,
}

/// AdamW's moments of one tensor: name, first moment, second moment.
pub use swift_engine::Moments;

/// Holds weights, gradients and optimizer state.
pub trait Learner {
    /// Forward and backward; adds the gradient of `scale * loss` to what is there. `dropout_key` picks the dropout
    /// masks: the same key gives the same masks.
    fn accumulate(&mut self, batch: &Batch, scale: f32, dropout_key: u64) -> Result<LossSums, BoxError>;
    /// Forward without dropout and without gradients.
    fn evaluate(&mut self, batch: &Batch) -> Result<LossSums, BoxError>;
    /// Sums numbers over all ranks, in place. Every rank calls it at the same place with as many numbers.
    fn sum_over_ranks(&mut self, sums: &mut [f64]) -> Result<(), BoxError>;
    /// Most bytes taken so far: of the GPU where the learner lives on one, else of this process.
    fn peak_memory_bytes(&self) -> Option<u64> {
        crate::memory::peak_bytes()
    }
    /// Adds up the gradients of all ranks, clips to `max_grad_norm`, updates the weights and zeroes the gradients. Returns
    /// the norm before clipping.
    fn step(&mut self, learning_rate: f64, max_grad_norm: Option<f64>) -> Result<f64, BoxError>;
    /// Every trained tensor, in a fixed order.
    fn trainable(&self) -> Vec<Trainable>;
    /// The f32 master values of a trained tensor.
    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>>;
    /// Replaces the values of a trained tensor.
    fn set_values(&mut self, name: &str, values: &[f32]) -> Result<(), BoxError>;
    /// Optimizer steps taken and the moments, in the order of [`Learner::trainable`].
    fn optimizer_state(&self) -> Result<(u64, Vec<Moments<'_>>), BoxError>;
    /// Restores what [`Learner::optimizer_state`] gave.
    fn set_optimizer_state(&mut self, steps: u64, moments: &[(String, Vec<f32>, Vec<f32>)]) -> Result<(), BoxError>;
}

impl Learner for TrainSession {
    fn accumulate(&mut self, batch: &Batch, scale: f32, dropout_key: u64) -> Result<LossSums, BoxError> {
        Ok(self.accumulate(batch, scale, dropout_key)?)
    }

    fn evaluate(&mut self, batch: &Batch) -> Result<LossSums, BoxError> {
        Ok(self.evaluate(batch)?)
    }

    fn sum_over_ranks(&mut self, sums: &mut [f64]) -> Result<(), BoxError> {
        Ok(self.sum_over_ranks(sums)?)
    }

    fn peak_memory_bytes(&self) -> Option<u64> {
        self.device_memory().or_else(crate::memory::peak_bytes)
    }

    fn step(&mut self, learning_rate: f64, max_grad_norm: Option<f64>) -> Result<f64, BoxError> {
        Ok(self.step(learning_rate, max_grad_norm)?)
    }

    fn trainable(&self) -> Vec<Trainable> {
        self.trainable().into_iter().map(|tensor| Trainable { name: tensor.name, shape: tensor.shape }).collect()
    }

    fn values(&self, name: &str) -> Option<Cow<'_, [f32]>> {
        self.values(name)
    }

    fn set_values(&mut self, name: &str, values: &[f32]) -> Result<(), BoxError> {
        Ok(self.set_values(name, values)?)
    }

    fn optimizer_state(&self) -> Result<(u64, Vec<Moments<'_>>), BoxError> {
        Ok(self.optimizer_state()?)
    }

    fn set_optimizer_state(&mut self, steps: u64, moments: &[(String, Vec<f32>, Vec<f32>)]) -> Result<(), BoxError> {
        Ok(self.set_optimizer_state(steps, moments)?)
    }
}
