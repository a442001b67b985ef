//! PEFT adapters on disk: `adapter_config.json` (the fields of peft 0.20) and `adapter_model.safetensors`.
//!
//! Written here; read by `swift_hub::peft`, which is the only reader.

use std::{borrow::Cow, collections::HashMap, path::Path};

use serde_json::{Map, Value, json};
use swift_graph::{
    Checkpoint,
    lora::{LoraConfig, LoraInit, Targets},
};
use swift_hub::peft::{Adapter, HEAD, PREFIX};
pub use swift_hub::peft::{CONFIG, WEIGHTS};

use crate::{
    checkpoint::write_json,
    error::TrainError,
    learner::{BoxError, Learner},
    optimizer_files::{values, view, write_tensors},
};

/// What an adapter folder records of its training.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    pub base_model: String,
    pub lora: LoraConfig,
    /// Checkpoint name of an embedding that is trained whole and that the head uses too. Only the model shows it, so
    /// it is not read back.
    pub tied_embedding: Option<String>,
}

impl AdapterConfig {
    /// The JSON of `adapter_config.json`.
    pub fn to_json(&self) -> Value {
        let lora = &self.lora;
        let modules_to_save = if lora.modules_to_save.is_empty() { Value::Null } else { json!(lora.modules_to_save) };
        let alphas: Map<String, Value> =
            lora.alpha_pattern.iter().map(|(module, &alpha)| (module.clone(), number(alpha))).collect();
        let target_modules = match &lora.targets {
            Targets::AllLinear => json!("all-linear"),
            Targets::Names(names) => json!(names),
            Targets::Regex(pattern) => json!(pattern),
        };
        let init = match lora.init {
            LoraInit::Kaiming => json!(true),
            LoraInit::Gaussian => json!("gaussian"),
            LoraInit::Random => json!(false),
        };
        json!({
            "alora_invocation_tokens": null,
            "alpha_pattern": alphas,
            "arrow_config": null,
            "auto_mapping": null,
            "base_model_name_or_path": self.base_model,
            "bias": "none",
            "corda_config": null,
            "ensure_weight_tying": self.tied_embedding.is_some(),
            "eva_config": null,
            "exclude_modules": null,
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": init,
            "layer_replication": null,
            "layers_pattern": null,
            "layers_to_transform": null,
            "loftq_config": {},
            "lora_alpha": number(lora.alpha),
            "lora_bias": false,
            "lora_dropout": lora.dropout,
            "lora_ga_config": null,
            "megatron_config": null,
            "megatron_core": "megatron.core",
            "modules_to_save": modules_to_save,
            "monteclora_config": null,
            "peft_type": "LORA",
            "peft_version": "0.20.0",
            "qalora_group_size": 16,
            "r": lora.rank,
            "rank_pattern": lora.rank_pattern,
            "revision": null,
            "target_modules": target_modules,
            "target_parameters": null,
            "task_type": "CAUSAL_LM",
            "trainable_token_indices": null,
            "use_bdlora": null,
            "use_dora": false,
            "use_qalora": false,
            "use_rslora": lora.rslora,
            "velora_config": null,
        })
    }

    /// Names of the arguments whose values make another adapter of the same weights.
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let (a, b) = (&self.lora, &other.lora);
        let pairs = [
            ("--lora_rank", a.rank != b.rank || a.rank_pattern != b.rank_pattern),
            ("--lora_alpha", a.alpha != b.alpha || a.alpha_pattern != b.alpha_pattern),
            ("--lora_dropout", a.dropout != b.dropout),
            ("--target_modules or --target_regex", a.targets != b.targets),
            ("--modules_to_save", a.modules_to_save != b.modules_to_save),
            ("--use_rslora", a.rslora != b.rslora),
        ];
        pairs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }
}

impl From<&Adapter> for AdapterConfig {
    fn from(adapter: &Adapter) -> Self {
        Self {
            base_model: adapter.base_model.clone().unwrap_or_default(),
            lora: adapter.to_train(),
            tied_embedding: None,
        }
    }
}

/// PEFT writes an integral alpha without a point.
fn number(alpha: f64) -> Value {
    if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) }
}

/// A trained tensor's name in the file: the low-rank matrices have PEFT's prefix in the graph too, modules trained whole
/// have their checkpoint's names there.
fn file_name(name: &str) -> Cow<'_, str> {
    if name.starts_with(PREFIX) { name.into() } else { format!("{PREFIX}{name}").into() }
}

/// Writes a learner's trained tensors as a PEFT adapter.
pub fn write(folder: &Path, config: &AdapterConfig, learner: &dyn Learner) -> Result<(), TrainError> {
    let path = folder.join(WEIGHTS);
    let bad = |e: safetensors::SafeTensorError| TrainError::Content { path: path.clone(), message: e.to_string() };
    let trainable = learner.trainable();
    let values = values(&path, learner, &trainable)?;
    let mut views = Vec::new();
    for (tensor, values) in trainable.iter().zip(&values) {
        views.push((file_name(&tensor.name).into_owned(), view(values, tensor.shape.clone()).map_err(bad)?));
        // PEFT stores a tied head beside its embedding, and does not load without it.
        if config.tied_embedding.as_ref() == Some(&tensor.name) {
            views.push((file_name(HEAD).into_owned(), view(values, tensor.shape.clone()).map_err(bad)?));
        }
    }
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    write_tensors(&path, views, metadata)?;
    write_json(&folder.join(CONFIG), &config.to_json())
}

/// Loads an adapter's tensors into a learner: every trained tensor must be there, and nothing else.
pub fn load(adapter: &Adapter, learner: &mut dyn Learner) -> Result<(), TrainError> {
    let path = adapter.folder.join(WEIGHTS);
    let mismatch = |message: String| TrainError::Mismatch { path: path.clone(), message };
    let weights = adapter.weights();
    let wanted = learner.trainable();
    for held in weights.names() {
        if !adapter.is_copy(&held) && wanted.iter().all(|want| file_name(&want.name) != held) {
            return Err(mismatch(format!("it has `{held}`, which is not trained here")));
        }
    }
    for want in &wanted {
        let name = file_name(&want.name);
        if weights.tensor(&name).is_none() {
            return Err(mismatch(format!("it has no `{name}`")));
        }
        let tensor = weights.bytes(&name)?;
        if tensor.info.shape != want.shape {
            return Err(mismatch(format!("`{name}` is {:?} there and {:?} here", tensor.info.shape, want.shape)));
        }
        let values = tensor
            .to_f32()
            .ok_or_else(|| mismatch(format!("`{name}` is stored as {}, not as floats", tensor.info.dtype.name())))?;
        let failed = |source: BoxError| TrainError::Restore { what: format!("`{name}`"), source };
        learner.set_values(&want.name, &values).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> AdapterConfig {
        AdapterConfig {
            base_model: "base".into(),
            lora: LoraConfig {
                rank: 4,
                alpha: 8.0,
                targets: Targets::Names(vec!["q_proj".into(), "v_proj".into()]),
                modules_to_save: vec!["lm_head".into()],
                ..LoraConfig::default()
            },
            tied_embedding: None,
        }
    }

    /// Reads the configuration back, beside tensors of these names.
    fn read_back(json: &Value, tensors: &[&str]) -> AdapterConfig {
        let folder = tempfile::tempdir().unwrap();
        write_json(&folder.path().join(CONFIG), json).unwrap();
        let views = tensors.iter().map(|name| (file_name(name).into_owned(), view(&[1.0], vec![1]).unwrap())).collect();
        write_tensors(&folder.path().join(WEIGHTS), views, HashMap::new()).unwrap();
        AdapterConfig::from(&Adapter::open(folder.path()).unwrap())
    }

    #[test]
    fn configurations_survive_a_round_trip() {
        let names = config();
        let mut pattern = config();
        pattern.lora.targets = Targets::Regex(r".*\.(q|v)_proj".into());
        pattern.lora.alpha = 2.5;
        pattern.lora.rslora = true;
        pattern.lora.rank_pattern.insert("q_proj".into(), 2);
        pattern.lora.alpha_pattern.insert("layers.0.q_proj".into(), 1.5);
        let mut all = config();
        all.lora.targets = Targets::AllLinear;
        for written in [names, pattern, all] {
            assert_eq!(read_back(&written.to_json(), &["lm_head.weight"]), written);
        }
    }

    /// PEFT's `norm` is also every module whose name ends with it, which the tuner's is not.
    #[test]
    fn modules_that_only_the_end_of_the_text_matches_are_named_in_full() {
        let mut written = config();
        written.lora.modules_to_save = vec!["norm".into()];
        assert_eq!(read_back(&written.to_json(), &["model.norm.weight"]), written);
        let read = read_back(&written.to_json(), &["model.norm.weight", "model.layers.0.input_layernorm.weight"]);
        assert_eq!(read.lora.modules_to_save, ["model.layers.0.input_layernorm", "model.norm"]);
    }
}
