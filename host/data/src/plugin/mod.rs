//! Where plugins stand in the way from files to tokens: a loader reads a source, a preprocessor turns its rows into canonical
//! ones, a template renders them.
//!
//! Plugins see rows and conversations, never tokens. What they leave out is in the row ledger with their reason.

mod check;
mod rows;
mod template;

pub use rows::{find_loader, find_preprocessor, load_with};
pub use template::PluginTemplate;
pub(crate) use template::{Chat, Piece};
