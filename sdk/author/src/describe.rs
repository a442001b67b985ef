//! `swift plugin inspect`: everything there is to know of a component, for people and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use swift_graph::{Graph, StorageType, TableCheckpoint, TensorInfo, rollup};
use swift_plugin::{Inspection, ModelPlugin, PluginError};

use crate::{Functions, Result};

/// What [`Inspection`] and [`Functions`] say, as JSON.
pub fn describe(inspection: &Inspection, functions: Option<&Functions>) -> Value {
    let mut value = json!({
        "name": inspection.name,
        "version": inspection.version.to_string(),
        "kinds": inspection.kinds.iter().map(|kind| kind.name()).collect::<Vec<_>>(),
        "contracts": inspection.contracts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "imports": inspection.imports,
        "exports": inspection.exports,
        "sha256": inspection.digest,
        "bytes": inspection.size,
    });
    if let Some(manifest) = &inspection.manifest {
        value["summary"] = json!(manifest.summary);
        value["license"] = json!(manifest.license);
        value["authors"] = json!(manifest.authors);
        value["homepage"] = json!(manifest.homepage);
        value["capabilities"] = json!({ "read": manifest.capabilities.read, "net": manifest.capabilities.net });
        value["language"] = json!(manifest.build.as_ref().map(|build| build.lang.clone()));
    }
    for (kind, functions) in functions.map_or(&[][..], |functions| &functions.0) {
        let one = |function: &crate::Function| json!({ "name": function.name, "summary": function.summary, "notes": function.notes });
        value["functions"][kind.name()] = functions.iter().map(one).collect();
    }
    value
}

/// A graph in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphSummary {
    /// The family's name, as the plugin calls it.
    pub family: String,
    pub ops: usize,
    pub tensors: usize,
    pub parameters: u64,
    /// Kinds of blocks: how many there are of each, and the first one's path.
    pub blocks: Vec<(usize, String)>,
    /// Names of the results.
    pub outputs: Vec<String>,
    pub fuel: u64,
}

impl GraphSummary {
    fn of(graph: &Graph, family: String, fuel: u64) -> Self {
        let elements = |shape: &[u32]| shape.iter().map(|size| u64::from(*size)).product::<u64>();
        let first = |members: &[u32]| members.first().and_then(|first| graph.blocks.get(*first as usize));
        let kinds = rollup::block_kinds(graph);
        let blocks = kinds.iter().map(|kind| (kind.members.len(), first(&kind.members).cloned().unwrap_or_default()));
        Self {
            family,
            ops: graph.nodes.len(),
            tensors: graph.params.len(),
            parameters: graph.params.iter().map(|parameter| elements(&parameter.shape)).sum(),
            blocks: blocks.map(|(count, path)| (count, swift_plugin::clean(&path, 200))).collect(),
            outputs: graph.outputs.iter().map(|(name, _)| swift_plugin::clean(name, 100)).collect(),
            fuel,
        }
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let blocks: Vec<Value> =
            self.blocks.iter().map(|(count, path)| json!({ "count": count, "first": path })).collect();
        json!({
            "family": self.family, "ops": self.ops, "tensors": self.tensors, "parameters": self.parameters,
            "blocks": blocks, "outputs": self.outputs, "fuel": self.fuel,
        })
    }
}

/// Tensors that a model may ask for one after another before it counts as endless.
const MOST_TENSORS: usize = 4000;

/// The graph of a config whose checkpoint is not at hand: whatever tensor the model asks for is there. What it asks about
/// before (an optional bias, a head of its own) is not.
///
/// # Errors
/// When the plugin does not claim the config, declines it, or fails.
pub fn summarise(model: &ModelPlugin, config: &str) -> Result<GraphSummary> {
    let mut checkpoint = TableCheckpoint(BTreeMap::new());
    loop {
        let error = match model.trace(config, "causal-lm", &checkpoint) {
            Ok(trace) => return Ok(GraphSummary::of(&trace.graph, trace.family, trace.fuel)),
            Err(error) => error,
        };
        let wanted = match &error {
            PluginError::Build { error: build, .. } if checkpoint.0.len() < MOST_TENSORS => wanted(&build.message),
            _ => None,
        };
        let Some((name, shape)) = wanted else { return Err(error.into()) };
        let known = checkpoint.0.insert(name, TensorInfo { shape: shape.clone(), dtype: StorageType::F32 });
        if known.is_some_and(|info| info.shape == shape) {
            return Err(error.into());
        }
    }
}

/// The tensor that a trace lacked: first its name, then, once it is there without axes, its shape.
fn wanted(message: &str) -> Option<(String, Vec<usize>)> {
    if let Some(rest) = message.strip_prefix("the checkpoint has no tensor `") {
        return Some((rest.strip_suffix('`')?.to_owned(), Vec::new()));
    }
    let (name, rest) = message.strip_prefix('`')?.split_once("` is ")?;
    let shape = rest.split_once("the model wants ")?.1.trim_matches(['[', ']']);
    let shape = shape.split(", ").map(|size| size.parse().ok()).collect::<Option<Vec<usize>>>()?;
    Some((name.to_owned(), shape))
}
