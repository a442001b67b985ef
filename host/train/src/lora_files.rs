//! PEFT adapters on disk: `adapter_config.json` (the fields of peft 0.20) and `adapter_model.safetensors`.

use std::{collections::HashMap, path::Path};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    checkpoint::{read_json, write_json},
    error::TrainError,
    learner::{BoxError, Learner},
    optimizer_files::{lost, view, write_tensors},
};

/// The configuration's file name.
pub const CONFIG: &str = "adapter_config.json";
/// The weights' file name.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// Which modules carry an adapter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// Module names or their endings, as PEFT matches them.
    Names(Vec<String>),
    /// A regular expression on the whole module path.
    Pattern(String),
}

/// The LoRA settings an adapter folder records.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    pub base_model: String,
    pub rank: u32,
    pub alpha: f64,
    pub dropout: f64,
    pub target_modules: TargetModules,
    pub modules_to_save: Vec<String>,
    /// `true`, `false` or `"gaussian"`.
    pub init_weights: Value,
    pub rank_stabilised: bool,
}

impl AdapterConfig {
    /// The JSON of `adapter_config.json`.
    pub fn to_json(&self) -> Value {
        let modules_to_save = if self.modules_to_save.is_empty() { Value::Null } else { json!(self.modules_to_save) };
        // PEFT writes an integral alpha without a point.
        let alpha = if self.alpha.fract() == 0.0 { json!(self.alpha as i64) } else { json!(self.alpha) };
        json!({
            "alora_invocation_tokens": null,
            "alpha_pattern": {},
            "arrow_config": null,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "corda_config": null,
            "ensure_weight_tying": false,
            "eva_config": null,
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": self.init_weights,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": alpha,
            "lora_bias": false,
            "lora_dropout": self.dropout,
            "lora_ga_config": null,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": modules_to_save,
            "monteclora_config": null,
            "peft_type": "LORA",
            "peft_version": "0.20.0",
            "qalora_group_size": 16,
            "r": self.rank,
            "rank_pattern": {},
            "revision": null,
            "target_modules": self.target_modules,
            "target_parameters": null,
            "task_type": "CAUSAL_LM",
            "trainable_token_indices": null,
            "use_bdlora": null,
            "use_dora": false,
            "use_qalora": false,
            "use_rslora": self.rank_stabilised,
            "velora_config": null,
        })
    }

    /// Names of the arguments whose values make another adapter of the same weights.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let pairs = [
            ("--lora_rank", self.rank != other.rank),
            ("--lora_alpha", self.alpha != other.alpha),
            ("--lora_dropout", self.dropout != other.dropout),
            ("--target_modules or --target_regex", self.target_modules != other.target_modules),
            ("--modules_to_save", self.modules_to_save != other.modules_to_save),
            ("--use_rslora", self.rank_stabilised != other.rank_stabilised),
        ];
        pairs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// Reads `adapter_config.json` of a folder; what it asks for beyond plain LoRA is refused by name.
    pub fn read(folder: &Path) -> Result<Self, TrainError> {
        let path = folder.join(CONFIG);
        if !path.is_file() {
            let message = format!("a PEFT adapter folder has {CONFIG} and {WEIGHTS}");
            return Err(TrainError::NoCheckpoint { path: folder.into(), message });
        }
        let json: Value = read_json(&path)?;
        let content = |message: String| TrainError::Content { path: path.clone(), message };
        for (field, plain) in PLAIN {
            let value = json.get(*field).unwrap_or(&Value::Null);
            let is_plain =
                value.is_null() || *value == json!(false) || value.as_str() == Some(plain) || is_empty(value);
            if !is_plain {
                return Err(TrainError::Adapter { path: folder.into(), feature: format!("{field} = {value}") });
            }
        }
        let text = |field: &str| json.get(field).and_then(Value::as_str).unwrap_or_default().to_string();
        if text("peft_type") != "LORA" {
            return Err(TrainError::Adapter {
                path: folder.into(),
                feature: format!("peft_type {}", text("peft_type")),
            });
        }
        let rank = json.get("r").and_then(Value::as_u64).filter(|&r| r > 0);
        let targets = json.get("target_modules").cloned().unwrap_or_default();
        Ok(Self {
            base_model: text("base_model_name_or_path"),
            rank: rank.ok_or_else(|| content("`r` must be a positive whole number".into()))? as u32,
            alpha: json
                .get("lora_alpha")
                .and_then(Value::as_f64)
                .ok_or_else(|| content("`lora_alpha` is missing".into()))?,
            dropout: json.get("lora_dropout").and_then(Value::as_f64).unwrap_or(0.0),
            target_modules: serde_json::from_value(targets)
                .map_err(|_| content("`target_modules` must be a list of names or one pattern".into()))?,
            modules_to_save: serde_json::from_value(json.get("modules_to_save").cloned().unwrap_or_default())
                .map(Option::unwrap_or_default)
                .map_err(|_| content("`modules_to_save` must be a list of names".into()))?,
            init_weights: json.get("init_lora_weights").cloned().unwrap_or(Value::Bool(true)),
            rank_stabilised: json.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
        })
    }
}

/// Fields of other variants, with the text value that also means plain LoRA.
const PLAIN: &[(&str, &str)] = &[
    ("bias", "none"),
    ("use_dora", ""),
    ("use_qalora", ""),
    ("use_bdlora", ""),
    ("lora_bias", ""),
    ("fan_in_fan_out", ""),
    ("rank_pattern", ""),
    ("alpha_pattern", ""),
    ("layers_to_transform", ""),
    ("layer_replication", ""),
    ("target_parameters", ""),
    ("trainable_token_indices", ""),
    ("exclude_modules", ""),
    ("alora_invocation_tokens", ""),
    ("arrow_config", ""),
];

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

/// One tensor of an adapter file, in f32.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterTensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Reads `adapter_model.safetensors` of a folder.
pub fn read_weights(folder: &Path) -> Result<Vec<AdapterTensor>, TrainError> {
    let path = folder.join(WEIGHTS);
    let content = |message: String| TrainError::Content { path: path.clone(), message };
    let bytes = std::fs::read(&path).map_err(TrainError::io("read", &path))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| content(e.to_string()))?;
    let mut tensors = Vec::new();
    for (name, view) in file.iter() {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => bytemuck::pod_collect_to_vec(data),
            Dtype::BF16 => bytemuck::pod_collect_to_vec::<u8, bf16>(data).iter().map(|v| v.to_f32()).collect(),
            Dtype::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(data).iter().map(|v| v.to_f32()).collect(),
            other => return Err(content(format!("`{name}` is stored as {other:?}; F32, BF16 or F16 is needed"))),
        };
        tensors.push(AdapterTensor { name: name.into(), shape: view.shape().into(), values });
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(tensors)
}

/// Writes a learner's trained tensors as a PEFT adapter.
pub fn write(folder: &Path, config: &AdapterConfig, learner: &dyn Learner) -> Result<(), TrainError> {
    let path = folder.join(WEIGHTS);
    let bad = |e: safetensors::SafeTensorError| TrainError::Content { path: path.clone(), message: e.to_string() };
    let trainable = learner.trainable();
    let mut views = Vec::new();
    for tensor in &trainable {
        let values = learner.values(&tensor.name).ok_or_else(|| lost(&path, &tensor.name))?;
        views.push((tensor.name.clone(), view(values, tensor.shape.clone()).map_err(bad)?));
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    write_tensors(&path, views, metadata)?;
    write_json(&folder.join(CONFIG), &config.to_json())
}

/// Loads an adapter's tensors into a learner: every trained tensor must be there, and nothing else.
pub fn load(folder: &Path, learner: &mut dyn Learner) -> Result<(), TrainError> {
    let mismatch = |message: String| TrainError::Mismatch { path: folder.join(WEIGHTS), message };
    let tensors = read_weights(folder)?;
    let wanted = learner.trainable();
    if let Some(extra) = tensors.iter().find(|tensor| wanted.iter().all(|want| want.name != tensor.name)) {
        return Err(mismatch(format!("it has `{}`, which is not trained here", extra.name)));
    }
    for want in &wanted {
        let found = tensors.iter().find(|tensor| tensor.name == want.name);
        let tensor = found.ok_or_else(|| mismatch(format!("it has no `{}`", want.name)))?;
        if tensor.shape != want.shape {
            return Err(mismatch(format!("`{}` is {:?} there and {:?} here", want.name, tensor.shape, want.shape)));
        }
        let failed = |source: BoxError| TrainError::Restore { what: format!("`{}`", want.name), source };
        learner.set_values(&want.name, &tensor.values).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AdapterConfig {
        AdapterConfig {
            base_model: "base".into(),
            rank: 4,
            alpha: 8.0,
            dropout: 0.05,
            target_modules: TargetModules::Names(vec!["q_proj".into(), "v_proj".into()]),
            modules_to_save: vec!["lm_head".into()],
            init_weights: json!(true),
            rank_stabilised: false,
        }
    }

    #[test]
    fn configurations_survive_a_round_trip() {
        let folder = tempfile::tempdir().unwrap();
        for pattern in [false, true] {
            let mut written = config();
            if pattern {
                written.target_modules = TargetModules::Pattern(r".*\.(q|v)_proj".into());
                written.modules_to_save.clear();
                written.alpha = 2.5;
            }
            write_json(&folder.path().join(CONFIG), &written.to_json()).unwrap();
            assert_eq!(AdapterConfig::read(folder.path()).unwrap(), written);
        }
    }

    #[test]
    fn other_variants_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for (field, value) in
            [("use_dora", json!(true)), ("bias", json!("all")), ("rank_pattern", json!({"q_proj": 2}))]
        {
            let mut json = config().to_json();
            json[field] = value;
            write_json(&folder.path().join(CONFIG), &json).unwrap();
            let error = AdapterConfig::read(folder.path()).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
