//! ChatML, the form of conversations of Qwen2, Qwen2.5, Qwen3, SmolLM2 and many more: `<|im_start|>role\n...<|im_end|>\n`.
//!
//! What is rendered is, byte for byte, what the checkpoints' own Jinja templates give, with what those leave out: reasoning
//! and tools where a member has none. Only a whole message that they would leave out is an error. [`family`] says in what
//! the members differ.

mod family;
mod parse;
mod python;
mod render;
#[cfg(test)]
mod tests;

pub use family::{ChatMl, Qwen2, Qwen2_5, Qwen3, Qwen3NoThinking, Qwen3Thinking, SmolLm2};

// Elsewhere its names would be those of a library that the linker cannot write.
#[cfg(target_arch = "wasm32")]
swift_sdk::export_templates!(ChatMl, Qwen2, Qwen2_5, Qwen3, Qwen3NoThinking, Qwen3Thinking, SmolLm2);
