//! Hugging Face folders: what is written opens again, and what is damaged is refused with its name and a hint.

use std::{borrow::Cow, fs, path::Path};

use serde_json::json;
use swift_graph::{Checkpoint, StorageType};
use swift_hub::{HubError, Model, SavedTensor, Weights, save_safetensors};

fn tensor(name: &str, dtype: StorageType, shape: &[usize], bytes: Vec<u8>) -> Result<SavedTensor<'static>, HubError> {
    Ok(SavedTensor { name: name.into(), dtype, shape: shape.into(), bytes: Cow::Owned(bytes) })
}

fn floats(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn tensors() -> Vec<Result<SavedTensor<'static>, HubError>> {
    vec![
        tensor("größe.weight", StorageType::Bf16, &[3], vec![1, 2, 3, 4, 5, 6]),
        tensor("a.weight", StorageType::F32, &[2, 3], floats((0..6).map(|v| v as f32))),
        tensor("b.mask", StorageType::Bool, &[3], vec![1, 0, 1]),
        tensor("b.weight", StorageType::F32, &[4], floats([1.5, -2.0, 0.0, 8.0])),
    ]
}

fn write_model(folder: &Path, max_shard_bytes: u64) -> Vec<std::path::PathBuf> {
    fs::write(
        folder.join("config.json"),
        r#"{"model_type":"llama","max_position_embeddings":64,"eos_token_id":[3,7]}"#,
    )
    .unwrap();
    save_safetensors(folder, tensors(), max_shard_bytes).unwrap().files
}

#[test]
fn saved_weights_open_again_single_and_sharded() {
    for (limit, expected_files) in [(1 << 20, 1), (24, 4)] {
        let folder = tempfile::tempdir().unwrap();
        let files = write_model(folder.path(), limit);
        assert_eq!(files.len(), expected_files, "{files:?}");
        let model = Model::open(folder.path()).unwrap();
        assert_eq!(model.weights.names(), ["a.weight", "b.mask", "b.weight", "größe.weight"]);
        for written in tensors() {
            let written = written.unwrap();
            let read = model.weights.bytes(&written.name).unwrap();
            assert_eq!((&read.info.shape, read.info.dtype), (&written.shape, written.dtype));
            assert_eq!(read.bytes(), &*written.bytes, "{}", written.name);
            assert!(read.is_borrowed(), "{}", written.name);
        }
        assert_eq!(model.weights.bytes("b.weight").unwrap().to_f32().unwrap(), [1.5, -2.0, 0.0, 8.0]);
        assert_eq!(model.max_length, Some(64));
        assert_eq!(model.eos_token_ids, [3, 7]);
    }
}

#[test]
fn the_index_is_the_one_hugging_face_reads() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 24);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 49);
    assert_eq!(index["weight_map"]["a.weight"], "model-00002-of-00003.safetensors");
    assert_eq!(index["weight_map"]["b.mask"], "model-00003-of-00003.safetensors");
    assert!(
        !fs::read_dir(folder.path()).unwrap().any(|f| { f.unwrap().file_name().to_string_lossy().contains("part") })
    );
}

#[test]
fn the_digest_sees_config_and_weights_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1 << 20);
    let digest = || Model::open(folder.path()).unwrap().digest().unwrap();
    let first = digest();
    fs::write(folder.path().join("README.md"), "hello").unwrap();
    assert_eq!(digest(), first);
    fs::write(folder.path().join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    assert_ne!(digest(), first);
}

#[test]
fn every_truncation_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1 << 20);
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() {
        fs::remove_file(&path).unwrap();
        fs::write(&path, &whole[..length]).unwrap();
        let error = Weights::open_folder(folder.path()).unwrap_err();
        assert!(matches!(error, HubError::Safetensors { .. }), "{length}: {error}");
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
}

#[test]
fn a_hostile_header_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let cases = [
        r#"{"a":{"dtype":"F32","shape":[18446744073709551615,2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#,
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}"#,
        r#"{"a":{"dtype":"X7","shape":[2],"data_offsets":[0,8]}}"#,
        r#"[1,2]"#,
    ];
    for header in cases {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend([0; 8]);
        fs::write(&path, bytes).unwrap();
        let error = Weights::open_folder(folder.path()).unwrap_err();
        assert!(matches!(error, HubError::Safetensors { .. }), "{header}: {error}");
    }
    fs::write(&path, u64::MAX.to_le_bytes()).unwrap();
    assert!(matches!(Weights::open_folder(folder.path()).unwrap_err(), HubError::Safetensors { .. }));
}

#[test]
fn a_misaligned_tensor_is_copied() {
    let folder = tempfile::tempdir().unwrap();
    let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let padded = format!("{header:<width$}", width = header.len().next_multiple_of(8) + 1);
    let mut bytes = (padded.len() as u64).to_le_bytes().to_vec();
    bytes.extend(padded.as_bytes());
    bytes.extend(floats([1.0, -3.0]));
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    let weights = Weights::open_folder(folder.path()).unwrap();
    let read = weights.bytes("a").unwrap();
    assert!(!read.is_borrowed());
    assert_eq!(read.to_f32().unwrap(), [1.0, -3.0]);
}

#[test]
fn missing_and_doubled_shards_are_named() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 24);
    let second = folder.path().join("model-00002-of-00003.safetensors");
    let kept = fs::read(&second).unwrap();
    fs::remove_file(&second).unwrap();
    let error = Model::open(folder.path()).unwrap_err();
    assert!(matches!(error, HubError::MissingShard { .. }), "{error}");
    assert!(error.to_string().contains("model-00002-of-00003.safetensors"), "{error}");

    fs::write(&second, kept).unwrap();
    fs::copy(&second, folder.path().join("model-00003-of-00003.safetensors")).unwrap();
    let error = Model::open(folder.path()).unwrap_err();
    assert!(matches!(error, HubError::DuplicateTensor { .. }), "{error}");
}

#[test]
fn an_index_cannot_point_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["../x.safetensors", "/etc/passwd", "", "a/b.safetensors", ".."] {
        let index = json!({ "weight_map": { "a": file } }).to_string();
        fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
        let error = Weights::open_folder(folder.path()).unwrap_err();
        assert!(matches!(error, HubError::Content { .. }), "{file}: {error}");
    }
}

#[test]
fn what_is_no_model_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Model::open(folder.path()).unwrap_err();
    assert!(open().to_string().contains("no config.json"), "{}", open());
    fs::write(folder.path().join("config.json"), "{\"a\": 1,\n oops}").unwrap();
    let error = open();
    assert!(matches!(error, HubError::Json { .. }), "{error}");
    assert!(error.to_string().contains("line 2"), "{error}");
    fs::write(folder.path().join("config.json"), "[]").unwrap();
    assert!(matches!(open(), HubError::Content { .. }), "{}", open());
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    assert!(open().to_string().contains("no safetensors weights"), "{}", open());
    fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(open().to_string().contains("pickle"), "{}", open());
    let missing = Model::open(&folder.path().join("nothing")).unwrap_err();
    assert!(matches!(missing, HubError::NotFound { .. }) && missing.hint().contains(".gguf"));
}

#[test]
fn a_model_without_tokenizer_opens_and_says_so_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1 << 20);
    let model = Model::open(folder.path()).unwrap();
    assert!(!model.has_tokenizer());
    assert!(matches!(model.tokenizer().unwrap_err(), HubError::NoTokenizer { .. }));
    fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert!(matches!(Model::open(folder.path()).unwrap_err(), HubError::Tokenizer { .. }));
}

#[test]
fn a_missing_tensor_names_its_neighbour() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1 << 20);
    let model = Model::open(folder.path()).unwrap();
    let error = model.weights.bytes("a.weights").unwrap_err();
    assert!(error.to_string().contains("nearest is `a.weight`"), "{error}");
}

#[test]
fn special_tokens_template_and_generation_defaults_are_read() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), 1 << 20);
    let tokenizer = json!({
        "version": "1.0", "truncation": { "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0 },
        "padding": null, "normalizer": null, "pre_tokenizer": { "type": "Whitespace" }, "post_processor": null, "decoder": null,
        "added_tokens": [
            { "id": 2, "content": "<|im_end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true },
        ],
        "model": { "type": "WordLevel", "vocab": { "<unk>": 0, "hi": 1, "<|im_end|>": 2, "</s>": 3 }, "unk_token": "<unk>" },
    });
    let write = |name: &str, value: serde_json::Value| {
        fs::write(folder.path().join(name), value.to_string()).unwrap();
    };
    write("tokenizer.json", tokenizer);
    write(
        "tokenizer_config.json",
        json!({
            "bos_token": null, "eos_token": { "content": "</s>", "lstrip": false }, "unk_token": "<unk>",
            "chat_template": [{ "name": "tool_use", "template": "x" }, { "name": "default", "template": "y<|im_end|>" }],
        }),
    );
    write("generation_config.json", json!({ "temperature": 0.6, "top_k": 20, "do_sample": true, "eos_token_id": 3 }));
    let model = Model::open(folder.path()).unwrap();
    assert_eq!(model.special_tokens.eos.as_ref().unwrap().id, Some(3));
    assert_eq!(model.special_tokens.bos, None);
    assert_eq!(model.chat_template.as_deref(), Some("y<|im_end|>"));
    assert_eq!(model.eos_token_ids, [3, 7, 2]);
    assert_eq!(model.generation.temperature, Some(0.6));
    assert_eq!(model.generation.top_p, None);
    // A saved truncation must not cut texts.
    assert_eq!(model.tokenizer().unwrap().encode("hi hi hi hi", false).unwrap().len(), 4);

    let saved = tempfile::tempdir().unwrap();
    let written = model.copy_side_files(saved.path(), Some("bfloat16")).unwrap();
    assert_eq!(written, ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]);
    let config: serde_json::Value =
        serde_json::from_slice(&fs::read(saved.path().join("config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");
    save_safetensors(saved.path(), tensors(), 1 << 20).unwrap();
    assert_eq!(Model::open(saved.path()).unwrap().chat_template, model.chat_template);
}
