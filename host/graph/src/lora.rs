//! The LoRA rewrite: `y = x·Wᵀ` becomes `x·Wᵀ + scale * dropout(x)·Aᵀ·Bᵀ` at every targeted matrix.
//!
//! Because `linear` is the only op that multiplies rows by a matrix parameter (beside embedding and head), a target
//! cannot be missed; a name that matches nothing is an error. Names are PEFT's, so adapters are exchanged unchanged.

use std::collections::{BTreeMap, HashMap};

use crate::error::{BuildError, nearest};
use crate::ir::{Graph, Node, Op, Param, ParamInfo, Type, Value};

/// Ranks beyond this are a slip of the keyboard: no matrix in use is as wide.
const MAX_RANK: usize = 1 << 16;

/// Which matrices get an adapter.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// Every `linear`; not the embedding and not the vocabulary head.
    AllLinear,
    /// Module names as PEFT matches them: the whole path, or its end after a dot.
    Names(Vec<String>),
    /// A regular expression that must match the whole module path.
    Regex(String),
}

/// How A and B start; B is zero unless said otherwise, so that the adapted model equals the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraInit {
    /// A: Kaiming uniform with a = sqrt(5), as PEFT's `init_lora_weights=True`; B: zero.
    Kaiming,
    /// A: normal with deviation 1/rank; B: zero.
    Gaussian,
    /// Both Kaiming uniform, PEFT's `False`: for tests, the adapted model differs from the base at once.
    Random,
}

/// A LoRA tuner.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    pub rank: usize,
    pub alpha: f64,
    pub dropout: f64,
    pub targets: Targets,
    /// Modules trained whole beside the adapters, by the same matching as [`Targets::Names`].
    pub modules_to_save: Vec<String>,
    /// Scale alpha / sqrt(rank) in place of alpha / rank (arXiv 2312.03732).
    pub rslora: bool,
    pub init: LoraInit,
    /// Ranks of single modules (PEFT's `rank_pattern`).
    pub rank_pattern: BTreeMap<String, usize>,
    /// Alphas of single modules (PEFT's `alpha_pattern`).
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Default for LoraConfig {
    /// ms-swift's defaults.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 32.0,
            dropout: 0.05,
            targets: Targets::AllLinear,
            modules_to_save: Vec::new(),
            rslora: false,
            init: LoraInit::Kaiming,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

/// One adapted matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// `model.layers.0.self_attn.q_proj`
    pub module: String,
    /// The frozen matrix `[out, in]`.
    pub weight: Param,
    /// `[rank, in]`
    pub a: Param,
    /// `[out, rank]`
    pub b: Param,
    pub scale: f64,
}

/// The rewritten graph and what was added.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraGraph {
    pub graph: Graph,
    pub adapters: Vec<Adapter>,
    /// Parameters trained whole (`modules_to_save`).
    pub saved: Vec<Param>,
}

/// The module a parameter belongs to: its name without the last part.
pub fn module_of(parameter: &str) -> &str {
    parameter.rsplit_once('.').map_or(parameter, |(module, _)| module)
}

fn names_match(module: &str, names: &[String]) -> Option<usize> {
    names.iter().position(|n| module == n || module.strip_suffix(n.as_str()).is_some_and(|rest| rest.ends_with('.')))
}

fn pattern<T: Copy>(patterns: &BTreeMap<String, T>, module: &str) -> Result<Option<T>, BuildError> {
    for (key, value) in patterns {
        if whole(&format!("(?:.*\\.)?(?:{key})"))?.is_match(module) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn whole(text: &str) -> Result<regex::Regex, BuildError> {
    regex::Regex::new(&format!("^(?:{text})$")).map_err(|e| {
        BuildError::new(format!("`{text}` is not a regular expression: {e}"))
            .hint("it must match whole module paths such as `model.layers.0.self_attn.q_proj`")
    })
}

/// Rewrites `graph`.
///
/// # Errors
/// When a rank is zero, a name or expression matches nothing, or a target is not a `linear`.
pub fn apply(graph: &Graph, config: &LoraConfig) -> Result<LoraGraph, BuildError> {
    if config.rank == 0 {
        return Err(BuildError::new("a LoRA rank of 0 trains nothing").hint("use --lora_rank 8, say"));
    }
    let largest = config.rank_pattern.values().copied().max().unwrap_or(0).max(config.rank);
    if largest > MAX_RANK {
        return Err(BuildError::new(format!("a LoRA rank of {largest}"))
            .hint(format!("ranks are 1 to {MAX_RANK}; 8 to 64 are usual")));
    }
    if !(0.0..1.0).contains(&config.dropout) {
        return Err(
            BuildError::new(format!("lora_dropout is {}", config.dropout)).hint("a probability from 0 to below 1")
        );
    }
    let saved = saved_params(graph, config)?;
    let chosen = choose(graph, config, &saved)?;
    let mut out = Graph {
        nodes: Vec::with_capacity(graph.nodes.len() * 2),
        params: graph.params.clone(),
        streams: graph.streams.clone(),
        scopes: graph.scopes.clone(),
        blocks: graph.blocks.clone(),
        outputs: Vec::new(),
    };
    let mut adapters: Vec<Adapter> = Vec::new();
    let mut by_weight: HashMap<Param, usize> = HashMap::new();
    let mut moved: Vec<Value> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let inputs: Vec<Value> = node.inputs.iter().map(|v| moved[v.index()]).collect();
        let mut push = |op: Op, inputs: Vec<Value>, ty: Type| {
            out.nodes.push(Node { op, inputs, ty, scope: node.scope });
            Value(out.nodes.len() as u32 - 1)
        };
        let base = push(node.op.clone(), inputs.clone(), node.ty.clone());
        let Op::Linear { weight, .. } = node.op else {
            moved.push(base);
            continue;
        };
        if !chosen.contains(&weight) {
            moved.push(base);
            continue;
        }
        let x = inputs[0];
        let shape = graph.param(weight).shape.clone();
        let module = module_of(&graph.param(weight).name).to_owned();
        let rank = pattern(&config.rank_pattern, &module)?.unwrap_or(config.rank);
        let mut x_type = graph.ty(node.inputs[0]).clone();
        let mut source = x;
        if config.dropout > 0.0 {
            let op = Op::Dropout { probability: config.dropout, salt: name_salt(&module) };
            source = push(op, vec![x], x_type.clone());
        }
        let index = match by_weight.get(&weight) {
            Some(&index) => index,
            None => {
                let alpha = pattern(&config.alpha_pattern, &module)?.unwrap_or(config.alpha);
                let divisor = if config.rslora { (rank as f64).sqrt() } else { rank as f64 };
                let mut param = |part: &str, shape: Vec<u32>| {
                    out.params.push(ParamInfo {
                        name: format!("base_model.model.{module}.lora_{part}.weight"),
                        shape,
                        in_checkpoint: false,
                    });
                    Param(out.params.len() as u32 - 1)
                };
                let a = param("A", vec![rank as u32, shape[1]]);
                let b = param("B", vec![shape[0], rank as u32]);
                adapters.push(Adapter { module: module.clone(), weight, a, b, scale: alpha / divisor });
                by_weight.insert(weight, adapters.len() - 1);
                adapters.len() - 1
            }
        };
        let adapter = &adapters[index];
        if let Some(last) = x_type.tail.last_mut() {
            *last = rank as u32;
        }
        out.nodes.push(Node {
            op: Op::Linear { weight: adapter.a, bias: None },
            inputs: vec![source],
            ty: x_type,
            scope: node.scope,
        });
        let low = Value(out.nodes.len() as u32 - 1);
        out.nodes.push(Node {
            op: Op::LinearAdd { weight: adapter.b, scale: adapter.scale },
            inputs: vec![base, low],
            ty: node.ty.clone(),
            scope: node.scope,
        });
        moved.push(Value(out.nodes.len() as u32 - 1));
    }
    out.outputs = graph.outputs.iter().map(|(name, v)| (name.clone(), moved[v.index()])).collect();
    crate::verify::verify(&out)?;
    Ok(LoraGraph { graph: out, adapters, saved })
}

/// A stable number for a name (FNV-1a), so that each module drops other elements.
fn name_salt(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn saved_params(graph: &Graph, config: &LoraConfig) -> Result<Vec<Param>, BuildError> {
    let modules: Vec<&str> = graph.params.iter().map(|p| module_of(&p.name)).collect();
    for name in &config.modules_to_save {
        if !modules.iter().any(|m| names_match(m, std::slice::from_ref(name)).is_some()) {
            let mut error = BuildError::new(format!("modules_to_save: no module is named `{name}`"));
            let ends: Vec<&str> = modules.iter().map(|m| m.rsplit('.').next().unwrap_or(m)).collect();
            if let Some(near) = nearest(name, ends.iter().copied()) {
                error = error.hint(format!("did you mean `{near}`?"));
            } else if name == "lm_head" {
                error = error.hint("this model's head is tied to its embedding: save `embed_tokens` to train both");
            }
            return Err(error);
        }
    }
    Ok(graph
        .params
        .iter()
        .enumerate()
        .filter(|(i, _)| names_match(modules[*i], &config.modules_to_save).is_some())
        .map(|(i, _)| Param(i as u32))
        .collect())
}

fn choose(graph: &Graph, config: &LoraConfig, saved: &[Param]) -> Result<std::collections::HashSet<Param>, BuildError> {
    let mut linears: Vec<Param> = Vec::new();
    let mut others: Vec<Param> = Vec::new();
    for node in &graph.nodes {
        match node.op {
            Op::Linear { weight, .. } => linears.push(weight),
            Op::Embed { table } | Op::Logits { table, .. } => others.push(table),
            _ => {}
        }
    }
    let module = |p: &Param| module_of(&graph.param(*p).name);
    let mut used = Vec::new();
    let matches: Box<dyn Fn(&str) -> bool> = match &config.targets {
        Targets::AllLinear => Box::new(|_| true),
        Targets::Names(names) => {
            used = names.clone();
            let names = names.clone();
            Box::new(move |m| names_match(m, &names).is_some())
        }
        Targets::Regex(text) => {
            let regex = whole(text)?;
            Box::new(move |m| regex.is_match(m))
        }
    };
    if config.targets != Targets::AllLinear
        && let Some(p) = others.iter().find(|p| matches(module(p)) && !saved.contains(p))
    {
        return Err(BuildError::new(format!(
            "`{}` is an embedding or vocabulary head: LoRA on it is not built",
            module(p)
        ))
        .hint("train it whole with --modules_to_save"));
    }
    for name in &used {
        if !linears.iter().any(|p| names_match(module(p), std::slice::from_ref(name)).is_some()) {
            let mut ends: Vec<&str> = linears.iter().map(|p| module(p).rsplit('.').next().unwrap_or("")).collect();
            ends.sort_unstable();
            ends.dedup();
            let near = nearest(name, ends.iter().copied()).map_or(String::new(), |n| format!("did you mean `{n}`? "));
            return Err(BuildError::new(format!("target_modules: no matrix is named `{name}`"))
                .hint(format!("{near}this model has {}", ends.join(", "))));
        }
    }
    let chosen: std::collections::HashSet<Param> =
        linears.into_iter().filter(|p| matches(module(p)) && !saved.contains(p)).collect();
    if chosen.is_empty() {
        return Err(
            BuildError::new("no matrix of this model is targeted by LoRA").hint("use --target_modules all-linear")
        );
    }
    Ok(chosen)
}
