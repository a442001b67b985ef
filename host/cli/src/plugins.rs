//! The plugins of a command: given, installed and built in, with what the user granted them, and which of them were used.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use swift_plugin::{Grants, Inspection, Level, LogLine, Plugin, PluginHost, PluginOptions, PluginSet, plugin_folders};
use swift_registry::Used;
use swift_train::manifest::Source;

use crate::failure::Failure;
use crate::render;

/// What the user said about plugins.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PluginSettings {
    /// Components given by name.
    pub(crate) files: Vec<PathBuf>,
    /// What was granted to which.
    pub(crate) grants: Grants,
    /// How long one call may take where a plugin waits; `None`: the host's default.
    pub(crate) timeout: Option<Duration>,
}

/// The plugins of a command.
#[derive(Debug)]
pub(crate) struct Plugins {
    pub(crate) set: PluginSet,
    used: Mutex<Vec<Source>>,
}

impl PluginSettings {
    /// The host with these limits. What a plugin says and what takes a while goes to standard error.
    pub(crate) fn host(&self) -> Result<Arc<PluginHost>, Failure> {
        let mut options = PluginOptions {
            grants: self.grants.clone(),
            log: Some(Arc::new(log)),
            notice: Some(Arc::new(|plugin: &str, text: String| render::note(&format!("plugin `{plugin}`: {text}")))),
            ..PluginOptions::default()
        };
        if let Some(timeout) = self.timeout {
            options.limits = options.limits.with(|limits| limits.deadline = timeout);
        }
        let host = PluginHost::new(options)?;
        if let Some(problem) = host.cache_problem() {
            render::warning(problem);
        }
        Ok(Arc::new(host))
    }

    /// Finds the plugins: those given, those installed, those built in.
    pub(crate) fn open(&self) -> Result<Plugins, Failure> {
        let set = PluginSet::new(self.host()?, &self.files, &plugin_folders())?;
        for problem in set.problems() {
            render::warning(&format!("an installed plugin was left out: {problem}"));
        }
        // Before any of them runs: a component that is not what was pinned or installed ends the command.
        let given = set.given().iter().map(|plugin| (plugin.inspection(), plugin.path()));
        for (inspection, path) in given.chain(set.installed().map(|(path, inspection)| (inspection, Some(path)))) {
            check(inspection, path)?;
        }
        Ok(Plugins { set, used: Mutex::default() })
    }
}

impl Plugins {
    /// Notes that `plugin` has a part in what the command does: the run manifest names it.
    pub(crate) fn uses(&self, plugin: &Plugin) -> Result<Source, Failure> {
        check(plugin.inspection(), plugin.path())?;
        let version = plugin.version();
        let name = match plugin.path() {
            Some(path) => format!("{} {version} ({})", plugin.name(), path.display()),
            None => format!("{} {version} (built in)", plugin.name()),
        };
        let source = Source { name, sha256: plugin.digest().into(), rows: None };
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if !used.contains(&source) {
            used.push(source.clone());
        }
        Ok(source)
    }

    /// All that were used so far.
    pub(crate) fn used(&self) -> Vec<Source> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Refuses a component that is not what `swift.lock` of the current folder pins, or what was installed.
pub(crate) fn check(inspection: &Inspection, path: Option<&Path>) -> Result<(), Failure> {
    let used = Used { name: &inspection.name, version: &inspection.version, digest: &inspection.digest, path };
    Ok(swift_registry::check_run(Path::new(swift_registry::LOCK_FILE), &[used])?)
}

fn log(plugin: &str, line: LogLine) {
    match line.level {
        Level::Debug => {}
        Level::Info => render::note(&format!("plugin `{plugin}`: {}", line.message)),
        Level::Warn | Level::Error => render::warning(&format!("plugin `{plugin}`: {}", line.message)),
    }
}
