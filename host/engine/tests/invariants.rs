//! Invariants of the design that belong to the engine.

mod common;

use std::sync::Arc;

use common::{bound, decoder, placement, relative};
use swift_engine::{AdamWOptions, Batch, EngineError, InferSession, TrainOptions, TrainSession, Tuner};
use swift_graph::lora::{LoraConfig, LoraInit, Targets, apply};
use swift_graph::program::{Action, Phase, Program, Purpose};

const SEQUENCES: [&[u32]; 3] = [&[3, 1, 4, 1, 5, 9, 2], &[6, 5, 3], &[5, 8, 9, 7, 9, 3, 2, 3, 8, 4]];

fn labelled(sequences: &[&[u32]]) -> Batch {
    let mut batch = Batch::of_sequences(sequences);
    let mut row = 0;
    for sequence in sequences {
        for i in 0..sequence.len() - 1 {
            batch.targets[row + i] = sequence[i + 1];
            batch.weights[row + i] = if i == 0 { 0.0 } else { 1.0 };
        }
        row += sequence.len();
    }
    batch
}

fn train(tuner: Tuner, recompute_blocks: bool) -> TrainSession {
    let (graph, weights) = decoder(None);
    let options =
        TrainOptions { tuner, recompute_blocks, seed: 1, optimizer: AdamWOptions::default(), placement: placement() };
    TrainSession::new(graph, Arc::new(weights), options).expect("a session")
}

fn lora(dropout: f64, init: LoraInit) -> Tuner {
    Tuner::Lora(LoraConfig { rank: 2, dropout, init, ..LoraConfig::default() })
}

fn gradients(session: &TrainSession) -> Vec<f32> {
    session.trainable().iter().flat_map(|t| session.gradient(&t.name).expect("trained").to_vec()).collect()
}

/// Packed, one at a time and accumulated, and in another order: f32 sums of the same numbers in another order, 1e-5.
#[test]
fn packed_equals_unpacked_equals_accumulated() {
    for tuner in [Tuner::Full, lora(0.0, LoraInit::Random)] {
        let mut packed = train(tuner.clone(), false);
        let together = packed.accumulate(&labelled(&SEQUENCES), 0.1, 0).expect("a step");
        let mut single = train(tuner.clone(), false);
        let mut apart = 0.0;
        for sequence in SEQUENCES.iter().rev() {
            apart += single.accumulate(&labelled(&[sequence]), 0.1, 0).expect("a step").loss;
        }
        assert!((together.loss - apart).abs() < bound(1e-5) * apart);
        let reference: Vec<f64> = gradients(&single).iter().map(|g| f64::from(*g)).collect();
        assert!(relative(&gradients(&packed), &reference) < bound(1e-5));
    }
}

#[test]
fn recomputation_changes_no_bit() {
    for tuner in [Tuner::Full, lora(0.3, LoraInit::Random)] {
        let run = |recompute| {
            let mut session = train(tuner.clone(), recompute);
            for step in 0..3 {
                session.accumulate(&labelled(&SEQUENCES), 0.1, step).expect("a step");
                session.step(1e-2, Some(1.0)).expect("an update");
            }
            session
                .trainable()
                .iter()
                .flat_map(|t| session.values(&t.name).expect("trained").to_vec())
                .collect::<Vec<f32>>()
        };
        assert_eq!(run(false), run(true));
    }
}

#[test]
fn recomputation_keeps_only_the_edges_of_blocks() {
    let (graph, _) = decoder(None);
    let lora = apply(&graph, &LoraConfig::default()).expect("a rewrite");
    let trainable = lora.adapters.iter().flat_map(|a| [a.a, a.b]).collect();
    let program = |recompute_blocks| {
        Program::new(
            &lora.graph,
            &Purpose::Training { trainable: std::collections::HashSet::clone(&trainable), recompute_blocks },
        )
        .expect("a program")
    };
    let (kept, again) = (program(false), program(true));
    assert!(again.peak_bytes(512) < kept.peak_bytes(512), "recomputation must save memory");
    let matmuls =
        |p: &Program| p.steps.iter().filter(|s| s.phase == Phase::Recompute && s.action == Action::Forward).count();
    assert!(matmuls(&again) > matmuls(&kept));
    // No gradient is computed for what is frozen.
    for step in &kept.steps {
        if let Action::LinearGradWeight { weight, .. } = step.action {
            assert!(lora.graph.param(weight).name.contains("lora_"));
        }
        assert!(!matches!(step.action, Action::EmbedGrad { .. }));
    }
}

#[test]
fn zero_b_equals_the_base_and_every_adapter_learns() {
    let mut base = train(Tuner::Full, false);
    let mut adapted = train(lora(0.0, LoraInit::Kaiming), false);
    let batch = labelled(&SEQUENCES);
    assert_eq!(base.evaluate(&batch).expect("a loss"), adapted.evaluate(&batch).expect("a loss"));
    // B is zero, so the first step moves every B; then every A has a gradient too.
    adapted.accumulate(&batch, 0.1, 0).expect("a step");
    for adapter in adapted.adapters().to_vec() {
        let name = format!("base_model.model.{}.lora_B.weight", adapter.module);
        assert!(adapted.gradient(&name).expect("trained").iter().any(|g| *g != 0.0), "{name}");
    }
    adapted.step(1e-2, None).expect("an update");
    adapted.accumulate(&batch, 0.1, 1).expect("a step");
    for info in adapted.trainable() {
        assert!(adapted.gradient(&info.name).expect("trained").iter().any(|g| *g != 0.0), "{}", info.name);
    }
}

#[test]
fn targets_are_found_or_refused() {
    let (graph, _) = decoder(None);
    let count = |targets| apply(&graph, &LoraConfig { targets, ..LoraConfig::default() }).map(|l| l.adapters.len());
    assert_eq!(count(Targets::AllLinear).unwrap(), 14);
    assert_eq!(count(Targets::Names(vec!["q".into(), "layers.1.v".into()])).unwrap(), 3);
    assert_eq!(count(Targets::Regex(r"layers\.0\.(q|k)".into())).unwrap(), 2);
    let error = count(Targets::Names(vec!["gat".into()])).unwrap_err();
    assert!(error.message.contains("`gat`") && error.hint.as_deref().unwrap_or("").contains("`gate`"), "{error:?}");
    assert!(count(Targets::Regex("nothing".into())).is_err());
    assert!(count(Targets::Names(vec!["head".into()])).is_err(), "a LoRA on the head would be silently missing");
    let saved = apply(&graph, &LoraConfig { modules_to_save: vec!["head".into()], ..LoraConfig::default() }).unwrap();
    assert_eq!(saved.saved.len(), 1);
}

/// f32 attention over a cache sums in another order than over a whole sequence: 1e-5.
#[test]
fn cached_decode_equals_the_full_forward() {
    for window in [None, Some(2)] {
        let (graph, weights) = decoder(window);
        let mut session = InferSession::new(graph, Arc::new(weights), &placement()).expect("a session");
        let full: Vec<Vec<f32>> =
            SEQUENCES.iter().map(|s| session.logits(&Batch::of_sequences(&[s])).expect("logits")).collect();
        let ids: Vec<_> = SEQUENCES.iter().map(|_| session.start().expect("a sequence")).collect();
        // A prompt of two tokens at once, then token by token, all sequences together while they last.
        let work: Vec<_> = ids.iter().zip(SEQUENCES).map(|(id, s)| (*id, &s[..2])).collect();
        let mut got = session.extend(&work).expect("logits");
        for at in 2.. {
            for (i, row) in got.iter().enumerate().filter(|(_, r)| !r.is_empty()) {
                let reference: Vec<f64> = full[i][(at - 1) * 17..at * 17].iter().map(|x| f64::from(*x)).collect();
                assert!(relative(row, &reference) < bound(1e-5), "sequence {i}, token {at}");
            }
            let work: Vec<_> =
                ids.iter().zip(SEQUENCES).filter(|(_, s)| at < s.len()).map(|(id, s)| (*id, &s[at..=at])).collect();
            if work.is_empty() {
                break;
            }
            let rows = session.extend(&work).expect("logits");
            let mut rows = rows.into_iter();
            got = SEQUENCES
                .iter()
                .map(|s| if at < s.len() { rows.next().unwrap_or_default() } else { Vec::new() })
                .collect();
        }
        assert!(session.cache_bytes() > 0);
        ids.into_iter().for_each(|id| session.end(id));
        assert_eq!(session.cache_bytes(), 0);
    }
}

#[test]
fn long_prompts_are_run_in_chunks() {
    let (graph, weights) = decoder(None);
    let mut session = InferSession::new(graph, Arc::new(weights), &placement()).expect("a session");
    let prompt: Vec<u32> = (0..1300).map(|i| i * 7 % 17).collect();
    let full = session.logits(&Batch::of_sequences(&[&prompt])).expect("logits");
    let id = session.start().expect("a sequence");
    let last = session.extend(&[(id, &prompt)]).expect("logits");
    let reference: Vec<f64> = full[1299 * 17..].iter().map(|x| f64::from(*x)).collect();
    assert!(relative(&last[0], &reference) < bound(1e-5));
}

#[test]
fn steps_repeat_to_the_bit_with_any_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let mut session = train(lora(0.2, LoraInit::Kaiming), true);
            for step in 0..3 {
                session.accumulate(&labelled(&SEQUENCES), 0.1, step).expect("a step");
                session.step(1e-2, Some(1.0)).expect("an update");
            }
            session
                .trainable()
                .iter()
                .flat_map(|t| session.values(&t.name).expect("trained").to_vec())
                .collect::<Vec<f32>>()
        })
    };
    let one = run(1);
    assert_eq!(one, run(1));
    assert_eq!(one, run(2));
}

#[test]
fn optimizer_state_restores_to_the_bit() {
    let batch = labelled(&SEQUENCES);
    let mut whole = train(Tuner::Full, false);
    let mut first = train(Tuner::Full, false);
    for step in 0..4 {
        whole.accumulate(&batch, 0.1, step).expect("a step");
        whole.step(1e-2, Some(1.0)).expect("an update");
        if step < 2 {
            first.accumulate(&batch, 0.1, step).expect("a step");
            first.step(1e-2, Some(1.0)).expect("an update");
        }
    }
    let mut second = train(Tuner::Full, false);
    for info in first.trainable() {
        second.set_values(&info.name, &first.values(&info.name).expect("trained")).expect("set");
    }
    let (steps, state) = first.optimizer_state().expect("the state");
    let state: Vec<_> = state.into_iter().map(|(n, a, b)| (n, a.to_vec(), b.to_vec())).collect();
    second.set_optimizer_state(steps, &state).expect("set");
    for step in 2..4 {
        second.accumulate(&batch, 0.1, step).expect("a step");
        second.step(1e-2, Some(1.0)).expect("an update");
    }
    for info in whole.trainable() {
        assert_eq!(whole.values(&info.name), second.values(&info.name), "{}", info.name);
    }
}

#[test]
fn norms_and_biases_do_not_decay() {
    let mut session = train(Tuner::Full, false);
    let batch = labelled(&SEQUENCES);
    let before = session.values("norm.weight").expect("trained").to_vec();
    let matrix = session.values("head.weight").expect("trained").to_vec();
    // A learning rate with all gradients clipped away leaves the decay alone.
    session.accumulate(&batch, 0.0, 0).expect("a step");
    session.step(1e-1, None).expect("an update");
    assert_eq!(before, *session.values("norm.weight").expect("trained"));
    assert_ne!(matrix, *session.values("head.weight").expect("trained"));
}

#[test]
fn bad_batches_are_refused() {
    let mut session = train(lora(0.0, LoraInit::Kaiming), false);
    let good = labelled(&SEQUENCES);
    let mut cases = Vec::new();
    let mut bad = good.clone();
    bad.tokens[3] = 17;
    cases.push((bad, "token id 17"));
    let mut bad = good.clone();
    bad.targets[2] = 99;
    cases.push((bad, "token id 99"));
    let mut bad = good.clone();
    bad.sequence_lengths[0] += 1;
    cases.push((bad, "sequence lengths"));
    let mut bad = good;
    bad.weights[2] = f32::NAN;
    cases.push((bad, "NaN"));
    cases.push((Batch::default(), "no rows"));
    for (batch, text) in cases {
        match session.accumulate(&batch, 1.0, 0) {
            Err(error @ EngineError::Batch(_)) => assert!(error.to_string().contains(text), "{error}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    let mut session = train(Tuner::Full, false);
    let before = session.values("head.weight").expect("trained").to_vec();
    session.accumulate(&labelled(&SEQUENCES), f32::INFINITY, 0).expect("a step");
    assert!(!session.step(1e-2, Some(1.0)).expect("an update").is_finite());
    assert_eq!(before, *session.values("head.weight").expect("trained"));
    assert_eq!(session.gradient_norm().expect("a norm"), 0.0);
}

#[test]
fn the_memory_plan_counts_each_part() {
    if placement() != swift_engine::Placement::Cpu {
        // Nothing is mapped there; the plan of a GPU is what it allocates.
        return;
    }
    let full = train(Tuner::Full, true).memory_plan(64);
    let adapters = train(lora(0.0, LoraInit::Kaiming), true).memory_plan(64);
    assert!(full.gradients > adapters.gradients && full.optimizer == 2 * full.gradients);
    assert_eq!(full.mapped_weights, 0, "what is trained is held in memory");
    assert!(adapters.mapped_weights > 0);
    assert!(train(Tuner::Full, false).memory_plan(64).activations > full.activations);
}
