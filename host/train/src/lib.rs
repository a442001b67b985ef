//! `swift-train`: the trainers, one readable file per method, and what they share.
//!
//! A recipe ([`sft`]) reads top to bottom and calls functions: schedule, batching, checkpoints, logs. It knows encoded
//! samples (token ids with loss weights) and a [`Learner`] that holds the weights. It must not know conversations,
//! templates, tokenizers, plugins or how kernels run, and it never prints: it reports to an [`Observer`].

pub mod batching;
pub mod checkpoint;
mod clock;
pub mod error;
pub mod learner;
pub mod logging;
pub mod lora_files;
pub mod manifest;
pub mod memory;
pub mod optimizer_files;
pub mod picture;
mod run_files;
pub mod schedule;
pub mod sft;
mod start;
pub mod state;
pub mod tensorboard;
pub mod world;

pub use batching::{Sample, Sequence};
pub use error::TrainError;
pub use learner::{BoxError, Learner, LossSums, Trainable};
pub use sft::{Observer, Outcome, Output, Plan, Resume, ResumeMode, Run, SftSettings};
pub use world::World;
