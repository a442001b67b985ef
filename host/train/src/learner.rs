//! What a recipe needs from whatever holds the weights: losses, gradients, an optimizer step, and the state to save.
//!
//! The engine's training session is the one that matters; tests train a model of a few numbers through the same trait.

/// Any error of the engine.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Sequences of one micro-batch, rows end to end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Token ids, `[rows]`.
    pub tokens: Vec<u32>,
    /// Rows of each sequence; they sum to `rows`.
    pub sequence_lengths: Vec<u32>,
    /// Position of each row in its own sequence, `[rows]`.
    pub positions: Vec<u32>,
    /// The token that follows row i, `[rows]`.
    pub targets: Vec<u32>,
    /// How much predicting `targets[i]` after row i counts, `[rows]`; 0 for rows that predict nothing.
    pub weights: Vec<f32>,
}

/// Sums over the labelled rows of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LossSums {
    /// Weighted sum of cross-entropies, in nats, before any scaling.
    pub loss: f64,
    /// Sum of the weights.
    pub weight: f64,
    /// Labelled rows whose most likely token is the target.
    pub correct: u64,
    /// Labelled rows.
    pub counted: u64,
}

impl LossSums {
    /// Adds another batch's sums.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.weight += other.weight;
        self.correct += other.correct;
        self.counted += other.counted;
    }
}

/// One trained tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trainable {
    /// Checkpoint name, or the name PEFT writes: `base_model.model.<module>.lora_A.weight`.
    pub name: String,
    pub shape: Vec<usize>,
}

/// AdamW's moments of one tensor: name, first moment, second moment.
pub type Moments<'a> = (String, &'a [f32], &'a [f32]);

/// Holds weights, gradients and optimizer state.
pub trait Learner {
    /// Forward and backward; adds the gradient of `scale * loss` to what is there. `dropout_key` picks the dropout
    /// masks: the same key gives the same masks.
    fn accumulate(&mut self, batch: &Batch, scale: f32, dropout_key: u64) -> Result<LossSums, BoxError>;
    /// Forward without dropout and without gradients.
    fn evaluate(&mut self, batch: &Batch) -> Result<LossSums, BoxError>;
    /// Clips to `max_grad_norm`, updates the weights and zeroes the gradients. Returns the norm before clipping.
    fn step(&mut self, learning_rate: f64, max_grad_norm: Option<f64>) -> Result<f64, BoxError>;
    /// Every trained tensor, in a fixed order.
    fn trainable(&self) -> Vec<Trainable>;
    /// The f32 master values of a trained tensor.
    fn values(&self, name: &str) -> Option<&[f32]>;
    /// Replaces the values of a trained tensor.
    fn set_values(&mut self, name: &str, values: &[f32]) -> Result<(), BoxError>;
    /// Optimizer steps taken and the moments, in the order of [`Learner::trainable`].
    fn optimizer_state(&self) -> (u64, Vec<Moments<'_>>);
    /// Restores what [`Learner::optimizer_state`] gave.
    fn set_optimizer_state(&mut self, steps: u64, moments: &[(String, Vec<f32>, Vec<f32>)]) -> Result<(), BoxError>;
}
