//! Loads plugins: WebAssembly components behind the contracts of `wit/`, with limits, checked imports, a cache of compiled
//! code, and one clear error for everything that can go wrong.
//!
//! A plugin is pure and short-lived: it gets a config, a task and a checkpoint's tensor names, it answers with a
//! graph, and its instance is dropped after the trace or any trap. It has no files, no clock and no network, since
//! this crate defines no such import. The crate knows no tensors, no devices and no model family.

mod binding;
mod cache;
mod clean;
mod contract;
mod error;
mod host;
mod set;

pub use clean::clean;
pub use contract::{CONTRACT, offered_functions};
pub use error::{PluginError, Stack};
pub use host::{ModelPlugin, PluginHost, PluginOptions, Trace};
pub use set::{PluginSet, plugin_folders, with_model_type};

/// The result of loading or running a plugin.
pub type Result<T> = std::result::Result<T, PluginError>;
