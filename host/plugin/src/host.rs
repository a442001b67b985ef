//! The engine, a loaded plugin, and one call into it: a fresh instance with its own budget, dropped afterwards.

#![allow(unsafe_code, reason = "compiled plugins are deserialised, after their MAC was checked")]

use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use swift_graph::{Builder, Checkpoint, Graph};
use wasmtime::component::{Component, HasSelf, Linker, Resource};
use wasmtime::{Config, Engine, Store, Trap, WasmBacktrace};

use crate::binding::contract::{ModelAdapter, ModelAdapterPre};
use crate::binding::{BuilderHandle, Fault, State};
use crate::cache::{Cache, default_folder};
use crate::clean::clean;
use crate::error::{Place, Stack};
use crate::{CONTRACT, PluginError, Result, contract};

/// Budgets of a plugin and the place of compiled ones.
#[derive(Debug, Clone)]
pub struct PluginOptions {
    /// Units of fuel for one call, about one for each instruction. The trace of a large model takes a few million.
    pub fuel: u64,
    /// Bytes of memory for one instance.
    pub memory: usize,
    /// Calls to the host in one trace.
    pub calls: u64,
    /// Folder of compiled plugins; `None` compiles each time.
    pub cache: Option<PathBuf>,
}

impl Default for PluginOptions {
    fn default() -> Self {
        Self { fuel: 1_000_000_000, memory: 256 << 20, calls: 1_000_000, cache: default_folder() }
    }
}

/// A value larger than this in one call (a name, a list) is not a model's.
const MAX_CALL_BYTES: usize = 1 << 20;
/// Longest message of a plugin that is shown.
const MESSAGE: usize = 2000;

/// The WebAssembly engine with its limits.
pub struct PluginHost {
    engine: Engine,
    linker: Linker<State>,
    options: PluginOptions,
    cache: Option<Cache>,
    cache_problem: Option<String>,
    /// Names the code that this engine makes and can load.
    engine_key: String,
}

impl std::fmt::Debug for PluginHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PluginHost").field("options", &self.options).finish_non_exhaustive()
    }
}

impl PluginHost {
    /// An engine with these budgets.
    ///
    /// # Errors
    /// When the machine cannot run it.
    pub fn new(options: PluginOptions) -> Result<Self> {
        let failed = |error: wasmtime::Error| PluginError::Engine { detail: format!("{error:#}") };
        let mut config = Config::new();
        config.consume_fuel(true);
        // Same plugin, same graph on every machine.
        config.cranelift_nan_canonicalization(true);
        config.wasm_relaxed_simd(false);
        config.wasm_memory64(false);
        let engine = Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        ModelAdapter::add_to_linker::<_, HasSelf<_>>(&mut linker, |state| state).map_err(failed)?;
        let (cache, cache_problem) = match options.cache.as_deref().map(|path| (path, Cache::open(path))) {
            None => (None, None),
            Some((_, Ok(cache))) => (Some(cache), None),
            Some((path, Err(error))) => {
                (None, Some(format!("no cache of compiled plugins in {}: {error}", path.display())))
            }
        };
        let engine_key = hex(&Sha256Hasher::of(&engine.precompile_compatibility_hash()));
        Ok(Self { engine, linker, options, cache, cache_problem, engine_key })
    }

    /// Why there is no cache although one was asked for: worth a warning, not a failure.
    pub fn cache_problem(&self) -> Option<&str> {
        self.cache_problem.as_deref()
    }

    /// Loads the plugin in `path`; its name is the file's.
    ///
    /// # Errors
    /// When it cannot be read, is no plugin, or needs what this host lacks.
    pub fn load(self: &Arc<Self>, path: &Path) -> Result<ModelPlugin> {
        let name = path.file_stem().map_or_else(|| "plugin".into(), |stem| clean(&stem.to_string_lossy(), 100));
        let bytes = std::fs::read(path).map_err(|source| PluginError::Read {
            plugin: name.clone(),
            path: path.display().to_string(),
            source,
        })?;
        self.load_bytes(&name, Some(path), &bytes)
    }

    /// Loads a plugin from memory; `path` is where it came from, if from a file.
    ///
    /// # Errors
    /// When it is no plugin or needs what this host lacks.
    pub fn load_bytes(self: &Arc<Self>, name: &str, path: Option<&Path>, bytes: &[u8]) -> Result<ModelPlugin> {
        let built_for = contract::check(name, bytes)?;
        let digest = hex(&Sha256::digest(bytes));
        let component = self.compile(name, &digest, bytes)?;
        let types = |error: wasmtime::Error| PluginError::Types {
            plugin: name.into(),
            contract: CONTRACT.into(),
            detail: clean(&format!("{error:#}"), MESSAGE),
        };
        let prepared = self.linker.instantiate_pre(&component).map_err(types)?;
        let prepared = ModelAdapterPre::new(prepared).map_err(types)?;
        Ok(ModelPlugin {
            host: Arc::clone(self),
            name: name.into(),
            digest,
            path: path.map(Path::to_path_buf),
            contract: built_for,
            prepared,
        })
    }

    fn compile(&self, name: &str, digest: &str, bytes: &[u8]) -> Result<Component> {
        let key = format!("{digest}-{}", self.engine_key);
        if let Some(code) = self.cache.as_ref().and_then(|cache| cache.load(&key)) {
            // SAFETY: the MAC says that this user's swift wrote these bytes from `Component::serialize` of an engine with
            // this compatibility hash; the folder and the secret are the user's alone.
            if let Ok(component) = unsafe { Component::deserialize(&self.engine, code) } {
                return Ok(component);
            }
        }
        let failed = |detail: String| PluginError::Compile { plugin: name.into(), detail: clean(&detail, MESSAGE) };
        // A compiler's bug must not take the run down.
        let compiled = catch_unwind(AssertUnwindSafe(|| Component::new(&self.engine, bytes)));
        let component = compiled
            .map_err(|_| failed("the compiler failed on it".into()))?
            .map_err(|error| failed(format!("{error:#}")))?;
        if let (Some(cache), Ok(code)) = (&self.cache, component.serialize()) {
            // A full disk costs the next start 30 ms, nothing else.
            let _ = cache.store(&key, &code);
        }
        Ok(component)
    }
}

/// A loaded model family.
#[derive(Clone)]
pub struct ModelPlugin {
    host: Arc<PluginHost>,
    name: String,
    digest: String,
    path: Option<PathBuf>,
    contract: String,
    prepared: ModelAdapterPre<State>,
}

impl std::fmt::Debug for ModelPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelPlugin").field("name", &self.name).field("digest", &self.digest).finish_non_exhaustive()
    }
}

/// What one trace gave.
#[derive(Debug)]
pub struct Trace {
    /// The model.
    pub graph: Graph,
    /// The family's name, as the plugin calls it.
    pub family: String,
    /// Calls that the plugin made to the host.
    pub calls: u64,
    /// Fuel that it used: the same number on every machine.
    pub fuel: u64,
}

/// What a call gave, with the state it leaves behind.
struct Done<T> {
    answer: T,
    state: State,
    fuel: u64,
}

impl ModelPlugin {
    /// Name: the file's without its ending.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the component, in hexadecimal: what a run manifest records.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Where it came from; `None` for one that is built in.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The contract that it was built for: `swift:model@0.1.0`.
    pub fn contract(&self) -> &str {
        &self.contract
    }

    /// The name of the family if the plugin builds the model of this `config.json`.
    ///
    /// # Errors
    /// When the plugin traps or runs out of its budget.
    pub fn claims(&self, config: &str) -> Result<Option<String>> {
        let done =
            self.call("claims", None, |adapter, store| adapter.swift_model_adapter().call_claims(store, config))?;
        Ok(done.answer.map(|family| clean(&family, 100)))
    }

    /// Traces the model of this `config.json` against the tensors of `checkpoint`. `task` is "causal-lm" or another that
    /// the plugin builds.
    ///
    /// # Errors
    /// When the plugin declines, asks for what cannot be, traps, or runs out of its budget.
    pub fn trace(&self, config: &str, task: &str, checkpoint: &dyn Checkpoint) -> Result<Trace> {
        let family = self.claims(config)?.unwrap_or_else(|| self.name.clone());
        let done = self.call("build", Some(Builder::new(checkpoint)), |adapter, store| {
            adapter.swift_model_adapter().call_build(store, config, task, Resource::<BuilderHandle>::new_borrow(0))
        })?;
        if let Err(message) = done.answer {
            return Err(PluginError::Declined { plugin: self.name.clone(), message: clean(&message, MESSAGE) });
        }
        let refused = |error| PluginError::Build {
            plugin: self.name.clone(),
            error: Box::new(clean_build(error)),
            stack: Stack::default(),
        };
        let graph = match done.state.builder {
            Some(builder) => builder.finish().map_err(refused)?,
            None => return Err(refused(swift_graph::BuildError::new("the builder is gone"))),
        };
        Ok(Trace { graph, family, calls: done.state.calls, fuel: done.fuel })
    }

    /// One call in an instance of its own.
    fn call<T>(
        &self,
        name: &str,
        builder: Option<Builder>,
        body: impl FnOnce(&ModelAdapter, &mut Store<State>) -> wasmtime::Result<T>,
    ) -> Result<Done<T>> {
        let options = &self.host.options;
        let state = State { builder, fault: None, calls: 0, max_calls: options.calls, max_memory: options.memory };
        let mut store = Store::new(&self.host.engine, state);
        store.limiter(|state| state);
        store.set_hostcall_fuel(MAX_CALL_BYTES);
        let answer = store
            .set_fuel(options.fuel)
            .and_then(|()| self.prepared.instantiate(&mut store))
            .and_then(|adapter| body(&adapter, &mut store));
        let left = store.get_fuel().unwrap_or(0);
        // The instance goes here, whether it answered or trapped: nothing of it is used again.
        let state = store.into_data();
        match answer {
            Ok(answer) => Ok(Done { answer, state, fuel: options.fuel.saturating_sub(left) }),
            Err(error) => Err(self.fault(name, &error, state)),
        }
    }

    /// Says what ended a call.
    fn fault(&self, call: &str, error: &wasmtime::Error, state: State) -> PluginError {
        let (plugin, call, stack) = (self.name.clone(), call.to_owned(), stack(error));
        let place = Place(state.builder.as_ref().map_or_else(Box::default, |builder| builder.scope().into()));
        let options = &self.host.options;
        match state.fault {
            Some(Fault::Refused(error)) => PluginError::Build { plugin, error: Box::new(clean_build(error)), stack },
            Some(Fault::Aborted(message)) => PluginError::Panic { plugin, call, place, message, stack },
            Some(Fault::Calls) => PluginError::Calls { plugin, call, place, budget: options.calls, stack },
            Some(Fault::Memory { asked }) => {
                let mib = |bytes: usize| bytes.div_ceil(1 << 20);
                PluginError::Memory { plugin, call, place, asked: mib(asked), budget: mib(options.memory), stack }
            }
            None => match error.downcast_ref::<Trap>() {
                Some(Trap::OutOfFuel) => PluginError::Fuel { plugin, call, place, budget: options.fuel, stack },
                trap => {
                    let reason = trap.map_or_else(|| format!("{error:#}"), ToString::to_string);
                    let reason = clean(reason.trim_start_matches("wasm trap: "), MESSAGE);
                    PluginError::Trap { plugin, call, place, reason, stack }
                }
            },
        }
    }
}

/// A build error may quote names that the plugin chose.
fn clean_build(mut error: swift_graph::BuildError) -> swift_graph::BuildError {
    error.scope = clean(&error.scope, 500);
    error.message = clean(&error.message, MESSAGE);
    error.operands = error.operands.iter().map(|operand| clean(operand, 500)).collect();
    error.hint = error.hint.map(|hint| clean(&hint, MESSAGE));
    error
}

/// The plugin's own functions, innermost first. What its language and the bindings put around them is left out.
fn stack(error: &wasmtime::Error) -> Stack {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return Stack::default() };
    let names = backtrace.frames().iter().filter_map(|frame| frame.func_name());
    let names = names.map(|name| clean(&format!("{:#}", rustc_demangle::demangle(name)), 200));
    let noise = [
        "std::",
        "core::",
        "alloc::",
        "__rust",
        "rust_",
        "wit-component:",
        "wit_bindgen",
        "swift_sdk::bindings",
        "swift_sdk::runtime",
        "swift_sdk::allocate",
        "cabi_",
    ];
    let own = |name: &String| {
        let plain = name.trim_start_matches(['<', '&', '[']);
        !name.is_empty() && !noise.iter().any(|prefix| plain.starts_with(prefix)) && !name.contains("swift:model/")
    };
    Stack(names.filter(own).take(8).collect())
}

fn hex(bytes: &[u8]) -> String {
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
        let digest = self.0.clone().finalize();
        u64::from_le_bytes(std::array::from_fn(|i| digest[i]))
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}
