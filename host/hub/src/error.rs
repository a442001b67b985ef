//! What can go wrong with a checkpoint: what, where, and what to do about it.

use std::path::PathBuf;

/// An error of reading or writing a checkpoint. `Display` says what and where, [`HubError::hint`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no model at {}: the path does not exist", path.display())]
    NotFound { path: PathBuf },
    #[error("no model in {}: {reason}", path.display())]
    NotAModel { path: PathBuf, reason: String },
    #[error("{} is not valid JSON: {message}", path.display())]
    Json { path: PathBuf, message: String },
    #[error("{} is not usable: {message}", path.display())]
    Content { path: PathBuf, message: String },
    #[error("the adapter {} cannot be used: {message}", path.display())]
    Adapter { path: PathBuf, message: String },
    #[error("{} is not a readable safetensors file: {message}", path.display())]
    Safetensors { path: PathBuf, message: String },
    #[error("{} is missing: model.safetensors.index.json names it for `{tensor}`", path.display())]
    MissingShard { path: PathBuf, tensor: String },
    #[error("tensor `{tensor}` is in both {} and {}", first.display(), second.display())]
    DuplicateTensor { tensor: String, first: PathBuf, second: PathBuf },
    #[error("{} has no tensor `{tensor}`{}", path.display(), nearest.as_ref().map(|n| format!(" (nearest is `{n}`)")).unwrap_or_default())]
    MissingTensor { path: PathBuf, tensor: String, nearest: Option<String> },
    #[error("tensor `{tensor}` in {} is stored as {dtype}, which is not built yet", path.display())]
    StorageType { path: PathBuf, tensor: String, dtype: String },
    #[error("{} is not a readable GGUF file: {message}", path.display())]
    Gguf { path: PathBuf, message: String },
    #[error("{}: {feature} is not built yet", path.display())]
    Unsupported { path: PathBuf, feature: String, instead: String },
    #[error("{} has no tokenizer", path.display())]
    NoTokenizer { path: PathBuf },
    #[error("the tokenizer of {} cannot be built: {message}", path.display())]
    Tokenizer { path: PathBuf, message: String },
    #[error("cannot save tensor `{tensor}`: {message}")]
    Save { tensor: String, message: String },
}

impl HubError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => {
                "check that the file exists, that you may access it and that the disk is not full".into()
            }
            Self::NotFound { .. } => {
                "pass a local folder with config.json and *.safetensors, or a .gguf file; hub ids are not built yet, \
                 download the model first"
                    .into()
            }
            Self::NotAModel { .. } => {
                "a model is a folder with config.json and model.safetensors (or model.safetensors.index.json and its \
                 shards), a .gguf file, or a folder holding exactly one .gguf"
                    .into()
            }
            Self::Json { .. } => "the file is damaged or hand-edited; restore it from where the model came from".into(),
            Self::Content { .. } => "compare the file with the one the model was published with".into(),
            Self::Adapter { .. } => {
                "pass the folder that holds the adapter (checkpoint-N of a run) together with the base model it was \
                 trained on"
                    .into()
            }
            Self::Safetensors { .. } => {
                "the file is truncated or damaged; download it again and compare its size or checksum".into()
            }
            Self::MissingShard { .. } => "download every shard the index names into the same folder".into(),
            Self::DuplicateTensor { .. } => {
                "keep either the sharded or the single-file form of the weights in the folder, not a mix".into()
            }
            Self::MissingTensor { .. } => {
                "the checkpoint and the model family disagree; check config.json and the plugin".into()
            }
            Self::StorageType { .. } => "convert the checkpoint to bf16, f16 or f32 safetensors first".into(),
            Self::Gguf { .. } => "the file is truncated, damaged or of an unknown version; download it again".into(),
            Self::Unsupported { instead, .. } => instead.clone(),
            Self::NoTokenizer { .. } => {
                "add tokenizer.json (and tokenizer_config.json) to the folder; without it only token ids can be used"
                    .into()
            }
            Self::Tokenizer { .. } => "restore tokenizer.json from where the model came from".into(),
            Self::Save { .. } => "choose another storage type, or report this if the message names a size".into(),
        }
    }
}
