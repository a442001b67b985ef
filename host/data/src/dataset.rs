//! Dataset strings, local files and the canonical rows in them.
//!
//! Files of a form that is not known here are read by loaders, see [`crate::find_loader`].

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use sha2::{Digest, Sha256};
use swift_plugin::{Preprocessor, RowOutcome, valid_name};

use crate::{ColumnMap, DataError, Ledger, Origin, Row, RowError, Stream, permutation};

/// A dataset string: `[LOADER::]path[:subset][#n]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSpec {
    /// As the user wrote it.
    pub text: String,
    /// The loader plugin that it names.
    pub loader: Option<String>,
    /// A file or folder; for a loader, whatever it understands.
    pub path: PathBuf,
    /// A part of it, for a loader.
    pub subset: Option<String>,
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
    /// What turns the rows into canonical ones first.
    pub preprocessor: Option<Arc<Preprocessor>>,
}

/// The rows of one dataset.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub rows: Vec<Row>,
    pub ledger: Ledger,
    /// SHA-256 of the file, or of the rows that a loader gave.
    pub digest: String,
}

#[derive(Clone, Copy)]
enum Format {
    JsonLines,
    JsonList,
    Csv,
}

impl DatasetSpec {
    /// Parses `[LOADER::]path[:subset][#n]`. Hub ids are refused, and paths that are not there unless a loader is named.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let spec = |path: &str, subset: Option<&str>, sample| Self {
            text: text.into(),
            loader: None,
            path: path.into(),
            subset: subset.map(Into::into),
            sample,
        };
        if Path::new(text).is_file() {
            return Ok(spec(text, None, None)); // a file whose name happens to hold `#` or `:`
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
        let with_subset = |path: &str| -> Option<Self> {
            if Path::new(path).exists() {
                return Some(spec(path, None, sample));
            }
            let (path, subset) = path.rsplit_once(':')?;
            Path::new(path).exists().then(|| spec(path, Some(subset), sample))
        };
        if let Some(found) = with_subset(path) {
            return Ok(found);
        }
        // `PLUGIN/LOADER::path` says which of several plugins.
        if let Some((loader, location)) = path.split_once("::")
            && !matches!(loader, "hf" | "ms")
            && loader.split('/').all(valid_name)
        {
            let found = with_subset(location).unwrap_or_else(|| spec(location, None, sample));
            return Ok(Self { loader: Some(loader.into()), ..found });
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

/// The form of a file, by its ending.
fn format_of(path: &Path) -> Result<Format, String> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    match extension.as_str() {
        "jsonl" | "ndjson" => Ok(Format::JsonLines),
        "json" => Ok(Format::JsonList),
        "csv" => Ok(Format::Csv),
        _ => Err(extension),
    }
}

/// Whether [`load`] reads it.
pub(crate) fn is_native(path: &Path) -> bool {
    !path.is_dir() && format_of(path).is_ok()
}

/// Reads a dataset. A malformed row is an error that names file and line when `strict`, else it is dropped and counted.
pub fn load(spec: &DatasetSpec, options: &LoadOptions) -> Result<Dataset, DataError> {
    let path = &spec.path;
    let refuse = |message: String, hint: &str| DataError::Spec { spec: spec.text.clone(), message, hint: hint.into() };
    if path.is_dir() {
        let hint = "pass the .jsonl, .json or .csv files in it, separated by spaces; a loader plugin may read whole \
                    folders: LOADER::PATH";
        return Err(refuse(
            "folders are read by loader plugins alone, and none knows the files in this one".into(),
            hint,
        ));
    }
    let format = format_of(path).map_err(|other| {
        let hint = "convert it to .jsonl, one JSON object per line, or give a loader for it with --plugin";
        refuse(format!("files of type `.{other}` are not read"), hint)
    })?;
    if let Some(subset) = &spec.subset {
        return Err(refuse(format!("a local file has no subset `{subset}`"), &format!("leave `:{subset}` out")));
    }
    let bytes = std::fs::read(path).map_err(|source| DataError::Io { path: path.clone(), source })?;
    let digest = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let content = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let mut reader = Reader::new(&path.display().to_string(), spec, options);
    match format {
        Format::JsonLines => reader.json_lines(content)?,
        Format::JsonList => reader.json_list(path, content)?,
        Format::Csv => reader.csv(content)?,
    }
    reader.finish(digest)
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

/// Source rows that a preprocessor is given at once.
const BATCH: usize = 4096;

/// Collects the rows of a source, through the preprocessor if there is one.
pub(crate) struct Reader<'a> {
    file: Arc<str>,
    spec: &'a DatasetSpec,
    options: &'a LoadOptions,
    ledger: Ledger,
    rows: Vec<Row>,
    /// Rows that wait for the preprocessor.
    waiting: (Vec<String>, Vec<Origin>),
}

impl<'a> Reader<'a> {
    pub(crate) fn new(file: &str, spec: &'a DatasetSpec, options: &'a LoadOptions) -> Self {
        let ledger = Ledger::new(&*spec.text);
        Self { file: file.into(), spec, options, ledger, rows: Vec::new(), waiting: Default::default() }
    }

    fn origin(&self, number: usize, item: bool) -> Origin {
        Origin { file: self.file.clone(), number, item }
    }

    /// Takes a row of the source.
    fn add(&mut self, value: Result<Value, RowError>, number: usize, item: bool) -> Result<(), DataError> {
        let origin = self.origin(number, item);
        self.ledger.read += 1;
        match value {
            Ok(value) if self.options.preprocessor.is_some() => self.wait(value.to_string(), origin),
            value => self.canonical(value, origin),
        }
    }

    /// Takes what a loader made of a row.
    pub(crate) fn outcome(&mut self, outcome: RowOutcome, number: usize, plugin: &str) -> Result<(), DataError> {
        let origin = self.origin(number, true);
        self.ledger.read += 1;
        match outcome {
            RowOutcome::Rows(rows) if self.options.preprocessor.is_some() => {
                self.ledger.added += rows.len().saturating_sub(1);
                rows.into_iter().try_for_each(|row| self.wait(row, origin.clone()))
            }
            other => self.made(other, origin, plugin),
        }
    }

    /// Takes what a plugin made of a row.
    fn made(&mut self, outcome: RowOutcome, origin: Origin, plugin: &str) -> Result<(), DataError> {
        match outcome {
            RowOutcome::Rows(rows) => {
                self.ledger.added += rows.len().saturating_sub(1);
                for row in rows {
                    let value = serde_json::from_str(&row)
                        .map_err(|e| RowError::new("malformed row", format!("plugin `{plugin}` gave no JSON: {e}")));
                    self.canonical(value, origin.clone())?;
                }
            }
            // A reason is no fault, so it stops nothing, strict or not.
            RowOutcome::Dropped(reason) => {
                self.ledger.drop_row(&origin, &RowError::new(format!("plugin `{plugin}`: {reason}"), ""));
            }
        }
        Ok(())
    }

    fn wait(&mut self, row: String, origin: Origin) -> Result<(), DataError> {
        self.waiting.0.push(row);
        self.waiting.1.push(origin);
        if self.waiting.0.len() < BATCH { Ok(()) } else { self.preprocess() }
    }

    fn preprocess(&mut self) -> Result<(), DataError> {
        let (rows, origins) = std::mem::take(&mut self.waiting);
        let Some(preprocessor) = &self.options.preprocessor else { return Ok(()) };
        for (outcome, origin) in preprocessor.process(&rows)?.into_iter().zip(origins) {
            self.made(outcome, origin, preprocessor.plugin().name())?;
        }
        Ok(())
    }

    fn canonical(&mut self, value: Result<Value, RowError>, origin: Origin) -> Result<(), DataError> {
        let aliases = !self.options.disable_auto_column_mapping;
        match value.and_then(|value| Row::from_json(value, &self.options.columns, aliases, origin.clone())) {
            Ok(row) => self.rows.push(row),
            Err(error) if self.options.strict => return Err(DataError::Row { origin, error }),
            Err(error) => self.ledger.drop_row(&origin, &error),
        }
        Ok(())
    }

    /// All rows, or as many as were asked for.
    pub(crate) fn finish(mut self, digest: String) -> Result<Dataset, DataError> {
        self.preprocess()?;
        let Self { mut rows, mut ledger, .. } = self;
        if let Some(count) = self.spec.sample.filter(|_| !rows.is_empty()) {
            let chosen = sampled(rows.len(), count, self.options.data_seed);
            rows = chosen.into_iter().map(|index| rows[index].clone()).collect();
            ledger.sampled = Some(count);
        }
        ledger.kept = rows.len();
        Ok(Dataset { rows, ledger, digest })
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
