//! Write a swift plugin in Rust: one type, one trait and one macro for each kind of plugin.
//!
//! | kind | feature | implement | export with |
//! |---|---|---|---|
//! | model family | `model` | [`ModelFamily`] | [`export_family!`] |
//! | chat template | `template` | [`template::Template`] | [`export_templates!`] |
//! | dataset loader | `loader` | [`dataset::Loader`] | [`export_loaders!`] |
//! | row preprocessor | `preprocessor` | [`dataset::Preprocessor`] | [`export_preprocessors!`] |
//! | reward function | `reward` | [`reward::Reward`] | [`export_rewards!`] |
//! | evaluation metric | `metric` | [`metric::Metric`] | [`export_metrics!`] |
//!
//! Switch on the feature of each kind that the component is, and no other: a component must export everything that its
//! features say. `files` and `http` add the capabilities of these names, which the user must grant. Make the crate a
//! `cdylib`, and build it with `swift plugin build`; `swift plugin new` writes all of this.
//!
//! A model family:
//!
#![cfg_attr(feature = "model", doc = "```no_run")]
#![cfg_attr(not(feature = "model"), doc = "```ignore")]
//! use swift_sdk::{Config, Graph, ModelFamily, Result, export_family};
//!
//! struct Tiny;
//!
//! impl ModelFamily for Tiny {
//!     const MODEL_TYPES: &'static [&'static str] = &["tiny"];
//!     const ARCHITECTURES: &'static [&'static str] = &["TinyForCausalLM"];
//!
//!     fn build(g: &Graph, config: &Config) -> Result<()> {
//!         let (vocabulary, width) = (config.size("vocab_size")?, config.size("hidden_size")?);
//!         let (tokens, _positions) = g.text();
//!         let (x, table) = g.embed("embed", tokens, vocabulary, width);
//!         g.output("hidden", x);
//!         g.output("logits", g.logits(x, table));
//!         Ok(())
//!     }
//! }
//!
//! export_family!(Tiny);
//! # fn main() {}
//! ```
//!
//! The crate wraps the contracts of `wit/` and must not know any family, dataset or reward: what two families share as
//! mathematics (rotary scaling, sliding windows, tied heads) is here, what one family alone does is not. A panic in a
//! plugin reaches the user with file and line; return an error for everything that a config, a setting or a row can
//! cause. A plugin has no clock, no randomness, no environment and no standard output: use [`log`].

#[cfg(any(target_arch = "wasm32", test))]
mod allocate;
#[doc(hidden)]
pub mod bindings;
#[cfg(feature = "model")]
mod config;
#[cfg(feature = "dataset")]
pub mod dataset;
mod error;
#[cfg(feature = "files")]
pub mod files;
#[cfg(feature = "model")]
mod graph;
#[cfg(feature = "http")]
pub mod http;
mod json;
#[cfg(feature = "settings")]
pub mod log;
#[cfg(feature = "metric")]
pub mod metric;
#[cfg(feature = "model")]
mod model;
#[cfg(feature = "model")]
mod number;
#[cfg(feature = "reward")]
pub mod reward;
#[cfg(feature = "model")]
mod rope;
#[doc(hidden)]
pub mod runtime;
#[cfg(feature = "settings")]
mod settings;
#[cfg(feature = "template")]
pub mod template;
mod text;
#[cfg(feature = "model")]
mod windows;

#[cfg(feature = "model")]
pub use config::Config;
pub use error::{Error, Result};
#[cfg(feature = "model")]
pub use graph::{Dtype, Graph, Mask, Param, Rows, Tensor};
pub use json::{Json, Number};
#[cfg(feature = "model")]
pub use model::ModelFamily;
#[cfg(feature = "model")]
pub use rope::Rope;
#[cfg(feature = "settings")]
pub use settings::Settings;
#[cfg(feature = "model")]
pub use windows::attention_windows;
