//! What can go wrong between a file and a batch. Errors of one row name the file and the line.

use std::{borrow::Cow, fmt, path::PathBuf, sync::Arc};

use crate::{LossScale, source::ENDINGS};

/// Where a row came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file as the user named it.
    pub file: Arc<str>,
    /// Line of a jsonl file, or item of a JSON list or of what a loader reads, counted from one.
    pub number: usize,
    /// Whether `number` counts items.
    pub item: bool,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.item {
            write!(f, "{} (item {})", self.file, self.number)
        } else {
            write!(f, "{}:{}", self.file, self.number)
        }
    }
}

/// Why one row cannot be used. `kind` is the same text for all rows with the same fault, `detail` is this row's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    pub kind: Cow<'static, str>,
    pub detail: String,
}

impl RowError {
    pub(crate) fn new(kind: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        Self { kind: kind.into(), detail: detail.into() }
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.detail.is_empty() { f.write_str(&self.kind) } else { write!(f, "{}: {}", self.kind, self.detail) }
    }
}

/// An error of this crate. `Display` says what and where, [`DataError::hint`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("cannot read {}: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("dataset `{spec}` not found")]
    NotFound { spec: String },
    #[error("dataset `{spec}` is a hub id: hub datasets are not built yet")]
    HubDataset { spec: String },
    #[error("dataset `{spec}`: {message}")]
    Spec { spec: String, message: String, hint: String },
    #[error("{} is not a JSON list of rows: {message}", path.display())]
    NotAList { path: PathBuf, message: String },
    #[error("`columns`: {message}")]
    Columns { message: String },
    #[error("{origin}: {error}")]
    Row { origin: Origin, error: RowError },
    #[error("the chat template {action}: {message}")]
    Template { action: &'static str, message: String },
    #[error("the model has no chat template")]
    NoTemplate,
    #[error("the model names no end-of-sequence token")]
    NoEndToken,
    #[error("there is no loss_scale `{name}`")]
    LossScale { name: String },
    #[error("truncation_strategy `{name}` {message}")]
    Truncation { name: String, message: &'static str },
    #[error("packing: sequence {index} has {length} tokens, more than a pack's {capacity}")]
    Packing { index: usize, length: usize, capacity: usize },
    #[error("cannot tokenize: {message}")]
    Tokenizer { message: String },
    #[error("the template `{template}` of a plugin is not the checkpoint's: {difference}")]
    TemplateDiffers { template: String, difference: String },
    #[error(transparent)]
    Model(#[from] swift_hub::HubError),
    #[error(transparent)]
    Plugin(Box<swift_plugin::PluginError>),
}

impl From<swift_plugin::PluginError> for DataError {
    fn from(error: swift_plugin::PluginError) -> Self {
        Self::Plugin(Box::new(error))
    }
}

impl DataError {
    /// What the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Io { .. } => "check that the file exists and that you may read it".into(),
            Self::NotFound { .. } => {
                format!("pass a folder, a pattern or a file ({ENDINGS}), or what a plugin reads: LOADER::PATH")
            }
            Self::HubDataset { .. } => "download the dataset and pass the path of its .jsonl file".into(),
            Self::Spec { hint, .. } => hint.clone(),
            Self::NotAList { .. } => "a .json dataset is one list of objects, or objects one after the other".into(),
            Self::Columns { .. } => r#"pass a JSON object such as {"question": "query", "answer": "response"}"#.into(),
            Self::Row { .. } => {
                "correct the row, or leave `strict` off to drop such rows (they are counted in the ledger)".into()
            }
            Self::Template { .. } => {
                "the template is the checkpoint's own; compare it with the published one, or check the messages".into()
            }
            Self::NoTemplate => "use an instruction-tuned checkpoint, add chat_template.jinja to its folder, or pass \
                 --use_chat_template false"
                .into(),
            Self::NoEndToken => "add `eos_token_id` to the checkpoint's config.json".into(),
            Self::LossScale { .. } => format!(
                "write `base+name+name`, of {}; single messages can carry `loss` and `loss_scale`",
                LossScale::names()
            ),
            Self::Truncation { .. } => "use delete, left or right (split only for pre-training)".into(),
            Self::Packing { .. } => "truncate to the packing length before packing".into(),
            Self::Tokenizer { .. } => "the tokenizer cannot handle this text; check tokenizer.json".into(),
            Self::TemplateDiffers { template, .. } => format!(
                "leave --template out to use the checkpoint's own, or take the difference on purpose: \
                 --allow_template_difference {template}"
            ),
            Self::Model(error) => error.hint(),
            Self::Plugin(error) => error.hint(),
        }
    }
}
