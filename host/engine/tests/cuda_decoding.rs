//! Decoding on a GPU: with caches in pages, captured or not, against whole sequences on the CPU in f32; tokens chosen on the
//! GPU; and what happens when memory ends. Where the bounds come from is said in `common/gpu.rs`. Without a GPU each test
//! says `skipped`.

mod common;

use common::gpu::{
    F32, LARGE, LOGITS, Model, PLAIN, QUANTIZATIONS, ROW, close, gpu, lora, memory, off, quantized, rounded,
};
use common::{Numbers, Sizes};
use swift_engine::{Batch, Choice, Compute, InferSession, Placement, SequenceId};
use swift_graph::lora::apply;

/// One sequence: its tokens, how many of them are its prompt, and when it starts. It ends behind its last token.
struct Script {
    tokens: Vec<u32>,
    prompt: usize,
    start: usize,
}

fn script(model: &Model, seed: u64, start: usize, prompt: usize, total: usize) -> Script {
    Script { tokens: model.tokens(100 + seed, total), prompt, start }
}

/// A row of logits behind `tokens` tokens of a script.
struct Row {
    script: usize,
    tokens: usize,
    logits: Vec<f32>,
}

/// Runs all scripts together, one token of each at a time.
fn follow(session: &mut InferSession, scripts: &[Script]) -> Vec<Row> {
    let mut ids: Vec<Option<SequenceId>> = vec![None; scripts.len()];
    let mut rows = Vec::new();
    for now in 0.. {
        let mut work: Vec<(SequenceId, &[u32])> = Vec::new();
        let mut whose = Vec::new();
        for (i, script) in scripts.iter().enumerate().filter(|(_, s)| s.start <= now) {
            let end = script.prompt + now - script.start;
            if end > script.tokens.len() {
                ids[i].take().into_iter().for_each(|id| session.end(id));
                continue;
            }
            let id = *ids[i].get_or_insert_with(|| session.start().expect("a sequence"));
            work.push((id, &script.tokens[if now == script.start { 0 } else { end - 1 }..end]));
            whose.push((i, end));
        }
        if work.is_empty() && scripts.iter().all(|s| s.start < now) {
            return rows;
        }
        let logits = session.extend(&work).expect("logits");
        rows.extend(whose.into_iter().zip(logits).map(|((script, tokens), logits)| Row { script, tokens, logits }));
    }
    rows
}

fn whole(session: &mut InferSession, scripts: &[Script]) -> Vec<Vec<f32>> {
    scripts.iter().map(|s| session.logits(&Batch::of_sequences(&[&s.tokens])).expect("logits")).collect()
}

/// Compares rows with those of whole sequences: each within `row`, those of a script together within `all`.
fn compare(what: &str, scripts: &[Script], rows: &[Row], full: &[Vec<f32>], all: f64, row: f64) {
    let vocabulary = rows[0].logits.len();
    let of = |r: &Row| &full[r.script][(r.tokens - 1) * vocabulary..r.tokens * vocabulary];
    for (i, script) in scripts.iter().enumerate() {
        let mine: Vec<&Row> = rows.iter().filter(|r| r.script == i).collect();
        assert_eq!(mine.len(), script.tokens.len() - script.prompt + 1, "{what}: rows of sequence {i}");
        for r in &mine {
            close(&format!("{what}: sequence {i}, token {}", r.tokens), &r.logits, of(r), row);
        }
        let got: Vec<f32> = mine.iter().flat_map(|r| r.logits.clone()).collect();
        let want: Vec<f32> = mine.iter().flat_map(|r| of(r).to_vec()).collect();
        close(&format!("{what}: sequence {i}"), &got, &want, all);
    }
}

/// One row, three, seventeen (beyond the kernels for few rows), prompts among single tokens, sequences that start with one
/// token, start late and end early, and ones that grow over the bounds of captured steps (4 pages of 64 tokens, then 8).
fn plays(model: &Model) -> Vec<(&'static str, Vec<Script>)> {
    let many = |n: u64, total: usize| -> Vec<Script> {
        (0..n).map(|i| script(model, i, 0, 1 + i as usize % 5, total + i as usize % 5)).collect()
    };
    vec![
        ("one row", vec![script(model, 1, 0, 5, 17)]),
        ("one row from its first token on", vec![script(model, 2, 0, 1, 9)]),
        ("three rows", many(3, 12)),
        ("sixteen rows", many(16, 8)),
        ("seventeen rows", many(17, 12)),
        (
            "starts and ends",
            vec![
                script(model, 3, 0, 70, 80),
                script(model, 4, 2, 1, 7),
                script(model, 5, 3, 33, 36),
                script(model, 6, 3, 1, 12),
                script(model, 7, 9, 130, 134),
                script(model, 8, 16, 2, 6),
            ],
        ),
        ("long", vec![script(model, 9, 0, 250, 262), script(model, 10, 0, 506, 518), script(model, 11, 3, 64, 70)]),
    ]
}

#[test]
fn cached_decode_equals_the_whole_in_f32_on_the_cpu() {
    for sizes in [LARGE, PLAIN] {
        let model = Model::new(&sizes);
        for (compute, all, row) in [(Compute::F32, F32, F32), (Compute::Bf16, LOGITS, ROW)] {
            let Some(place) = gpu(compute) else { return };
            let (mut cpu, mut gpu) = (model.infer(&Placement::Cpu), model.infer(&place));
            for (name, scripts) in plays(&model) {
                let full = whole(&mut cpu, &scripts);
                let what = format!("{compute:?}, norms of heads {}, {name}", sizes.head_norms);
                for (i, (got, want)) in whole(&mut gpu, &scripts).iter().zip(&full).enumerate() {
                    close(&format!("{what}: whole sequence {i}"), got, want, all);
                }
                compare(&what, &scripts, &follow(&mut gpu, &scripts), &full, all, row);
            }
            assert_eq!(gpu.cache_bytes(), 0, "all sequences have ended");
        }
    }
}

/// A captured step is other launches than an uncaptured one only in 16 bits, where a few rows are decoded by one: there
/// sums add in another order, which turns a rounding now and then. Replays are the same to the bit in any case.
#[test]
fn captured_steps_repeat_and_equal_uncaptured_ones() {
    for (compute, bound) in [(Compute::F32, 0.0), (Compute::Bf16, 1.5e-2)] {
        let Some(place) = gpu(compute) else { return };
        let model = Model::new(&LARGE);
        let (mut captured, mut plain) = (model.infer(&place), model.infer(&place));
        // Kernels are timed, so nothing is captured.
        plain.start_profile();
        for (name, scripts) in plays(&model) {
            let (first, want) = (follow(&mut captured, &scripts), follow(&mut plain, &scripts));
            // Every step was captured by now or will be; then all are replays.
            let again = [0, 1].map(|_| follow(&mut captured, &scripts));
            for (i, want) in want.iter().enumerate() {
                let what = format!("{compute:?}, {name}: sequence {}, token {}", want.script, want.tokens);
                close(&format!("{what}, captured and not"), &first[i].logits, &want.logits, bound);
                let [a, b] = [&again[0][i].logits, &again[1][i].logits];
                close(&format!("{what}, again and not"), a, &want.logits, bound);
                let same = a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
                assert!(same, "{what}: two replays differ by {:.2e}", off(a, b));
            }
        }
        assert!(!plain.end_profile().expect("a profile").is_empty(), "nothing was timed");
    }
}

/// Whole sequences between decode steps may move what captured steps read: as many rows in many sequences, then more rows.
#[test]
fn whole_sequences_behind_a_capture_change_nothing() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    let (mut cpu, mut gpu) = (model.infer(&Placement::Cpu), model.infer(&place));
    let tokens = model.tokens(1, 40);
    let full = cpu.logits(&Batch::of_sequences(&[&tokens])).expect("logits");
    let long = model.tokens(2, 500);
    gpu.logits(&Batch::of_sequences(&[&long])).expect("logits");
    let id = gpu.start().expect("a sequence");
    let mut had = 10;
    gpu.extend(&[(id, &tokens[..had])]).expect("logits");
    for between in ["nothing", "many sequences", "more rows", "a prompt"] {
        match between {
            "many sequences" => {
                let parts: Vec<&[u32]> = long.chunks(5).collect();
                gpu.logits(&Batch::of_sequences(&parts)).expect("logits");
            }
            "more rows" => {
                gpu.logits(&Batch::of_sequences(&[&long, &long])).expect("logits");
            }
            "a prompt" => {
                let other = gpu.start().expect("a sequence");
                gpu.extend(&[(other, &[&long[..], &long, &long].concat())]).expect("logits");
            }
            _ => {}
        }
        for _ in 0..5 {
            let row = gpu.extend(&[(id, &tokens[had..=had])]).expect("logits").remove(0);
            let want = &full[had * model.vocabulary..(had + 1) * model.vocabulary];
            close(&format!("behind {between}, token {had}"), &row, want, ROW);
            had += 1;
        }
    }
}

/// An adapted graph, its values set from outside, as the CLI runs an adapter.
#[test]
fn adapters_decode_as_on_the_cpu() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let mut model = Model::new(&LARGE);
    let rewritten = apply(&model.graph, &lora(0.0)).expect("a rewrite");
    model.graph = rewritten.graph;
    let (mut cpu, mut gpu) = (model.infer(&Placement::Cpu), model.infer(&place));
    let scripts = || vec![script(&model, 1, 0, 30, 36), script(&model, 2, 1, 1, 6), script(&model, 3, 4, 9, 11)];
    let base = whole(&mut cpu, &scripts());
    // Captured without the adapters' values; these are set in place.
    compare("adapters of zero", &scripts(), &follow(&mut gpu, &scripts()), &base, LOGITS, ROW);
    let mut numbers = Numbers(5);
    for param in rewritten.adapters.iter().flat_map(|a| [a.a, a.b]) {
        let info = model.graph.param(param);
        let scale = 1.0 / (info.shape[1] as f32).sqrt();
        let values: Vec<f32> = numbers.vec(info.elements(), scale).into_iter().map(rounded).collect();
        cpu.set_values(&info.name, &values).expect("set");
        gpu.set_values(&info.name, &values).expect("set");
    }
    let full = whole(&mut cpu, &scripts());
    assert!(off(&full[0], &base[0]) > 0.1, "the adapters must change something");
    compare("adapters", &scripts(), &follow(&mut gpu, &scripts()), &full, LOGITS, ROW);
}

/// Matrices in few bits are as the CPU's reference dequantises them, by the kernels for few rows and by dequantising.
#[test]
fn few_bits_equal_the_dequantised_weights() {
    for (compute, all, row) in [(Compute::F32, F32, F32), (Compute::Bf16, LOGITS, ROW)] {
        let Some(place) = gpu(compute) else { return };
        let model = Model::new(&LARGE);
        for quantization in QUANTIZATIONS {
            let mut cpu = model.dequantized(quantization, compute).infer(&Placement::Cpu);
            let mut gpu = model.infer(&quantized(&place, quantization));
            for (name, scripts) in plays(&model) {
                let what = format!("{compute:?}, {quantization:?}, {name}");
                let full = whole(&mut cpu, &scripts);
                for (i, (got, want)) in whole(&mut gpu, &scripts).iter().zip(&full).enumerate() {
                    close(&format!("{what}: whole sequence {i}"), got, want, all);
                }
                compare(&what, &scripts, &follow(&mut gpu, &scripts), &full, all, row);
            }
            let error = gpu.set_values("layers.0.gate.weight", &vec![0.0; 512 * 256]).expect_err("stored in few bits");
            assert!(error.to_string().contains("bits") && error.hint().is_some(), "{error}");
        }
    }
}

const GREEDY: Choice = Choice { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 0, position: 0 };

/// `None` where this GPU does not choose.
#[allow(clippy::print_stderr, reason = "a test that skips says so")]
fn chooser(model: &Model, place: &Placement) -> Option<InferSession> {
    let session = model.infer(place);
    if session.can_choose() {
        return Some(session);
    }
    eprintln!("skipped: this GPU does not choose tokens");
    None
}

fn first_most_likely(row: &[f32]) -> u32 {
    (0..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32
}

#[test]
fn greedy_choices_are_the_most_likely_tokens() {
    for compute in [Compute::F32, Compute::Bf16] {
        let Some(place) = gpu(compute) else { return };
        let model = Model::new(&LARGE);
        for rows in [1, 3, 17] {
            let Some(mut session) = chooser(&model, &place) else { return };
            let pairs: Vec<[SequenceId; 2]> =
                (0..rows).map(|_| [0, 1].map(|_| session.start().expect("a sequence"))).collect();
            // Captured before, so that both take the same way.
            let ids: Vec<SequenceId> = (0..rows).map(|_| session.start().expect("a sequence")).collect();
            for _ in 0..3 {
                let work: Vec<(SequenceId, &[u32])> = ids.iter().map(|id| (*id, &[1][..])).collect();
                session.extend(&work).expect("logits");
            }
            ids.into_iter().for_each(|id| session.end(id));
            let mut next: Vec<Vec<u32>> = (0..rows).map(|i| model.tokens(i as u64, 1 + i % 7)).collect();
            for step in 0..8 {
                let work = |which: usize| -> Vec<(SequenceId, &[u32])> {
                    pairs.iter().zip(&next).map(|(ids, tokens)| (ids[which], tokens.as_slice())).collect()
                };
                let logits = session.extend(&work(0)).expect("logits");
                let chosen = session.choose(&work(1), &vec![GREEDY; rows]).expect("tokens");
                let want: Vec<u32> = logits.iter().map(|row| first_most_likely(row)).collect();
                assert_eq!(chosen, want, "{compute:?}, {rows} rows, step {step}");
                next = chosen.into_iter().map(|token| vec![token]).collect();
            }
        }
    }
}

/// Samples `steps` tokens behind each prompt.
fn sample(session: &mut InferSession, prompts: &[(&[u32], u64)], steps: usize) -> Vec<Vec<u32>> {
    let ids: Vec<SequenceId> = prompts.iter().map(|_| session.start().expect("a sequence")).collect();
    let mut texts: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    for step in 0..steps {
        let work: Vec<(SequenceId, &[u32])> = (0..prompts.len())
            .map(|i| (ids[i], if step == 0 { prompts[i].0 } else { &texts[i][step - 1..] }))
            .collect();
        let choices: Vec<Choice> = prompts
            .iter()
            .map(|(_, seed)| Choice { temperature: 1.0, seed: *seed, position: step as u64, ..GREEDY })
            .collect();
        let tokens = session.choose(&work, &choices).expect("tokens");
        texts.iter_mut().zip(tokens).for_each(|(text, token)| text.push(token));
    }
    ids.into_iter().for_each(|id| session.end(id));
    texts
}

/// The same seed gives the same text, wherever in a batch; another seed another text.
#[test]
fn samples_follow_their_seeds() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    let Some(mut session) = chooser(&model, &place) else { return };
    let prompt = model.tokens(1, 9);
    let prompts: Vec<(&[u32], u64)> = (0..17).map(|i| (prompt.as_slice(), i % 5)).collect();
    let texts = sample(&mut session, &prompts, 6);
    for (i, text) in texts.iter().enumerate() {
        assert_eq!(*text, texts[i % 5], "the seed {} at {i}", i % 5);
        assert!((0..i.min(5)).all(|j| i % 5 == j || *text != texts[j]), "two seeds of one text: {texts:?}");
    }
    assert_eq!(sample(&mut session, &prompts, 6), texts, "again");
    let mut other = chooser(&model, &place).expect("as before");
    let backwards: Vec<(&[u32], u64)> = prompts.iter().rev().copied().collect();
    let mut turned = sample(&mut other, &backwards, 6);
    turned.reverse();
    assert_eq!(turned, texts, "another session, backwards");
}

/// What else is in the batch does not matter. In f32, where sums in another order do not move a choice.
#[test]
fn samples_do_not_depend_on_the_batch() {
    let Some(place) = gpu(Compute::F32) else { return };
    let model = Model::new(&LARGE);
    let Some(mut session) = chooser(&model, &place) else { return };
    let prompts: Vec<Vec<u32>> = (0..17).map(|i| model.tokens(i, 3 + i as usize)).collect();
    let all: Vec<(&[u32], u64)> = prompts.iter().zip(40..).map(|(p, seed)| (p.as_slice(), seed)).collect();
    let together = sample(&mut session, &all, 6);
    for i in [0, 7, 16] {
        assert_eq!(sample(&mut session, &all[i..=i], 6)[0], together[i], "alone: prompt {i}");
    }
    assert_eq!(sample(&mut session, &all[4..7], 6), together[4..7], "three of them");
}

#[test]
fn logits_that_are_not_finite_choose_nothing() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    let Some(mut session) = chooser(&model, &place) else { return };
    let head = model.weights.values("head.weight").expect("the head").to_vec();
    session.set_values("head.weight", &vec![f32::NAN; head.len()]).expect("set");
    let prompt = model.tokens(1, 5);
    let id = session.start().expect("a sequence");
    let error = session.choose(&[(id, &prompt)], &[GREEDY]).expect_err("no token can be chosen");
    assert_eq!(error.to_string(), "the logits of row 0 are not finite");
    session.set_values("head.weight", &head).expect("set");
    let ids = [0, 1].map(|_| session.start().expect("a sequence"));
    let row = session.extend(&[(ids[0], &prompt)]).expect("logits").remove(0);
    let chosen = session.choose(&[(ids[1], &prompt)], &[GREEDY]).expect("a token");
    assert_eq!(chosen, [first_most_likely(&row)], "the session lives on");
}

/// Single tokens, each with a page of its own, until there are none: one error, and the session lives on.
#[test]
fn running_out_of_pages_ends_what_asked_for_them() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let model = Model::new(&LARGE);
    let (mut cpu, mut gpu) = (model.infer(&Placement::Cpu), model.infer(&place));
    let text = model.tokens(1, 80);
    let full = cpu.logits(&Batch::of_sequences(&[&text])).expect("logits");
    let row = |behind: usize| &full[(behind - 1) * model.vocabulary..behind * model.vocabulary];
    let first = gpu.start().expect("a sequence");
    gpu.extend(&[(first, &text[..20])]).expect("logits");
    let mut live: Vec<Vec<SequenceId>> = Vec::new();
    let mut failed = None;
    // At most 2^18 tokens, that is 4096 pages of 64.
    for _ in 0..10 {
        let ids: Vec<SequenceId> = (0..1024).map(|_| gpu.start().expect("a sequence")).collect();
        let work: Vec<(SequenceId, &[u32])> = ids.iter().map(|id| (*id, &text[..1])).collect();
        match gpu.extend(&work) {
            Ok(rows) => {
                close("the last of many", &rows[1023], row(1), ROW);
                live.push(ids);
            }
            Err(error) => {
                failed = Some((error, ids));
                break;
            }
        }
    }
    let (error, gone) = failed.expect("the pages must end");
    let (text_of, hint) = (error.to_string(), error.hint().unwrap_or_default());
    assert!(text_of.contains("pages of the key-value cache") && hint.contains("--max_batch_size"), "{text_of}\n{hint}");
    assert!(gpu.extend(&[(gone[0], &text[..1])]).is_err(), "what asked in vain has ended");
    // Those that had their pages go on within them, and others take what is free again.
    let behind = |gpu: &mut InferSession, range: std::ops::Range<usize>, what: &str| {
        let end = range.end;
        let logits = gpu.extend(&[(first, &text[range])]).expect("logits").remove(0);
        close(what, &logits, row(end), ROW);
    };
    behind(&mut gpu, 20..21, "behind the failure");
    behind(&mut gpu, 21..30, "behind the failure, more");
    live.remove(0).into_iter().for_each(|id| gpu.end(id));
    behind(&mut gpu, 30..80, "into a page that was free again");
    let id = gpu.start().expect("a sequence");
    let logits = gpu.extend(&[(id, &text)]).expect("logits").remove(0);
    close("a new sequence", &logits, row(80), ROW);
}

#[test]
fn out_of_memory_is_survived() {
    let Some(place) = gpu(Compute::Bf16) else { return };
    let sizes = Sizes { inner: 8192, ..LARGE };
    let model = Model::new(&sizes);
    let mut session = model.infer(&place);
    let text = model.tokens(1, 64);
    let before = session.logits(&Batch::of_sequences(&[&text])).expect("logits");
    // Gate and up alone take more than there is.
    let sequences = (memory(&place) / (64 * 2 * 2 * u64::from(sizes.inner)) + 1) as usize;
    let error =
        session.logits(&Batch::of_sequences(&vec![text.as_slice(); sequences])).expect_err("more than the GPU has");
    assert!(error.to_string().contains("out of memory") && error.hint().is_some(), "{error}");
    let after = session.logits(&Batch::of_sequences(&[&text])).expect("logits");
    assert!(before.iter().zip(&after).all(|(a, b)| a.to_bits() == b.to_bits()), "off by {:.2e}", off(&after, &before));
    let id = session.start().expect("a sequence");
    let row = session.extend(&[(id, &text)]).expect("logits").remove(0);
    close("a prompt behind the failure", &row, &before[63 * model.vocabulary..], ROW);
}
