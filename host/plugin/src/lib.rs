//! Loads plugins: WebAssembly components behind the contracts of `wit/`, with limits, checked imports, a cache of compiled
//! code, and one clear error for everything that can go wrong.
//!
//! What a component is follows from its exports: a model family, chat templates, dataset loaders, row preprocessors, reward
//! functions, metrics; there is one typed handle for each. A plugin has no clock, no randomness and no processes, since this
//! crate defines no such import; files and hosts it has only by two keys: its `plugin.toml` asks, the user grants.
//!
//! Every pure call runs in a fresh instance with its own fuel and memory, which is dropped afterwards, whether it answered or
//! trapped. So the same input gives the same result on any number of cores, and nothing that one call does reaches
//! another. Only a dataset reader and a streaming parser live longer. The crate knows no tensors, no devices and no model
//! family.

mod binding;
mod cache;
mod call;
mod capability;
mod clean;
mod contract;
mod dataset;
mod error;
mod grants;
mod host;
mod kind;
mod limits;
mod manifest;
mod metric;
mod model;
mod reward;
pub mod sections;
mod set;
mod shape;
mod template;

pub use binding::{Level, LogLine};
pub use clean::clean;
pub use contract::{Contract, Inspection, inspect, offered_functions, served, serves};
pub use dataset::{Batch, Loader, LoaderInfo, Preprocessor, PreprocessorInfo, Reader, RowOutcome};
pub use error::{PluginError, Stack};
pub use grants::{GrantError, Granted, Grants};
pub use host::{Listener, Plugin, PluginHost, PluginOptions, read_component};
pub use kind::Kind;
pub use limits::{KindLimits, Limits};
pub use manifest::{BuildTable, Capabilities, Manifest, ManifestError, valid_name};
pub use metric::{Answer, Evaluation, Example, Metric, MetricInfo};
pub use model::{ModelPlugin, Trace};
pub use reward::{FailurePolicy, Failures, Message, Outcome, Reward, RewardInfo, Sample, TrainerState, sample_of_row};
pub use set::{PluginSet, plugin_folders, with_model_type};
pub use template::{
    ChatMessage, Content, Context, Conversation, Event, Form, Parsed, Part, Rendered, Segment, StreamParser, Template,
    TemplateInfo, ToolCall, ToolCallStart,
};

/// The result of loading or running a plugin.
pub type Result<T> = std::result::Result<T, PluginError>;
