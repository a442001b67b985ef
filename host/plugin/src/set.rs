//! The plugins of a run: those given by name, those installed, those built in; and which of them holds what is wanted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::clean::clean;
use crate::{Inspection, Kind, ModelPlugin, Plugin, PluginError, PluginHost, Result, inspect, read_component};

/// First-party plugins with what they are, so that the binary needs nothing beside it and loads only what it uses.
const BUILT_IN: &[(&str, Kind, &[u8])] = &[
    ("llama", Kind::Model, include_bytes!("../../../plugins/dist/llama.wasm")),
    ("qwen2", Kind::Model, include_bytes!("../../../plugins/dist/qwen2.wasm")),
    ("qwen3", Kind::Model, include_bytes!("../../../plugins/dist/qwen3.wasm")),
    ("chatml", Kind::Template, include_bytes!("../../../plugins/dist/chatml.wasm")),
    ("parquet", Kind::Dataset, include_bytes!("../../../plugins/dist/parquet.wasm")),
    ("preprocessors", Kind::Preprocessor, include_bytes!("../../../plugins/dist/preprocessors.wasm")),
    ("rewards", Kind::Reward, include_bytes!("../../../plugins/dist/rewards.wasm")),
    ("metrics", Kind::Metric, include_bytes!("../../../plugins/dist/metrics.wasm")),
];

/// All plugins of a run. Given ones win over installed ones, and those over the built-in ones.
#[derive(Debug)]
pub struct PluginSet {
    host: Arc<PluginHost>,
    given: Vec<Plugin>,
    installed: Vec<Installed>,
    /// Loaded when first asked, one for each of [`BUILT_IN`].
    built_in: [OnceLock<std::result::Result<Plugin, String>>; BUILT_IN.len()],
    /// Installed plugins that could not be read, as messages.
    problems: Vec<String>,
}

/// A component in a folder of installed plugins: what it is was read, it is loaded when it is asked for something.
#[derive(Debug)]
struct Installed {
    path: PathBuf,
    inspection: Inspection,
    plugin: OnceLock<Plugin>,
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
    /// Loads the plugins in `given` (`--plugin FILE`) and finds every `*.wasm` of `folders`.
    ///
    /// # Errors
    /// When a given plugin cannot be loaded, or the user granted something to a name that is not there or not clear. An
    /// installed plugin that cannot be read is a problem, see [`PluginSet::problems`].
    pub fn new(host: Arc<PluginHost>, given: &[PathBuf], folders: &[PathBuf]) -> Result<Self> {
        let mut set =
            Self { host, given: Vec::new(), installed: Vec::new(), built_in: Default::default(), problems: Vec::new() };
        for path in given {
            let plugin = set.host.load(path)?;
            if set.given.iter().all(|other| other.digest() != plugin.digest()) {
                set.given.push(plugin);
            }
        }
        for folder in folders {
            for path in components_in(folder) {
                match read_component(&path).and_then(|(name, bytes)| inspect(&name, &bytes)) {
                    Ok(inspection) => {
                        if set.installed.iter().all(|other| other.inspection.digest != inspection.digest) {
                            set.installed.push(Installed { path, inspection, plugin: OnceLock::new() });
                        }
                    }
                    Err(error) => set.problems.push(format!("{}: {error}", path.display())),
                }
            }
        }
        set.check_grants()?;
        Ok(set)
    }

    /// Each grant must be to one plugin that is there: another component under that name must not get it.
    fn check_grants(&self) -> Result<()> {
        for granted in self.host.options().grants.plugins() {
            let mut digests: Vec<(&str, String)> = Vec::new();
            let given = self.given.iter().map(|plugin| (plugin.inspection(), shown(plugin)));
            let installed = self
                .installed
                .iter()
                .map(|one| (&one.inspection, format!("{} ({})", one.inspection.name, one.path.display())));
            for (inspection, shown) in given.chain(installed) {
                if inspection.name == granted && digests.iter().all(|(digest, _)| *digest != inspection.digest) {
                    digests.push((&inspection.digest, shown));
                }
            }
            let built_in = BUILT_IN.iter().any(|(name, ..)| *name == granted);
            let given = self.given.iter().any(|plugin| plugin.name() == granted);
            // One that was given by name is meant; an installed one could only pass for the built-in one.
            if built_in && !given && digests.len() == 1 {
                digests.push(("", format!("{granted} (built in)")));
            }
            match digests.len() {
                0 if !built_in => {
                    let given = self.given.iter().map(|plugin| plugin.name().to_owned());
                    let there = given.chain(self.installed.iter().map(|one| one.inspection.name.clone())).collect();
                    return Err(PluginError::GrantToNone { plugin: granted.into(), there });
                }
                0 | 1 => {}
                _ => {
                    let plugins = digests.into_iter().map(|(_, shown)| shown).collect();
                    return Err(PluginError::GrantToTwo { plugin: granted.into(), plugins });
                }
            }
        }
        Ok(())
    }

    /// Installed plugins that could not be read: worth a warning, they stop nothing.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// The plugins that the user gave by name.
    pub fn given(&self) -> &[Plugin] {
        &self.given
    }

    /// What is installed, without loading it: where it lies and what it is.
    pub fn installed(&self) -> impl Iterator<Item = (&Path, &Inspection)> {
        self.installed.iter().map(|one| (one.path.as_path(), &one.inspection))
    }

    /// The plugins built into this binary that are of `kind`.
    pub fn built_in(&self, kind: Kind) -> impl Iterator<Item = &Plugin> {
        let of_kind = (0..BUILT_IN.len()).filter(move |&at| BUILT_IN[at].1 == kind);
        of_kind.filter_map(|at| self.built_in_at(at))
    }

    /// The plugin of this name, by standing: given, installed, built in.
    ///
    /// # Errors
    /// When the one of this name cannot be loaded.
    pub fn named(&self, name: &str) -> Result<Option<Plugin>> {
        if let Some(plugin) = self.given.iter().find(|plugin| plugin.name() == name) {
            return Ok(Some(plugin.clone()));
        }
        if let Some(one) = self.installed.iter().find(|one| one.inspection.name == name) {
            return self.load(one).cloned().map(Some);
        }
        let Some(at) = BUILT_IN.iter().position(|(known, ..)| *known == name) else { return Ok(None) };
        self.built_in_or_why(at).map(Some)
    }

    /// One that does not load is none; why is among the problems of whoever asks for its kind.
    fn built_in_at(&self, at: usize) -> Option<&Plugin> {
        let (name, _, bytes) = BUILT_IN[at];
        let load = || self.host.load_bytes(name, None, bytes).map_err(|error| error.to_string());
        self.built_in[at].get_or_init(load).as_ref().ok()
    }

    /// The same where nothing else will do.
    fn built_in_or_why(&self, at: usize) -> Result<Plugin> {
        let (name, _, bytes) = BUILT_IN[at];
        self.built_in_at(at).cloned().map_or_else(|| self.host.load_bytes(name, None, bytes), Ok)
    }

    /// Loads an installed plugin, the first time. Its file is read again: what was inspected is what is loaded, or nothing.
    fn load<'a>(&self, installed: &'a Installed) -> Result<&'a Plugin> {
        if let Some(plugin) = installed.plugin.get() {
            return Ok(plugin);
        }
        let plugin = self.host.load(&installed.path)?;
        if plugin.digest() != installed.inspection.digest {
            return Err(PluginError::Read {
                plugin: plugin.name().into(),
                path: installed.path.display().to_string(),
                source: std::io::Error::other("it changed while swift was running"),
            });
        }
        Ok(installed.plugin.get_or_init(|| plugin))
    }

    /// The plugins that may answer for `kind`, by standing: given, installed, built in. An installed one that does not load
    /// is among `problems`.
    fn standings(&self, kind: Kind, problems: &mut Vec<String>) -> [Vec<&Plugin>; 3] {
        let [given, installed] = self.outside(kind, problems);
        let built_in = self.built_in(kind).collect();
        // They were tested with this binary: what fails is a grant that cannot be opened.
        let failed = self.built_in.iter().filter_map(|one| one.get()?.as_ref().err());
        problems.extend(failed.cloned());
        [given, installed, built_in]
    }

    /// The same without those that are built in.
    fn outside(&self, kind: Kind, problems: &mut Vec<String>) -> [Vec<&Plugin>; 2] {
        let given = self.given.iter().filter(|plugin| plugin.kinds().contains(&kind)).collect();
        let mut installed = Vec::new();
        for one in self.installed.iter().filter(|one| one.inspection.kinds.contains(&kind)) {
            match self.load(one) {
                Ok(plugin) => installed.push(plugin),
                Err(error) => problems.push(format!("{}: {error}", one.path.display())),
            }
        }
        [given, installed]
    }

    /// The plugin that holds the function `wanted` of this kind: `FUNCTION`, or `PLUGIN/FUNCTION`; and the function's own name.
    ///
    /// # Errors
    /// When none holds it, or more than one of the same standing.
    pub fn find(&self, kind: Kind, wanted: &str) -> Result<(Plugin, String)> {
        let (from, function) = match wanted.split_once('/') {
            Some((plugin, function)) => (Some(plugin), function),
            None => (None, wanted),
        };
        let (mut names, mut problems) = (Vec::new(), self.problems.clone());
        for (standing, plugins) in self.standings(kind, &mut problems).into_iter().enumerate() {
            let mut holding = Vec::new();
            for plugin in plugins.into_iter().filter(|plugin| from.is_none_or(|from| from == plugin.name())) {
                let functions = match plugin.functions(kind) {
                    Ok(functions) => functions,
                    // One that was given must work; one that lies there stops no other.
                    Err(error) if standing == 0 || from.is_some() => return Err(error),
                    Err(error) => {
                        problems.push(error.to_string());
                        continue;
                    }
                };
                if functions.iter().any(|(name, _)| name == function) {
                    holding.push(plugin);
                }
                names.extend(functions.into_iter().map(|(name, _)| name));
            }
            match holding[..] {
                [plugin] => return Ok((plugin.clone(), function.to_owned())),
                [] => {}
                _ => {
                    let plugins = holding.into_iter().map(shown).collect();
                    return Err(PluginError::AmbiguousFunction { kind, wanted: clean(wanted, 100), plugins });
                }
            }
        }
        names.sort();
        names.dedup();
        Err(PluginError::Unknown { kind, wanted: clean(wanted, 100), names, problems })
    }

    /// The first plugin, by standing, for which `chosen` says yes: a loader for a file's ending, a template for a
    /// checkpoint, a preprocessor for a dataset.
    ///
    /// # Errors
    /// What `chosen` fails with for a plugin that was given; others are left out.
    pub fn choose<T>(&self, kind: Kind, chosen: impl Fn(&Plugin) -> Result<Option<T>>) -> Result<Option<(Plugin, T)>> {
        let standings = self.standings(kind, &mut Vec::new());
        for (standing, plugins) in standings.into_iter().enumerate() {
            for plugin in plugins {
                match chosen(plugin) {
                    Ok(Some(found)) => return Ok(Some((plugin.clone(), found))),
                    Err(error) if standing == 0 => return Err(error),
                    Ok(None) | Err(_) => {}
                }
            }
        }
        Ok(None)
    }

    /// The plugin that builds the model of this `config.json`.
    ///
    /// # Errors
    /// When none or more than one of the same standing claims it, or when plugins were given and none of them does.
    pub fn select(&self, config: &str) -> Result<ModelPlugin> {
        let model = describe(config)?;
        let (mut asked, mut problems) = (Vec::new(), self.problems.clone());
        let [given, installed] = self.outside(Kind::Model, &mut problems);
        let any_given = !given.is_empty();
        for (plugins, given) in [(given, true), (installed, false)] {
            let mut claiming = Vec::new();
            for plugin in plugins {
                asked.push(shown(plugin));
                match plugin.model().and_then(|model| Ok(model.claims(config)?.map(|_| model))) {
                    Ok(Some(model)) => claiming.push(model),
                    Ok(None) => {}
                    Err(error) if given => return Err(error),
                    Err(error) => problems.push(error.to_string()),
                }
            }
            match claiming.len() {
                0 => {}
                1 => return Ok(claiming.remove(0)),
                _ => {
                    let plugins = claiming.iter().map(|model| shown(model.plugin())).collect();
                    return Err(PluginError::Ambiguous { model, plugins });
                }
            }
            if given && any_given {
                // Quietly using another plugin than the one that was asked for would hide a mistake.
                return Err(PluginError::NoPlugin { model, asked, problems, given: true });
            }
        }
        // No two built-in plugins claim one model, so the first that does is the one; most often it has the type's name.
        let named = model_type(config);
        let mut built_in: Vec<usize> = (0..BUILT_IN.len()).filter(|&at| BUILT_IN[at].1 == Kind::Model).collect();
        built_in.sort_by_key(|&at| BUILT_IN[at].0 != named);
        for at in built_in {
            let plugin = self.built_in_or_why(at)?;
            asked.push(shown(&plugin));
            let model = plugin.model()?;
            if model.claims(config)?.is_some() {
                return Ok(model);
            }
        }
        Err(PluginError::NoPlugin { model, asked, problems, given: false })
    }
}

impl Plugin {
    /// Names and summaries of what this component holds of `kind`; a model family has its component's name.
    ///
    /// # Errors
    /// When it holds none, or fails at saying which.
    pub fn functions(&self, kind: Kind) -> Result<Vec<(String, String)>> {
        macro_rules! named {
            ($infos:expr) => {
                $infos?.into_iter().map(|info| (info.name, info.summary)).collect()
            };
        }
        Ok(match kind {
            Kind::Model => {
                self.expect(kind)?;
                vec![(self.name().to_owned(), self.summary().to_owned())]
            }
            Kind::Template => named!(self.templates()),
            Kind::Dataset => named!(self.loaders()),
            Kind::Preprocessor => named!(self.preprocessors()),
            Kind::Reward => named!(self.rewards()),
            Kind::Metric => named!(self.metrics()),
        })
    }

    /// The manifest's one line, or nothing.
    pub fn summary(&self) -> &str {
        self.inspection().manifest.as_ref().map_or("", |manifest| manifest.summary.as_str())
    }
}

fn shown(plugin: &Plugin) -> String {
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
