//! The families against Hugging Face transformers: logits, loss, gradients, packed rows, greedy tokens and AdamW steps
//! of stored tiny checkpoints (`tests/oracles`; the whole set is tried too where it lies beside the project).
//!
//! Tolerances: logits within 2e-5 of the largest, or within 4 times the stored f32 reference's own distance from f64;
//! the loss within 1e-6 relative; every gradient within 1e-4 of its largest element; AdamW's losses within 1e-5.
//! `SWIFT_TEST_DEVICE=cuda:0` runs the same on a GPU in f32, all within 1e-4, and again in bfloat16 ([`bf16`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use swift_author::oracle::Stored;
use swift_engine::{
    AdamWOptions, Batch, Compute, InferSession, MemoryWeights, Placement, TrainOptions, TrainSession, Tuner,
};
use swift_graph::Graph;
use swift_graph::lora::{LoraConfig, Targets, apply};
use swift_plugin::{ModelPlugin, PluginHost, PluginOptions};

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |m: f64, v| m.max(v.abs()))
}

fn distance(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |m: f64, (x, y)| m.max((f64::from(*x) - y).abs()))
}

fn close(what: &str, a: &[f32], b: &[f64], relative: f64, floor: f64) {
    let (off, allowed) = (distance(a, b), (bound(relative) * largest(b)).max(floor));
    assert!(off <= allowed, "{what}: off by {off:e}, allowed {allowed:e}");
}

/// Where the tests run: `SWIFT_TEST_DEVICE`.
fn placement() -> Placement {
    Placement::of_tests(Compute::F32)
}

/// The CPU's bound, or on a GPU in f32 at least 1e-4: its products and exponentials sum in other orders and round otherwise.
fn bound(cpu: f64) -> f64 {
    if placement() == Placement::Cpu { cpu } else { cpu.max(1e-4) }
}

fn plugin_for(family: &str) -> PathBuf {
    let name = ["qwen3", "qwen2", "llama"].into_iter().find(|n| family.starts_with(n)).expect("a family of this test");
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist").join(format!("{name}.wasm"))
}

fn model(family: &str) -> ModelPlugin {
    let host = Arc::new(PluginHost::new(PluginOptions::default()).expect("a plugin host"));
    host.load(&plugin_for(family)).and_then(|plugin| plugin.model()).expect("the plugin loads")
}

/// A file of an oracle.
fn stored(path: &Path) -> Stored {
    Stored::open(path).unwrap_or_else(|error| panic!("{error}"))
}

/// What an oracle holds.
fn held<T>(value: swift_author::Result<T>) -> T {
    value.unwrap_or_else(|error| panic!("{error}"))
}

fn trace(folder: &Path, family: &str, weights: &MemoryWeights) -> Graph {
    let config = std::fs::read_to_string(folder.join("config.json")).expect("config.json");
    let plugin = model(family);
    assert!(plugin.claims(&config).expect("an answer").is_some(), "the plugin claims its family");
    plugin.trace(&config, "causal-lm", weights).expect("a trace").graph
}

fn options(tuner: Tuner, recompute_blocks: bool, weight_decay: f64) -> TrainOptions {
    let optimizer = AdamWOptions { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, decay_norms_and_biases: true };
    TrainOptions { tuner, recompute_blocks, seed: 0, optimizer, placement: placement() }
}

/// Loss and gradients at the start, then the losses of full-batch AdamW steps.
fn check_training(session: &mut TrainSession, oracle: &Stored, batch: &Batch) {
    let tokens = batch.weights.iter().filter(|w| **w != 0.0).count() as f64;
    let mut losses = Vec::new();
    for step in 0..held(oracle.get("adamw.losses")).len() {
        let sums = session.accumulate(batch, (1.0 / tokens) as f32, step as u64).expect("a step");
        losses.push(sums.loss / tokens);
        if step == 0 {
            let reference = held(oracle.get("loss_f64").or_else(|_| oracle.get("loss")))[0];
            assert!((losses[0] - reference).abs() <= bound(1e-6) * reference, "loss {} against {reference}", losses[0]);
            for info in session.trainable() {
                let gradient = session.gradient(&info.name).expect("trained");
                assert!(gradient.iter().any(|g| *g != 0.0), "{} gets no gradient", info.name);
                close(&info.name, &gradient, held(oracle.get(&format!("grad.{}", info.name))), 1e-4, 0.0);
            }
        }
        session.step(1e-3, None).expect("an update");
    }
    for (i, (loss, reference)) in losses.iter().zip(held(oracle.get("adamw.losses"))).enumerate() {
        assert!((loss - reference).abs() <= bound(1e-5) * reference, "AdamW step {i}: loss {loss} against {reference}");
    }
}

fn check_family(root: &Path, family: &str) {
    let lines = swift_author::oracle::check(&model(family), &root.join(family), &placement());
    let lines = lines.unwrap_or_else(|error| panic!("{family}: {error}"));
    assert_eq!(lines.len(), 5, "{lines:?}");
}

/// Sessions of an adapted model with the stored adapter's values, and its oracle with the names of this program.
fn adapted(root: &Path, name: &str, place: &Placement) -> (InferSession, TrainSession, Stored) {
    let base = name.split('-').next().expect("a base");
    let folder = root.join(name);
    let weights = stored(&root.join(base).join("model.safetensors")).weights();
    let oracle = stored(&folder.join("oracle.safetensors"));
    let adapter = stored(&folder.join("adapter_model.safetensors"));
    let text = std::fs::read_to_string(folder.join("adapter_config.json")).expect("adapter_config.json");
    let config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let names = |key: &str| -> Vec<String> {
        let list = config[key].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let lora = LoraConfig {
        rank: config["r"].as_u64().expect("r") as usize,
        alpha: config["lora_alpha"].as_f64().expect("lora_alpha"),
        dropout: 0.0,
        targets: Targets::Names(names("target_modules")),
        modules_to_save: names("modules_to_save"),
        rslora: config["use_rslora"] == true,
        ..LoraConfig::default()
    };
    let graph = trace(&root.join(base), base, &weights);
    let rewritten = apply(&graph, &lora).expect("a rewrite");
    let source = Arc::new(weights);
    let mut infer = InferSession::new(rewritten.graph, source.clone(), place).expect("a session");
    let options = TrainOptions { placement: place.clone(), ..options(Tuner::Lora(lora), true, 0.0) };
    let mut session = TrainSession::new(graph, source, options).expect("a session");
    for info in session.trainable() {
        // A saved module keeps its own name in the graph; PEFT writes it with the adapter's prefix.
        let key = if info.name.starts_with("base_model") {
            info.name.clone()
        } else {
            format!("base_model.model.{}", info.name)
        };
        let values: Vec<f32> = held(adapter.get(&key)).iter().map(|v| *v as f32).collect();
        session.set_values(&info.name, &values).expect("set");
        infer.set_values(&info.name, &values).expect("set");
    }
    let mut renamed = oracle.clone();
    renamed.tensors.clear();
    for (name, value) in &oracle.tensors {
        let plain = name.strip_prefix("grad.base_model.model.").filter(|n| !n.contains("lora_"));
        renamed.tensors.insert(plain.map_or(name.clone(), |n| format!("grad.{n}")), value.clone());
    }
    (infer, session, renamed)
}

fn check_adapter(root: &Path, name: &str) {
    let (mut infer, mut session, oracle) = adapted(root, name, &placement());
    let batch = held(oracle.batch());
    let logits = infer.logits(&batch).expect("logits");
    close("logits", &logits, &held(oracle.real_rows("logits")), 2e-5, 0.0);
    close("merged logits", &logits, &held(oracle.real_rows("logits_merged")), 4e-5, 0.0);
    check_training(&mut session, &oracle, &batch);
}

/// bfloat16 on a GPU against the stored f32. transformers itself in bfloat16 is off by up to 1.2e-2 in logits (relative L2
/// norm), 1.7e-2 of the largest logit in one of them, 6e-4 in the loss and 2.9e-2 in a gradient on these checkpoints; the
/// bounds are about twice that. AdamW's first steps move every weight by the sign of its gradient, which noise can turn:
/// 1e-2 for their losses. Adapters (peft in bfloat16: 1.4e-2, 2.1e-2, 9e-4 and 3.7e-2) have half as much again.
mod bf16 {
    use super::*;

    const LOGITS: f64 = 2.5e-2;
    const LARGEST: f64 = 3.5e-2;
    const LOSS: f64 = 2e-3;
    const GRADIENT: f64 = 6e-2;
    const ADAMW: f64 = 1e-2;

    #[expect(clippy::print_stderr, reason = "a test that skips says so")]
    pub(super) fn place() -> Option<Placement> {
        let place = Placement::of_tests(Compute::Bf16);
        if place == Placement::Cpu {
            eprintln!("skipped: SWIFT_TEST_DEVICE names no GPU");
            return None;
        }
        Some(place)
    }

    /// Norm of the difference over the norm of the reference.
    fn off(a: &[f32], b: &[f64]) -> f64 {
        assert_eq!(a.len(), b.len());
        let error: f64 = a.iter().zip(b).map(|(x, y)| (f64::from(*x) - y).powi(2)).sum();
        (error / b.iter().map(|y| y * y).sum::<f64>().max(1e-60)).sqrt()
    }

    fn close_logits(what: &str, a: &[f32], b: &[f64], slack: f64) {
        let (together, one) = (off(a, b), distance(a, b) / largest(b));
        assert!(
            together <= slack * LOGITS && one <= slack * LARGEST,
            "{what}: off by {together:.2e}, allowed {:.1e}; one by {one:.2e} of the largest, allowed {:.1e}",
            slack * LOGITS,
            slack * LARGEST
        );
    }

    fn check_training(what: &str, session: &mut TrainSession, oracle: &Stored, batch: &Batch, slack: f64) {
        let tokens = batch.weights.iter().filter(|w| **w != 0.0).count() as f64;
        for (step, reference) in held(oracle.get("adamw.losses")).iter().enumerate() {
            let loss = session.accumulate(batch, (1.0 / tokens) as f32, step as u64).expect("a step").loss / tokens;
            let (off_by, allowed) =
                ((loss - reference).abs() / reference, slack * if step == 0 { LOSS } else { ADAMW });
            assert!(
                off_by <= allowed,
                "{what}, step {step}: loss {loss} for {reference}: {off_by:.1e} > {allowed:.1e}"
            );
            if step == 0 {
                let wrong: Vec<String> = session
                    .trainable()
                    .iter()
                    .map(|info| {
                        let gradient = session.gradient(&info.name).expect("trained");
                        (off(&gradient, held(oracle.get(&format!("grad.{}", info.name)))), info.name.clone())
                    })
                    .filter(|(off, _)| *off > slack * GRADIENT || off.is_nan())
                    .map(|(off, name)| format!("{name} {off:.2e}"))
                    .collect();
                assert!(wrong.is_empty(), "{what}: gradients off by more than {:.1e}: {wrong:?}", slack * GRADIENT);
            }
            session.step(1e-3, None).expect("an update");
        }
    }

    pub(super) fn check_family(root: &Path, family: &str, place: &Placement) {
        let folder = root.join(family);
        let weights = stored(&folder.join("model.safetensors")).weights();
        let oracle = stored(&folder.join("oracle.safetensors"));
        let graph = trace(&folder, family, &weights);
        let source = Arc::new(weights);
        let mut infer = InferSession::new(graph.clone(), source.clone(), place).expect("a session");
        let batch = held(oracle.batch());
        let logits = infer.logits(&batch).expect("logits");
        close_logits(&format!("{family}: logits"), &logits, &held(oracle.real_rows("logits")), 1.0);
        let ids = held(oracle.ids("packed.input_ids"));
        let packed = infer.logits(&Batch::of_sequences(&[&ids[..13], &ids[13..]])).expect("logits");
        close_logits(&format!("{family}: packed logits"), &packed, held(oracle.get("packed.logits")), 1.0);

        // Along the stored answer: another token may only be the likeliest where the first two are nearly alike. The f32
        // session's own answer is held to the stored one by the other tests.
        let mut cpu = InferSession::new(graph.clone(), source.clone(), &Placement::Cpu).expect("a session");
        let (here, there) = (infer.start().expect("a sequence"), cpu.start().expect("a sequence"));
        let mut next = held(oracle.ids("greedy.prompt"));
        for (i, token) in held(oracle.ids("greedy.tokens")).into_iter().enumerate() {
            let row = infer.extend(&[(here, &next)]).expect("logits").remove(0);
            let want = cpu.extend(&[(there, &next)]).expect("logits").remove(0);
            let exact: Vec<f64> = want.iter().map(|x| f64::from(*x)).collect();
            close_logits(&format!("{family}: cached logits of token {i}"), &row, &exact, 1.0);
            let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).expect("a token");
            let gap = exact[token as usize] - exact[best];
            let allowed = LARGEST * largest(&exact);
            assert!(gap <= allowed, "{family}: token {i} is {best}, not {token}, {gap:.3} above; allowed {allowed:.3}");
            next = vec![token];
        }

        for recompute in [false, true] {
            let options = TrainOptions { placement: place.clone(), ..options(Tuner::Full, recompute, 0.01) };
            let mut session = TrainSession::new(graph.clone(), source.clone(), options).expect("a session");
            check_training(family, &mut session, &oracle, &batch, 1.0);
        }
    }

    pub(super) fn check_adapter(root: &Path, name: &str, place: &Placement) {
        let (mut infer, mut session, oracle) = adapted(root, name, place);
        let batch = held(oracle.batch());
        let logits = infer.logits(&batch).expect("logits");
        close_logits(&format!("{name}: logits"), &logits, &held(oracle.real_rows("logits")), 1.5);
        check_training(name, &mut session, &oracle, &batch, 1.5);
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles")
}

#[test]
fn qwen3() {
    check_family(&here(), "qwen3");
}

#[test]
fn qwen2_tied() {
    check_family(&here(), "qwen2-tied");
}

#[test]
fn llama3() {
    check_family(&here(), "llama3");
}

#[test]
fn adapters() {
    for name in ["llama3-lora", "llama3-rslora", "llama3-lora-modules"] {
        check_adapter(&here(), name);
    }
}

#[test]
fn families_in_bf16() {
    let Some(place) = bf16::place() else { return };
    for family in ["qwen3", "qwen2-tied", "llama3"] {
        bf16::check_family(&here(), family, &place);
    }
}

#[test]
fn adapters_in_bf16() {
    let Some(place) = bf16::place() else { return };
    for name in ["llama3-lora", "llama3-rslora", "llama3-lora-modules"] {
        bf16::check_adapter(&here(), name, &place);
    }
}

/// The whole set, where it lies beside the project.
#[test]
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
fn all_stored_oracles_of_these_families() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracles");
    if !root.is_dir() {
        eprintln!("skipped: there is no ../shared/oracles");
        return;
    }
    for family in ["qwen3", "qwen2", "qwen2-tied", "llama2", "llama3"] {
        check_family(&root, family);
    }
    for base in ["qwen2", "llama3"] {
        for kind in ["lora", "rslora", "lora-modules"] {
            check_adapter(&root, &format!("{base}-{kind}"));
        }
    }
}
