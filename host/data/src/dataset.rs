//! Dataset strings, and the canonical rows of local files.
//!
//! Files of a form that is not known here are read by loaders, see [`crate::find_loader`].

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use swift_plugin::{Preprocessor, RowOutcome, valid_name};

use crate::{
    ColumnMap, DataError, Ledger, Origin, Row, RowError, Schema, Stream, permutation,
    source::{self, ENDINGS, files_in, format_of, matching},
};

/// A dataset string: `[LOADER::]path[:subset1/subset2|:all][#n]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetSpec {
    /// As the user wrote it.
    pub text: String,
    /// The loader plugin that it names.
    pub loader: Option<String>,
    /// A file, a folder or a pattern; for a loader, whatever it understands.
    pub path: PathBuf,
    /// Parts of it, in this order; none: what a source gives by itself.
    pub subsets: Vec<String>,
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
    /// Look at the columns of the source, for [`Dataset::schema`].
    pub schema: bool,
}

/// The rows of one dataset.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub rows: Vec<Row>,
    pub ledger: Ledger,
    /// The columns of the source, where [`LoadOptions::schema`] asked for them.
    pub schema: Schema,
    /// SHA-256 of the file, of the digests of several files, or of the rows that a loader gave.
    pub digest: String,
}

impl DatasetSpec {
    /// Parses the string. Hub ids are refused, and paths that are not there unless a loader is named.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let refuse = |message: String, hint: &str| DataError::Spec { spec: text.into(), message, hint: hint.into() };
        let spec = |path: &str, subsets: Option<&str>, sample| -> Result<Self, DataError> {
            let subsets: Vec<String> = subsets.into_iter().flat_map(|names| names.split('/')).map(Into::into).collect();
            if subsets.iter().any(String::is_empty) {
                return Err(refuse("a subset has no name".into(), "write path:subset1/subset2, or path:all"));
            }
            Ok(Self { text: text.into(), loader: None, path: path.into(), subsets, sample })
        };
        if Path::new(text).is_file() {
            return spec(text, None, None); // a file whose name happens to hold `#` or `:`
        }
        let (path, sample) = match text.rsplit_once('#') {
            Some((path, count)) if !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit()) => {
                let count = count.parse().ok().filter(|&n| n > 0);
                let message =
                    || refuse(format!("`#{}` must ask for at least one row", &text[path.len() + 1..]), SAMPLE);
                (path, Some(count.ok_or_else(message)?))
            }
            _ => (text, None),
        };
        let found = |path: &str| -> Result<Option<Self>, DataError> {
            if Path::new(path).exists() || is_pattern(path) {
                return spec(path, None, sample).map(Some);
            }
            match path.rsplit_once(':') {
                Some((path, subsets)) if Path::new(path).exists() => spec(path, Some(subsets), sample).map(Some),
                _ => Ok(None),
            }
        };
        if let Some(found) = found(path)? {
            return Ok(found);
        }
        // `PLUGIN/LOADER::path` says which of several plugins.
        if let Some((loader, location)) = path.split_once("::")
            && !matches!(loader, "hf" | "ms")
            && loader.split('/').all(valid_name)
        {
            let found = found(location)?.map_or_else(|| spec(location, None, sample), Ok)?;
            return Ok(Self { loader: Some(loader.into()), ..found });
        }
        let id = path.strip_prefix("hf::").or_else(|| path.strip_prefix("ms::"));
        let looks_like_an_id =
            path.split('/').count() == 2 && !path.starts_with(['.', '/']) && format_of(Path::new(path)).is_err();
        if id.is_some() || looks_like_an_id {
            return Err(DataError::HubDataset { spec: text.into() });
        }
        Err(DataError::NotFound { spec: text.into() })
    }

    /// The files whose rows are read without a loader; none where there is no such file.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>, DataError> {
        let io = |source| DataError::Io { path: self.path.clone(), source };
        if self.path.is_dir() {
            if self.subsets.is_empty() {
                return files_in(&self.path, None).map_err(io);
            }
            let mut files = Vec::new();
            for subset in &self.subsets {
                // A file that is of two subsets is read once.
                let found = files_in(&self.path, Some(subset)).map_err(io)?;
                files.extend(found.into_iter().filter(|path| !files.contains(path)).collect::<Vec<_>>());
            }
            return Ok(files);
        }
        if self.path.exists() {
            return Ok(if format_of(&self.path).is_ok() { vec![self.path.clone()] } else { Vec::new() });
        }
        let files = matching(&self.path.to_string_lossy()).map_err(|message| {
            let hint = "`*` is any text within a name, `**` any folders, `[ab]` one of these letters";
            DataError::Spec { spec: self.text.clone(), message, hint: hint.into() }
        })?;
        Ok(files.into_iter().filter(|path| format_of(path).is_ok()).collect())
    }
}

impl DatasetSpec {
    /// What a loader is to read: the files of a pattern, or the path as it is.
    pub(crate) fn locations(&self) -> Result<Vec<PathBuf>, DataError> {
        let path = self.path.to_string_lossy();
        if self.path.exists() || !is_pattern(&path) {
            return Ok(vec![self.path.clone()]);
        }
        let files = matching(&path).unwrap_or_default();
        match (files.is_empty(), &self.loader) {
            (false, _) => Ok(files),
            // It may have patterns of its own.
            (true, Some(_)) => Ok(vec![self.path.clone()]),
            (true, None) => Err(DataError::Spec {
                spec: self.text.clone(),
                message: "no file is of this pattern".into(),
                hint: "check the folder and the ending".into(),
            }),
        }
    }
}

const SAMPLE: &str = "write path#1000 to use 1000 rows";

fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[']) && !path.contains("::")
}

/// Reads a dataset. A malformed row is an error that names file and line when `strict`, else it is dropped and counted.
pub fn load(spec: &DatasetSpec, options: &LoadOptions) -> Result<Dataset, DataError> {
    let refuse = |message: String, hint: String| DataError::Spec { spec: spec.text.clone(), message, hint };
    let files = spec.files()?;
    if files.is_empty() {
        let (message, hint) = match (spec.path.is_dir(), spec.path.extension()) {
            (true, _) if !spec.subsets.is_empty() => (
                format!("it has no files of `{}`", spec.subsets.join("/")),
                "a subset is a folder in it, the beginning of a file's name, or train, validation or test".into(),
            ),
            (true, _) => (
                "the folder has no files of rows, and no loader knows those in it".into(),
                format!("rows are read from {ENDINGS}; a loader plugin may read others: LOADER::PATH"),
            ),
            (false, _) if !spec.path.exists() => {
                ("no file is of this pattern".into(), format!("rows are read from {ENDINGS}"))
            }
            (false, ending) => (
                format!("files of type `.{}` are not read", ending.unwrap_or_default().to_string_lossy()),
                format!("convert it to one of {ENDINGS}, or give a loader for it with --plugin"),
            ),
        };
        return Err(refuse(message, hint));
    }
    if !spec.subsets.is_empty() && !spec.path.is_dir() {
        let subsets = spec.subsets.join("/");
        return Err(refuse(format!("a file has no subset `{subsets}`"), format!("leave `:{subsets}` out")));
    }
    let mut reader = Reader::new(spec, options);
    let mut digests = Vec::new();
    for path in &files {
        reader.file = path.display().to_string().into();
        digests.push(source::read(path, &mut |value, number, item| reader.add(value, number, item))?);
    }
    let digest = match &digests[..] {
        [digest] => digest.clone(),
        several => source::hex(&Sha256::digest(several.join("\n"))),
    };
    reader.finish(digest)
}

/// The rows of a file as they stand in it, by line (or item) number; what is no object is left out.
pub fn raw_rows(path: &Path) -> Result<HashMap<usize, Map<String, Value>>, DataError> {
    let mut rows = HashMap::new();
    source::read(path, &mut |value, number, _| {
        if let Ok(Value::Object(object)) = value {
            rows.insert(number, object);
        }
        Ok(())
    })?;
    Ok(rows)
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
    pub(crate) file: Arc<str>,
    spec: &'a DatasetSpec,
    options: &'a LoadOptions,
    ledger: Ledger,
    schema: Schema,
    rows: Vec<Row>,
    /// Rows that wait for the preprocessor.
    waiting: (Vec<String>, Vec<Origin>),
}

impl<'a> Reader<'a> {
    pub(crate) fn new(spec: &'a DatasetSpec, options: &'a LoadOptions) -> Self {
        let (file, ledger) = (spec.path.display().to_string().into(), Ledger::new(&*spec.text));
        Self { file, spec, options, ledger, schema: Schema::default(), rows: Vec::new(), waiting: Default::default() }
    }

    fn origin(&self, number: usize, item: bool) -> Origin {
        Origin { file: self.file.clone(), number, item }
    }

    /// Takes a row of the source.
    fn add(&mut self, value: Result<Value, RowError>, number: usize, item: bool) -> Result<(), DataError> {
        let origin = self.origin(number, item);
        self.ledger.read += 1;
        if let (true, Ok(row)) = (self.options.schema, &value) {
            self.schema.add(row);
        }
        match value {
            Ok(value) if self.options.preprocessor.is_some() => self.wait(value.to_string(), origin),
            value => self.canonical(value, origin),
        }
    }

    /// Takes what a loader made of a row.
    pub(crate) fn outcome(&mut self, outcome: RowOutcome, number: usize, plugin: &str) -> Result<(), DataError> {
        let origin = self.origin(number, true);
        self.ledger.read += 1;
        if let (true, RowOutcome::Rows(rows)) = (self.options.schema, &outcome) {
            rows.iter().filter_map(|row| serde_json::from_str(row).ok()).for_each(|row| self.schema.add(&row));
        }
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
        let Self { mut rows, mut ledger, schema, .. } = self;
        if let Some(count) = self.spec.sample.filter(|_| !rows.is_empty()) {
            let chosen = sampled(rows.len(), count, self.options.data_seed);
            rows = chosen.into_iter().map(|index| rows[index].clone()).collect();
            ledger.sampled = Some(count);
        }
        ledger.kept = rows.len();
        Ok(Dataset { rows, ledger, schema, digest })
    }
}
