//! What can go wrong while a model is written: what, where, and what to do about it.

use std::path::PathBuf;

use swift_engine::EngineError;
use swift_hub::HubError;

/// An error of an export. `Display` says what and where, [`ExportError::hint`] what to do.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("{} exists and is not empty", path.display())]
    Exists { path: PathBuf },
    #[error("{} is the folder of the {what} itself", path.display())]
    Overwrites { path: PathBuf, what: &'static str },
    #[error("`{tensor}` does not fit {dtype}: merged, it has a value of {value}")]
    Range { tensor: String, dtype: &'static str, value: f32 },
    #[error("`{tensor}` is stored as {dtype}, which cannot be merged into")]
    StorageType { tensor: String, dtype: &'static str },
    #[error(
        "the merged model is not the adapted one: {what} differs by {found:.2e}, the bound is {bound:.0e}; nothing was kept"
    )]
    Check { what: String, found: f64, bound: f64 },
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Hub(#[from] HubError),
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl ExportError {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Exists { .. } => "choose another --output_dir, or replace the model in it with `--exist_ok true`".into(),
            Self::Overwrites { .. } => "choose another --output_dir".into(),
            Self::Range { .. } => "write another type: `--torch_dtype bfloat16` or `--torch_dtype float32`".into(),
            Self::StorageType { .. } => "convert the base model to bf16, f16 or f32 first".into(),
            Self::Check { .. } => {
                "try `--torch_dtype float32`; if that fails too, this is a defect worth a report with adapter_config.json".into()
            }
            Self::Io { .. } => "check that the path exists, that you may write there and that the disk is not full".into(),
            Self::Hub(error) => error.hint(),
            Self::Engine(error) => return error.hint(),
        })
    }
}
