//! What stopped a command: message, causes and hints, whatever crate it comes from.

use crate::args::UsageError;

/// Exit code of a failed command.
pub(crate) const FAILED: u8 = 1;
/// Exit code of a wrong command line.
pub(crate) const USAGE: u8 = 2;

/// A failure as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
    pub(crate) hints: Vec<String>,
}

impl Failure {
    /// A failure with what to do.
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code: FAILED, message: message.into(), hints: vec![hint.into()] }
    }

    /// The same failure, of one rank of several: their messages end up in one terminal.
    pub(crate) fn of_rank(self, rank: usize) -> Self {
        Self { message: format!("rank {rank}: {}", self.message), ..self }
    }

    /// A file operation that failed.
    pub(crate) fn io(action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(
            format!("cannot {action} {}: {error}", path.display()),
            "check that the path exists, that you may write there and that the disk is not full",
        )
    }
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Self { code: USAGE, message: error.message, hints: error.hint.into_iter().collect() }
    }
}

impl From<swift_train::TrainError> for Failure {
    fn from(error: swift_train::TrainError) -> Self {
        Self { code: FAILED, message: error.to_string(), hints: error.hint().into_iter().collect() }
    }
}

impl From<swift_engine::EngineError> for Failure {
    fn from(error: swift_engine::EngineError) -> Self {
        Self { code: FAILED, message: error.to_string(), hints: error.hint().into_iter().collect() }
    }
}

impl From<swift_hub::HubError> for Failure {
    fn from(error: swift_hub::HubError) -> Self {
        Self::new(error.to_string(), error.hint())
    }
}

impl From<swift_data::DataError> for Failure {
    fn from(error: swift_data::DataError) -> Self {
        match error {
            swift_data::DataError::Plugin(error) => (*error).into(),
            error => Self::new(error.to_string(), error.hint()),
        }
    }
}

impl From<swift_plugin::PluginError> for Failure {
    fn from(error: swift_plugin::PluginError) -> Self {
        let author = error.author_hint().map(|hint| format!("for the plugin's author: {hint}"));
        Self { code: FAILED, message: error.to_string(), hints: [error.hint()].into_iter().chain(author).collect() }
    }
}
