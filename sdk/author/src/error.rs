//! What can go wrong between an author's folder and a component that works.

use std::path::{Path, PathBuf};

use swift_plugin::PluginError;

/// Why an author's command failed. [`AuthorError::hint`] says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthorError {
    /// A program that the language needs is not on this machine.
    #[error("{needed_for} needs {tool}, which is not on this machine")]
    ToolMissing {
        /// The program, with its version where one is needed.
        tool: String,
        /// "building a Python plugin"
        needed_for: String,
        /// The command that gets it.
        install: String,
        /// Whether `--install-tools` would run that command.
        installable: bool,
    },
    /// A program ran and failed.
    #[error("`{command}` failed:\n{output}")]
    ToolFailed {
        /// As one would type it.
        command: String,
        /// The end of what it said.
        output: String,
    },
    /// The folder is not a plugin's, or something in it is wrong.
    #[error("{}: {what}", .path.display())]
    Project {
        /// The file or folder that is wrong.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What to do.
        hint: String,
    },
    /// Not a name for a plugin.
    #[error("{what}")]
    Name {
        /// What is wrong with it.
        what: String,
        /// What a name is.
        hint: String,
    },
    /// No such template in this language.
    #[error("there is no {kind} plugin in {lang} to start from")]
    NotOffered {
        /// Name of the kind.
        kind: &'static str,
        /// Name of the language.
        lang: &'static str,
        /// Languages that have it.
        offered: Vec<&'static str>,
    },
    /// A component came out, and it is not what it has to be.
    #[error("the component that was built is not right: {what}")]
    Component {
        /// What is wrong with it.
        what: String,
        /// For the author.
        author: String,
    },
    /// The host refused the component, or a call into it failed.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// "read", "write", ...
        action: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl AuthorError {
    /// A file operation that failed, for `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// Something in the folder that is wrong.
    pub fn project(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Project { path: path.to_path_buf(), what: what.into(), hint: hint.into() }
    }

    /// What to do.
    pub fn hint(&self) -> String {
        match self {
            Self::ToolMissing { install, installable: true, .. } => {
                format!("`--install-tools` gets it into swift's own cache; or get it yourself: {install}")
            }
            Self::ToolMissing { install, .. } => install.clone(),
            Self::ToolFailed { .. } => "the lines above name the file and the line".into(),
            Self::Project { hint, .. } | Self::Name { hint, .. } => hint.clone(),
            Self::NotOffered { offered, .. } if offered.is_empty() => {
                "`swift plugin new --help` lists the kinds".into()
            }
            Self::NotOffered { offered, .. } => format!("it can be had in {}", offered.join(", ")),
            Self::Component { .. } => "build it again after the source was put right".into(),
            Self::Plugin(error) => error.hint(),
            Self::Io { .. } => {
                "check that the path exists, that you may write there and that the disk is not full".into()
            }
        }
    }

    /// What the plugin's author does about it, where the plugin is at fault.
    pub fn author_hint(&self) -> Option<String> {
        match self {
            Self::Component { author, .. } => Some(author.clone()),
            Self::Plugin(error) => error.author_hint().map(Into::into),
            _ => None,
        }
    }
}
