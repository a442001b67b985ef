//! `logging.jsonl`, with ms-swift's columns: one row per log step, continued exactly on resume.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{checkpoint::write_atomically, error::TrainError};

/// The file's name in a run folder.
pub const FILE: &str = "logging.jsonl";
const STEP_COLUMN: &str = "global_step/max_steps";

/// One row of training.
#[derive(Debug, Clone, PartialEq)]
pub struct LogRow {
    pub step: u64,
    pub max_steps: u64,
    pub epoch: f64,
    /// Mean over the steps since the last row.
    pub loss: f64,
    /// Share of labelled tokens predicted right, since the last row.
    pub token_accuracy: f64,
    /// Norm of the last step's gradient before clipping.
    pub gradient_norm: f64,
    /// Used in the last step.
    pub learning_rate: f64,
    pub elapsed_seconds: f64,
    pub remaining_seconds: f64,
    pub peak_memory_bytes: Option<u64>,
    pub seconds_per_step: f64,
    /// All rows (trained or not) per second of training, since the last row.
    pub tokens_per_second: f64,
}

impl LogRow {
    /// The row as it is written.
    pub fn to_json(&self) -> Value {
        json!({
            "loss": self.loss,
            "token_acc": self.token_accuracy,
            "grad_norm": self.gradient_norm,
            "learning_rate": self.learning_rate,
            "epoch": self.epoch,
            STEP_COLUMN: format!("{}/{}", self.step, self.max_steps),
            "elapsed_time": duration(self.elapsed_seconds),
            "remaining_time": duration(self.remaining_seconds),
            "memory(GiB)": self.peak_memory_bytes.map(gibibytes),
            "train_speed(s/it)": rounded(self.seconds_per_step),
            "train_speed(tokens/s)": rounded(self.tokens_per_second),
        })
    }
}

/// One evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalRow {
    pub step: u64,
    pub max_steps: u64,
    pub epoch: f64,
    /// Mean over all labelled tokens of the validation set.
    pub loss: f64,
    pub token_accuracy: f64,
    pub seconds: f64,
}

impl EvalRow {
    /// The row as it is written.
    pub fn to_json(&self) -> Value {
        json!({
            "eval_loss": self.loss,
            "eval_token_acc": self.token_accuracy,
            "eval_runtime": rounded(self.seconds),
            "epoch": self.epoch,
            STEP_COLUMN: format!("{}/{}", self.step, self.max_steps),
        })
    }
}

/// The open file.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: File,
    rows: Vec<Map<String, Value>>,
}

impl LogFile {
    /// Opens the log of a run that stands at `step`: rows past it, and a last line cut short by a kill, are dropped.
    pub fn open(run_folder: &Path, step: u64) -> Result<Self, TrainError> {
        let path = run_folder.join(FILE);
        let old = if path.is_file() {
            fs::read_to_string(&path).map_err(TrainError::io("read", &path))?
        } else {
            String::new()
        };
        let mut rows = Vec::new();
        let mut kept = String::new();
        for line in old.split_inclusive('\n') {
            let Ok(Value::Object(row)) = serde_json::from_str(line) else { continue };
            if line.ends_with('\n') && step_of(&row).is_some_and(|s| s <= step) {
                kept.push_str(line);
                rows.push(row);
            }
        }
        write_atomically(&path, kept.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(TrainError::io("open", &path))?;
        Ok(Self { path, file, rows })
    }

    /// Appends a row and hands it to the system at once.
    pub fn append(&mut self, row: Value) -> Result<(), TrainError> {
        let line = format!("{row}\n");
        self.file.write_all(line.as_bytes()).map_err(TrainError::io("write", &self.path))?;
        if let Value::Object(row) = row {
            self.rows.push(row);
        }
        Ok(())
    }

    /// The values of a column with their steps, for the picture.
    pub fn column(&self, name: &str) -> Vec<(u64, f64)> {
        self.rows.iter().filter_map(|row| Some((step_of(row)?, row.get(name)?.as_f64()?))).collect()
    }
}

fn step_of(row: &Map<String, Value>) -> Option<u64> {
    row.get(STEP_COLUMN)?.as_str()?.split('/').next()?.parse().ok()
}

/// `1d 2h 3m 4s`, as ms-swift writes it.
pub fn duration(seconds: f64) -> String {
    let total = seconds.max(0.0).round() as u64;
    let (days, hours, minutes, seconds) = (total / 86_400, total / 3600 % 24, total / 60 % 60, total % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m {seconds}s"),
        _ => format!("{days}d {hours}h {minutes}m {seconds}s"),
    }
}

/// Bytes in GiB with two decimals.
pub fn gibibytes(bytes: u64) -> f64 {
    (bytes as f64 / (1u64 << 30) as f64 * 100.0).round() / 100.0
}

/// Six decimals: timings do not carry more.
fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> Value {
        json!({"loss": step as f64 / 10.0, STEP_COLUMN: format!("{step}/100")})
    }

    #[test]
    fn a_resumed_log_has_no_row_past_its_step_and_no_half_line() {
        let run = tempfile::tempdir().unwrap();
        let mut log = LogFile::open(run.path(), 0).unwrap();
        for step in [1, 5, 10, 15] {
            log.append(row(step)).unwrap();
        }
        let path = run.path().join(FILE);
        let mut text = fs::read_to_string(&path).unwrap();
        text.push_str("{\"loss\": 0.");
        fs::write(&path, text).unwrap();
        let mut log = LogFile::open(run.path(), 10).unwrap();
        log.append(row(15)).unwrap();
        assert_eq!(log.column("loss"), [(1, 0.1), (5, 0.5), (10, 1.0), (15, 1.5)]);
        let lines: Vec<Value> =
            fs::read_to_string(&path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines, [row(1), row(5), row(10), row(15)]);
    }

    #[test]
    fn durations_read_like_ms_swift() {
        assert_eq!(duration(7.4), "7s");
        assert_eq!(duration(65.0), "1m 5s");
        assert_eq!(duration(3661.0), "1h 1m 1s");
        assert_eq!(duration(90_061.0), "1d 1h 1m 1s");
    }
}
