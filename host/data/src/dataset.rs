//! Dataset strings, local files and the canonical rows in them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{ColumnMap, DataError, Ledger, Origin, Row, RowError, Stream, permutation};

/// A dataset string: `path[#n]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSpec {
    /// As the user wrote it.
    pub text: String,
    pub path: PathBuf,
    /// How many rows to use: fewer are sampled, more are repeated.
    pub sample: Option<usize>,
}

/// How to read a dataset.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    pub columns: ColumnMap,
    /// Accept only the canonical names of query and response.
    pub disable_auto_column_mapping: bool,
    /// A malformed row is an error, not an entry of the ledger.
    pub strict: bool,
    /// Seed of `#n` sampling.
    pub data_seed: u64,
}

/// The rows of one dataset.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub rows: Vec<Row>,
    pub ledger: Ledger,
    /// SHA-256 of the file.
    pub digest: String,
}

#[derive(Clone, Copy)]
enum Format {
    JsonLines,
    JsonList,
    Csv,
}

impl DatasetSpec {
    /// Parses `path[:subset][#n]`. Hub ids, folders and subsets of local files are refused.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let spec = |path: &str, sample| Self { text: text.into(), path: path.into(), sample };
        if Path::new(text).is_file() {
            return Ok(spec(text, None)); // a file whose name happens to hold `#` or `:`
        }
        let (path, sample) = match text.rsplit_once('#') {
            Some((path, count)) if !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit()) => {
                let count = count.parse().ok().filter(|&n| n > 0).ok_or_else(|| DataError::Spec {
                    spec: text.into(),
                    message: format!("`#{count}` must ask for at least one row"),
                    hint: "write path#1000 to use 1000 rows".into(),
                })?;
                (path, Some(count))
            }
            _ => (text, None),
        };
        if Path::new(path).is_file() {
            return Ok(spec(path, sample));
        }
        if Path::new(path).is_dir() {
            return Err(DataError::Spec {
                spec: text.into(),
                message: "dataset folders are not built yet".into(),
                hint: "pass the .jsonl, .json or .csv files in it, separated by spaces".into(),
            });
        }
        if let Some((file, subset)) = path.rsplit_once(':')
            && Path::new(file).is_file()
        {
            return Err(DataError::Spec {
                spec: text.into(),
                message: format!("a local file has no subset `{subset}`"),
                hint: format!("leave `:{subset}` out"),
            });
        }
        let id = path.strip_prefix("hf::").or_else(|| path.strip_prefix("ms::"));
        let looks_like_an_id = path.split('/').count() == 2
            && !path.starts_with(['.', '/'])
            && !["jsonl", "json", "csv", "txt", "parquet"].iter().any(|e| path.ends_with(&format!(".{e}")));
        if id.is_some() || looks_like_an_id {
            return Err(DataError::HubDataset { spec: text.into() });
        }
        Err(DataError::NotFound { spec: text.into() })
    }
}

/// Reads a dataset. A malformed row is an error that names file and line when `strict`, else it is dropped and counted.
pub fn load(spec: &DatasetSpec, options: &LoadOptions) -> Result<Dataset, DataError> {
    let path = &spec.path;
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let format = match extension.as_str() {
        "jsonl" | "ndjson" => Format::JsonLines,
        "json" => Format::JsonList,
        "csv" => Format::Csv,
        other => {
            return Err(DataError::Spec {
                spec: spec.text.clone(),
                message: format!("files of type `.{other}` are not read"),
                hint: "convert it to .jsonl: one JSON object per line".into(),
            });
        }
    };
    let bytes = std::fs::read(path).map_err(|source| DataError::Io { path: path.clone(), source })?;
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let content = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut reader =
        Reader { file: path.display().to_string().into(), options, ledger: Ledger::new(&*spec.text), rows: Vec::new() };
    match format {
        Format::JsonLines => reader.json_lines(content)?,
        Format::JsonList => reader.json_list(path, content)?,
        Format::Csv => reader.csv(content)?,
    }
    let Reader { mut rows, mut ledger, .. } = reader;
    if let Some(count) = spec.sample.filter(|_| !rows.is_empty()) {
        rows = sampled(rows.len(), count, options.data_seed).into_iter().map(|index| rows[index].clone()).collect();
        ledger.sampled = Some(count);
    }
    ledger.kept = rows.len();
    Ok(Dataset { rows, ledger, digest })
}

/// `count` of `available` rows: whole repetitions in order, then a random choice for the rest.
fn sampled(available: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut chosen: Vec<usize> = (0..count / available).flat_map(|_| 0..available).collect();
    let rest = count % available;
    if rest > 0 {
        chosen.extend(&permutation(available, seed, Stream::Sample)[..rest]);
    }
    chosen
}

/// Takes a share of the rows (rounded up) out for validation, chosen at random; both parts keep the order.
pub fn split_validation(rows: Vec<Row>, ratio: f64, data_seed: u64) -> (Vec<Row>, Vec<Row>) {
    let count = ((rows.len() as f64 * ratio).ceil() as usize).min(rows.len());
    let mut held_out = vec![false; rows.len()];
    for &index in &permutation(rows.len(), data_seed, Stream::Validation)[..count] {
        held_out[index] = true;
    }
    let mut held_out = held_out.into_iter();
    let (validation, training) = rows.into_iter().partition(|_| held_out.next() == Some(true));
    (training, validation)
}

struct Reader<'a> {
    file: Arc<str>,
    options: &'a LoadOptions,
    ledger: Ledger,
    rows: Vec<Row>,
}

impl Reader<'_> {
    fn add(&mut self, value: Result<Value, RowError>, number: usize, item: bool) -> Result<(), DataError> {
        let origin = Origin { file: self.file.clone(), number, item };
        let aliases = !self.options.disable_auto_column_mapping;
        self.ledger.read += 1;
        match value.and_then(|value| Row::from_json(value, &self.options.columns, aliases, origin.clone())) {
            Ok(row) => self.rows.push(row),
            Err(error) if self.options.strict => return Err(DataError::Row { origin, error }),
            Err(error) => self.ledger.drop_row(&origin, &error),
        }
        Ok(())
    }

    fn json_lines(&mut self, content: &[u8]) -> Result<(), DataError> {
        for (index, line) in content.split(|&byte| byte == b'\n').enumerate() {
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let value = serde_json::from_slice(line).map_err(|e| {
                RowError::new("malformed row", format!("not JSON at column {}: {}", e.column(), json_message(&e)))
            });
            self.add(value, index + 1, false)?;
        }
        Ok(())
    }

    fn json_list(&mut self, path: &Path, content: &[u8]) -> Result<(), DataError> {
        let list: Vec<Value> = serde_json::from_slice(content)
            .map_err(|e| DataError::NotAList { path: path.into(), message: e.to_string() })?;
        for (index, value) in list.into_iter().enumerate() {
            self.add(Ok(value), index + 1, true)?;
        }
        Ok(())
    }

    /// Every cell is a text; an empty one counts as absent.
    fn csv(&mut self, content: &[u8]) -> Result<(), DataError> {
        let mut reader = csv::ReaderBuilder::new().from_reader(content);
        let malformed = |e: csv::Error| RowError::new("malformed row", e.to_string());
        let headers = match reader.headers() {
            Ok(headers) => headers.clone(),
            Err(error) => return self.add(Err(malformed(error)), 1, false),
        };
        for record in reader.records() {
            let line = |position: Option<&csv::Position>| position.map_or(0, |p| p.line() as usize);
            match record {
                Ok(record) => {
                    let cells = headers.iter().zip(&record).filter(|(_, cell)| !cell.is_empty());
                    let object = cells.map(|(name, cell)| (name.to_owned(), Value::from(cell))).collect();
                    self.add(Ok(Value::Object(object)), line(record.position()), false)?;
                }
                Err(error) => {
                    let number = line(error.position());
                    self.add(Err(malformed(error)), number, false)?;
                }
            }
        }
        Ok(())
    }
}

/// The parser's message without its own idea of the line, which is always one.
fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}
