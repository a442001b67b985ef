//! Training on a GPU in bfloat16 against the CPU in f32 on the same weights, and against itself, bit for bit. Where the
//! bounds come from is said in `common/gpu.rs`. Without a GPU each test says `skipped`.

mod common;

use common::Sizes;
use common::gpu::{
    COSINE, F32, GRADIENT, LARGE, LOSS, Model, PLAIN, QUANTIZATIONS, bits, close_gradients, close_loss, gpu, labelled,
    lora, memory, quantized, same_bits, start_alike,
};
use swift_engine::{Batch, Compute, EngineError, Placement, Quantization, TrainSession, Tuner};
use swift_graph::lora::{LoraConfig, LoraInit, Targets};

/// Equally long sequences, which cuDNN takes as a dense batch, and others, one of a single row among them.
const LENGTHS: [&[usize]; 2] = [&[128, 128, 128], &[128, 75, 1, 130]];

fn weight(batch: &Batch) -> f64 {
    batch.weights.iter().map(|w| f64::from(*w)).sum()
}

/// Loss per weight of a micro-batch; its gradients are added.
fn accumulate(session: &mut TrainSession, batch: &Batch, key: u64) -> f64 {
    let total = weight(batch);
    session.accumulate(batch, (1.0 / total) as f32, key).expect("a step").loss / total
}

fn tuners() -> [(&'static str, Tuner); 4] {
    // Adapters side by side whose columns begin at no multiple of 16 bytes.
    let ranks = [("q", 3), ("v", 16), ("gate", 5)].map(|(name, rank)| (name.to_owned(), rank));
    let odd = LoraConfig { rank_pattern: ranks.into(), ..lora(0.0) };
    // A group of one, one of two, and none.
    let some = LoraConfig { targets: Targets::Names(vec!["k".into(), "gate".into(), "up".into()]), ..lora(0.0) };
    [
        ("full", Tuner::Full),
        ("LoRA", Tuner::Lora(lora(0.0))),
        ("LoRA of odd ranks", Tuner::Lora(odd)),
        ("LoRA of some", Tuner::Lora(some)),
    ]
}

fn losses_and_gradients(sizes: &Sizes, compute: Compute, loss: f64, gradient: f64, cosine: f64) {
    let Some(place) = gpu(compute) else { return };
    let model = Model::new(sizes);
    for (name, tuner) in tuners() {
        let (mut cpu, mut gpu) = (model.train(&tuner, false, &Placement::Cpu), model.train(&tuner, false, &place));
        start_alike(&mut [&mut cpu, &mut gpu]);
        for (seed, lengths) in LENGTHS.iter().enumerate() {
            let what = format!("{name}, {compute:?}, {lengths:?}");
            let batch = model.batch(seed as u64, lengths);
            let total = weight(&batch);
            let evaluated = gpu.evaluate(&batch).expect("a loss");
            let (got, want) = (accumulate(&mut gpu, &batch, 0), accumulate(&mut cpu, &batch, 0));
            close_loss(&what, got, want, loss);
            close_loss(&format!("{what}, evaluated"), evaluated.loss / total, want, loss);
            assert_eq!((evaluated.weight, evaluated.counted), (total, total as u64), "{what}");
            close_gradients(&what, &gpu, &cpu, gradient, cosine);
            let norms = [&mut gpu, &mut cpu].map(|s| s.gradient_norm().expect("a norm"));
            close_loss(&format!("{what}, norm"), norms[0], norms[1], gradient);
            // Changes nothing but the gradients.
            for session in [&mut gpu, &mut cpu] {
                session.step(0.0, None).expect("an update");
            }
        }
    }
}

#[test]
fn losses_and_gradients_in_bf16() {
    losses_and_gradients(&LARGE, Compute::Bf16, LOSS, GRADIENT, COSINE);
}

#[test]
fn losses_and_gradients_in_bf16_without_norms_of_heads() {
    losses_and_gradients(&PLAIN, Compute::Bf16, LOSS, GRADIENT, COSINE);
}

/// Sums of hundreds of products in another order.
#[test]
fn losses_and_gradients_in_f32() {
    losses_and_gradients(&LARGE, Compute::F32, 1e-5, F32, 1.0 - 1e-6);
}

/// Four batches that come again and again, so that there is something to learn.
fn lessons(model: &Model) -> Vec<Batch> {
    (0..4).map(|i| model.batch(i, &[32; 4])).collect()
}

fn curve(model: &Model, tuner: &Tuner, place: &Placement, steps: usize) -> (TrainSession, Vec<f64>) {
    let mut session = model.train(tuner, false, place);
    let lessons = lessons(model);
    let losses = (0..steps)
        .map(|step| {
            let loss = accumulate(&mut session, &lessons[step % 4], step as u64);
            session.step(1e-3, Some(1.0)).expect("an update");
            loss
        })
        .collect();
    (session, losses)
}

/// Each loss within 2 %, the mean of the last four within 1 %: rounding's noise in 50 steps of AdamW, which must not add up.
#[test]
fn fifty_steps_of_lora_in_bf16() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    let tuner = Tuner::Lora(LoraConfig { alpha: 32.0, init: LoraInit::Kaiming, ..lora(0.0) });
    let (mut cpu, want) = curve(&model, &tuner, &Placement::Cpu, 50);
    let (mut gpu, got) = curve(&model, &tuner, &place, 50);
    let last = |losses: &[f64]| losses[46..].iter().sum::<f64>() / 4.0;
    assert!(last(&want) < 0.8 * want[0], "nothing was learned: {want:?}");
    for (i, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!((g - w).abs() <= 0.02 * w, "step {i}: {g} for {w}\ngot {got:?}\nfor {want:?}");
    }
    close_loss("the end", last(&got), last(&want), 0.01);
    // What was learned is where evaluation looks.
    for batch in &lessons(&model) {
        let total = weight(batch);
        let [g, w] = [&mut gpu, &mut cpu].map(|s| s.evaluate(batch).expect("a loss").loss / total);
        close_loss("evaluation after training", g, w, 0.01);
    }
    // The same values on the CPU give the same loss.
    for info in gpu.trainable() {
        let values = gpu.values(&info.name).expect("trained").to_vec();
        cpu.set_values(&info.name, &values).expect("set");
    }
    let batch = model.batch(77, LENGTHS[1]);
    let [g, w] = [&mut gpu, &mut cpu].map(|s| s.evaluate(&batch).expect("a loss").loss);
    close_loss("trained values", g, w, LOSS);
}

/// What happens between the steps of [`trained`].
#[derive(Clone, Copy, PartialEq)]
enum Between {
    /// Nothing: from the third step on, a captured graph is replayed.
    Nothing,
    /// Kernels are timed, so nothing is captured.
    Profile,
    /// An evaluation of these lengths in front of each step from this on.
    Evaluation(usize, &'static [usize]),
}

/// Six steps of equally long batches.
fn trained(model: &Model, tuner: &Tuner, place: &Placement, lengths: &[usize], between: Between) -> TrainSession {
    let mut session = model.train(tuner, false, place);
    if between == Between::Profile {
        session.start_profile();
    }
    for step in 0..6 {
        if let Between::Evaluation(from, lengths) = between
            && step >= from
        {
            session.evaluate(&model.batch(50 + step as u64, lengths)).expect("a loss");
        }
        accumulate(&mut session, &model.batch(step as u64, lengths), step as u64);
        session.step(1e-3, Some(1.0)).expect("an update");
    }
    if between == Between::Profile {
        assert!(!session.end_profile().expect("a profile").is_empty(), "nothing was timed");
    }
    session
}

#[test]
fn steps_repeat_to_the_bit_captured_or_not() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    for (name, tuner) in [("full", Tuner::Full), ("LoRA", Tuner::Lora(lora(0.1)))] {
        for lengths in LENGTHS {
            let run = |between| bits(&trained(&model, &tuner, &place, lengths, between));
            let first = run(Between::Nothing);
            same_bits(&format!("{name}, {lengths:?}, again"), &run(Between::Nothing), &first);
            same_bits(&format!("{name}, {lengths:?}, never captured"), &run(Between::Profile), &first);
            let alternating = run(Between::Evaluation(0, &[40, 61]));
            same_bits(&format!("{name}, {lengths:?}, between evaluations"), &alternating, &first);
        }
    }
}

/// Evaluations behind a capture may move what a captured step reads: here as many rows in many sequences, then more rows.
#[test]
fn evaluations_behind_a_capture_change_no_bit() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    let tuner = Tuner::Lora(lora(0.1));
    let first = bits(&trained(&model, &tuner, &place, &[500], Between::Nothing));
    for lengths in [&[5; 100][..], &[150; 6]] {
        let run = trained(&model, &tuner, &place, &[500], Between::Evaluation(4, lengths));
        same_bits(&format!("evaluations of {lengths:?}"), &bits(&run), &first);
    }
}

#[test]
fn dropout_follows_its_key_in_captured_steps() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    let mut session = model.train(&Tuner::Lora(lora(0.5)), false, &place);
    let batch = model.batch(3, LENGTHS[0]);
    let losses = [0, 1, 2, 3, 0, 1, 2, 3].map(|key| accumulate(&mut session, &batch, key).to_bits());
    assert_eq!(losses[..4], losses[4..], "the same keys");
    assert!((0..4).all(|i| (0..i).all(|j| losses[i] != losses[j])), "other keys: {:?}", losses.map(f64::from_bits));
    // A captured step reads the scale too.
    session.step(0.0, None).expect("an update");
    let norms = [1.0, 2.0].map(|scale| {
        session.accumulate(&batch, scale, 0).expect("a step");
        let norm = session.gradient_norm().expect("a norm");
        session.step(0.0, None).expect("an update");
        norm
    });
    close_loss("twice the scale", norms[1], 2.0 * norms[0], 1e-2);
}

/// Rows do not know what they are packed with: only products of another size add in another order.
#[test]
fn packed_equals_unpacked_in_bf16() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    for tuner in [Tuner::Full, Tuner::Lora(lora(0.0))] {
        for lengths in LENGTHS {
            let sequences: Vec<Vec<u32>> =
                lengths.iter().enumerate().map(|(i, n)| model.tokens(9 + i as u64, *n)).collect();
            let (mut packed, mut single) = (model.train(&tuner, false, &place), model.train(&tuner, false, &place));
            let together = packed.accumulate(&labelled(&sequences), 0.01, 0).expect("a step");
            let apart: f64 = sequences
                .iter()
                .rev()
                .map(|s| single.accumulate(&labelled(std::slice::from_ref(s)), 0.01, 0).expect("a step").loss)
                .sum();
            close_loss(&format!("{lengths:?}"), together.loss, apart, 1e-3);
            close_gradients(&format!("{lengths:?}"), &packed, &single, 2e-2, 0.9998);
        }
    }
}

#[test]
fn recomputation_changes_no_bit_in_bf16() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    for tuner in [Tuner::Full, Tuner::Lora(lora(0.3))] {
        let mut plans = Vec::new();
        let mut run = |recompute| {
            let mut session = model.train(&tuner, recompute, &place);
            plans.push(session.memory_plan(384).activations);
            // The second half is captured.
            for (step, lengths) in [LENGTHS[1], LENGTHS[0], LENGTHS[0], LENGTHS[0]].into_iter().enumerate() {
                accumulate(&mut session, &model.batch(step as u64, lengths), step as u64);
                session.step(1e-3, Some(1.0)).expect("an update");
            }
            bits(&session)
        };
        let (kept, again) = (run(false), run(true));
        same_bits("recomputed", &again, &kept);
        assert!(plans[1] < plans[0], "recomputation must save memory: {plans:?}");
    }
}

/// Frozen matrices in few bits are as the CPU's reference dequantises them: exactly in f32, rounded once more in bfloat16.
#[test]
fn adapters_over_matrices_in_few_bits() {
    for (compute, loss, gradient, cosine) in
        [(Compute::F32, 1e-5, F32, 1.0 - 1e-6), (Compute::Bf16, LOSS, GRADIENT, COSINE)]
    {
        let Some(place) = gpu(compute) else { return };
        let model = Model::new(&LARGE);
        let tuner = Tuner::Lora(lora(0.0));
        let batch = model.batch(5, LENGTHS[1]);
        let mut whole = model.train(&tuner, false, &place);
        let sizes = QUANTIZATIONS.map(|quantization| {
            let what = format!("{compute:?}, {quantization:?}");
            let mut cpu = model.dequantized(quantization, compute).train(&tuner, false, &Placement::Cpu);
            let mut gpu = model.train(&tuner, true, &quantized(&place, quantization));
            start_alike(&mut [&mut cpu, &mut gpu, &mut whole]);
            let (got, want) = (accumulate(&mut gpu, &batch, 0), accumulate(&mut cpu, &batch, 0));
            close_loss(&what, got, want, loss);
            close_gradients(&what, &gpu, &cpu, gradient, cosine);
            if quantization != Quantization::Int8 {
                // Other weights, or the test would pass without four bits.
                let off = (accumulate(&mut whole, &batch, 0) - want).abs() / want;
                assert!(off > 1e-4, "{what}: quantisation changes nothing ({off:.1e})");
            }
            gpu.memory_plan(1).owned_weights
        });
        let all = [sizes[1], sizes[0], sizes[2], whole.memory_plan(1).owned_weights];
        assert!(all.is_sorted_by(|a, b| a < b), "{compute:?}: NF4 doubly, NF4, eight bits and none take {all:?} bytes");
    }
}

/// A step that does not fit says what takes how much; what fits runs on as if nothing had been.
#[test]
fn out_of_memory_is_explained_and_survived() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    // Wide, so that few rows fill the GPU.
    let model = Model::new(&Sizes { inner: 8192, ..LARGE });
    let mut session = model.train(&Tuner::Lora(lora(0.0)), false, &place);
    let small = model.batch(1, &[64, 64]);
    let before = session.evaluate(&small).expect("a loss");
    let mut sequences = 1 << 10;
    while session.memory_plan(sequences * 64).total() < memory(&place) + memory(&place) / 16 {
        sequences *= 2;
    }
    let rows = sequences * 64;
    let large = labelled(&vec![model.tokens(2, 64); sequences]);
    for _ in 0..2 {
        let error = session.accumulate(&large, 1.0, 0).expect_err("more than the GPU has");
        let EngineError::OutOfMemory { message } = &error else { panic!("{error:?}") };
        for part in ["out of memory", "GiB", "weights in memory", "activations", "together", &format!("{rows} tokens")]
        {
            assert!(message.contains(part), "`{part}` is not in:\n{message}");
        }
        let hint = error.hint().unwrap_or_default();
        assert!(hint.contains("--per_device_train_batch_size") && hint.contains("--gradient_checkpointing"), "{hint}");
        assert_eq!(session.evaluate(&small).expect("a loss"), before);
    }
    let mut fresh = model.train(&Tuner::Lora(lora(0.0)), false, &place);
    for session in [&mut session, &mut fresh] {
        for step in 0..4 {
            accumulate(session, &small, step);
            session.step(1e-3, Some(1.0)).expect("an update");
        }
    }
    same_bits("behind the failure", &bits(&session), &bits(&fresh));
}

/// Neither with a GPU nor without is there one of this number. Not skipped: this is what users without a GPU see.
#[test]
fn a_gpu_that_is_not_there_is_an_error() {
    let model = Model::new(&common::SMALL);
    let place = Placement::cuda(4096, Compute::Bf16);
    let options = swift_engine::TrainOptions {
        tuner: Tuner::Full,
        recompute_blocks: false,
        seed: 0,
        optimizer: swift_engine::AdamWOptions::default(),
        placement: place.clone(),
    };
    let errors = [
        TrainSession::new(model.graph.clone(), model.weights.clone(), options).err().expect("no such GPU"),
        swift_engine::InferSession::new(model.graph.clone(), model.weights.clone(), &place).err().expect("no such GPU"),
    ];
    for error in errors {
        let (text, hint) = (error.to_string(), error.hint().unwrap_or_default());
        let known = [
            ("there is no NVIDIA driver on this machine (libcuda was not found)", "--device cpu"),
            ("the NVIDIA driver sees no GPU", "CUDA_VISIBLE_DEVICES"),
            ("there is no GPU 4096: the driver sees ", "GPUs are numbered from 0 to "),
            ("the NVIDIA driver supports CUDA ", "update the NVIDIA driver"),
        ];
        assert!(known.iter().any(|(t, h)| text.starts_with(t) && hint.contains(h)), "{text}\nhint: {hint}");
    }
}

/// A weight of NaN reaches the norm, which is given back; the values stay.
#[test]
fn a_norm_that_is_not_finite_changes_no_value() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    let mut session = model.train(&Tuner::Lora(lora(0.0)), false, &place);
    let batch = model.batch(1, LENGTHS[0]);
    let before = bits(&session);
    session.accumulate(&batch, f32::INFINITY, 0).expect("a step");
    assert!(!session.step(1e-3, Some(1.0)).expect("an update").is_finite());
    same_bits("after a norm that is not finite", &bits(&session), &before);
    let loss = accumulate(&mut session, &batch, 1);
    let norm = session.step(1e-3, Some(1.0)).expect("an update");
    assert!(loss.is_finite() && norm.is_finite() && norm > 0.0, "loss {loss}, norm {norm}");
    assert!(bits(&session) != before, "the next step must move something");
    assert!(bits(&session).iter().all(|(_, v)| v.iter().all(|x| f32::from_bits(*x).is_finite())));
}
