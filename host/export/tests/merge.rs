//! Adapters merged into a tiny model on disk: matrices, whole modules, ties, types, refusals.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use swift_engine::{Batch, InferSession, Placement};
use swift_export::{ExportError, MergeOptions, MergeReport, merge};
use swift_graph::{Builder, Checkpoint, DataType, Graph, StorageType};
use swift_hub::{Model, SavedTensor, peft::Adapter, save_safetensors};

const VOCABULARY: usize = 40;
const WIDTH: usize = 8;
const PREFIX: &str = "base_model.model.";

/// Pseudo-random values that depend on the name alone.
fn values(name: &str, count: usize) -> Vec<f32> {
    let mut state = name.bytes().fold(99u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    let mut draw = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..count).map(|_| draw()).collect()
}

fn write_tensors(folder: &Path, tensors: &[(String, Vec<usize>)], dtype: StorageType) {
    let saved = tensors.iter().map(|(name, shape)| {
        let values = values(name, shape.iter().product());
        let bytes: Vec<u8> = match dtype {
            StorageType::Bf16 => values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Ok(SavedTensor { name: name.clone(), dtype, shape: shape.clone(), bytes: Cow::Owned(bytes) })
    });
    save_safetensors(folder, saved, u64::MAX).unwrap();
}

/// A folder with one layer: norm, q_proj, up_proj, and a head that is tied or not.
fn base(folder: &Path, tied: bool, dtype: StorageType) -> PathBuf {
    let folder = folder.join("base");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("config.json"), json!({ "model_type": "tiny", "tie_word_embeddings": tied }).to_string())
        .unwrap();
    fs::write(folder.join("generation_config.json"), "{}").unwrap();
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, WIDTH]),
        ("model.layers.0.q_proj.weight".to_owned(), vec![WIDTH, WIDTH]),
        ("model.layers.0.up_proj.weight".to_owned(), vec![WIDTH, WIDTH]),
        ("model.norm.weight".to_owned(), vec![WIDTH]),
    ];
    if !tied {
        tensors.push(("lm_head.weight".to_owned(), vec![VOCABULARY, WIDTH]));
    }
    write_tensors(&folder, &tensors, dtype);
    folder
}

fn trace(model: &Model) -> Graph {
    let (vocabulary, width) = (VOCABULARY as u32, WIDTH as u32);
    let mut b = Builder::new(model);
    let text = b.rows("text").unwrap();
    let tokens = b.input("tokens", text, DataType::Int32, &[]).unwrap();
    let table = b.load("model.embed_tokens.weight", &[vocabulary, width]).unwrap();
    let mut x = b.embed(tokens, table).unwrap();
    for name in ["q_proj", "up_proj"] {
        let weight = b.load(&format!("model.layers.0.{name}.weight"), &[width, width]).unwrap();
        let y = b.linear(x, weight, None).unwrap();
        x = b.binary("add", x, y).unwrap();
    }
    let norm = b.load("model.norm.weight", &[width]).unwrap();
    let x = b.rms_norm(x, Some(norm), 1e-5, &[]).unwrap();
    let tied = model.config["tie_word_embeddings"] == json!(true);
    let head = if tied { table } else { b.load("lm_head.weight", &[vocabulary, width]).unwrap() };
    let logits = b.logits(x, head, &[]).unwrap();
    b.output("logits", logits).unwrap();
    b.finish().unwrap()
}

fn open(path: &Path) -> Result<(Arc<Model>, Graph), ExportError> {
    let model = Arc::new(Model::open(path)?);
    let graph = trace(&model);
    Ok((model, graph))
}

/// An adapter of rank 2 on both matrices, with `whole` tensors and changes to its configuration.
fn adapter(folder: &Path, whole: &[&str], changes: Value) -> Adapter {
    try_adapter(folder, whole, changes).unwrap()
}

fn try_adapter(folder: &Path, whole: &[&str], changes: Value) -> Result<Adapter, swift_hub::HubError> {
    let folder = folder.join("adapter");
    fs::create_dir_all(&folder).unwrap();
    let rank = |module: &str| if module == "up_proj" && changes.get("rank_pattern").is_some() { 3 } else { 2 };
    let mut tensors = Vec::new();
    for module in ["q_proj", "up_proj"] {
        tensors.push((format!("{PREFIX}model.layers.0.{module}.lora_A.weight"), vec![rank(module), WIDTH]));
        tensors.push((format!("{PREFIX}model.layers.0.{module}.lora_B.weight"), vec![WIDTH, rank(module)]));
    }
    for name in whole {
        let shape = if name.contains("norm") { vec![WIDTH] } else { vec![VOCABULARY, WIDTH] };
        tensors.push((format!("{PREFIX}{name}"), shape));
    }
    write_tensors(&folder, &tensors, StorageType::F32);
    fs::rename(folder.join("model.safetensors"), folder.join("adapter_model.safetensors")).unwrap();
    let mut config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "up_proj"], "bias": "none" });
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    Adapter::open(&folder)
}

fn options(dtype: Option<StorageType>) -> MergeOptions {
    MergeOptions { dtype, max_shard_bytes: u64::MAX, placement: Placement::default(), exist_ok: false }
}

fn merged_to(folder: &Path, adapter: &Adapter, options: &MergeOptions) -> Result<MergeReport, ExportError> {
    let (model, graph) = open(&folder.join("base"))?;
    merge(&model, &graph, adapter, &folder.join("out"), options, open)
}

fn logits(path: &Path) -> Vec<f32> {
    let (model, graph) = open(path).unwrap();
    InferSession::new(graph, model, &Placement::default()).unwrap().logits(&Batch::of_sequences(&[&[1, 2, 3]])).unwrap()
}

fn entries(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_merged_folder_is_base_plus_scale_b_a() {
    let folder = tempfile::tempdir().unwrap();
    base(folder.path(), true, StorageType::F32);
    let report = merged_to(folder.path(), &adapter(folder.path(), &[], json!({})), &options(None)).unwrap();
    assert_eq!((report.merged_matrices, report.matrices.matrices, report.untied_head), (2, 2, false));
    assert!(report.logits.max_relative_difference < 1e-5, "{report:?}");
    let out = folder.path().join("out");
    assert_eq!(entries(folder.path()), ["adapter", "base", "out"]);
    assert_eq!(entries(&out), ["config.json", "generation_config.json", "merge.json", "model.safetensors"]);
    let record: Value = serde_json::from_str(&fs::read_to_string(out.join("merge.json")).unwrap()).unwrap();
    assert_eq!(record["logits"]["bound"], json!(1e-4));

    let (model, name) = (Model::open(&out).unwrap(), "model.layers.0.q_proj.weight");
    let got = model.weights.bytes(name).unwrap().to_f32().unwrap();
    let w = values(name, 64);
    let a = values(&format!("{PREFIX}model.layers.0.q_proj.lora_A.weight"), 16);
    let b = values(&format!("{PREFIX}model.layers.0.q_proj.lora_B.weight"), 16);
    for i in 0..WIDTH {
        for j in 0..WIDTH {
            let wanted = w[i * WIDTH + j] + 2.0 * (b[i * 2] * a[j] + b[i * 2 + 1] * a[WIDTH + j]);
            assert!((got[i * WIDTH + j] - wanted).abs() < 1e-6);
        }
    }
    let untouched = model.weights.bytes("model.norm.weight").unwrap();
    assert_eq!(untouched.to_f32().unwrap(), values("model.norm.weight", WIDTH));
    let (before, after) = (logits(&folder.path().join("base")), logits(&out));
    assert!(before.iter().zip(&after).any(|(a, b)| (a - b).abs() > 0.1), "the adapter changes nothing");
}

#[test]
fn every_form_of_target_modules_and_patterns_is_read() {
    let q = "model.layers.0.q_proj";
    for (changes, scale) in [
        (json!({ "target_modules": "all-linear" }), 2.0),
        (json!({ "target_modules": ["model.layers.0.q_proj", "layers.0.up_proj"] }), 2.0),
        (json!({ "target_modules": r".*\.(q|up)_proj" }), 2.0),
        (json!({ "target_modules": r"^(model(?=\.).*\.(q_proj|up_proj))$" }), 2.0),
        (json!({ "target_modules": null }), 2.0),
        (json!({ "use_rslora": true }), 4.0 / 2f64.sqrt()),
        (json!({ "alpha_pattern": { "q_proj": 1 } }), 0.5),
        (json!({ "rank_pattern": { "layers.0.up_proj": 3 } }), 2.0),
    ] {
        let folder = tempfile::tempdir().unwrap();
        base(folder.path(), true, StorageType::F32);
        let adapter = adapter(folder.path(), &[], changes.clone());
        let (model, graph) = open(&folder.path().join("base")).unwrap();
        let adapted = adapter.apply(&graph, &model.weights).unwrap();
        let found = adapted.adapters.iter().find(|a| a.module == q).unwrap();
        assert_eq!((adapted.adapters.len(), found.scale), (2, scale), "{changes}");
        merged_to(folder.path(), &adapter, &options(None)).unwrap();
    }
}

#[test]
fn whole_modules_replace_tensors_and_untie_heads() {
    let (embed, head, norm) = ("model.embed_tokens.weight", "lm_head.weight", "model.norm.weight");
    // (tied base, tensors brought whole, extra configuration) -> tensors replaced, head untied, what the head holds
    for (tied, whole, changes, untied, head_values) in [
        (true, vec![norm], json!({ "modules_to_save": ["norm"] }), false, None),
        (false, vec![head], json!({ "modules_to_save": ["lm_head"] }), false, Some(format!("{PREFIX}{head}"))),
        (true, vec![head], json!({ "modules_to_save": ["lm_head"] }), true, Some(format!("{PREFIX}{head}"))),
        // PEFT leaves the head at the base's embedding ...
        (true, vec![embed], json!({ "modules_to_save": ["embed_tokens"] }), true, Some(embed.to_owned())),
        // ... unless told that the two stay one.
        (true, vec![embed], json!({ "modules_to_save": ["embed_tokens"], "ensure_weight_tying": true }), false, None),
    ] {
        let folder = tempfile::tempdir().unwrap();
        base(folder.path(), tied, StorageType::F32);
        let adapter = adapter(folder.path(), &whole, changes.clone());
        let report = merged_to(folder.path(), &adapter, &options(None)).unwrap();
        assert_eq!(
            (report.untied_head, report.replaced.clone()),
            (untied, whole.iter().map(|s| (*s).to_owned()).collect()),
            "{changes}"
        );
        let model = Model::open(&folder.path().join("out")).unwrap();
        assert_eq!(model.config["tie_word_embeddings"], json!(tied && !untied));
        let values_of = |name: &str| model.weights.bytes(name).unwrap().to_f32().unwrap();
        for name in &whole {
            let count = model.tensor(name).unwrap().shape.iter().product();
            assert_eq!(values_of(name), values(&format!("{PREFIX}{name}"), count), "{name}");
        }
        match head_values {
            Some(source) => assert_eq!(values_of(head), values(&source, VOCABULARY * WIDTH)),
            None => assert!(model.tensor(head).is_none() == tied),
        }
    }
}

#[test]
fn types_are_kept_or_converted() {
    for (stored, asked, written) in [
        (StorageType::Bf16, None, StorageType::Bf16),
        (StorageType::Bf16, Some(StorageType::F32), StorageType::F32),
        (StorageType::F32, Some(StorageType::F16), StorageType::F16),
    ] {
        let folder = tempfile::tempdir().unwrap();
        base(folder.path(), true, stored);
        let report = merged_to(folder.path(), &adapter(folder.path(), &[], json!({})), &options(asked)).unwrap();
        let model = Model::open(&folder.path().join("out")).unwrap();
        let types: BTreeMap<String, StorageType> =
            model.names().into_iter().map(|n| (n.clone(), model.tensor(&n).unwrap().dtype)).collect();
        assert!(types.values().all(|&t| t == written), "{types:?}");
        assert!(
            report.matrices.worst_share_of_rounding <= 1.0
                && report.logits.max_relative_difference <= report.logits.bound
        );
    }
}

#[test]
fn shards_are_written_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    base(folder.path(), true, StorageType::F32);
    let options = MergeOptions { max_shard_bytes: 400, ..options(None) };
    merged_to(folder.path(), &adapter(folder.path(), &[], json!({})), &options).unwrap();
    assert!(folder.path().join("out/model.safetensors.index.json").is_file());
}

#[test]
fn a_merge_that_comes_back_different_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    base(folder.path(), true, StorageType::F32);
    let adapter = adapter(folder.path(), &[], json!({}));
    let (model, graph) = open(&folder.path().join("base")).unwrap();
    let out = folder.path().join("out");
    // Read back as the base: the matrices are not merged.
    let back = folder.path().join("base");
    let error = merge(&model, &graph, &adapter, &out, &options(None), |_| open(&back)).unwrap_err();
    assert!(matches!(error, ExportError::Check { .. }) && error.to_string().contains("_proj.weight"), "{error}");
    // Read back through another graph: the matrices are right, the logits are not.
    let error = merge(&model, &graph, &adapter, &out, &options(None), |path| {
        let model = Arc::new(Model::open(path)?);
        let mut graph = trace(&model);
        for node in &mut graph.nodes {
            if let swift_graph::Op::RmsNorm { offset, .. } = &mut node.op {
                *offset = 0.01;
            }
        }
        Ok::<_, ExportError>((model, graph))
    });
    let error = error.unwrap_err();
    assert!(matches!(&error, ExportError::Check { what, .. } if what == "the logits"), "{error}");
    assert_eq!(entries(folder.path()), ["adapter", "base"]);
}

#[test]
fn existing_folders_are_not_overwritten_unasked() {
    let folder = tempfile::tempdir().unwrap();
    base(folder.path(), true, StorageType::F32);
    let adapter = adapter(folder.path(), &[], json!({}));
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    merged_to(folder.path(), &adapter, &options(None)).unwrap(); // empty is fine
    let error = merged_to(folder.path(), &adapter, &options(None)).unwrap_err();
    assert!(matches!(error, ExportError::Exists { .. }) && error.hint().unwrap().contains("--exist_ok"));
    fs::write(out.join("notes.txt"), "mine").unwrap();
    fs::write(out.join("model-00001-of-00002.safetensors"), "stale").unwrap();
    merged_to(folder.path(), &adapter, &MergeOptions { exist_ok: true, ..options(None) }).unwrap();
    assert_eq!(
        entries(&out),
        ["config.json", "generation_config.json", "merge.json", "model.safetensors", "notes.txt"]
    );
    let (model, graph) = open(&folder.path().join("base")).unwrap();
    let onto = merge(
        &model,
        &graph,
        &adapter,
        &folder.path().join("base"),
        &MergeOptions { exist_ok: true, ..options(None) },
        open,
    );
    assert!(matches!(onto.unwrap_err(), ExportError::Overwrites { what: "base model", .. }));
}

#[test]
fn adapters_that_do_not_fit_or_are_not_plain_lora_are_refused_by_name() {
    for (whole, changes, expected) in [
        (vec![], json!({ "use_dora": true }), "use_dora"),
        (vec![], json!({ "bias": "all" }), "bias"),
        (vec![], json!({ "fan_in_fan_out": true }), "fan_in_fan_out"),
        (vec![], json!({ "layers_to_transform": [0] }), "layers_to_transform"),
        (vec![], json!({ "lora_bias": true }), "lora_bias"),
        (vec![], json!({ "peft_type": "LOHA" }), "peft_type LOHA"),
        (vec![], json!({ "init_lora_weights": "pissa" }), "init_lora_weights"),
        (vec![], json!({ "r": 0 }), "`r`"),
        (vec![], json!({ "r": 4 }), "r make it"),
        (
            vec![],
            json!({ "target_modules": ["q_proj"] }),
            "`model.layers.0.up_proj`, which target_modules does not name",
        ),
        (vec![], json!({ "target_modules": ["q_proj", "up_porj"] }), "up_porj"),
        (vec![], json!({ "modules_to_save": ["lm_head"] }), "modules_to_save names `lm_head`"),
        (vec!["model.other_norm.weight"], json!({ "modules_to_save": ["norm"] }), "model.other_norm.weight"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        base(folder.path(), true, StorageType::F32);
        let outcome = try_adapter(folder.path(), &whole, changes.clone()).map_err(ExportError::from);
        let outcome = outcome.and_then(|adapter| merged_to(folder.path(), &adapter, &options(None)));
        let message = outcome.unwrap_err().to_string();
        assert!(message.contains(expected), "{changes}: {message}");
        assert_eq!(entries(folder.path()), ["adapter", "base"]);
    }
}
