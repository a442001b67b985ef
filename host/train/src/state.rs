//! `trainer_state.json`: where a run stands. With weights and optimizer it is all a resume needs; no random generator
//! is saved because orders and dropout are pure functions of seed, epoch and step.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{read_json, write_json},
    error::TrainError,
    learner::LossSums,
};

/// The file's name in a checkpoint.
pub const FILE: &str = "trainer_state.json";

/// Sums since the last row of the log, so that a resumed run logs the same numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Sum of the steps' losses.
    pub loss: f64,
    pub steps: u64,
    pub correct: u64,
    pub counted: u64,
}

impl Pending {
    /// Adds one step: its normalised loss and its sums.
    pub fn add(&mut self, loss: f64, sums: &LossSums) {
        self.loss += loss;
        self.steps += 1;
        self.correct += sums.correct;
        self.counted += sums.counted;
    }
}

/// What must not change between a run and its resume: the cursor means nothing otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Digest of the encoded samples in order.
    pub data_sha256: String,
    pub per_device_train_batch_size: u64,
    pub gradient_accumulation_steps: u64,
    /// Number of ranks. It may change where the micro-batches of a step stay the same.
    #[serde(default = "one")]
    pub world_size: u64,
    pub train_dataloader_shuffle: bool,
    pub seed: u64,
    pub data_seed: u64,
}

impl Identity {
    /// Names of the fields that differ.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let micro_batches = |identity: &Self| identity.gradient_accumulation_steps * identity.world_size;
        let accumulation = if self.world_size == other.world_size {
            "--gradient_accumulation_steps"
        } else {
            "the micro-batches of a step (--gradient_accumulation_steps times the number of ranks)"
        };
        let pairs = [
            ("the encoded training rows", self.data_sha256 != other.data_sha256),
            ("--per_device_train_batch_size", self.per_device_train_batch_size != other.per_device_train_batch_size),
            (accumulation, micro_batches(self) != micro_batches(other)),
            ("--train_dataloader_shuffle", self.train_dataloader_shuffle != other.train_dataloader_shuffle),
            ("--seed", self.seed != other.seed),
            ("--data_seed", self.data_seed != other.data_seed),
        ];
        pairs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

/// Checkpoints of one process do not name it.
fn one() -> u64 {
    1
}

/// What may change on purpose, but makes another run than the uninterrupted one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Course {
    pub max_steps: u64,
    pub learning_rate: f64,
    pub lr_scheduler_type: crate::schedule::Schedule,
    pub warmup_steps: u64,
    pub max_grad_norm: Option<f64>,
    pub weight_decay: f64,
    pub adam_beta1: f64,
    pub adam_beta2: f64,
    pub adam_epsilon: f64,
}

impl Course {
    /// Names of the fields that differ.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("number of steps", self.max_steps != other.max_steps),
            ("--learning_rate", self.learning_rate != other.learning_rate),
            ("--lr_scheduler_type", self.lr_scheduler_type != other.lr_scheduler_type),
            ("warm-up", self.warmup_steps != other.warmup_steps),
            ("--max_grad_norm", self.max_grad_norm != other.max_grad_norm),
            ("--weight_decay", self.weight_decay != other.weight_decay),
            ("--adam_beta1", self.adam_beta1 != other.adam_beta1),
            ("--adam_beta2", self.adam_beta2 != other.adam_beta2),
            ("--adam_epsilon", self.adam_epsilon != other.adam_epsilon),
        ];
        pairs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

/// The best evaluation so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub metric: f64,
    pub step: u64,
}

/// The whole state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Version of this layout.
    pub format: u32,
    /// Optimizer steps done; the next one is window `global_step % steps_per_epoch` of epoch
    /// `global_step / steps_per_epoch`.
    pub global_step: u64,
    pub steps_per_epoch: u64,
    pub epoch: f64,
    pub identity: Identity,
    pub course: Course,
    /// Rows that went through the model, and labelled tokens among them.
    pub tokens_seen: u64,
    pub tokens_trained: u64,
    pub pending: Pending,
    pub elapsed_seconds: f64,
    pub best: Option<Best>,
    /// Folder name of the best checkpoint, if it was saved.
    pub best_model_checkpoint: Option<String>,
}

impl TrainerState {
    /// Writes the state into a checkpoint folder.
    pub fn write(&self, checkpoint: &Path) -> Result<(), TrainError> {
        write_json(&checkpoint.join(FILE), self)
    }

    /// Reads the state of a checkpoint folder.
    pub fn read(checkpoint: &Path) -> Result<Self, TrainError> {
        read_json(&checkpoint.join(FILE))
    }
}
