//! What an author does with a plugin, as a library: make a folder, build it, test it, check it, measure it. `swift plugin
//! ...` shows it in a terminal.
//!
//! The crate runs the tools of the authors' languages and the real host on the component that comes out. It must not know
//! any model family, nothing of registries, and it prints nothing.

mod build;
mod error;
mod project;
mod tools;

// Stand-ins, the files of `swift_plugin` themselves, until that crate compiles with them.
#[path = "../../../host/plugin/src/clean.rs"]
mod clean;
#[path = "../../../host/plugin/src/kind.rs"]
mod kind;
#[path = "../../../host/plugin/src/manifest.rs"]
#[allow(dead_code, reason = "a stand-in")]
mod manifest;
use clean::clean;

pub use build::{Build, Language};
pub use error::AuthorError;
pub use kind::Kind;
pub use manifest::Manifest;
pub use project::Project;
pub use tools::Tools;

/// The result of an author's command.
pub type Result<T> = std::result::Result<T, AuthorError>;
