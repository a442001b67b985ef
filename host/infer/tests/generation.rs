//! A tiny random model with a byte-level tokenizer, end to end: cached decoding, batches, stops, text.

use std::{collections::BTreeMap, ops::ControlFlow, sync::Arc};

use serde_json::json;
use swift_data::{ColumnMap, Origin, Row};
use swift_engine::{Batch, InferSession, Placement};
use swift_graph::{
    Arg, Builder, Checkpoint, DataType, Graph, StorageType, TensorInfo,
    checkpoint::{TensorBytes, WeightError, WeightSource},
};
use swift_infer::{
    Completion, Event, FinishReason, GenerationSettings, Generator, InferError, Request, Sampling,
    results::{Prompt, ResultFile},
    text::Detokenizer,
};
use tokenizers::Tokenizer;

const WIDTH: u32 = 16;
const HEADS: u32 = 4;
const HEAD: u32 = 4;

/// Tensors in memory, of pseudo-random values.
struct Memory(BTreeMap<String, (Vec<usize>, Vec<u8>)>);

impl Memory {
    fn random(tensors: &[(String, Vec<usize>)], scale: f32) -> Self {
        let mut state = 7u64;
        let mut draw = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * scale
        };
        let data = |shape: &[usize], draw: &mut dyn FnMut() -> f32| {
            (0..shape.iter().product()).flat_map(|_| draw().to_le_bytes()).collect::<Vec<u8>>()
        };
        Self(tensors.iter().map(|(name, shape)| (name.clone(), (shape.clone(), data(shape, &mut draw)))).collect())
    }
}

impl Checkpoint for Memory {
    fn tensor(&self, name: &str) -> Option<TensorInfo> {
        self.0.get(name).map(|(shape, _)| TensorInfo { shape: shape.clone(), dtype: StorageType::F32 })
    }
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

impl WeightSource for Memory {
    fn bytes(&self, name: &str) -> Result<TensorBytes<'_>, WeightError> {
        let (shape, bytes) = self.0.get(name).ok_or(WeightError { message: name.into(), hint: None })?;
        Ok(TensorBytes { dtype: StorageType::F32, shape: shape.clone(), bytes: bytes.as_slice().into() })
    }
}

/// Two layers of attention and a gated network, head tied to the embedding.
fn model(vocabulary: u32) -> (Graph, Arc<Memory>) {
    let mut tensors = vec![("embed.weight".to_owned(), vec![vocabulary as usize, WIDTH as usize])];
    for layer in 0..2 {
        for name in ["q", "k", "v", "o", "gate", "up", "down"] {
            tensors.push((format!("layers.{layer}.{name}.weight"), vec![WIDTH as usize; 2]));
        }
    }
    let memory = Memory::random(&tensors, 1.5);
    let mut b = Builder::new(&memory);
    let text = b.rows("text").unwrap();
    let tokens = b.input("tokens", text, DataType::Int32, &[]).unwrap();
    let positions = b.input("positions", text, DataType::Int32, &[]).unwrap();
    let table = b.load("embed.weight", &[vocabulary, WIDTH]).unwrap();
    let mut x = b.embed(tokens, table).unwrap();
    let mask = b.mask_causal();
    for layer in 0..2 {
        let linear = |b: &mut Builder, x, name: &str| {
            let weight = b.load(&format!("layers.{layer}.{name}.weight"), &[WIDTH, WIDTH]).unwrap();
            b.linear(x, weight, None).unwrap()
        };
        let h = b.rms_norm(x, None, 1e-5, &[]).unwrap();
        let mut heads = Vec::new();
        for name in ["q", "k", "v"] {
            let y = linear(&mut b, h, name);
            let y = b.reshape(y, &[HEADS, HEAD]).unwrap();
            heads.push(if name == "v" { y } else { b.rope(y, positions, HEAD, 10000.0, &[]).unwrap() });
        }
        let y = b.attention(heads[0], heads[1], heads[2], mask, 0.5, &[]).unwrap();
        let y = b.reshape(y, &[WIDTH]).unwrap();
        let y = linear(&mut b, y, "o");
        x = b.binary("add", x, y).unwrap();
        let h = b.rms_norm(x, None, 1e-5, &[]).unwrap();
        let (gate, up) = (linear(&mut b, h, "gate"), linear(&mut b, h, "up"));
        let y = b.glu(gate, up, "silu").unwrap();
        let y = linear(&mut b, y, "down");
        x = b.binary("add", x, y).unwrap();
    }
    let x = b.rms_norm(x, None, 1e-5, &[]).unwrap();
    let logits = b.logits(x, table, &[("scale".to_owned(), Arg::Num(1.0))]).unwrap();
    b.output("logits", logits).unwrap();
    (b.finish().unwrap(), Arc::new(memory))
}

/// One token a byte (under GPT-2's names for bytes), three longer ones, and an end token.
fn tokenizer() -> Tokenizer {
    let mut vocab = serde_json::Map::new();
    let mut next = 256u32;
    for byte in 0..=255u8 {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let name = char::from_u32(if printable { byte.into() } else { next }).unwrap();
        next += u32::from(!printable);
        vocab.insert(name.to_string(), json!(byte));
    }
    for (token, id) in [("Ġa", 256), ("ĠEN", 257), ("D", 68)] {
        vocab.insert(token.into(), json!(id));
    }
    let json = json!({
        "version": "1.0",
        "added_tokens": [{ "id": 258, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": [["Ġ", "a"]] },
    });
    // `ĠEN` is not reachable by merges, only by id.
    Tokenizer::from_bytes(json.to_string()).unwrap()
}

const VOCABULARY: u32 = 259;

fn generator(end_ids: Vec<u32>, max_length: Option<usize>) -> Generator {
    let (graph, memory) = model(VOCABULARY);
    Generator::new(InferSession::new(graph, memory, &Placement::default()).unwrap(), tokenizer(), end_ids, max_length)
}

fn request(prompt: &[u32], sampling: Sampling, new: usize) -> Request {
    let settings = GenerationSettings { sampling, max_new_tokens: Some(new), stop_words: Vec::new(), seed: 3 };
    Request { prompt: prompt.to_vec(), settings }
}

fn quiet(_: Event<'_>) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn one(generator: &mut Generator, request: Request) -> Completion {
    generator.generate(&[request], 1, &mut quiet).unwrap().completions.remove(0)
}

#[test]
fn greedy_decoding_with_a_cache_is_the_full_forward_run() {
    let mut generator = generator(vec![], None);
    let answer = one(&mut generator, request(&[5, 70, 9, 33], Sampling::GREEDY, 12));
    assert_eq!((answer.tokens.len(), answer.finish_reason), (12, FinishReason::Length));
    let mut so_far = vec![5, 70, 9, 33];
    for &token in &answer.tokens {
        let logits = generator.session_mut().logits(&Batch::of_sequences(&[&so_far])).unwrap();
        let last = &logits[logits.len() - VOCABULARY as usize..];
        let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        assert_eq!(best as u32, token, "after {so_far:?}");
        so_far.push(token);
    }
    assert!(answer.tokens.iter().any(|t| t != &answer.tokens[0]), "a model that repeats one token tests nothing");
}

#[test]
fn answers_do_not_depend_on_the_batch() {
    let hot = Sampling { temperature: 1.0, top_k: 40, ..Sampling::GREEDY };
    let requests: Vec<Request> = (0..5u32)
        .map(|i| {
            let prompt: Vec<u32> = (0..3 + 2 * i).map(|j| (i * 31 + j * 7) % 250).collect();
            request(&prompt, if i % 2 == 0 { Sampling::GREEDY } else { hot.clone() }, 4 + 3 * i as usize)
        })
        .collect();
    let mut generator = generator(vec![], None);
    let alone: Vec<Completion> = requests.iter().map(|r| one(&mut generator, r.clone())).collect();
    for batch_size in [1, 2, 5, 9] {
        let mut finished = Vec::new();
        let mut texts = vec![String::new(); 5];
        let together = generator
            .generate(&requests, batch_size, &mut |event| {
                match event {
                    Event::Text { index, text } => texts[index].push_str(text),
                    Event::Finished { index, .. } => finished.push(index),
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(together.completions, alone, "batch of {batch_size}");
        assert_eq!(together.new_tokens, 4 + 7 + 10 + 13 + 16);
        assert_eq!(texts, alone.iter().map(|c| c.text.clone()).collect::<Vec<_>>());
        finished.sort_unstable();
        assert_eq!(finished, [0, 1, 2, 3, 4]);
    }
    assert_eq!(generator.session_mut().cache_bytes(), 0, "all sequences are ended");
    let mut other_seed = requests[1].clone();
    other_seed.settings.seed = 4;
    assert_ne!(one(&mut generator, other_seed).tokens, alone[1].tokens);
}

#[test]
fn end_tokens_stop_words_and_limits_end_answers() {
    let prompt = [5, 70, 9, 33];
    let free = one(&mut generator(vec![], None), request(&prompt, Sampling::GREEDY, 12));
    // The fifth token as an end token (at its first occurrence).
    let end = free.tokens[4];
    let at = free.tokens.iter().position(|&t| t == end).unwrap();
    let ended = one(&mut generator(vec![999, end], None), request(&prompt, Sampling::GREEDY, 12));
    assert_eq!((ended.tokens.as_slice(), ended.finish_reason), (&free.tokens[..=at], FinishReason::Stop));
    // Its text as a stop word.
    let tokenizer = tokenizer();
    let word = tokenizer.id_to_token(end).unwrap();
    let mut stopped = request(&prompt, Sampling::GREEDY, 12);
    stopped.settings.stop_words = vec!["never".into(), word];
    let stopped = one(&mut generator(vec![], None), stopped);
    assert_eq!(stopped.finish_reason, FinishReason::Stop);
    assert!(stopped.tokens.len() <= at + 1 && free.text.starts_with(&stopped.text));
    // The context's end cuts max_new_tokens; a prompt that fills it is refused.
    let cut = one(&mut generator(vec![], Some(7)), request(&prompt, Sampling::GREEDY, 12));
    assert_eq!((cut.tokens.len(), cut.finish_reason), (3, FinishReason::Length));
    let error =
        generator(vec![], Some(4)).generate(&[request(&prompt, Sampling::GREEDY, 1)], 1, &mut quiet).unwrap_err();
    assert!(matches!(error, InferError::PromptTooLong { index: 0, tokens: 4, max_length: 4 }), "{error}");
    assert!(error.hint().is_some());
}

#[test]
fn an_observer_can_break_off() {
    let mut generator = generator(vec![], None);
    let requests = [request(&[1, 2], Sampling::GREEDY, 30), request(&[3, 4], Sampling::GREEDY, 30)];
    let got = generator.generate(&requests, 1, &mut |_| ControlFlow::Break(())).unwrap();
    assert_eq!(got.completions[0].finish_reason, FinishReason::Interrupted);
    assert!(!got.completions[0].tokens.is_empty() && got.completions[0].tokens.len() < 30);
    assert!(got.completions[1].tokens.is_empty());
    assert_eq!(generator.session_mut().cache_bytes(), 0);
}

#[test]
fn text_comes_in_whole_characters_with_its_spaces() {
    let tokenizer = tokenizer();
    let text = "naïve — 日本語 🦀 a  b\n";
    let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
    assert!(ids.len() > text.chars().count(), "bytes, not characters");
    let mut stream = Detokenizer::new(&tokenizer);
    let mut pieces = Vec::new();
    for id in ids {
        let piece = stream.push(id).unwrap();
        assert!(!piece.contains('\u{fffd}'), "{piece:?}");
        pieces.push(piece);
    }
    assert_eq!(pieces.concat(), text);
    assert!(pieces.contains(&"🦀".to_owned()) && pieces.contains(&String::new()));
    assert_eq!(stream.finish().unwrap(), "");
    // A character that never ends is shown as what it is, once.
    let mut broken = Detokenizer::new(&tokenizer);
    assert_eq!(broken.push(u32::from(b'x')).unwrap(), "x");
    assert_eq!(broken.push(0xf0).unwrap() + &broken.push(0x9f).unwrap(), "");
    assert_eq!(broken.finish().unwrap(), "\u{fffd}");
}

/// As sentencepiece tokenizers decode: the first space of a text is no space.
#[test]
fn spaces_survive_decoders_that_strip_the_first_one() {
    let json = json!({
        "version": "1.0",
        "added_tokens": [],
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" }, { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "byte_fallback": true, "vocab": { "▁the": 0, "▁cat": 1, "s": 2, "<0xC3>": 3, "<0xA9>": 4 }, "merges": [] },
    });
    let tokenizer = Tokenizer::from_bytes(json.to_string()).unwrap();
    let mut stream = Detokenizer::new(&tokenizer);
    let pieces: Vec<String> = [0, 1, 2, 3, 4, 1].iter().map(|&id| stream.push(id).unwrap()).collect();
    assert_eq!(pieces, ["the", " cat", "s", "", "é", " cat"]);
}

#[test]
fn result_lines_are_in_order_and_keep_the_rows_columns() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("rows.jsonl");
    let lines = [
        r#"{"query": "q1", "response": "a1", "id": 7}"#,
        "",
        r#"{"messages": [{"role": "user", "content": "q2"}], "labels": "x"}"#,
    ];
    std::fs::write(&data, lines.join("\n")).unwrap();
    let columns = swift_data::raw_rows(&data).unwrap();
    assert_eq!(columns.keys().copied().collect::<std::collections::BTreeSet<_>>(), [1, 3].into());
    let row = |line: &str, number| {
        let origin = Origin { file: "rows.jsonl".into(), number, item: false };
        Row::from_json(serde_json::from_str(line).unwrap(), &ColumnMap::default(), true, origin).unwrap()
    };
    let path = folder.path().join("new/out.jsonl");
    let mut file = ResultFile::create(&path).unwrap();
    for (index, number) in [(1, 3), (0, 1)] {
        let prompt = Prompt::of(&row(lines[number - 1], number));
        assert_eq!(prompt.messages.len(), 1);
        let completion = Completion {
            text: format!("r{index}"),
            tokens: vec![1],
            prompt_tokens: 1,
            finish_reason: FinishReason::Stop,
        };
        assert_eq!(file.lines(), 0);
        file.add(index, prompt.result(&columns[&number], &completion)).unwrap();
    }
    assert_eq!(file.lines(), 2);
    let written: Vec<serde_json::Value> =
        std::fs::read_to_string(&path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(
        written,
        [
            json!({ "response": "r0", "labels": "a1", "finish_reason": "stop", "query": "q1", "id": 7,
                    "messages": [{ "role": "user", "content": "q1" }, { "role": "assistant", "content": "r0" }] }),
            json!({ "response": "r1", "labels": null, "finish_reason": "stop",
                    "messages": [{ "role": "user", "content": "q2" }, { "role": "assistant", "content": "r1" }] }),
        ]
    );
}
