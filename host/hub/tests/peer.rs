//! A real GGUF against the folder that transformers converts it to. Outside the default run: set `SWIFT_GGUF` to the
//! file, `SWIFT_CONVERTED` to the f32 folder, `SWIFT_TOKENS` to a JSON list of `{"text", "ids", "special"}`, and run
//! with `--run-ignored all`.
//!
//! transformers 5.19 does not know the `smollm` pre-tokenizer and leaves its digit splitting out, so for SmolLM2 the
//! token file must be written with the tokenizer's own: `Sequence([Digits(True), ByteLevel(add_prefix_space=False)])`.

use std::path::PathBuf;

use swift_graph::Checkpoint;
use swift_hub::Model;

fn path(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} is not set")).into()
}

#[test]
#[ignore = "needs a real model"]
fn dequantised_weights_equal_the_converted_folder_bit_for_bit() {
    let ours = Model::open(&path("SWIFT_GGUF")).unwrap();
    let theirs = Model::open(&path("SWIFT_CONVERTED")).unwrap();
    assert_eq!(ours.weights.names(), theirs.weights.names());
    for name in ours.weights.names() {
        let (a, b) = (ours.weights.bytes(&name).unwrap(), theirs.weights.bytes(&name).unwrap());
        assert_eq!(a.info, b.info, "{name}");
        assert!(a.bytes() == b.bytes(), "{name}");
    }
    for (key, value) in theirs.config.as_object().unwrap() {
        if let Some(our) = ours.config.get(key)
            && !matches!(key.as_str(), "dtype" | "torch_dtype")
        {
            // transformers writes f32 metadata widened (9.99e-6), we write its shortest decimal (1e-5).
            let single = |value: &serde_json::Value| value.as_f64().map(|number| number as f32);
            assert!(our == value || (single(our).is_some() && single(our) == single(value)), "{key}: {our} {value}");
        }
    }
    assert_eq!(ours.chat_template, theirs.chat_template);
    assert_eq!(ours.special_tokens, theirs.special_tokens);
}

#[test]
#[ignore = "needs a real model"]
fn texts_become_the_same_tokens() {
    let model = Model::open(&path("SWIFT_GGUF")).unwrap();
    let tokenizer = model.tokenizer().unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&std::fs::read(path("SWIFT_TOKENS")).unwrap()).unwrap();
    let mut different = Vec::new();
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        for (key, special) in [("ids", false), ("special", true)] {
            let ids = serde_json::json!(tokenizer.encode(text, special).unwrap().get_ids());
            if ids != case[key] {
                different.push(format!("{text:?}\n  {ids}\n  {}", case[key]));
            }
        }
    }
    assert!(different.is_empty(), "{} of {}:\n{}", different.len(), cases.len(), different.join("\n"));
}
