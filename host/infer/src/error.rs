//! What can go wrong while text is generated: what, where, and what to do about it.

use std::path::PathBuf;

use swift_engine::EngineError;

/// An error of generation. `Display` says what and where, [`InferError::hint`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    #[error("the prompt has {tokens} tokens, and the model's context ends at {max_length}")]
    PromptTooLong { index: usize, tokens: usize, max_length: usize },
    #[error("the prompt is empty")]
    EmptyPrompt { index: usize },
    #[error("{name} is {value}: {message}")]
    Setting { name: &'static str, value: String, message: &'static str },
    #[error("prompt {}, new token {}: the model's logits are not finite numbers", index + 1, position + 1)]
    NotFinite { index: usize, position: usize },
    #[error("the next token cannot be drawn: {message}")]
    Sampling { message: String },
    #[error("token ids cannot be decoded to text: {message}")]
    Decode { message: String },
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl InferError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::PromptTooLong { .. } => {
                "shorten the prompt (in a chat, /clear forgets the turns so far), or use a model with a longer context".into()
            }
            Self::EmptyPrompt { .. } => "give it at least one token of text".into(),
            Self::Setting { .. } | Self::Sampling { .. } => return None,
            Self::NotFinite { .. } => {
                "the weights hold values that overflow: check the checkpoint and the adapter, and try --torch_dtype float32".into()
            }
            Self::Decode { .. } => "tokenizer.json is damaged or belongs to another model".into(),
            Self::Io { .. } => "check that the path exists, that you may write there and that the disk is not full".into(),
            Self::Engine(error) => return error.hint(),
        })
    }
}
