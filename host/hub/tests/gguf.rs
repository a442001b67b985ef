//! A tiny llama GGUF, written here: names, row order, config, tokenizer, and the Hugging Face folder made from it.

use std::{fs, path::Path};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use swift_graph::{Checkpoint, StorageType};
use swift_hub::{GgufDtype, HubError, Model, OpenOptions, SavedTensor, Source, save_safetensors};

const HIDDEN: usize = 32;

/// The byte alphabet of byte-level BPE, which every such vocabulary starts from.
fn alphabet() -> Vec<String> {
    let mut characters: Vec<char> = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().collect();
    characters.sort_unstable();
    characters.into_iter().map(String::from).collect()
}

struct Tiny {
    metadata: Vec<(String, Value)>,
    tensors: Vec<(String, QTensor)>,
}

impl Tiny {
    fn new() -> Self {
        let mut tokens: Vec<String> = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].map(String::from).to_vec();
        tokens.extend(alphabet());
        tokens.extend(["he", "ll", "hell", "ĠĠ", "Ġhe"].map(String::from));
        let types = (0..tokens.len()).map(|id| Value::I32(if id < 3 { 3 } else { 1 })).collect();
        let strings = |items: &[&str]| Value::Array(items.iter().map(|s| Value::String((*s).into())).collect());
        let vocabulary = tokens.len();
        let metadata = vec![
            ("general.architecture", Value::String("llama".into())),
            ("llama.block_count", Value::U32(1)),
            ("llama.context_length", Value::U32(128)),
            ("llama.embedding_length", Value::U32(HIDDEN as u32)),
            ("llama.feed_forward_length", Value::U32(64)),
            ("llama.attention.head_count", Value::U32(4)),
            ("llama.attention.head_count_kv", Value::U32(2)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.freq_base", Value::F32(100_000.0)),
            ("llama.rope.dimension_count", Value::U32(8)),
            ("tokenizer.ggml.model", Value::String("gpt2".into())),
            ("tokenizer.ggml.pre", Value::String("smollm".into())),
            ("tokenizer.ggml.tokens", Value::Array(tokens.into_iter().map(Value::String).collect())),
            ("tokenizer.ggml.token_type", Value::Array(types)),
            ("tokenizer.ggml.merges", strings(&["h e", "l l", "he ll", "Ġ Ġ", "Ġ he"])),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
            ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        ];
        let quantized = |rows: usize, columns: usize, dtype: GgmlDType| {
            let values: Vec<f32> = (0..rows * columns).map(|i| ((i * 7919) % 997) as f32 / 100.0 - 5.0).collect();
            let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap();
            QTensor::quantize(&tensor, dtype).unwrap()
        };
        let norm = || {
            QTensor::quantize(&Tensor::ones(HIDDEN, candle_core::DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32)
                .unwrap()
        };
        let tensors = vec![
            ("token_embd.weight", quantized(vocabulary, HIDDEN, GgmlDType::Q8_0)),
            ("blk.0.attn_norm.weight", norm()),
            ("blk.0.attn_q.weight", quantized(32, HIDDEN, GgmlDType::Q4_1)),
            ("blk.0.attn_k.weight", quantized(16, HIDDEN, GgmlDType::F32)),
            ("blk.0.attn_v.weight", quantized(16, HIDDEN, GgmlDType::F16)),
            ("blk.0.attn_output.weight", quantized(HIDDEN, 32, GgmlDType::Q4_0)),
            ("blk.0.ffn_norm.weight", norm()),
            ("blk.0.ffn_gate.weight", quantized(64, HIDDEN, GgmlDType::Q8_0)),
            ("blk.0.ffn_up.weight", quantized(64, HIDDEN, GgmlDType::Q8_0)),
            ("blk.0.ffn_down.weight", quantized(HIDDEN, 64, GgmlDType::Q8_0)),
            ("output_norm.weight", norm()),
        ];
        Self {
            metadata: metadata.into_iter().map(|(key, value)| (key.into(), value)).collect(),
            tensors: tensors.into_iter().map(|(key, value)| (key.into(), value)).collect(),
        }
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.into(), value));
        self
    }

    fn write(&self, path: &Path) {
        let metadata: Vec<(&str, &Value)> = self.metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
        let tensors: Vec<(&str, &QTensor)> = self.tensors.iter().map(|(k, v)| (k.as_str(), v)).collect();
        gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }

    fn values(&self, name: &str) -> Vec<f32> {
        let (_, tensor) = self.tensors.iter().find(|(n, _)| n == name).unwrap();
        tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }
}

#[test]
fn a_gguf_opens_like_a_hugging_face_folder() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny::new();
    let path = folder.path().join("tiny.gguf");
    tiny.write(&path);
    let model = Model::open(folder.path()).unwrap(); // a folder with exactly one GGUF
    assert_eq!(model.source, Source::Gguf(path));
    assert_eq!(model.config["architectures"][0], "LlamaForCausalLM");
    assert_eq!(model.config["rms_norm_eps"].as_f64(), Some(1e-5)); // not the 9.99e-6 that the f32 widens to
    assert_eq!(model.config["rope_theta"], 100_000.0);
    assert_eq!(model.config["tie_word_embeddings"], true);
    assert_eq!(model.config["head_dim"], 8);
    assert_eq!(model.config["num_key_value_heads"], 2);
    assert_eq!(model.config["vocab_size"], 256 + 3 + 5);
    assert_eq!(model.eos_token_ids, [2]);
    assert_eq!(model.max_length, Some(128));
    assert!(model.chat_template.as_deref().unwrap().contains("<|im_start|>"));

    // Values are candle's, rows of queries and keys in Hugging Face order.
    let read = model.weights.bytes("model.layers.0.self_attn.v_proj.weight").unwrap();
    assert_eq!(read.info.shape, [16, HIDDEN]);
    assert_eq!(read.to_f32().unwrap(), tiny.values("blk.0.attn_v.weight"));
    for (name, source, heads) in [("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)] {
        let read = model.weights.bytes(&format!("model.layers.0.self_attn.{name}.weight")).unwrap().to_f32().unwrap();
        // llama.cpp's converter: reshape(heads, 2, d/2).swapaxes(1, 2). Applied to ours it must give the file's.
        let mut converted = Vec::new();
        for head in 0..heads {
            for pair in 0..4 {
                for half in 0..2 {
                    let row = head * 8 + half * 4 + pair;
                    converted.extend_from_slice(&read[row * HIDDEN..(row + 1) * HIDDEN]);
                }
            }
        }
        assert_eq!(converted, tiny.values(&format!("blk.0.{source}.weight")), "{name}");
    }
    assert_eq!(model.weights.len(), 11);
    assert!(model.weights.tensor("lm_head.weight").is_none());
}

#[test]
fn bf16_is_the_rounded_f32() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    Tiny::new().write(&path);
    let exact = Model::open(&path).unwrap();
    let rounded = Model::open_with(&path, OpenOptions { gguf_dtype: GgufDtype::Bf16 }).unwrap();
    assert_eq!(rounded.config["torch_dtype"], "bfloat16");
    for name in exact.weights.names() {
        let expected: Vec<f32> = exact.weights.bytes(&name).unwrap().to_f32().unwrap();
        let expected: Vec<f32> = expected.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect();
        let read = rounded.weights.bytes(&name).unwrap();
        assert_eq!(read.info.dtype, StorageType::Bf16);
        assert_eq!(read.to_f32().unwrap(), expected, "{name}");
    }
}

#[test]
fn its_tokenizer_splits_digits_and_keeps_control_tokens_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    Tiny::new().write(&path);
    let model = Model::open(&path).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let tokens = |text: &str| tokenizer.encode(text, false).unwrap().get_tokens().to_vec();
    assert_eq!(tokens("hell hello<|im_end|>"), ["hell", "Ġ", "hell", "o", "<|im_end|>"]);
    assert_eq!(tokens("12  3"), ["1", "2", "ĠĠ", "3"]);
    let ids = tokenizer.encode("hello, wörld 👋\n", false).unwrap().get_ids().to_vec();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "hello, wörld 👋\n");
}

#[test]
fn bos_is_added_when_the_file_asks_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    Tiny::new().set("tokenizer.ggml.add_bos_token", Value::Bool(true)).write(&path);
    let model = Model::open(&path).unwrap();
    let ids = model.tokenizer().unwrap().encode("hell", true).unwrap().get_ids().to_vec();
    assert_eq!(ids[0], 1);
    assert_eq!(ids.len(), 2);
}

#[test]
fn a_saved_gguf_is_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    Tiny::new().write(&path);
    let model = Model::open(&path).unwrap();
    let saved = tempfile::tempdir().unwrap();
    model.copy_side_files(saved.path(), None).unwrap();
    let names = model.weights.names();
    let tensors = names.iter().map(|name| {
        let read = model.weights.bytes(name)?;
        let bytes = read.bytes().to_vec().into();
        Ok(SavedTensor { name: name.clone(), dtype: read.info.dtype, shape: read.info.shape.clone(), bytes })
    });
    save_safetensors(saved.path(), tensors, 1 << 30).unwrap();
    let again = Model::open(saved.path()).unwrap();
    assert_eq!(again.config, model.config);
    assert_eq!(again.chat_template, model.chat_template);
    assert_eq!(again.special_tokens, model.special_tokens);
    assert_eq!(again.eos_token_ids, model.eos_token_ids);
    for name in &names {
        assert_eq!(again.weights.bytes(name).unwrap().bytes(), model.weights.bytes(name).unwrap().bytes(), "{name}");
    }
    let text = "hell 12  3<|im_start|>he";
    let ids = |model: &Model| model.tokenizer().unwrap().encode(text, true).unwrap().get_ids().to_vec();
    assert_eq!(ids(&again), ids(&model));
}

#[test]
fn every_truncation_of_a_gguf_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    Tiny::new().write(&path);
    let whole = fs::read(&path).unwrap();
    // The last bytes are padding after the last tensor; every cut before them loses something.
    for length in (0..whole.len() - 32).step_by(97) {
        fs::remove_file(&path).unwrap();
        fs::write(&path, &whole[..length]).unwrap();
        let error = Model::open(&path).unwrap_err();
        assert!(matches!(error, HubError::Gguf { .. }), "{length}: {error}");
    }
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    let open = |tiny: Tiny| {
        tiny.write(&path);
        Model::open(&path).unwrap_err().to_string()
    };
    let text = |value: &str| Value::String(value.into());
    assert!(open(Tiny::new().set("general.architecture", text("mamba"))).contains("`mamba`"));
    assert!(open(Tiny::new().set("tokenizer.ggml.pre", text("klingon"))).contains("`klingon`"));
    assert!(open(Tiny::new().set("tokenizer.ggml.model", text("rwkv"))).contains("`rwkv`"));
    assert!(open(Tiny::new().set("llama.rope.scaling.type", text("spiral"))).contains("rope.scaling.factor"));
    assert!(open(Tiny::new().set("llama.attention.head_count", Value::U32(3))).contains("3 heads"));
    assert!(open(Tiny::new().set("llama.attention.head_count", Value::I32(-3))).contains("head_count"));
    assert!(open(Tiny::new().set("tokenizer.ggml.eos_token_id", Value::U32(9999))).contains("9999"));
    let mut tiny = Tiny::new();
    tiny.tensors[2].0 = "blk.0.ssm_in.weight".into();
    assert!(open(tiny).contains("`blk.0.ssm_in.weight`"));
}

#[test]
fn llama3_rope_factors_become_a_config() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    // Head size 8, theta 100000: wavelengths 6.3, 112, 1987 and 35332 tokens; only the last exceeds 8192.
    let factors = |values: [f32; 4]| {
        let mut tiny = Tiny::new();
        let tensor = Tensor::new(&values, &Device::Cpu).unwrap();
        tiny.tensors.push(("rope_freqs.weight".into(), QTensor::quantize(&tensor, GgmlDType::F32).unwrap()));
        tiny.write(&path);
        Model::open(&path)
    };
    let model = factors([1.0, 1.0, 1.0, 8.0]).unwrap();
    assert_eq!(model.config["rope_scaling"]["rope_type"], "llama3");
    assert_eq!(model.config["rope_scaling"]["factor"], 8.0);
    assert!(factors([1.0, 2.0, 3.0, 8.0]).unwrap_err().to_string().contains("rope_freqs"));
}
