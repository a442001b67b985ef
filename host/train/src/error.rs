//! What can go wrong while training: what, where, and what to do about it.

use std::path::PathBuf;

use swift_engine::EngineError;
use swift_hub::HubError;

use crate::learner::BoxError;

/// An error of a trainer. `Display` says what and where, [`TrainError::hint`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not usable: {message}", path.display())]
    Content { path: PathBuf, message: String },
    #[error("checkpoint {} is damaged: {message}", path.display())]
    Damaged { path: PathBuf, message: String },
    #[error("no checkpoint at {}: {message}", path.display())]
    NoCheckpoint { path: PathBuf, message: String },
    #[error("cannot resume from {}: {message}", path.display())]
    Resume { path: PathBuf, message: String, hint: String },
    #[error(transparent)]
    Adapter(#[from] HubError),
    #[error("the weights in {} do not fit this model: {message}", path.display())]
    Mismatch { path: PathBuf, message: String },
    #[error("there is nothing to train on: {message}")]
    NoData { message: String },
    #[error("setting {name}: {message}")]
    Setting { name: &'static str, message: String },
    #[error("step {step}: the {quantity} is {value}; rows in this step: {rows}{}", last_checkpoint(checkpoint.as_ref()))]
    NotFinite { step: u64, quantity: &'static str, value: f64, rows: String, checkpoint: Option<PathBuf> },
    #[error("step {step} failed on rows {rows}: {source}")]
    Step {
        step: u64,
        rows: String,
        #[source]
        source: BoxError,
    },
    #[error("cannot write the model to {}: {source}", path.display())]
    SaveModel {
        path: PathBuf,
        #[source]
        source: BoxError,
    },
    #[error("{} failed, so this one stops too", named(ranks))]
    OtherRanks { ranks: Vec<usize> },
    #[error("rank {rank} has other settings, rows or weights than the ranks it is to train with")]
    Disagreement { rank: usize },
    #[error("the ranks lost each other: {source}")]
    Ranks {
        #[source]
        source: BoxError,
    },
    #[error("cannot restore {what}: {source}")]
    Restore {
        what: String,
        #[source]
        source: BoxError,
    },
}

fn named(ranks: &[usize]) -> String {
    let numbers: Vec<String> = ranks.iter().map(usize::to_string).collect();
    format!("{} {}", if ranks.len() == 1 { "rank" } else { "ranks" }, numbers.join(", "))
}

fn last_checkpoint(path: Option<&PathBuf>) -> String {
    match path {
        Some(path) => format!("; the last checkpoint, {}, is untouched", path.display()),
        None => "; no checkpoint had been written yet".into(),
    }
}

impl TrainError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Io { .. } => {
                "check that the path exists, that you may write there and that the disk is not full".into()
            }
            Self::Content { .. } => "restore the file from where it came from, or start the run again".into(),
            Self::Damaged { .. } => "resume from an earlier checkpoint of the same run folder".into(),
            Self::NoCheckpoint { .. } => {
                "pass a checkpoint-N folder that swift wrote, or the run folder that holds them".into()
            }
            Self::Resume { hint, .. } => hint.clone(),
            Self::Adapter(error) => error.hint(),
            Self::Mismatch { .. } => {
                "use the same base model, rank, target modules and modules_to_save as the run that wrote them".into()
            }
            Self::NoData { .. } => {
                "check --dataset, --max_length and the row report: rows may have been dropped for their length".into()
            }
            Self::Setting { .. } => return None,
            Self::NotFinite { .. } => {
                "look at the rows named; try a lower --learning_rate, a longer warm-up or a smaller --max_grad_norm"
                    .into()
            }
            Self::SaveModel { .. } => "check that the disk is not full and that you may write there".into(),
            Self::OtherRanks { .. } => "look at what that rank says".into(),
            Self::Disagreement { .. } => {
                "start all ranks with the same arguments, on the same version of swift, model and data".into()
            }
            Self::Step { source, .. } | Self::Restore { source, .. } | Self::Ranks { source } => {
                return source.downcast_ref::<EngineError>().and_then(EngineError::hint);
            }
        })
    }
}
