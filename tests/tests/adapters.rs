//! PEFT's own adapter folders, read, applied and merged: logits against those PEFT computed (`tests/oracles`).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use swift_engine::{Batch, InferSession, Placement};
use swift_export::{ExportError, MergeOptions, merge};
use swift_graph::Graph;
use swift_hub::{Model, peft::Adapter};
use swift_plugin::{PluginHost, PluginOptions};

fn oracles() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oracles")
}

fn open(path: &Path) -> Result<(Arc<Model>, Graph), ExportError> {
    let model = Arc::new(Model::open(path)?);
    let host = Arc::new(PluginHost::new(PluginOptions::default()).expect("a plugin host"));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/dist/llama.wasm");
    let plugin = host.load(&file).and_then(|plugin| plugin.model()).expect("the plugin loads");
    let graph = plugin.trace(&model.config_text, "causal-lm", model.as_ref()).expect("a trace").graph;
    Ok((model, graph))
}

/// Both sequences of an oracle without padding, and the stored logits of their rows.
fn oracle(path: &Path, logits: &str) -> (Batch, Vec<f64>) {
    let bytes = std::fs::read(path).expect("an oracle");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let integers = |name: &str| -> Vec<i64> {
        let data = file.tensor(name).expect("a tensor").data().to_vec();
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().expect("eight bytes"))).collect()
    };
    let (ids, mask) = (integers("input_ids"), integers("attention_mask"));
    let tensor = file.tensor(logits).expect("logits");
    let width = tensor.shape()[2];
    let values: Vec<f32> =
        tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
    let mut sequences: Vec<Vec<u32>> = vec![Vec::new(); 2];
    let mut wanted = Vec::new();
    for row in (0..ids.len()).filter(|&row| mask[row] == 1) {
        sequences[row / (ids.len() / 2)].push(ids[row] as u32);
        wanted.extend(values[row * width..(row + 1) * width].iter().map(|&v| f64::from(v)));
    }
    (Batch::of_sequences(&[&sequences[0], &sequences[1]]), wanted)
}

fn close(what: &str, got: &[f32], wanted: &[f64]) {
    assert_eq!(got.len(), wanted.len());
    let largest = wanted.iter().fold(0f64, |m, v| m.max(v.abs()));
    let off = got.iter().zip(wanted).fold(0f64, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
    assert!(off <= 4e-5 * largest, "{what}: off by {off:e} of {largest}");
}

#[test]
fn folders_of_peft_give_its_logits_apart_and_merged() {
    for name in ["llama3-lora", "llama3-rslora", "llama3-lora-modules"] {
        let folder = oracles().join(name);
        let (model, graph) = open(&oracles().join("llama3")).expect("the base");
        let adapter = Adapter::open(&folder).expect("an adapter");
        let (batch, wanted) = oracle(&folder.join("oracle.safetensors"), "logits");
        let adapted = adapter.apply(&graph, &model.weights).expect("it fits");
        let mut session = InferSession::new(adapted.graph, model.clone(), &Placement::Cpu).expect("a session");
        for (name, values) in &adapted.values {
            session.set_values(name, values).expect("a parameter");
        }
        close(name, &session.logits(&batch).expect("logits"), &wanted);

        let place = tempfile::tempdir().expect("a folder");
        let out = place.path().join("merged");
        let options =
            MergeOptions { dtype: None, max_shard_bytes: u64::MAX, placement: Placement::default(), exist_ok: false };
        merge(&model, &graph, &adapter, &out, &options, open).expect("a merge");
        let (merged, graph) = open(&out).expect("the merged folder");
        let (batch, wanted) = oracle(&folder.join("oracle.safetensors"), "logits_merged");
        let mut session = InferSession::new(graph, merged, &Placement::Cpu).expect("a session");
        close(&format!("{name}, merged"), &session.logits(&batch).expect("logits"), &wanted);
    }
}
