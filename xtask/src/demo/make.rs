//! Makes what the demo stands on: rows, the pre-training corpus, the untrained model, and the pre-training itself.
//! Everything follows from fixed seeds; only the pre-trained weights are kept in the repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::{build, folder, plugin, shown, text, work};
use crate::Result;

/// splitmix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }

    /// Normal by Box and Muller.
    fn normal(&mut self) -> f64 {
        let unit = |x: u64| ((x >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let (a, b) = (unit(self.next()), unit(self.next()));
        (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const THINGS: &[&str] = &[
    "library",
    "bridge",
    "museum",
    "school",
    "mill",
    "station",
    "harbour",
    "theatre",
    "market",
    "garden",
    "observatory",
    "lighthouse",
    "chapel",
    "airport",
    "stadium",
    "hospital",
];
const KINDS: &[&str] = &["old", "new", "small", "great", "red", "stone", "wooden", "public", "quiet", "famous"];
const TOWNS: &[&str] = &[
    "Lund", "Oslo", "Porto", "Bergen", "Ghent", "Turin", "Krakow", "Split", "Riga", "Cork", "Bath", "Graz", "Lyon",
    "Malmo", "Tartu", "Brno",
];
const EVENTS: &[&str] =
    &["opened", "closed", "was finished", "was sold", "was founded", "burned down", "was painted", "reopened"];
const TAILS: &[&str] =
    &["", "", "", " in the rain", " after two years of work", " with music", " before a small crowd", " at noon"];

#[derive(Clone, Copy)]
struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// Any date of 1800 to 2099; every fifth is kept for held-out rows and occurs nowhere else.
    fn draw(random: &mut Random, held_out: bool) -> Self {
        loop {
            let date = Self { year: 1800 + random.below(300), month: 1 + random.below(12), day: 1 + random.below(28) };
            let kept = (date.year * 372 + date.month * 31 + date.day).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            if kept.is_multiple_of(5) == held_out {
                return date;
            }
        }
    }

    fn numbers(self) -> String {
        format!("{}-{:02}-{:02}", self.year, self.month, self.day)
    }

    fn words(self, form: u64) -> String {
        let Self { year, month, day } = self;
        let month = MONTHS[month as usize - 1];
        let ending = match day {
            1 | 21 => "st",
            2 | 22 => "nd",
            3 | 23 => "rd",
            _ => "th",
        };
        match form {
            0 => format!("{day} {month} {year}"),
            1 => format!("{month} {day}, {year}"),
            2 => format!("the {day}{ending} of {month} {year}"),
            3 => format!("{day} {} {year}", &month[..3]),
            _ => format!("{month} {day}{ending}, {year}"),
        }
    }
}

fn sentence(random: &mut Random, date: Date) -> String {
    let (kind, thing, town) = (random.pick(KINDS), random.pick(THINGS), random.pick(TOWNS));
    let (event, tail, form) = (random.pick(EVENTS), random.pick(TAILS), random.below(5));
    format!("The {kind} {thing} in {town} {event} on {}{tail}.", date.words(form))
}

/// Fine-tuning rows: 600 to train on, 150 held out, of other dates.
fn write_rows() -> Result<()> {
    for (name, seed, count, held_out) in [("train", 1, 600, false), ("held-out", 2, 150, true)] {
        let mut random = Random(seed);
        let mut lines = String::new();
        for _ in 0..count {
            let date = Date::draw(&mut random, held_out);
            let question = format!("Which date? {}", sentence(&mut random, date));
            let row = json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": date.numbers()}]});
            lines += &format!("{row}\n");
        }
        std::fs::write(folder().join(format!("{name}.jsonl")), lines)?;
    }
    Ok(())
}

/// Plain text with dates in words and in numbers: what the demo's model knows before fine-tuning.
fn corpus(rows: usize) -> String {
    let mut random = Random(3);
    let mut lines = String::new();
    for _ in 0..rows {
        let date = Date::draw(&mut random, false);
        let first = sentence(&mut random, date);
        let (numbers, form) = (date.numbers(), random.below(5));
        let text = match random.below(4) {
            0 => format!("{} is {numbers}. {first}", date.words(form)),
            1 => format!("{first} In numbers that is {numbers}."),
            2 => format!("{numbers}: {first}"),
            _ => {
                let other = Date::draw(&mut random, false);
                format!("{first} {}", sentence(&mut random, other))
            }
        };
        lines += &format!("{}\n", json!({"text": text}));
    }
    lines
}

const VOCABULARY: usize = 259;

/// The bytes' printable stand-ins of GPT-2's byte-level encoding.
fn byte_letters() -> Vec<char> {
    let plain = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || (174..=255).contains(&b);
    let mut next = 256;
    (0..256u32)
        .map(|b| {
            let code = if plain(b) {
                b
            } else {
                next += 1;
                next - 1
            };
            char::from_u32(code).unwrap_or(' ')
        })
        .collect()
}

fn tokenizer() -> Value {
    let mut vocabulary: BTreeMap<String, usize> =
        byte_letters().into_iter().enumerate().map(|(i, c)| (c.to_string(), i)).collect();
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut added = Vec::new();
    for (i, text) in special.iter().enumerate() {
        vocabulary.insert((*text).into(), 256 + i);
        added.push(json!({"id": 256 + i, "content": text, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}));
    }
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": []}
    })
}

const TEMPLATE: &str = "{%- for message in messages -%}\n{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n{{- '<|im_start|>assistant\\n' -}}\n{%- endif -%}\n";

/// Writes a Qwen3 of 1.7 million random parameters.
fn untrained(to: &Path) -> Result<()> {
    let (width, layers, heads, key_heads, dim, inner) = (192usize, 4usize, 6usize, 2usize, 32usize, 512usize);
    std::fs::create_dir_all(to)?;
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": false, "attention_dropout": 0.0,
        "bos_token_id": 256, "eos_token_id": 258, "pad_token_id": 256, "head_dim": dim, "hidden_act": "silu", "hidden_size": width,
        "initializer_range": 0.02, "intermediate_size": inner, "max_position_embeddings": 1024, "max_window_layers": layers,
        "num_attention_heads": heads, "num_hidden_layers": layers, "num_key_value_heads": key_heads, "rms_norm_eps": 1e-6,
        "rope_scaling": null, "rope_theta": 10000.0, "sliding_window": null, "tie_word_embeddings": true, "dtype": "bfloat16",
        "use_cache": true, "use_sliding_window": false, "vocab_size": VOCABULARY
    });
    let special = json!({"bos_token": null, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast",
                         "model_max_length": 1024, "clean_up_tokenization_spaces": false});
    let generation = json!({"bos_token_id": 256, "eos_token_id": [258, 256], "pad_token_id": 256, "do_sample": false});
    for (name, value) in [
        ("config.json", &config),
        ("tokenizer.json", &tokenizer()),
        ("tokenizer_config.json", &special),
        ("generation_config.json", &generation),
    ] {
        std::fs::write(to.join(name), format!("{value:#}\n"))?;
    }
    std::fs::write(to.join("chat_template.jinja"), TEMPLATE)?;
    let mut random = Random(4);
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut add = |name: String, shape: Vec<usize>, deviation: Option<f64>| {
        let count: usize = shape.iter().product();
        let value = |random: &mut Random| deviation.map_or(1.0, |d| d * random.normal()) as f32;
        let bytes = (0..count).flat_map(|_| ((value(&mut random).to_bits() >> 16) as u16).to_le_bytes()).collect();
        tensors.push((name, shape, bytes));
    };
    add("model.embed_tokens.weight".into(), vec![VOCABULARY, width], Some(0.05));
    for layer in 0..layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let deviation = Some(1.0 / (width as f64).sqrt());
        add(name("self_attn.q_proj"), vec![heads * dim, width], deviation);
        add(name("self_attn.k_proj"), vec![key_heads * dim, width], deviation);
        add(name("self_attn.v_proj"), vec![key_heads * dim, width], deviation);
        add(name("self_attn.o_proj"), vec![width, heads * dim], deviation.map(|d| d / (2.0 * layers as f64).sqrt()));
        add(name("mlp.gate_proj"), vec![inner, width], deviation);
        add(name("mlp.up_proj"), vec![inner, width], deviation);
        add(name("mlp.down_proj"), vec![width, inner], Some(1.0 / (2.0 * layers as f64 * inner as f64).sqrt()));
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            add(name(norm), vec![width], None);
        }
        add(name("self_attn.q_norm"), vec![dim], None);
        add(name("self_attn.k_norm"), vec![dim], None);
    }
    add("model.norm.weight".into(), vec![width], None);
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes)?)))
        .collect::<Result<_>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    safetensors::serialize_to_file(views, Some(metadata), &to.join("model.safetensors"))?;
    Ok(())
}

/// The checkpoint with the highest step in a run's folder.
pub(super) fn newest_checkpoint(run: &Path) -> Result<PathBuf> {
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse::<u64>().ok();
    let entries = std::fs::read_dir(run)?.filter_map(|e| Some(e.ok()?.path()));
    let newest = entries.filter_map(|p| Some((step(&p)?, p))).max();
    newest.map(|(_, p)| p).ok_or_else(|| format!("{} has no checkpoint", run.display()).into())
}

/// Makes the demo's model from nothing: an untrained one, the corpus, and `swift pt`.
pub(crate) fn pretrain() -> Result<()> {
    let swift = build()?;
    let (start, data, run) = (work().join("untrained"), work().join("corpus.jsonl"), work().join("pretrain"));
    let _ = std::fs::remove_dir_all(&run);
    untrained(&start)?;
    std::fs::write(&data, corpus(30_000))?;
    write_rows()?;
    let (start, data, run_text, plugin) = (text(&start), text(&data), text(&run), text(&plugin()));
    let arguments = [
        "--plugin",
        &plugin,
        "pt",
        "--model",
        &start,
        "--dataset",
        &data,
        "--tuner_type",
        "full",
        "--learning_rate",
        "3e-3",
        "--num_train_epochs",
        "1",
        "--packing",
        "true",
        "--max_length",
        "512",
        "--per_device_train_batch_size",
        "4",
        "--gradient_accumulation_steps",
        "1",
        "--gradient_checkpointing",
        "false",
        "--warmup_ratio",
        "0.02",
        "--logging_steps",
        "20",
        "--save_steps",
        "500",
        "--save_total_limit",
        "1",
        "--save_only_model",
        "true",
        "--output_dir",
        &run_text,
        "--add_version",
        "false",
    ];
    shown(&swift, &arguments, None)?;
    let trained = newest_checkpoint(&run)?;
    let to = folder().join("model");
    std::fs::create_dir_all(&to)?;
    let files = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "model.safetensors",
    ];
    for file in files {
        std::fs::copy(trained.join(file), to.join(file))
            .map_err(|e| format!("{}: {e}", trained.join(file).display()))?;
    }
    println!("the demo's model is in {}", to.display());
    Ok(())
}
