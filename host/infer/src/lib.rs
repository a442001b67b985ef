//! `swift-infer`: generation. A sampler, streamed text, batches of prompts decoded together with a cache each, chat
//! state, and the rows of a result file.
//!
//! It knows logits, token ids and text. It must not know how a model is built or where it came from (an
//! [`InferSession`](swift_engine::InferSession) is handed in), and it never prints.

pub mod chat;
pub mod error;
pub mod generate;
pub mod results;
pub mod sampler;
pub mod settings;
pub mod text;

pub use chat::{Command, Conversation};
pub use error::InferError;
pub use generate::{Completion, Event, FinishReason, Generation, Generator, Request};
pub use sampler::Sampler;
pub use settings::{GenerationFlags, GenerationSettings, Sampling};
