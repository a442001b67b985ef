//! Datasets: loaders that read a source in batches from any point on, and row preprocessors.

use std::path::{Path, PathBuf};

use wasmtime::component::ResourceAny;

pub use crate::binding::loader::exports::swift::dataset::loaders::Info as LoaderInfo;
use crate::binding::loader::exports::swift::dataset::loaders::Source;
use crate::binding::loader::{Loader as LoaderExports, LoaderPre};
pub use crate::binding::preprocessor::exports::swift::dataset::preprocessors::Info as PreprocessorInfo;
use crate::binding::preprocessor::{Preprocessor as PreprocessorExports, PreprocessorPre};
use crate::binding::{State, loader, preprocessor};
use crate::call::{Budget, Live, MESSAGE, in_pieces};
use crate::capability::files::Files;
use crate::clean::clean;
use crate::{Kind, Plugin, PluginError, Result};

/// Source rows that one instance of a preprocessor takes.
const PIECE: usize = 64;
/// Bytes of what one row becomes.
const EACH: usize = 8 << 20;
/// Longest cursor, in bytes.
const MAX_CURSOR: usize = 64 << 10;
/// Batches without a row after which a reader counts as stuck.
const EMPTY: usize = 1000;

/// What became of one row of the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RowOutcome {
    /// Canonical rows, each a JSON object; one, as a rule.
    Rows(Vec<String>),
    /// None, for this reason.
    Dropped(String),
}

macro_rules! outcome {
    ($module:ident) => {
        impl From<$module::swift::dataset::types::Outcome> for RowOutcome {
            fn from(outcome: $module::swift::dataset::types::Outcome) -> Self {
                use $module::swift::dataset::types::Outcome;
                match outcome {
                    Outcome::Row(row) => Self::Rows(vec![row]),
                    Outcome::Rows(rows) => Self::Rows(rows),
                    Outcome::Dropped(reason) => Self::Dropped(clean(&reason, 300)),
                }
            }
        }
    };
}
outcome!(loader);
outcome!(preprocessor);

/// No row is lost in silence: what is dropped says why, what is kept is there.
fn checked(plugin: &Plugin, call: &str, outcomes: Vec<RowOutcome>) -> Result<Vec<RowOutcome>> {
    let wrong = |what: &str| PluginError::Answer { plugin: plugin.name().into(), call: call.into(), what: what.into() };
    for outcome in &outcomes {
        match outcome {
            RowOutcome::Rows(rows) if rows.is_empty() => {
                return Err(wrong("a row became no row at all, and no reason was given"));
            }
            RowOutcome::Dropped(reason) if reason.is_empty() => {
                return Err(wrong("a row was dropped without a reason"));
            }
            _ => {}
        }
    }
    Ok(outcomes)
}

/// A loader of a component.
pub struct Loader {
    plugin: Plugin,
    prepared: LoaderPre<State>,
    info: LoaderInfo,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader").field("plugin", &self.plugin).field("name", &self.info.name).finish_non_exhaustive()
    }
}

impl Plugin {
    fn loader_exports(&self) -> Result<LoaderPre<State>> {
        self.expect(Kind::Dataset)?;
        LoaderPre::new(self.0.prepared.clone()).map_err(|error| self.wrong_types(Kind::Dataset, &error))
    }

    /// The dataset loaders in this component.
    ///
    /// # Errors
    /// When it holds none, or fails at saying which.
    pub fn loaders(&self) -> Result<Vec<LoaderInfo>> {
        let prepared = self.loader_exports()?;
        let budget = Budget::of(Kind::Dataset, 64, 16 << 10);
        let live = self.start("loaders", self.state(), budget, |_, store| prepared.instantiate(store))?;
        let (_, mut infos) =
            live.call("loaders", budget, |exports, store| exports.swift_dataset_loaders().call_loaders(store))?;
        for info in &mut infos {
            self.check_function(Kind::Dataset, &info.name, &mut info.summary)?;
        }
        Ok(infos)
    }

    /// The loader of this name.
    ///
    /// # Errors
    /// When the component has no such loader.
    pub fn loader(&self, name: &str) -> Result<Loader> {
        let infos = self.loaders()?;
        let names = infos.iter().map(|info| info.name.clone()).collect();
        let info = infos.into_iter().find(|info| info.name == name);
        let info = info.ok_or_else(|| self.no_function(Kind::Dataset, name, names))?;
        Ok(Loader { plugin: self.clone(), prepared: self.loader_exports()?, info })
    }

    fn preprocessor_exports(&self) -> Result<PreprocessorPre<State>> {
        self.expect(Kind::Preprocessor)?;
        PreprocessorPre::new(self.0.prepared.clone()).map_err(|error| self.wrong_types(Kind::Preprocessor, &error))
    }

    /// The row preprocessors in this component.
    ///
    /// # Errors
    /// When it holds none, or fails at saying which.
    pub fn preprocessors(&self) -> Result<Vec<PreprocessorInfo>> {
        let prepared = self.preprocessor_exports()?;
        let budget = Budget::of(Kind::Preprocessor, 256, 16 << 10);
        let live = self.start("preprocessors", self.state(), budget, |_, store| prepared.instantiate(store))?;
        let (_, mut infos) = live.call("preprocessors", budget, |exports, store| {
            exports.swift_dataset_preprocessors().call_preprocessors(store)
        })?;
        for info in &mut infos {
            self.check_function(Kind::Preprocessor, &info.name, &mut info.summary)?;
        }
        Ok(infos)
    }

    /// The preprocessor of this name, set up with `config`, a JSON object.
    ///
    /// # Errors
    /// When the component has no such preprocessor, or it refuses the settings.
    pub fn preprocessor(&self, name: &str, config: &str) -> Result<Preprocessor> {
        let infos = self.preprocessors()?;
        let names = infos.iter().map(|info| info.name.clone()).collect();
        let info = infos.into_iter().find(|info| info.name == name);
        let info = info.ok_or_else(|| self.no_function(Kind::Preprocessor, name, names))?;
        let preprocessor =
            Preprocessor { plugin: self.clone(), prepared: self.preprocessor_exports()?, info, config: config.into() };
        preprocessor.start(0)?;
        Ok(preprocessor)
    }
}

impl Loader {
    /// The component.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// What the plugin says about it.
    pub fn info(&self) -> &LoaderInfo {
        &self.info
    }

    /// Opens what the user named, from its start or from a batch's cursor. A file or folder is granted by being named; the
    /// plugin sees its absolute path. `config` is a JSON object.
    ///
    /// # Errors
    /// When a named file cannot be opened, or the plugin refuses the source.
    pub fn open(&self, location: &str, subset: Option<&str>, config: &str, cursor: Option<&str>) -> Result<Reader> {
        let path = Path::new(location);
        let (location, named) = match path.exists().then(|| std::path::absolute(path)) {
            Some(Ok(path)) => (path.to_string_lossy().into_owned(), vec![path]),
            _ => (location.to_owned(), Vec::new()),
        };
        let source = Source { location, subset: subset.map(str::to_owned), config: config.into() };
        let mut reader = Reader {
            plugin: self.plugin.clone(),
            prepared: self.prepared.clone(),
            name: self.info.name.clone(),
            source,
            named,
            cursor: cursor.map(str::to_owned),
            live: None,
            last: false,
            empty: 0,
        };
        reader.live = Some(reader.reopen()?);
        Ok(reader)
    }
}

/// A batch of a reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// What became of the source's next rows.
    pub outcomes: Vec<RowOutcome>,
    /// Where the rows after these begin, for [`Loader::open`].
    pub cursor: String,
    /// There are no more.
    pub last: bool,
}

/// A source that is being read.
pub struct Reader {
    plugin: Plugin,
    prepared: LoaderPre<State>,
    name: String,
    source: Source,
    /// What the user granted by naming it.
    named: Vec<PathBuf>,
    cursor: Option<String>,
    /// Gone after a failure; the next call opens it again where the last batch ended.
    live: Option<(Live<LoaderExports>, ResourceAny)>,
    last: bool,
    empty: usize,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("plugin", &self.plugin)
            .field("source", &self.source.location)
            .finish_non_exhaustive()
    }
}

impl Reader {
    fn reopen(&self) -> Result<(Live<LoaderExports>, ResourceAny)> {
        let mut state = self.plugin.state();
        if !self.named.is_empty() {
            let opened = Files::open(&self.named).map_err(|(path, source)| PluginError::Grant {
                plugin: self.plugin.name().into(),
                path: path.display().to_string(),
                source,
            })?;
            state.files.also(opened);
        }
        let budget = Budget::of(Kind::Dataset, 1, EACH);
        let live = self.plugin.start("open", state, budget, |_, store| self.prepared.instantiate(store))?;
        let (live, reader) = live.call("open", budget, |exports, store| {
            exports.swift_dataset_loaders().call_open(store, &self.name, &self.source, self.cursor.as_deref())
        })?;
        let reader = reader.map_err(|message| PluginError::Source {
            plugin: self.plugin.name().into(),
            location: clean(&self.source.location, 300),
            message: clean(&message, MESSAGE),
        })?;
        Ok((live, reader))
    }

    fn live(&mut self) -> Result<(Live<LoaderExports>, ResourceAny)> {
        match self.live.take() {
            Some(live) => Ok(live),
            None => self.reopen(),
        }
    }

    /// Rows in all, where the source says so without being read.
    ///
    /// # Errors
    /// When the plugin traps or runs out of its budget.
    pub fn length(&mut self) -> Result<Option<u64>> {
        let (live, reader) = self.live()?;
        let (live, length) = live.call("length", Budget::of(Kind::Dataset, 1, EACH), |exports, store| {
            exports.swift_dataset_loaders().reader().call_length(store, reader)
        })?;
        self.live = Some((live, reader));
        Ok(length)
    }

    /// The next rows of the source, at most `limit` of them; `None` after the last.
    ///
    /// # Errors
    /// When the source cannot be read further, or the plugin traps, runs out of its budget or makes no progress. Calling
    /// again tries again from where the last batch ended.
    pub fn next(&mut self, limit: u32) -> Result<Option<Batch>> {
        if self.last {
            return Ok(None);
        }
        let limit = limit.max(1);
        let (live, reader) = self.live()?;
        let (live, batch) = live.call("next", Budget::of(Kind::Dataset, limit as usize, EACH), |exports, store| {
            exports.swift_dataset_loaders().reader().call_next(store, reader, limit)
        })?;
        let wrong = |what: String| PluginError::Answer { plugin: self.plugin.name().into(), call: "next".into(), what };
        let batch = batch.map_err(|message| PluginError::Source {
            plugin: self.plugin.name().into(),
            location: clean(&self.source.location, 300),
            message: clean(&message, MESSAGE),
        })?;
        if batch.outcomes.len() > limit as usize {
            return Err(wrong(format!("it gave {} rows where {limit} were asked for", batch.outcomes.len())));
        }
        if batch.cursor.len() > MAX_CURSOR {
            return Err(wrong(format!("its cursor has {} bytes", batch.cursor.len())));
        }
        self.empty = if batch.outcomes.is_empty() { self.empty + 1 } else { 0 };
        if self.empty > EMPTY && !batch.last {
            return Err(wrong(format!("it gave {EMPTY} batches without a row")));
        }
        let outcomes = batch.outcomes.into_iter().map(RowOutcome::from).collect();
        let outcomes = checked(&self.plugin, "next", outcomes)?;
        self.live = Some((live, reader));
        self.last = batch.last;
        self.cursor = Some(batch.cursor.clone());
        Ok(Some(Batch { outcomes, cursor: batch.cursor, last: batch.last }))
    }
}

/// A row preprocessor, set up.
pub struct Preprocessor {
    plugin: Plugin,
    prepared: PreprocessorPre<State>,
    info: PreprocessorInfo,
    config: String,
}

impl std::fmt::Debug for Preprocessor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Preprocessor")
            .field("plugin", &self.plugin)
            .field("name", &self.info.name)
            .finish_non_exhaustive()
    }
}

impl Preprocessor {
    /// The component.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// What the plugin says about it.
    pub fn info(&self) -> &PreprocessorInfo {
        &self.info
    }

    fn start(&self, rows: usize) -> Result<Live<PreprocessorExports>> {
        let budget = Budget::of(Kind::Preprocessor, rows, EACH);
        let live =
            self.plugin.start("configure", self.plugin.state(), budget, |_, store| self.prepared.instantiate(store))?;
        let (live, answer) = live.call("configure", budget, |exports, store| {
            exports.swift_dataset_preprocessors().call_configure(store, &self.info.name, &self.config)
        })?;
        answer.map_err(|message| self.plugin.refused_settings(&self.info.name, &message))?;
        Ok(live)
    }

    /// What became of each row, a JSON object, in their order, on all cores.
    ///
    /// # Errors
    /// When the plugin fails, traps, runs out of its budget, or loses a row.
    pub fn process(&self, rows: &[String]) -> Result<Vec<RowOutcome>> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let wrong =
            |what: String| PluginError::Answer { plugin: self.plugin.name().into(), call: "process".into(), what };
        let pieces = in_pieces(rows, PIECE, self.plugin.0.waits, |rows| {
            let live = self.start(rows.len())?;
            let (_, outcomes) =
                live.call("process", Budget::of(Kind::Preprocessor, rows.len(), EACH), |exports, store| {
                    exports.swift_dataset_preprocessors().call_process(store, rows)
                })?;
            let outcomes = outcomes.map_err(|message| wrong(clean(&message, MESSAGE)))?;
            if outcomes.len() != rows.len() {
                return Err(wrong(format!("it gave {} answers for {} rows", outcomes.len(), rows.len())));
            }
            checked(&self.plugin, "process", outcomes.into_iter().map(RowOutcome::from).collect())
        });
        Ok(pieces.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}
