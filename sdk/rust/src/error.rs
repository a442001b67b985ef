//! The error of every call that a plugin answers.

use std::fmt;

/// Why a call cannot be answered; shown to the user as it is.
///
/// A thin pointer that frees nothing: every `?` of a plugin would carry the code to free the message otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error(&'static &'static str);

/// The result of what a plugin does.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with this message. Say what is wrong with what, and what is needed instead.
    pub fn new(message: impl Into<String>) -> Self {
        Self::of(message.into().leak())
    }

    pub(crate) fn of(message: &'static str) -> Self {
        Self(Box::leak(Box::new(message)))
    }

    /// The message.
    pub fn message(self) -> &'static str {
        self.0
    }
}

impl From<String> for Error {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

impl From<&str> for Error {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Error {}
