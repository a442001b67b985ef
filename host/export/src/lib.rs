//! `swift-export`: a model written in another form. Built so far: an adapter merged into its base.
//!
//! It knows checkpoints and graphs. It must not know plugins (whoever calls it traces) and it never prints.

mod check;
pub mod error;
pub mod merge;

pub use check::{LogitCheck, MatrixCheck};
pub use error::ExportError;
pub use merge::{MergeOptions, MergeReport, merge};
