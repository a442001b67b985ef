//! PEFT adapters on disk, read: `adapter_config.json` (the fields of peft 0.20) and `adapter_model.safetensors`.
//!
//! An adapter is fitted to a traced graph here because its files and the graph share nothing but names: what the
//! configuration targets, what the file holds and what the graph has must be the same, or it is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use swift_graph::{
    BuildError, Checkpoint, Graph, Op, Param,
    ir::ParamInfo,
    lora::{self, LoraConfig, LoraInit, Targets},
};

use crate::{
    HubError, Weights,
    weights::{expect_object, read_json},
};

/// The configuration's file name.
pub const CONFIG: &str = "adapter_config.json";
/// The weights' file name.
pub const WEIGHTS: &str = "adapter_model.safetensors";

/// What PEFT puts before every module path.
pub const PREFIX: &str = "base_model.model.";
/// The head's checkpoint name in every family that has one of its own.
pub const HEAD: &str = "lm_head.weight";

/// Fields of other variants, with the text value that also means plain LoRA.
const PLAIN: [(&str, &str); 17] = [
    ("bias", "none"),
    ("use_dora", ""),
    ("use_qalora", ""),
    ("use_bdlora", ""),
    ("lora_bias", ""),
    ("fan_in_fan_out", ""),
    ("layers_to_transform", ""),
    ("layers_pattern", ""),
    ("layer_replication", ""),
    ("target_parameters", ""),
    ("trainable_token_indices", ""),
    ("exclude_modules", ""),
    ("alora_invocation_tokens", ""),
    ("arrow_config", ""),
    ("velora_config", ""),
    ("monteclora_config", ""),
    ("megatron_config", ""),
];

/// A LoRA adapter folder.
#[derive(Debug)]
pub struct Adapter {
    pub folder: PathBuf,
    /// `base_model_name_or_path`, if it says.
    pub base_model: Option<String>,
    /// Rank, alpha, targets and patterns. `dropout` is 0 and `modules_to_save` is empty, as for use:
    /// see [`Adapter::to_train`].
    pub lora: LoraConfig,
    /// The dropout it was trained with.
    pub dropout: f64,
    /// Modules the adapter replaces whole, matched by the end of their path.
    pub modules_to_save: Vec<String>,
    /// A replaced embedding is also the tied head's. Without it PEFT leaves the head at the base's values.
    pub ensure_weight_tying: bool,
    weights: Weights,
    pairs: BTreeSet<String>,
    whole: Vec<String>,
}

/// A graph with an adapter in it, and the values its new and replaced parameters take.
#[derive(Debug)]
pub struct Adapted {
    pub graph: Graph,
    pub adapters: Vec<lora::Adapter>,
    /// Parameter name in `graph` and values, for every A and B and every replaced parameter.
    pub values: Vec<(String, Vec<f32>)>,
    /// Checkpoint names of the parameters replaced whole.
    pub replaced: Vec<String>,
    /// The head was tied to the embedding and has got values of its own, under `lm_head.weight`.
    pub untied: bool,
}

impl Adapter {
    /// Reads the configuration and the header of the weights.
    ///
    /// # Errors
    /// When a file is missing or damaged, or the adapter is another kind than plain LoRA.
    pub fn open(folder: &Path) -> Result<Self, HubError> {
        let path = folder.join(CONFIG);
        let (_, json) = read_json(&path)?.ok_or_else(|| HubError::Adapter {
            path: folder.into(),
            message: format!("a PEFT adapter folder has {CONFIG} and {WEIGHTS}, this has no {CONFIG}"),
        })?;
        let config = expect_object(&path, &json)?;
        let content = |message: String| HubError::Adapter { path: path.clone(), message };
        refuse_variants(&path, config)?;
        let weights_path = folder.join(WEIGHTS);
        if !weights_path.is_file() {
            let pickle = folder.join("adapter_model.bin").is_file();
            let why = if pickle { "; adapter_model.bin is a pickle file, which is never read" } else { "" };
            return Err(HubError::Adapter { path: folder.into(), message: format!("it has no {WEIGHTS}{why}") });
        }
        let weights = Weights::open_files(folder, vec![weights_path.clone()])?;
        let (pairs, mut whole) = sort_tensors(&weights_path, &weights)?;
        let number = |field: &str| config.get(field).and_then(Value::as_f64);
        let rank = config.get("r").and_then(Value::as_u64).filter(|&r| r > 0);
        let lora = LoraConfig {
            rank: rank.ok_or_else(|| content("`r` must be a positive whole number".into()))? as usize,
            alpha: number("lora_alpha").ok_or_else(|| content("`lora_alpha` is missing".into()))?,
            dropout: 0.0,
            targets: targets(config.get("target_modules"), &pairs).map_err(content)?,
            modules_to_save: Vec::new(),
            rslora: config.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
            init: LoraInit::Kaiming,
            rank_pattern: patterns(config, "rank_pattern", |v| v.as_u64().filter(|&r| r > 0).map(|r| r as usize))
                .map_err(content)?,
            alpha_pattern: patterns(config, "alpha_pattern", Value::as_f64).map_err(content)?,
        };
        let modules_to_save: Option<Vec<String>> =
            serde_json::from_value(config.get("modules_to_save").cloned().unwrap_or_default())
                .map_err(|_| content("`modules_to_save` must be a list of names".into()))?;
        let modules_to_save = modules_to_save.unwrap_or_default();
        let ensure_weight_tying = config.get("ensure_weight_tying").and_then(Value::as_bool).unwrap_or(false);
        // Beside a tied embedding PEFT stores the head too, which is the same matrix and which no setting names.
        if ensure_weight_tying && !modules_to_save.iter().any(|name| lora::module_of(HEAD).ends_with(name.as_str())) {
            whole.retain(|name| name[PREFIX.len()..] != *HEAD);
        }
        Ok(Self {
            folder: folder.into(),
            base_model: config
                .get("base_model_name_or_path")
                .and_then(Value::as_str)
                .filter(|s| !s.is_empty())
                .map(str::to_owned),
            lora,
            dropout: number("lora_dropout").unwrap_or(0.0),
            modules_to_save,
            ensure_weight_tying,
            weights,
            pairs,
            whole,
        })
    }

    /// The file's tensors, under PEFT's names.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Whether the tensor of this name is the head's copy of a tied embedding, which the file holds too.
    pub fn is_copy(&self, tensor: &str) -> bool {
        tensor.strip_prefix(PREFIX) == Some(HEAD) && !self.whole.iter().any(|name| name == tensor)
    }

    /// The settings to train the adapter further with.
    ///
    /// PEFT matches `modules_to_save` by the end of the text, the tuner by whole parts of the path: where that makes a
    /// difference, the modules that the file holds are named in full.
    pub fn to_train(&self) -> LoraConfig {
        let part =
            |module: &str, name: &String| module.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'));
        let mut held: Vec<String> = self.whole.iter().map(|t| lora::module_of(&t[PREFIX.len()..]).to_owned()).collect();
        held.dedup();
        let by_parts = |module: &String| self.modules_to_save.iter().any(|name| module == name || part(module, name));
        let modules_to_save = if held.iter().all(by_parts) { self.modules_to_save.clone() } else { held };
        LoraConfig { dropout: self.dropout, modules_to_save, ..self.lora.clone() }
    }

    /// The graph to train the adapter further in: `graph`, with a head of its own where the adapter replaces the head
    /// of a tied model.
    ///
    /// # Errors
    /// When the adapter replaces a tied embedding and leaves the head at the base's values.
    pub fn graph_to_train(&self, graph: &Graph) -> Result<Graph, HubError> {
        let mut graph = graph.clone();
        let Some((head, table)) = tied_head(&graph) else { return Ok(graph) };
        let holds = |name: &str| self.whole.iter().any(|tensor| tensor[PREFIX.len()..] == *name);
        if holds(HEAD) {
            give_head(&mut graph, head, table);
        } else if holds(&graph.param(table).name) && !self.ensure_weight_tying {
            return Err(HubError::Unsupported {
                path: self.folder.clone(),
                feature: "training further an adapter that replaces the embedding of a tied model and not its head"
                    .into(),
                instead: "merge it first (`swift merge-lora`) and train the merged model, or train an adapter with \
                          `--modules_to_save embed_tokens` from the start"
                    .into(),
            });
        }
        Ok(graph)
    }

    /// Writes the adapter into `graph` (a trace of the base model whose data is `base`).
    ///
    /// # Errors
    /// When configuration, file and graph do not name the same matrices, or a shape differs.
    pub fn apply(&self, graph: &Graph, base: &Weights) -> Result<Adapted, HubError> {
        let misfit = |message: String| HubError::Adapter { path: self.folder.join(WEIGHTS), message };
        let mut graph = graph.clone();
        let mut values = Vec::new();
        let mut replaced = Vec::new();
        let untied = self.untie(&mut graph, base, &mut values).map_err(|e| e.unwrap_or_else(misfit))?;
        let mut config = self.lora.clone();
        for name in &self.whole {
            let checkpoint = &name[PREFIX.len()..];
            if untied && checkpoint == HEAD {
                replaced.push(HEAD.to_owned());
                continue;
            }
            let param = find(&graph, checkpoint)
                .ok_or_else(|| misfit(format!("it has `{name}`, and the model has no `{checkpoint}`")))?;
            values.push((checkpoint.to_owned(), self.values(name, &graph.param(param).shape)?));
            config.modules_to_save.push(lora::module_of(checkpoint).to_owned());
            replaced.push(checkpoint.to_owned());
        }
        for name in &self.modules_to_save {
            if !self.whole.iter().any(|tensor| lora::module_of(tensor).ends_with(name.as_str())) {
                return Err(misfit(format!("modules_to_save names `{name}`, and no tensor belongs to it")));
            }
        }
        let rewritten = lora::apply(&graph, &config)
            .map_err(|e| HubError::Adapter { path: self.folder.join(CONFIG), message: explained(&e) })?;
        let wanted: BTreeSet<&str> = rewritten.adapters.iter().map(|a| a.module.as_str()).collect();
        if let Some(extra) = self.pairs.iter().find(|module| !wanted.contains(module.as_str())) {
            let why = if find(&graph, &format!("{extra}.weight")).is_some() {
                "which target_modules does not name"
            } else {
                "which the model does not have"
            };
            return Err(misfit(format!("it holds an adapter of `{extra}`, {why}")));
        }
        for adapter in &rewritten.adapters {
            for param in [adapter.a, adapter.b] {
                let info = rewritten.graph.param(param);
                if self.weights.tensor(&info.name).is_none() {
                    return Err(misfit(format!("it has no `{}`, which target_modules asks for", info.name)));
                }
                values.push((info.name.clone(), self.values(&info.name, &info.shape)?));
            }
        }
        Ok(Adapted { graph: rewritten.graph, adapters: rewritten.adapters, values, replaced, untied })
    }

    /// Gives a tied head a parameter of its own when the adapter replaces one of the two and not the other.
    fn untie(
        &self,
        graph: &mut Graph,
        base: &Weights,
        values: &mut Vec<(String, Vec<f32>)>,
    ) -> Result<bool, Result<HubError, String>> {
        let Some((head, table)) = tied_head(graph) else { return Ok(false) };
        let info = graph.param(table).clone();
        let own_head = self.whole.iter().find(|name| name[PREFIX.len()..] == *HEAD);
        let own_table = self.whole.iter().any(|name| name[PREFIX.len()..] == info.name);
        let data = match own_head {
            Some(name) => self.values(name, &info.shape).map_err(Ok)?,
            None if own_table && !self.ensure_weight_tying => {
                let tensor = base.bytes(&info.name).map_err(Ok)?;
                tensor.to_f32().ok_or_else(|| Err(format!("`{}` of the base is not a float tensor", info.name)))?
            }
            None => return Ok(false),
        };
        give_head(graph, head, table);
        values.push((HEAD.into(), data));
        Ok(true)
    }

    fn values(&self, name: &str, shape: &[u32]) -> Result<Vec<f32>, HubError> {
        let misfit = |message: String| HubError::Adapter { path: self.folder.join(WEIGHTS), message };
        let tensor = self.weights.bytes(name)?;
        if tensor.info.shape.len() != shape.len() || tensor.info.shape.iter().zip(shape).any(|(&a, &b)| a != b as usize)
        {
            return Err(misfit(format!("`{name}` is {:?}, the model and r make it {shape:?}", tensor.info.shape)));
        }
        tensor
            .to_f32()
            .ok_or_else(|| misfit(format!("`{name}` is stored as {}, not as floats", tensor.info.dtype.name())))
    }
}

/// The checkpoint name of the embedding when the vocabulary head uses the same table.
pub fn tied_embedding(graph: &Graph) -> Option<&str> {
    tied_head(graph).map(|(_, table)| graph.param(table).name.as_str())
}

/// The head's node and its table, when that is the embedding's.
fn tied_head(graph: &Graph) -> Option<(usize, Param)> {
    let head = graph.nodes.iter().position(|n| matches!(n.op, Op::Logits { .. }))?;
    let table = graph.nodes[head].op.params().first().copied()?;
    let tied = graph.nodes.iter().any(|n| matches!(n.op, Op::Embed { table: t } if t == table));
    tied.then_some((head, table))
}

/// Gives the head at node `head` a parameter of its own, shaped as `table`.
fn give_head(graph: &mut Graph, head: usize, table: Param) {
    let shape = graph.param(table).shape.clone();
    graph.params.push(ParamInfo { name: HEAD.into(), shape, in_checkpoint: false });
    let param = Param(graph.params.len() as u32 - 1);
    graph.nodes[head].op.map_params(|_| param);
}

fn explained(error: &BuildError) -> String {
    error.hint.as_ref().map_or_else(|| error.to_string(), |hint| format!("{error} ({hint})"))
}

fn find(graph: &Graph, name: &str) -> Option<Param> {
    graph.params.iter().position(|p| p.name == name).map(|i| Param(i as u32))
}

fn refuse_variants(path: &Path, config: &Map<String, Value>) -> Result<(), HubError> {
    let refuse = |feature: String| {
        Err(HubError::Unsupported {
            path: path.into(),
            feature: format!("an adapter with {feature}"),
            instead: "merge it with the library that wrote it, or train plain LoRA (bias none, no DoRA)".into(),
        })
    };
    let kind = config.get("peft_type").and_then(Value::as_str).unwrap_or("missing");
    if kind != "LORA" {
        return refuse(format!("peft_type {kind}"));
    }
    for (field, plain) in PLAIN {
        let value = config.get(field).unwrap_or(&Value::Null);
        let empty = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        if !(value.is_null() || empty || *value == json!(false) || value.as_str() == Some(plain)) {
            return refuse(format!("{field} = {value}"));
        }
    }
    // These start from a changed base, which the file does not hold.
    match config.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => Ok(()),
        Some(Value::String(s)) if matches!(s.as_str(), "gaussian" | "eva" | "orthogonal") => Ok(()),
        Some(other) => refuse(format!("init_lora_weights = {other}")),
    }
}

/// Modules that have a pair of matrices, and names of the tensors that replace one whole.
fn sort_tensors(path: &Path, weights: &Weights) -> Result<(BTreeSet<String>, Vec<String>), HubError> {
    let content = |message: String| HubError::Adapter { path: path.into(), message };
    let mut pairs = BTreeSet::new();
    let mut whole = Vec::new();
    for name in weights.names() {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            return Err(content(format!("`{name}` is not a name PEFT gives: it does not begin with {PREFIX}")));
        };
        match rest.strip_suffix(".lora_A.weight").or_else(|| rest.strip_suffix(".lora_B.weight")) {
            Some(module) => drop(pairs.insert(module.to_owned())),
            None if rest.contains(".lora_") => {
                return Err(HubError::Unsupported {
                    path: path.into(),
                    feature: format!("the adapter tensor `{name}`"),
                    instead: "merge it with the library that wrote it, or train plain LoRA on the linear layers".into(),
                });
            }
            None => whole.push(name),
        }
    }
    Ok((pairs, whole))
}

/// `target_modules` in its four forms; without it, the modules the file holds.
fn targets(value: Option<&Value>, pairs: &BTreeSet<String>) -> Result<Targets, String> {
    let held = || Targets::Names(pairs.iter().cloned().collect());
    match value {
        None | Some(Value::Null) => Ok(held()),
        Some(Value::String(text)) if text == "all-linear" => Ok(Targets::AllLinear),
        // Look-around, which ms-swift writes for multimodal models, is Python's own.
        Some(Value::String(pattern))
            if pattern.contains("(?=") || pattern.contains("(?!") || pattern.contains("(?<") =>
        {
            Ok(held())
        }
        Some(Value::String(pattern)) => Ok(Targets::Regex(pattern.clone())),
        Some(Value::Array(names)) => names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .map(Targets::Names)
            .ok_or_else(|| "`target_modules` must be a list of names or one pattern".into()),
        Some(_) => Err("`target_modules` must be a list of names or one pattern".into()),
    }
}

fn patterns<T>(
    config: &Map<String, Value>,
    field: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<BTreeMap<String, T>, String> {
    let Some(map) = config.get(field).filter(|v| !v.is_null()) else { return Ok(BTreeMap::new()) };
    let map = map.as_object().ok_or_else(|| format!("`{field}` must be an object"))?;
    map.iter()
        .map(|(key, value)| {
            Ok((key.clone(), read(value).ok_or_else(|| format!("`{field}`: `{key}` must have a positive number"))?))
        })
        .collect()
}
