//! Model families: reads a config, traces the network once into a graph.

use std::path::Path;

use swift_graph::{Builder, Checkpoint, Graph};
use wasmtime::component::Resource;

use crate::binding::State;
use crate::binding::model::BuilderHandle;
use crate::binding::model::contract::{ModelAdapter, ModelAdapterPre};
use crate::call::{Budget, Live, MESSAGE, clean_build};
use crate::clean::clean;
use crate::error::Stack;
use crate::{Kind, Plugin, PluginError, Result};

/// Fuel is for one trace; a value larger than this in one call (a name, a list) is not a model's.
const BUDGET: Budget = Budget { kind: Kind::Model, units: 0, output: 1 << 20 };

/// A loaded model family.
#[derive(Clone)]
pub struct ModelPlugin {
    plugin: Plugin,
    prepared: ModelAdapterPre<State>,
}

impl std::fmt::Debug for ModelPlugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelPlugin").field("plugin", &self.plugin).finish_non_exhaustive()
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

impl Plugin {
    /// The model family in this component.
    ///
    /// # Errors
    /// When it holds none.
    pub fn model(&self) -> Result<ModelPlugin> {
        self.expect(Kind::Model)?;
        let prepared = ModelAdapterPre::new(self.0.prepared.clone());
        let prepared = prepared.map_err(|error| self.wrong_types(Kind::Model, &error))?;
        Ok(ModelPlugin { plugin: self.clone(), prepared })
    }
}

impl ModelPlugin {
    /// The component.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// Name: the manifest's, or the file's without its ending.
    pub fn name(&self) -> &str {
        self.plugin.name()
    }

    /// SHA-256 of the component, in hexadecimal: what a run manifest records.
    pub fn digest(&self) -> &str {
        self.plugin.digest()
    }

    /// Where it came from; `None` for one that is built in.
    pub fn path(&self) -> Option<&Path> {
        self.plugin.path()
    }

    fn start(&self, call: &str, builder: Option<Builder>) -> Result<Live<ModelAdapter>> {
        let state = State { builder, ..self.plugin.state() };
        self.plugin.start(call, state, BUDGET, |_, store| self.prepared.instantiate(store))
    }

    /// The name of the family if the plugin builds the model of this `config.json`.
    ///
    /// # Errors
    /// When the plugin traps or runs out of its budget.
    pub fn claims(&self, config: &str) -> Result<Option<String>> {
        let live = self.start("claims", None)?;
        let (_, family) =
            live.call("claims", BUDGET, |adapter, store| adapter.swift_model_adapter().call_claims(store, config))?;
        Ok(family.map(|family| clean(&family, 100)))
    }

    /// Traces the model of this `config.json` against the tensors of `checkpoint`. `task` is "causal-lm" or another that
    /// the plugin builds.
    ///
    /// # Errors
    /// When the plugin declines, asks for what cannot be, traps, or runs out of its budget.
    pub fn trace(&self, config: &str, task: &str, checkpoint: &dyn Checkpoint) -> Result<Trace> {
        let family = self.claims(config)?.unwrap_or_else(|| self.name().to_owned());
        let live = self.start("build", Some(Builder::new(checkpoint)))?;
        let (live, answer) = live.call("build", BUDGET, |adapter, store| {
            adapter.swift_model_adapter().call_build(store, config, task, Resource::<BuilderHandle>::new_borrow(0))
        })?;
        if let Err(message) = answer {
            return Err(PluginError::Declined { plugin: self.name().into(), message: clean(&message, MESSAGE) });
        }
        let refused = |error| PluginError::Build {
            plugin: self.name().into(),
            error: Box::new(clean_build(error)),
            stack: Stack::default(),
        };
        let fuel = live.fuel();
        let state = live.into_state();
        let graph = match state.builder {
            Some(builder) => builder.finish().map_err(refused)?,
            None => return Err(refused(swift_graph::BuildError::new("the builder is gone"))),
        };
        Ok(Trace { graph, family, calls: state.calls, fuel })
    }
}
