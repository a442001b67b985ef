//! The plugins of a run: those given by name, those installed, those built in; and which of them builds a model.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::clean::clean;
use crate::{ModelPlugin, PluginError, PluginHost, Result};

/// First-party plugins, so that the binary needs nothing beside it.
const BUILT_IN: &[(&str, &[u8])] = &[
    ("llama", include_bytes!("../../../plugins/dist/llama.wasm")),
    ("qwen2", include_bytes!("../../../plugins/dist/qwen2.wasm")),
    ("qwen3", include_bytes!("../../../plugins/dist/qwen3.wasm")),
];

/// All plugins that may build a model. Given ones win over installed ones, and those over the built-in ones.
#[derive(Debug)]
pub struct PluginSet {
    host: Arc<PluginHost>,
    given: Vec<ModelPlugin>,
    installed: Vec<ModelPlugin>,
    /// Loaded when first asked, one for each of [`BUILT_IN`].
    built_in: [OnceLock<Option<ModelPlugin>>; BUILT_IN.len()],
    /// Installed plugins that could not be loaded, as messages.
    problems: Vec<String>,
}

/// Folders of installed plugins, first to last: `$SWIFT_PLUGIN_DIR`, `plugins` beside the binary, and
/// `swift/plugins` in the user's data folder.
pub fn plugin_folders() -> Vec<PathBuf> {
    let named = std::env::var_os("SWIFT_PLUGIN_DIR").map(PathBuf::from);
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join("plugins")));
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let data = data.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")));
    named.into_iter().chain(beside).chain(data.map(|data| data.join("swift/plugins"))).collect()
}

impl PluginSet {
    /// Loads the plugins in `given` (`--plugin FILE`) and every `*.wasm` of `folders`.
    ///
    /// # Errors
    /// When a given plugin cannot be loaded. An installed one that cannot is a problem, see [`PluginSet::problems`].
    pub fn new(host: Arc<PluginHost>, given: &[PathBuf], folders: &[PathBuf]) -> Result<Self> {
        let mut set =
            Self { host, given: Vec::new(), installed: Vec::new(), built_in: Default::default(), problems: Vec::new() };
        for path in given {
            let plugin = set.host.load(path)?;
            add(&mut set.given, plugin);
        }
        for folder in folders {
            for path in components_in(folder) {
                match set.host.load(&path) {
                    Ok(plugin) => add(&mut set.installed, plugin),
                    Err(error) => set.problems.push(format!("{}: {error}", path.display())),
                }
            }
        }
        Ok(set)
    }

    /// Installed plugins that could not be loaded: worth a warning, they stop nothing.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// All plugins, in the order in which they are asked.
    pub fn plugins(&self) -> impl Iterator<Item = &ModelPlugin> {
        self.given.iter().chain(&self.installed).chain(self.built_in(""))
    }

    /// The built-in plugins, the one called `first` first. They are part of this binary and were tested with it, so one
    /// that does not load is none.
    fn built_in<'a>(&'a self, first: &str) -> impl Iterator<Item = &'a ModelPlugin> + use<'a> {
        let (named, others): (Vec<usize>, Vec<usize>) = (0..BUILT_IN.len()).partition(|&at| BUILT_IN[at].0 == first);
        named.into_iter().chain(others).filter_map(|at| {
            let (name, bytes) = BUILT_IN[at];
            self.built_in[at].get_or_init(|| self.host.load_bytes(name, None, bytes).ok()).as_ref()
        })
    }

    /// The plugin that builds the model of this `config.json`.
    ///
    /// # Errors
    /// When none or more than one of the same standing claims it, or when plugins were given and none of them does.
    pub fn select(&self, config: &str) -> Result<&ModelPlugin> {
        let model = describe(config)?;
        let (mut asked, mut problems) = (Vec::new(), self.problems.clone());
        for (plugins, given) in [(&self.given, true), (&self.installed, false)] {
            let mut claiming = Vec::new();
            for plugin in plugins {
                asked.push(shown(plugin));
                match plugin.claims(config) {
                    Ok(Some(_)) => claiming.push(plugin),
                    Ok(None) => {}
                    Err(error) if given => return Err(error),
                    Err(error) => problems.push(error.to_string()),
                }
            }
            match claiming[..] {
                [plugin] => return Ok(plugin),
                [] => {}
                _ => {
                    let plugins = claiming.iter().map(|plugin| shown(plugin)).collect();
                    return Err(PluginError::Ambiguous { model, plugins });
                }
            }
            if given && !self.given.is_empty() {
                // Quietly using another plugin than the one that was asked for would hide a mistake.
                return Err(PluginError::NoPlugin { model, asked, problems, given: true });
            }
        }
        // No two built-in plugins claim one model, so the first that does is the one.
        for plugin in self.built_in(&model_type(config)) {
            asked.push(shown(plugin));
            if plugin.claims(config)?.is_some() {
                return Ok(plugin);
            }
        }
        Err(PluginError::NoPlugin { model, asked, problems, given: false })
    }
}

/// Adds a plugin unless the same component is there already.
fn add(plugins: &mut Vec<ModelPlugin>, plugin: ModelPlugin) {
    if plugins.iter().all(|other| other.digest() != plugin.digest()) {
        plugins.push(plugin);
    }
}

fn shown(plugin: &ModelPlugin) -> String {
    match plugin.path() {
        Some(path) => format!("{} ({})", plugin.name(), path.display()),
        None => format!("{} (built in)", plugin.name()),
    }
}

fn components_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "wasm") && path.is_file());
    paths.sort();
    paths
}

fn parse(config: &str) -> Result<serde_json::Map<String, serde_json::Value>> {
    let failed = |detail: String| PluginError::Config { detail: clean(&detail, 300) };
    match serde_json::from_str(config).map_err(|error| failed(error.to_string()))? {
        serde_json::Value::Object(map) => Ok(map),
        _ => Err(failed("an object is needed".into())),
    }
}

fn model_type(config: &str) -> String {
    let named = parse(config).ok().and_then(|map| Some(map.get("model_type")?.as_str()?.to_owned()));
    named.unwrap_or_default()
}

/// How messages name the model.
fn describe(config: &str) -> Result<String> {
    let map = parse(config)?;
    let model_type = map.get("model_type").and_then(|value| value.as_str());
    let architectures = map.get("architectures").and_then(|value| value.as_array());
    let architectures: Vec<&str> = architectures.into_iter().flatten().filter_map(|value| value.as_str()).collect();
    let model_type =
        model_type.map_or_else(|| "no model_type".into(), |name| format!("model_type {}", clean(name, 100)));
    let architectures =
        if architectures.is_empty() { "no architectures".into() } else { clean(&architectures.join(", "), 300) };
    Ok(format!("{model_type}, {architectures}"))
}

/// `config.json` with another `model_type`: what `--model_type` does.
///
/// # Errors
/// When the config is no JSON object.
pub fn with_model_type(config: &str, model_type: &str) -> Result<String> {
    let mut map = parse(config)?;
    map.insert("model_type".into(), model_type.into());
    Ok(serde_json::Value::Object(map).to_string())
}
