//! `run.json`: everything that makes a run what it is. The same manifest gives the same run.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{checkpoint::write_json, error::TrainError};

/// The file's name in a run folder.
pub const FILE: &str = "run.json";

/// A file or folder the run depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// As the user named it.
    pub name: String,
    /// SHA-256 of its content.
    pub sha256: String,
    /// Rows, for data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// The manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunManifest {
    /// Version of this layout.
    pub format: u32,
    pub swift_version: String,
    pub command: String,
    /// When the run started, RFC 3339.
    pub started: String,
    /// The date templates see, `YYYY-MM-DD`; never read from the clock again.
    pub run_date: String,
    pub plugins: Vec<Source>,
    /// Digest of configuration, tokenizer and tensor headers.
    pub model: Source,
    /// Digest of the weights themselves.
    pub weights: Source,
    pub adapters: Vec<Source>,
    pub data: Vec<Source>,
    /// Digests of the encoded samples, after template, truncation and packing.
    pub encoded_train_sha256: String,
    pub encoded_eval_sha256: String,
    pub seed: u64,
    pub data_seed: u64,
    pub num_threads: usize,
    /// Instruction set or GPU that the kernels ran on; results are bit-equal only on the same one.
    pub kernels: String,
    /// The device in words, with the precision, and this process among its ranks.
    #[serde(default)]
    pub device: String,
    /// Number of ranks.
    #[serde(default = "one")]
    pub world_size: u64,
    /// The resolved settings, as in `args.json`.
    pub settings: Value,
    /// What happened to each row while it was encoded.
    pub rows: Value,
    /// Steps this run was resumed at.
    pub resumed_at: Vec<u64>,
    /// Filled in at the end: steps, best checkpoint, last checkpoint.
    pub result: Value,
}

/// Runs of one process did not say so once.
fn one() -> u64 {
    1
}

impl RunManifest {
    /// Writes `<run>/run.json` atomically.
    pub fn write(&self, run_folder: &Path) -> Result<(), TrainError> {
        write_json(&run_folder.join(FILE), self)
    }

    /// Reads `<run>/run.json`.
    pub fn read(run_folder: &Path) -> Result<Self, TrainError> {
        crate::checkpoint::read_json(&run_folder.join(FILE))
    }
}
