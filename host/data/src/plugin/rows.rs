//! Datasets through a loader plugin, and the plugins that a dataset string or the user names.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use swift_plugin::{Kind, Loader, PluginSet, Preprocessor, RowOutcome};

use crate::{DataError, Dataset, DatasetSpec, LoadOptions, dataset::Reader, source};

/// Rows that a loader is asked for at once.
const BATCH: u32 = 256;

/// The loader of a dataset: the one it names (`LOADER::PATH`), or the one that reads files with its ending. `None`: it is
/// read without a plugin.
pub fn find_loader(set: &PluginSet, spec: &DatasetSpec) -> Result<Option<Loader>, DataError> {
    if let Some(name) = &spec.loader {
        let (plugin, name) = set.find(Kind::Dataset, name)?;
        return Ok(Some(plugin.loader(&name)?));
    }
    let native = spec.files()?;
    if !native.is_empty() && !spec.path.is_dir() {
        return Ok(None);
    }
    let names = file_names(spec);
    let found = set.choose(Kind::Dataset, |plugin| {
        let reads = |endings: &[String]| endings.iter().any(|ending| names.iter().any(|name| name.ends_with(ending)));
        Ok(plugin.loaders()?.into_iter().find(|info| reads(&info.endings)).map(|info| info.name))
    })?;
    if let (Some((_, loader)), Some(file)) = (&found, native.first()) {
        // To read some of them in silence would lose the others.
        return Err(DataError::Spec {
            spec: spec.text.clone(),
            message: format!("the folder has files for the loader `{loader}` and others, such as {}", file.display()),
            hint: format!("say which: {loader}::{} or a pattern such as *.jsonl", spec.path.display()),
        });
    }
    found.map(|(plugin, name)| Ok(plugin.loader(&name)?)).transpose()
}

/// The names whose endings choose a loader: the file's, or those in the folder and in the subset's folder.
fn file_names(spec: &DatasetSpec) -> Vec<String> {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().to_lowercase());
    if !spec.path.is_dir() {
        return name(&spec.path).into_iter().collect();
    }
    let folders = std::iter::once(spec.path.clone()).chain(spec.subsets.iter().map(|subset| spec.path.join(subset)));
    let entries = folders.filter_map(|folder| folder.read_dir().ok()).flatten().flatten();
    entries.filter_map(|entry| name(&entry.path())).collect()
}

/// The preprocessor of this name, set up with `config`, a JSON object.
pub fn find_preprocessor(set: &PluginSet, name: &str, config: &str) -> Result<Arc<Preprocessor>, DataError> {
    let (plugin, name) = set.find(Kind::Preprocessor, name)?;
    Ok(Arc::new(plugin.preprocessor(&name, config)?))
}

/// Reads a dataset through a loader. `config` is a JSON object with the user's settings for it.
pub fn load_with(
    loader: &Loader,
    spec: &DatasetSpec,
    config: &str,
    options: &LoadOptions,
) -> Result<Dataset, DataError> {
    let mut reader = Reader::new(spec, options);
    let mut digest = Sha256::new();
    let subsets: Vec<Option<&str>> = match &spec.subsets[..] {
        [] => vec![None],
        several => several.iter().map(|subset| Some(subset.as_str())).collect(),
    };
    for (location, subset) in spec.locations()?.iter().flat_map(|path| subsets.iter().map(move |subset| (path, subset)))
    {
        let (location, mut number) = (location.to_string_lossy(), 0);
        reader.file = (*location).into();
        let mut source = loader.open(&location, *subset, config, None)?;
        while let Some(batch) = source.next(BATCH)? {
            for outcome in batch.outcomes {
                number += 1;
                match &outcome {
                    RowOutcome::Rows(rows) => rows.iter().for_each(|row| {
                        digest.update(row);
                        digest.update("\n");
                    }),
                    RowOutcome::Dropped(reason) => digest.update(format!("dropped: {reason}\n")),
                }
                reader.outcome(outcome, number, loader.plugin().name())?;
            }
        }
    }
    reader.finish(source::hex(&digest.finalize()))
}
