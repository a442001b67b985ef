//! From files to token sequences: datasets, canonical rows, chat templates, encoding with assistant-only loss, packing,
//! and the ledger that says what became of every row.
//!
//! It knows text, tokens and order. It must not know models, devices, losses or optimizers, and it takes nothing from
//! the clock: dates and seeds are handed in.

mod dataset;
mod encode;
mod error;
mod guard;
mod ledger;
mod loss_scale;
mod packing;
mod pieces;
mod plugin;
mod python;
mod random;
mod row;
mod schema;
mod source;
mod spans;
mod template;

pub use dataset::{Dataset, DatasetSpec, LoadOptions, load, raw_rows, split_validation};
pub use encode::{EncodeOptions, Encoded, Encoder, Truncation};
pub use error::{DataError, Origin, RowError};
pub use ledger::{Dropped, Ledger};
pub use loss_scale::LossScale;
pub use packing::{PackingStrategy, Packs, pack};
pub use plugin::{PluginTemplate, find_loader, find_preprocessor, load_with};
pub use random::{Random, Stream, permutation};
pub use row::{ColumnMap, Media, Message, Row, Side};
pub use schema::{Column, Schema};
pub use template::ChatTemplate;
