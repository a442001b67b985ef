//! What can go wrong while weights are bound and steps are run.

use swift_graph::BuildError;
use swift_graph::checkpoint::WeightError;
use swift_kernels::cuda::CudaError;

/// An engine failure: what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The graph cannot be lowered or rewritten.
    #[error("{0}")]
    Graph(#[from] BuildError),
    /// A weight cannot be read.
    #[error("{0}")]
    Weight(#[from] WeightError),
    /// A weight is not what the graph was traced with.
    #[error("weight `{name}`: {message}")]
    Mismatch { name: String, message: String },
    /// A batch breaks a rule.
    #[error("bad batch: {0}")]
    Batch(String),
    /// An input of the graph that nothing feeds.
    #[error("the model wants the input `{0}`, which is not fed for this task")]
    Input(String),
    /// The graph cannot be run token by token.
    #[error("this model cannot be decoded with a cache: {0}")]
    NotDecodable(String),
    /// The GPU, its driver or its libraries.
    #[error("{0}")]
    Cuda(#[from] CudaError),
    /// Not enough memory on the GPU, with the plan of what takes how much.
    #[error("{message}")]
    OutOfMemory { message: String },
    /// What was asked for runs elsewhere only.
    #[error("{message}")]
    Placement { message: String, hint: String },
    /// Logits that no token can be chosen from.
    #[error("the logits of row {row} are not finite")]
    NotFinite { row: usize },
    /// A parameter or sequence that does not exist.
    #[error("{0}")]
    Unknown(String),
}

impl EngineError {
    /// What the user can do, if there is something to say beyond the message.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Graph(e) => e.hint.clone(),
            Self::Weight(e) => e.hint.clone(),
            Self::Mismatch { .. } => Some("the checkpoint changed after it was opened; start again".into()),
            Self::Batch(_) => {
                Some("token ids must be below the model's vocabulary: do tokenizer and model belong together?".into())
            }
            Self::Input(_) => Some("only text models with `tokens` and `positions` run here".into()),
            Self::Cuda(e) => e.hint(),
            Self::OutOfMemory { .. } => Some(
                "use a smaller --per_device_train_batch_size or --max_length, --gradient_checkpointing true, \
                 or --quant_bits 4 --quant_method bnb"
                    .into(),
            ),
            Self::Placement { hint, .. } => Some(hint.clone()),
            Self::NotFinite { .. } => {
                Some("the weights hold NaN or infinity, or are too large for this precision".into())
            }
            Self::NotDecodable(_) | Self::Unknown(_) => None,
        }
    }
}
