//! Intake and outlet of checkpoints: a local Hugging Face folder or a GGUF file in, a Hugging Face folder out.
//!
//! It knows files, headers, tokenizers and names. Of graphs it must not know more than the names and shapes that a
//! trace may see and where an adapter's tensors fit; nothing of devices, training or generation. Nothing here unpickles,
//! runs code from a checkpoint or opens a network connection.

mod error;
mod gguf;
mod mapping;
mod model;
pub mod peft;
mod save;
mod tokens;
mod weights;

pub use error::HubError;
pub use model::{GenerationDefaults, Model, OpenOptions, Source};
pub use save::{SavedTensor, SavedWeights, save_safetensors};
pub use tokens::{SpecialToken, SpecialTokens};
pub use weights::{GgufDtype, TensorBytes, Weights};
