//! What an author does with a plugin, as a library: make a folder, build it, test it, check it, measure it. `swift plugin
//! ...` shows it in a terminal.
//!
//! The crate runs the tools of the authors' languages and the real host on the component that comes out. It must not know
//! any model family, nothing of registries, and it prints nothing.

pub mod bench;
mod build;
mod check;
mod describe;
mod error;
mod functions;
mod fuzz;
mod golden;
mod jinja;
mod new;
pub mod oracle;
mod packed;
mod project;
mod random;
pub mod rows;
mod tools;

pub use build::{Build, Built, Language, build};
pub use check::{Finding, Severity, check};
pub use describe::{GraphSummary, describe, summarise};
pub use error::AuthorError;
pub use functions::{Function, Functions};
pub use golden::{Failure, Report, run as run_tests};
pub use jinja::{Compared, against_checkpoint};
pub use new::new;
pub use project::Project;
pub use swift_plugin::Kind;
pub use tools::Tools;

/// The result of an author's command.
pub type Result<T> = std::result::Result<T, AuthorError>;
