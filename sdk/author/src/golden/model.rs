//! Cases of model families: a config and a checkpoint's tensors, traced; every tensor is used, none is missing.

use serde_json::{Map, Value, json};
use swift_graph::{Graph, StorageType, TableCheckpoint, TensorInfo};
use swift_plugin::Plugin;

use super::{Answer, Answers, failed};

pub(super) fn answers(plugin: &Plugin, case: &Map<String, Value>) -> Answers {
    let config = case.get("config").filter(|config| config.is_object()).ok_or("`config` is missing or no object")?;
    let parameters =
        case.get("parameters").filter(|value| value.is_object()).ok_or("`parameters` is missing or no object")?;
    let checkpoint = checkpoint(parameters)?;
    let model = plugin.model().map_err(failed)?;
    let config = config.to_string();
    if model.claims(&config).map_err(failed)?.is_none() {
        return Err("the plugin does not claim this config: check its `model_type` and `architectures`".into());
    }
    let trace = model.trace(&config, "causal-lm", &checkpoint).map_err(failed)?;
    let actual = used(&trace.graph);
    let mut answers = vec![Answer { fuel: Some(trace.fuel), ..Answer::part("parameters", actual, parameters.clone()) }];
    if let Some(ops) = case.get("ops") {
        answers.push(Answer::part("ops", json!(trace.graph.nodes.len()), ops.clone()));
    }
    Ok(answers)
}

/// The tensors that a graph uses, by name.
fn used(graph: &Graph) -> Value {
    Value::Object(graph.params.iter().map(|parameter| (parameter.name.clone(), json!(parameter.shape))).collect())
}

fn checkpoint(parameters: &Value) -> Result<TableCheckpoint, String> {
    let mut checkpoint = TableCheckpoint::default();
    for (name, shape) in parameters.as_object().into_iter().flatten() {
        let size = |size: &Value| size.as_u64().and_then(|size| usize::try_from(size).ok());
        let shape: Option<Vec<usize>> = shape.as_array().and_then(|shape| shape.iter().map(size).collect());
        let shape = shape.ok_or_else(|| format!("parameters: `{}` has no shape", swift_plugin::clean(name, 100)))?;
        checkpoint.0.insert(name.clone(), TensorInfo { shape, dtype: StorageType::F32 });
    }
    Ok(checkpoint)
}
