//! Lowered programs and their layouts, without a GPU: every rewrite must leave a program in which each slot is written
//! once and before it is read, and a layout in which no two live slots overlap.

use std::collections::{HashMap, HashSet};

use swift_graph::checkpoint::{StorageType, TableCheckpoint, TensorInfo};
use swift_graph::lora::{LoraConfig, LoraGraph, apply};
use swift_graph::program::{Program, Purpose, Slot};
use swift_graph::{Builder, DataType, Graph};
use swift_kernels::cuda::Dtype;

use super::adapters;
use super::decode;
use super::execute::layout;
use super::lower::{Kernel, Lowered};

/// Two blocks in Qwen3's shape: width 64, 4 query heads and 2 key heads of 16, norms of the heads if asked.
fn model(head_norms: bool) -> Graph {
    let shapes: [(&str, &[usize]); 11] = [
        ("q", &[64, 64]),
        ("k", &[32, 64]),
        ("v", &[32, 64]),
        ("o", &[64, 64]),
        ("gate", &[96, 64]),
        ("up", &[96, 64]),
        ("down", &[64, 96]),
        ("norm1", &[64]),
        ("norm2", &[64]),
        ("q_norm", &[16]),
        ("k_norm", &[16]),
    ];
    let mut table = TableCheckpoint::default();
    let mut insert = |name: String, shape: &[usize]| {
        table.0.insert(name, TensorInfo { shape: shape.to_vec(), dtype: StorageType::F32 });
    };
    for i in 0..2 {
        shapes.iter().for_each(|(name, shape)| insert(format!("layers.{i}.{name}.weight"), shape));
    }
    insert("embed.weight".into(), &[32, 64]);
    insert("norm.weight".into(), &[64]);
    let mut b = Builder::new(&table);
    let text = b.rows("text").unwrap();
    let tokens = b.input("tokens", text, DataType::Int32, &[]).unwrap();
    let positions = b.input("positions", text, DataType::Int32, &[]).unwrap();
    let embedding = b.load("embed.weight", &[32, 64]).unwrap();
    let mut h = b.embed(tokens, embedding).unwrap();
    for i in 0..2 {
        b.enter(&format!("layers.{i}"), "block").unwrap();
        let load =
            |b: &mut Builder, name: &str, shape: &[u32]| b.load(&format!("layers.{i}.{name}.weight"), shape).unwrap();
        let norm = load(&mut b, "norm1", &[64]);
        let x = b.rms_norm(h, Some(norm), 1e-6, &[]).unwrap();
        let project = |b: &mut Builder, name: &str, heads: u32| {
            let weight = load(b, name, &[heads * 16, 64]);
            let y = b.linear(x, weight, None).unwrap();
            b.reshape(y, &[heads, 16]).unwrap()
        };
        let (mut q, mut k, v) = (project(&mut b, "q", 4), project(&mut b, "k", 2), project(&mut b, "v", 2));
        if head_norms {
            let (qn, kn) = (load(&mut b, "q_norm", &[16]), load(&mut b, "k_norm", &[16]));
            q = b.rms_norm(q, Some(qn), 1e-6, &[]).unwrap();
            k = b.rms_norm(k, Some(kn), 1e-6, &[]).unwrap();
        }
        let q = b.rope(q, positions, 16, 1e4, &[]).unwrap();
        let k = b.rope(k, positions, 16, 1e4, &[]).unwrap();
        let mask = b.mask_causal();
        let a = b.attention(q, k, v, mask, 0.25, &[]).unwrap();
        let a = b.reshape(a, &[64]).unwrap();
        let weight = load(&mut b, "o", &[64, 64]);
        let o = b.linear(a, weight, None).unwrap();
        h = b.binary("add", h, o).unwrap();
        let norm = load(&mut b, "norm2", &[64]);
        let x = b.rms_norm(h, Some(norm), 1e-6, &[]).unwrap();
        let (gate, up) = (load(&mut b, "gate", &[96, 64]), load(&mut b, "up", &[96, 64]));
        let (gate, up) = (b.linear(x, gate, None).unwrap(), b.linear(x, up, None).unwrap());
        let m = b.glu(gate, up, "silu").unwrap();
        let weight = load(&mut b, "down", &[64, 96]);
        let d = b.linear(m, weight, None).unwrap();
        h = b.binary("add", h, d).unwrap();
        b.exit().unwrap();
    }
    let norm = b.load("norm.weight", &[64]).unwrap();
    let h = b.rms_norm(h, Some(norm), 1e-6, &[]).unwrap();
    b.output("hidden", h).unwrap();
    let logits = b.logits(h, embedding, &[]).unwrap();
    b.output("logits", logits).unwrap();
    b.finish().unwrap()
}

fn check(lowered: &Lowered, rows: usize) {
    let mut written: HashSet<Slot> = lowered.inputs.iter().map(|(_, slot)| *slot).collect();
    let layout = layout(lowered, rows);
    let bytes = |slot: Slot| {
        let info = lowered.slots[slot.0 as usize];
        info.width * if info.has_rows { rows } else { 1 } * lowered.types[slot.0 as usize].size()
    };
    let mut live: HashMap<Slot, (usize, usize)> = HashMap::new();
    for (i, (step, kernel)) in lowered.steps.iter().zip(&lowered.kernels).enumerate() {
        for slot in &step.inputs {
            assert!(written.contains(slot), "step {i} ({kernel:?}) reads {slot:?}, which nothing wrote: {step:?}");
        }
        let reused = step.accumulate.filter(|_| step.reuse).map(|a| step.inputs[a]);
        for (o, slot) in step.outputs.iter().enumerate() {
            assert!(written.insert(*slot), "step {i} ({kernel:?}) writes {slot:?} again");
            let start = layout.offsets[slot.0 as usize].expect("a place");
            let range = (start, start + bytes(*slot));
            if let Some(reused) = reused.filter(|_| o == 0) {
                assert_eq!(live.remove(&reused), Some(range), "step {i} ({kernel:?}) grows what it reuses");
            }
            for (other, (from, to)) in &live {
                let apart = range.1 <= *from || *to <= range.0;
                assert!(apart, "step {i} ({kernel:?}): {slot:?} lies over {other:?}");
            }
            assert!(range.1 <= layout.bytes);
            live.insert(*slot, range);
        }
        for slot in &step.frees {
            live.remove(slot);
        }
    }
}

fn adapted(graph: &Graph, dropout: f64, targets: &[&str]) -> LoraGraph {
    let targets = match targets {
        [] => swift_graph::lora::Targets::AllLinear,
        names => swift_graph::lora::Targets::Names(names.iter().map(|n| (*n).to_owned()).collect()),
    };
    apply(graph, &LoraConfig { rank: 8, dropout, targets, ..LoraConfig::default() }).unwrap()
}

fn lowered(lora: &LoraGraph, recompute_blocks: bool, dense: bool) -> Lowered {
    let trainable = lora.adapters.iter().flat_map(|a| [a.a, a.b]).collect();
    let program = Program::new(&lora.graph, &Purpose::Training { trainable, recompute_blocks }).unwrap();
    let groups = adapters::groups(&program, &lora.graph, &lora.adapters, 64, dense);
    Lowered::fused(&program, &lora.graph, Dtype::Bf16, &groups)
}

fn count(lowered: &Lowered, of: impl Fn(&Kernel) -> bool) -> usize {
    lowered.kernels.iter().filter(|kernel| of(kernel)).count()
}

#[test]
fn lowered_training_programs_are_sound() {
    for head_norms in [true, false] {
        let graph = model(head_norms);
        for (dropout, targets) in [(0.0, &[][..]), (0.1, &[]), (0.0, &["q", "v"]), (0.0, &["down", "k", "gate"])] {
            let lora = adapted(&graph, dropout, targets);
            for (recompute, dense) in [(false, true), (true, true), (false, false), (true, false)] {
                check(&lowered(&lora, recompute, dense), 48);
            }
        }
        let trainable = (0..graph.params.len() as u32).map(swift_graph::Param).collect();
        for recompute_blocks in [false, true] {
            let purpose = Purpose::Training { trainable: HashSet::clone(&trainable), recompute_blocks };
            check(&Lowered::fused(&Program::new(&graph, &purpose).unwrap(), &graph, Dtype::F32, &[]), 48);
        }
    }
}

#[test]
fn adapters_ride_on_their_matrices() {
    let lora = adapted(&model(true), 0.0, &[]);
    for recompute in [false, true] {
        let lowered = lowered(&lora, recompute, true);
        let passes = if recompute { 2 } else { 1 };
        // q, k, v and gate, up of both layers; o and down read what no norm makes.
        assert_eq!(count(&lowered, |k| matches!(k, Kernel::Augmented { .. })), 10 * passes);
        assert_eq!(count(&lowered, |k| matches!(k, Kernel::AdapterGrad { .. })), 14);
        assert_eq!(count(&lowered, |k| matches!(k, Kernel::LowRankGradA { .. })), 8);
        assert_eq!(count(&lowered, |k| matches!(k, Kernel::NormRopeGrad { .. })), 4);
        // Whole blocks again read it once more, for the low product.
        assert_eq!(count(&lowered, |k| matches!(k, Kernel::GluGradOutput)), if recompute { 0 } else { 2 });
    }
    // With dropout each adapter reads a value of its own.
    let lora = adapted(&model(true), 0.1, &[]);
    assert_eq!(count(&lowered(&lora, false, true), |k| matches!(k, Kernel::Augmented { .. })), 0);
    // Quantised matrices have no room behind them; their adapters still share products.
    let lora = adapted(&model(true), 0.0, &[]);
    let quantised = lowered(&lora, false, false);
    assert_eq!(count(&quantised, |k| matches!(k, Kernel::Augmented { .. })), 0);
    assert_eq!(count(&quantised, |k| matches!(k, Kernel::LowRank { .. })), 8);
}

#[test]
fn lowered_decode_programs_are_sound() {
    for head_norms in [true, false] {
        let graph = model(head_norms);
        let program = Program::new(&graph, &Purpose::Inference).unwrap();
        for few in [true, false] {
            let lowered = decode::decode(&program, &graph, Dtype::Bf16, few, |_| true);
            check(&lowered, 3);
            let fused = |lowered: &Lowered| count(lowered, |k| matches!(k, Kernel::Decode(_)));
            assert_eq!(fused(&lowered), if few { 10 } else { 2 }, "few {few}");
            if few {
                // Embedding, five for each layer, the last norm.
                assert_eq!(lowered.steps.len(), 12);
            }
        }
        let lora = adapted(&graph, 0.0, &[]);
        let program = Program::new(&lora.graph, &Purpose::Inference).unwrap();
        check(&decode::decode(&program, &lora.graph, Dtype::Bf16, true, |_| true), 3);
        check(&Lowered::fused(&program, &lora.graph, Dtype::Bf16, &[]), 7);
    }
}
