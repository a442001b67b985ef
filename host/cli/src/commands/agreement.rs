//! Training that starts from an adapter: its own settings hold, and a given one must be the same. Scripts often pass
//! both; only what disagrees is refused.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use swift_graph::{
    Graph,
    lora::{self, LoraConfig, Targets},
};

use crate::args::UsageError;

/// The settings to train with: the adapter's `own`, with the dropout of `wanted` if it is among the `given` names.
/// Dropout has no shape, so it may change from one training to the next.
pub(super) fn settled(
    own: LoraConfig,
    wanted: &LoraConfig,
    given: &[&'static str],
    graph: &Graph,
) -> Result<LoraConfig, UsageError> {
    let mut differing: Vec<String> = Vec::new();
    for &name in given {
        let (same, asked, held) = match name {
            "lora_rank" => (wanted.rank == own.rank, wanted.rank.to_string(), own.rank.to_string()),
            "lora_alpha" => (wanted.alpha == own.alpha, wanted.alpha.to_string(), own.alpha.to_string()),
            "use_rslora" => (wanted.rslora == own.rslora, wanted.rslora.to_string(), own.rslora.to_string()),
            // `all-linear`, names and expressions are the same when they name the same modules of this model.
            "target_modules" | "target_regex" => {
                let asked = LoraConfig { targets: wanted.targets.clone(), ..own.clone() };
                (same_modules(graph, &asked, &own), shown(&wanted.targets), shown(&own.targets))
            }
            "modules_to_save" => {
                let asked = LoraConfig { modules_to_save: wanted.modules_to_save.clone(), ..own.clone() };
                let texts = (listed(&wanted.modules_to_save), listed(&own.modules_to_save));
                (same_modules(graph, &asked, &own), texts.0, texts.1)
            }
            _ => continue,
        };
        if !same {
            differing.push(format!("--{name} is {asked}, the adapter that training starts from has {held}"));
        }
    }
    if !differing.is_empty() {
        let hint =
            "leave it out or give the adapter's value; for another shape, merge the adapter first: `swift merge-lora`";
        return Err(UsageError::new(differing.join("; "), hint));
    }
    let dropout = if given.contains(&"lora_dropout") { wanted.dropout } else { own.dropout };
    Ok(LoraConfig { dropout, ..own })
}

/// An adapter's settings under the names of the arguments, as `args.json` has them.
pub(super) fn effective(own: &LoraConfig) -> Vec<(String, Value)> {
    let (names, pattern) = match &own.targets {
        Targets::AllLinear => (json!(["all-linear"]), Value::Null),
        Targets::Names(names) => (json!(names), Value::Null),
        Targets::Regex(pattern) => (json!([]), json!(pattern)),
    };
    let values = [
        ("lora_rank", json!(own.rank)),
        ("lora_alpha", json!(own.alpha)),
        ("lora_dropout", json!(own.dropout)),
        ("use_rslora", json!(own.rslora)),
        ("modules_to_save", json!(own.modules_to_save)),
        ("target_modules", names),
        ("target_regex", pattern),
    ];
    values.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

/// Whether both adapt and save the same modules. An `own` that does not fit the model is for the engine to explain.
fn same_modules(graph: &Graph, asked: &LoraConfig, own: &LoraConfig) -> bool {
    let modules = |config: &LoraConfig| {
        let rewritten = lora::apply(graph, config).ok()?;
        let adapted = rewritten.adapters.iter().map(|adapter| adapter.module.clone()).collect::<BTreeSet<_>>();
        let saved = rewritten.saved.iter().map(|&p| rewritten.graph.param(p).name.clone()).collect::<BTreeSet<_>>();
        Some((adapted, saved))
    };
    modules(own).is_none_or(|own| modules(asked) == Some(own))
}

fn shown(targets: &Targets) -> String {
    match targets {
        Targets::AllLinear => "all-linear".into(),
        Targets::Names(names) => listed(names),
        Targets::Regex(pattern) => pattern.clone(),
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(" ") }
}
