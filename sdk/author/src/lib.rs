//! What an author does with a plugin, as a library: make a folder, build it, test it, check it, measure it. `swift plugin
//! ...` shows it in a terminal.
//!
//! The crate runs the tools of the authors' languages and the real host on the component that comes out. It must not know
//! any model family, nothing of registries, and it prints nothing.

mod build;
mod error;
mod golden;
mod new;
mod packed;
mod project;
mod tools;

pub use build::{Build, Built, Language, build};
pub use error::AuthorError;
pub use golden::{Failure, Report, run as run_tests};
pub use new::new;
pub use project::Project;
pub use swift_plugin::Kind;
use swift_plugin::clean;
pub use tools::Tools;

/// The result of an author's command.
pub type Result<T> = std::result::Result<T, AuthorError>;
