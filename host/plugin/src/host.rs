//! The engines, and a component loaded into one of them: checked, compiled, linked to what it may call.

#![allow(unsafe_code, reason = "compiled plugins are deserialised, after their MAC was checked")]

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmtime::component::{Component, HasSelf, InstancePre, Linker};
use wasmtime::{Config, Engine, PoolingAllocationConfig};

use crate::binding::{State, TABLE_ELEMENTS, loader, model, plugin, template};
use crate::cache::{Cache, default_folder};
use crate::capability::files::Files;
use crate::capability::http::Http;
use crate::clean::clean;
use crate::contract::{self, FILES, HTTP, Inspection, MAX_COMPONENT};
use crate::{Grants, Kind, KindLimits, LogLine, PluginError, Result, shape};

/// Hears something about a plugin: its name and a line.
pub type Listener<T> = Arc<dyn Fn(&str, T) + Send + Sync>;

/// Budgets of plugins, what they were granted, and the place of compiled ones.
#[derive(Clone)]
pub struct PluginOptions {
    /// What one call of each kind may use.
    pub limits: KindLimits,
    /// How long compiling one component may take.
    pub compile: Duration,
    /// Folder of compiled plugins; `None` compiles each time.
    pub cache: Option<PathBuf>,
    /// What the user granted.
    pub grants: Grants,
    /// Hears what plugins log.
    pub log: Option<Listener<LogLine>>,
    /// Hears what takes a while: compiling a large component.
    pub notice: Option<Listener<String>>,
}

impl std::fmt::Debug for PluginOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginOptions")
            .field("limits", &self.limits)
            .field("compile", &self.compile)
            .field("cache", &self.cache)
            .field("grants", &self.grants)
            .finish_non_exhaustive()
    }
}

impl Default for PluginOptions {
    fn default() -> Self {
        Self {
            limits: KindLimits::default(),
            compile: Duration::from_secs(300),
            cache: default_folder(),
            grants: Grants::default(),
            log: None,
            notice: None,
        }
    }
}

/// How often the clock of an engine with deadlines ticks.
pub(crate) const TICK: Duration = Duration::from_millis(10);
/// A component from this size on takes a second or more to compile.
const LARGE: usize = 1 << 20;

/// Places that instances take and leave: making one is then a few page faults, and no call to map memory, for which threads
/// would wait on each other. What an instance wrote is gone before the next one gets its place. The pool bounds nothing that
/// [`crate::Limits`] bounds: only how many instances there are at once, in this process.
fn pool() -> PoolingAllocationConfig {
    // A component of a language with an interpreter has some ten core instances and tables.
    const EACH: u32 = 16;
    let mut pool = PoolingAllocationConfig::default();
    pool.total_component_instances(INSTANCES).total_memories(INSTANCES);
    pool.total_core_instances(INSTANCES * EACH).total_tables(INSTANCES * EACH);
    pool.max_memory_size(4 << 30)
        .table_elements(TABLE_ELEMENTS)
        .max_tables_per_module(EACH)
        .max_memories_per_module(EACH);
    pool.max_component_instance_size(16 << 20).max_core_instance_size(16 << 20);
    pool
}

/// Instances at once; each reserves 4 GiB of addresses, of which there are 128 TiB.
const INSTANCES: u32 = 1000;

/// A WebAssembly engine with what plugins may import.
struct Runtime {
    engine: Engine,
    linker: Linker<State>,
    /// Names the code that this engine makes and can load.
    key: String,
}

impl Runtime {
    /// With `deadlines` calls are interrupted by a clock, else by fuel: the same number on every machine.
    fn new(deadlines: bool) -> wasmtime::Result<Self> {
        let mut config = Config::new();
        if deadlines {
            config.epoch_interruption(true);
        } else {
            config.consume_fuel(true);
        }
        // Same plugin, same answer on every machine.
        config.cranelift_nan_canonicalization(true);
        config.wasm_relaxed_simd(false);
        config.wasm_memory64(false);
        // Without address space for the pool each instance maps its own memory.
        let mut pooled = config.clone();
        pooled.allocation_strategy(pool());
        let engine = Engine::new(&pooled).or_else(|_| Engine::new(&config))?;
        let mut linker = Linker::new(&engine);
        model::contract::swift::model::types::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        model::contract::swift::model::graph::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        plugin::swift::plugin::log::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        template::swift::template::types::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        // One interface for two worlds: either's bindings add the same nothing.
        loader::swift::dataset::types::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state)?;
        let key = hex(&Sha256Hasher::of(&engine.precompile_compatibility_hash()));
        if deadlines {
            // Ends with the engine: the thread holds it weakly.
            let engine = engine.weak();
            let tick = move || {
                while let Some(engine) = engine.upgrade() {
                    engine.increment_epoch();
                    drop(engine);
                    std::thread::sleep(TICK);
                }
            };
            std::thread::Builder::new()
                .name("plugin deadlines".into())
                .spawn(tick)
                .map_err(|error| wasmtime::Error::msg(format!("no thread for deadlines: {error}")))?;
        }
        Ok(Self { engine, linker, key })
    }
}

/// The WebAssembly engines with their limits.
pub struct PluginHost {
    /// For plugins that only compute.
    pure: Runtime,
    /// For plugins that may wait; made when the first one is loaded.
    waiting: OnceLock<Runtime>,
    pub(crate) options: PluginOptions,
    cache: Option<Cache>,
    cache_problem: Option<String>,
}

impl std::fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginHost").field("options", &self.options).finish_non_exhaustive()
    }
}

impl PluginHost {
    /// Engines with these budgets.
    ///
    /// # Errors
    /// When the machine cannot run them.
    pub fn new(options: PluginOptions) -> Result<Self> {
        let pure = Runtime::new(false).map_err(engine_failed)?;
        let (cache, cache_problem) = match options.cache.as_deref().map(|path| (path, Cache::open(path))) {
            None => (None, None),
            Some((_, Ok(cache))) => (Some(cache), None),
            Some((path, Err(error))) => {
                (None, Some(format!("no cache of compiled plugins in {}: {error}", path.display())))
            }
        };
        Ok(Self { pure, waiting: OnceLock::new(), options, cache, cache_problem })
    }

    /// Why there is no cache although one was asked for: worth a warning, not a failure.
    pub fn cache_problem(&self) -> Option<&str> {
        self.cache_problem.as_deref()
    }

    /// What it was made with.
    pub fn options(&self) -> &PluginOptions {
        &self.options
    }

    /// Loads the plugin in `path`. Its name is its manifest's, or the file's without the ending.
    ///
    /// # Errors
    /// When it cannot be read, is no plugin, or needs what this host lacks or the user did not grant.
    pub fn load(self: &Arc<Self>, path: &Path) -> Result<Plugin> {
        let (name, bytes) = read_component(path)?;
        self.load_bytes(&name, Some(path), &bytes)
    }

    /// Loads a plugin from memory; `name` is used if it has no manifest, `path` is where it came from, if from a file.
    ///
    /// # Errors
    /// When it is no plugin, or needs what this host lacks or the user did not grant.
    pub fn load_bytes(self: &Arc<Self>, name: &str, path: Option<&Path>, bytes: &[u8]) -> Result<Plugin> {
        let inspection = contract::inspect(name, bytes)?;
        let name = inspection.name.as_str();
        let granted = self.options.grants.of(name);
        let asked = inspection.manifest.as_ref().map_or(&[][..], |manifest| manifest.capabilities.net.as_slice());
        let (reads, speaks) = (inspection.wants(FILES), inspection.wants(HTTP));
        let not_granted = |what| PluginError::NotGranted { plugin: name.into(), what, asked: asked.join(", ") };
        // A loader is granted a file when the user names it as a dataset.
        if reads && granted.read.is_empty() && !inspection.kinds.contains(&Kind::Dataset) {
            return Err(not_granted("read"));
        }
        // A grant that changes nothing is a mistake: of the name, or about the plugin.
        if !reads && !granted.read.is_empty() {
            return Err(PluginError::GrantNotAsked { plugin: name.into(), what: "read" });
        }
        if !speaks && !granted.net.is_empty() {
            return Err(PluginError::GrantNotAsked { plugin: name.into(), what: "net" });
        }
        if speaks {
            if granted.net.is_empty() {
                return Err(not_granted("net"));
            }
            let asked_for = |host: &&String| asked.iter().any(|asked| asked == *host || asked == "*");
            if let Some(host) = granted.net.iter().find(|host| !asked_for(host)) {
                return Err(PluginError::NotAskedHost {
                    plugin: name.into(),
                    host: host.clone(),
                    asked: asked.join(", "),
                });
            }
        }
        let waits = reads || speaks;
        let runtime = if waits { self.waiting()? } else { &self.pure };
        let component = self.compile(runtime, name, &inspection, bytes)?;
        let types = |error: wasmtime::Error| PluginError::Types {
            plugin: name.into(),
            contract: inspection.contracts.first().map_or_else(String::new, ToString::to_string),
            detail: clean(&format!("{error:#}"), 2000),
        };
        let mut linker = runtime.linker.clone();
        if reads {
            plugin::swift::plugin::files::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(types)?;
        }
        if speaks {
            plugin::swift::plugin::http::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(types)?;
        }
        let prepared = linker.instantiate_pre(&component).map_err(types)?;
        let files = Files::open(if reads { &granted.read } else { &[] }).map_err(|(path, source)| {
            PluginError::Grant { plugin: name.into(), path: path.display().to_string(), source }
        })?;
        Ok(Plugin(Arc::new(Loaded {
            host: Arc::clone(self),
            path: path.map(Path::to_path_buf),
            prepared,
            waits,
            files,
            http: speaks.then(|| Http::new(granted.net)),
            inspection,
        })))
    }

    fn waiting(&self) -> Result<&Runtime> {
        if let Some(runtime) = self.waiting.get() {
            return Ok(runtime);
        }
        let runtime = Runtime::new(true).map_err(engine_failed)?;
        Ok(self.waiting.get_or_init(|| runtime))
    }

    fn compile(&self, runtime: &Runtime, name: &str, inspection: &Inspection, bytes: &[u8]) -> Result<Component> {
        let key = format!("{}-{}", inspection.digest, runtime.key);
        if let Some(code) = self.cache.as_ref().and_then(|cache| cache.load(&key)) {
            // SAFETY: the MAC says that this user's swift wrote these bytes from `Component::serialize` of an engine with
            // this compatibility hash; the folder and the secret are the user's alone.
            if let Ok(component) = unsafe { Component::deserialize(&runtime.engine, code) } {
                return Ok(component);
            }
        }
        if let Some(notice) = self.options.notice.as_ref().filter(|_| bytes.len() >= LARGE) {
            notice(name, format!("compiling {} MB of WebAssembly, once", bytes.len().div_ceil(1 << 20)));
        }
        let failed = |detail: String| PluginError::Compile { plugin: name.into(), detail: clean(&detail, 2000) };
        shape::check(bytes).map_err(failed)?;
        let component = compile_within(self.options.compile, &runtime.engine, bytes).map_err(failed)?;
        if let (Some(cache), Ok(code)) = (&self.cache, component.serialize()) {
            // A full disk costs the next start the time of compiling, nothing else.
            let _ = cache.store(&key, &code);
        }
        Ok(component)
    }
}

/// Compiles on threads of its own. One that takes too long is left behind: it cannot be stopped, and nothing waits for it.
fn compile_within(limit: Duration, engine: &Engine, bytes: &[u8]) -> std::result::Result<Component, String> {
    let (engine, bytes) = (engine.clone(), bytes.to_vec());
    let (send, receive) = std::sync::mpsc::channel();
    let cannot_start = |error: String| format!("no thread to compile on: {error}");
    let compile = move || {
        // The compiler spreads its work over the threads of the pool that it is called on; the run's own stay free.
        let pool = rayon::ThreadPoolBuilder::new()
            .stack_size(8 << 20)
            .build()
            .map_err(|error| cannot_start(error.to_string()));
        let compiled = pool.and_then(|pool| {
            // A compiler's bug must not take the run down.
            let compiled = catch_unwind(AssertUnwindSafe(|| pool.install(|| Component::new(&engine, &bytes))));
            compiled.map_err(|_| "the compiler failed on it".to_owned())?.map_err(|error| format!("{error:#}"))
        });
        // Nobody listens any more when it took too long.
        let _ = send.send(compiled);
    };
    std::thread::Builder::new()
        .name("plugin compiler".into())
        .spawn(compile)
        .map_err(|error| cannot_start(error.to_string()))?;
    let late = |_| format!("it takes longer than {} s to compile", limit.as_secs_f64());
    receive.recv_timeout(limit).map_err(late)?
}

fn engine_failed(error: wasmtime::Error) -> PluginError {
    PluginError::Engine { detail: format!("{error:#}") }
}

/// Reads a component's bytes; its name so far is the file's.
///
/// # Errors
/// When it cannot be read or is larger than any component.
pub fn read_component(path: &Path) -> Result<(String, Vec<u8>)> {
    let name = path.file_stem().map_or_else(|| "plugin".into(), |stem| clean(&stem.to_string_lossy(), 100));
    let failed = |source| PluginError::Read { plugin: name.clone(), path: path.display().to_string(), source };
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(std::io::Error::other("it is not a file")));
    }
    if metadata.len() > MAX_COMPONENT {
        return Err(failed(std::io::Error::other(format!("it is larger than {} MiB", MAX_COMPONENT >> 20))));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    Ok((name, bytes))
}

/// A loaded component: what it is, and a handle for each kind that it is.
#[derive(Clone)]
pub struct Plugin(pub(crate) Arc<Loaded>);

pub(crate) struct Loaded {
    pub(crate) host: Arc<PluginHost>,
    pub(crate) inspection: Inspection,
    path: Option<PathBuf>,
    pub(crate) prepared: InstancePre<State>,
    /// It may wait, so a clock ends its calls.
    pub(crate) waits: bool,
    pub(crate) files: Files,
    pub(crate) http: Option<Http>,
}

impl std::fmt::Debug for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugin").field("name", &self.name()).field("digest", &self.digest()).finish_non_exhaustive()
    }
}

impl Plugin {
    /// The manifest's name, or the file's without its ending.
    pub fn name(&self) -> &str {
        &self.0.inspection.name
    }

    /// The manifest's version, or 0.0.0.
    pub fn version(&self) -> &semver::Version {
        &self.0.inspection.version
    }

    /// SHA-256 of the component, in hexadecimal: what a run manifest records.
    pub fn digest(&self) -> &str {
        &self.0.inspection.digest
    }

    /// Where it came from; `None` for one that is built in.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// What it is, by its exports.
    pub fn kinds(&self) -> &[Kind] {
        &self.0.inspection.kinds
    }

    /// Everything that can be read from the component without running it.
    pub fn inspection(&self) -> &Inspection {
        &self.0.inspection
    }

    /// Fails unless it is of this kind.
    pub(crate) fn expect(&self, kind: Kind) -> Result<()> {
        if self.kinds().contains(&kind) {
            return Ok(());
        }
        Err(PluginError::WrongKind { plugin: self.name().into(), wanted: kind, kinds: self.kinds().to_vec() })
    }

    /// A function's name and summary as the host shows them.
    pub(crate) fn check_function(&self, kind: Kind, name: &str, summary: &mut String) -> Result<()> {
        if !crate::manifest::valid_name(name) {
            let what =
                format!("`{}` is no name for a {kind}: lower case letters, digits, `-` and `_`", clean(name, 80));
            return Err(PluginError::Answer { plugin: self.name().into(), call: kind.interface().into(), what });
        }
        *summary = clean(summary, 300);
        Ok(())
    }

    /// The error for a function that the component does not have.
    pub(crate) fn no_function(&self, kind: Kind, wanted: &str, names: Vec<String>) -> PluginError {
        PluginError::NoFunction { plugin: self.name().into(), kind, wanted: clean(wanted, 100), names }
    }

    /// The error for settings that the plugin did not take.
    pub(crate) fn refused_settings(&self, function: &str, message: &str) -> PluginError {
        PluginError::Settings { plugin: self.name().into(), function: function.into(), message: clean(message, 2000) }
    }

    /// The error for what `bindings` says about an export of the wrong type.
    pub(crate) fn wrong_types(&self, kind: Kind, error: &wasmtime::Error) -> PluginError {
        PluginError::Types {
            plugin: self.name().into(),
            contract: kind.interface().into(),
            detail: clean(&format!("{error:#}"), 2000),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hasher whose result is the same in every process.
struct Sha256Hasher(Sha256);

impl Sha256Hasher {
    fn of(value: &impl Hash) -> [u8; 32] {
        let mut hasher = Self(Sha256::new());
        value.hash(&mut hasher);
        hasher.0.finalize().into()
    }
}

impl Hasher for Sha256Hasher {
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}
