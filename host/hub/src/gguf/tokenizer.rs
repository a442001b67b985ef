//! `tokenizer.json` from a GGUF's metadata: byte-level BPE (`gpt2`) with the pre-tokenizer the model was trained with,
//! and SentencePiece-style BPE (`llama`).

use std::collections::HashMap;

use candle_core::quantized::gguf_file::Value as GgufValue;
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use super::Header;
use crate::HubError;

/// A tokenizer with the files that describe it.
pub(crate) struct GgufTokenizer {
    pub(crate) tokenizer: Tokenizer,
    /// What `tokenizer.json` would hold.
    pub(crate) json: Value,
    /// What `tokenizer_config.json` would hold, without the chat template.
    pub(crate) config: Value,
}

/// ggml's token types.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const LLAMA3_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokens of the vocabulary, by id.
pub(crate) fn tokens(header: &Header) -> Result<Vec<&str>, HubError> {
    strings(header, "tokenizer.ggml.tokens")?.ok_or_else(|| header.error("metadata `tokenizer.ggml.tokens` is missing"))
}

/// Builds the tokenizer; `None` when the file holds no vocabulary.
pub(crate) fn tokenizer(header: &Header) -> Result<Option<GgufTokenizer>, HubError> {
    let Some(model) = header.string("tokenizer.ggml.model") else { return Ok(None) };
    if model == "none" || model == "no_vocab" {
        return Ok(None);
    }
    let tokens = tokens(header)?;
    let pre = header.string("tokenizer.ggml.pre").unwrap_or("default");
    let (mut json, adds_bos) = match model {
        "gpt2" => byte_level(header, &tokens, pre)?,
        "llama" => (sentence_piece(header, &tokens)?, true),
        other => {
            return Err(HubError::Unsupported {
                path: header.path().into(),
                feature: format!("GGUF tokenizer `{other}`"),
                instead: "use the model's Hugging Face folder, which has a tokenizer.json".into(),
            });
        }
    };
    json["version"] = json!("1.0");
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    json["added_tokens"] = added_tokens(header, &tokens)?;
    let special = |name: &str| -> Result<Option<(usize, &str)>, HubError> {
        let Some(id) = header.index(&format!("tokenizer.ggml.{name}_token_id"))? else { return Ok(None) };
        let token = tokens.get(id).ok_or_else(|| {
            header.error(format!("`tokenizer.ggml.{name}_token_id` is {id}, past the {} tokens", tokens.len()))
        })?;
        Ok(Some((id, token)))
    };
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    for (key, name) in [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
    {
        if let Some((_, token)) = special(name)? {
            config.insert(key.into(), json!(token));
        }
    }
    if let Some(length) = header.integer("context_length")? {
        config.insert("model_max_length".into(), json!(length));
    }
    let adds_bos = header.bool("tokenizer.ggml.add_bos_token").unwrap_or(adds_bos);
    let adds_eos = header.bool("tokenizer.ggml.add_eos_token").unwrap_or(false);
    json["post_processor"] = post_processor(special("bos")?.filter(|_| adds_bos), special("eos")?.filter(|_| adds_eos));
    // A round trip through text orders the keys and proves that the file can be loaded.
    let fail = |e: tokenizers::Error| HubError::Tokenizer { path: header.path().into(), message: e.to_string() };
    let tokenizer = Tokenizer::from_bytes(json.to_string()).map_err(fail)?;
    let text = tokenizer.to_string(false).map_err(fail)?;
    let json = serde_json::from_str(&text)
        .map_err(|e| HubError::Tokenizer { path: header.path().into(), message: e.to_string() })?;
    Ok(Some(GgufTokenizer { tokenizer, json, config: Value::Object(config) }))
}

/// Byte-level BPE. The second value: whether this tokenizer puts the BOS token in front by default.
fn byte_level(header: &Header, tokens: &[&str], pre: &str) -> Result<(Value, bool), HubError> {
    let byte_level = |regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex });
    let split = |pattern: &str| {
        json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false },
            byte_level(false),
        ]})
    };
    let mut normalizer = Value::Null;
    let mut whole_words = false;
    let pre_tokenizer = match pre {
        "default" | "gpt-2" | "gpt2" => byte_level(true),
        "smollm" => json!({ "type": "Sequence", "pretokenizers": [
            { "type": "Digits", "individual_digits": true },
            byte_level(true),
        ]}),
        "llama-bpe" | "llama3" | "llama-v3" => {
            whole_words = true; // a word that is a token is never split, whatever the merges say
            split(LLAMA3_SPLIT)
        }
        "qwen2" | "deepseek-r1-qwen" => {
            normalizer = json!({ "type": "NFC" });
            split(QWEN2_SPLIT)
        }
        other => {
            return Err(HubError::Unsupported {
                path: header.path().into(),
                feature: format!("GGUF pre-tokenizer `{other}`"),
                instead: "use the model's Hugging Face folder, which has a tokenizer.json".into(),
            });
        }
    };
    let merges = strings(header, "tokenizer.ggml.merges")?
        .ok_or_else(|| header.error("metadata `tokenizer.ggml.merges` is missing"))?;
    let mut pairs = Vec::with_capacity(merges.len());
    for merge in merges {
        // The first character may itself be a space only in non-byte-level spellings, which do not occur here.
        let (left, right) =
            merge.split_once(' ').ok_or_else(|| header.error(format!("merge `{merge}` is not a pair")))?;
        pairs.push(json!([left, right]));
    }
    let json = json!({
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": whole_words,
            "vocab": vocabulary(header, tokens)?, "merges": pairs,
        },
    });
    Ok((json, whole_words))
}

/// BPE over text whose spaces are `▁`, with a byte token for every byte that has no other.
fn sentence_piece(header: &Header, tokens: &[&str]) -> Result<Value, HubError> {
    let vocab = vocabulary(header, tokens)?;
    let merges = match strings(header, "tokenizer.ggml.merges")? {
        Some(merges) => merges
            .into_iter()
            .map(|merge| merge.split_once(' ').map(|(a, b)| json!([a, b])))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| header.error("a merge is not a pair"))?,
        None => merges_from_scores(header, tokens)?,
    };
    let unknown = header.index("tokenizer.ggml.unknown_token_id")?.and_then(|id| tokens.get(id).copied());
    let prefix = header.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    let mut normalizers = vec![json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" })];
    if prefix {
        normalizers.insert(0, json!({ "type": "Prepend", "prepend": "▁" }));
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    Ok(json!({
        "normalizer": { "type": "Sequence", "normalizers": normalizers },
        "pre_tokenizer": null,
        "decoder": { "type": "Sequence", "decoders": decoders },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": merges,
        },
    }))
}

/// The merges a scored vocabulary implies: every way to cut a token into two tokens, best score first.
fn merges_from_scores(header: &Header, tokens: &[&str]) -> Result<Vec<Value>, HubError> {
    let scores: Vec<f32> = match header.value("tokenizer.ggml.scores") {
        Some(GgufValue::Array(values)) => values.iter().filter_map(|v| v.to_f32().ok()).collect(),
        _ => return Err(header.error("it has neither `tokenizer.ggml.merges` nor `tokenizer.ggml.scores`")),
    };
    if scores.len() != tokens.len() {
        return Err(header.error("`tokenizer.ggml.scores` and `tokenizer.ggml.tokens` differ in length"));
    }
    let ids: HashMap<&str, usize> = tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut merges = Vec::new();
    for (token, &score) in tokens.iter().zip(&scores) {
        let start = merges.len();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                merges.push((score, left, right, l, r));
            }
        }
        merges[start..].sort_by_key(|&(.., l, r)| (l, r));
    }
    merges.sort_by(|a, b| {
        let length = |text: &str| text.chars().count();
        b.0.total_cmp(&a.0).then_with(|| length(b.1).cmp(&length(a.1))).then_with(|| length(b.2).cmp(&length(a.2)))
    });
    Ok(merges.into_iter().map(|(_, left, right, ..)| json!([left, right])).collect())
}

fn vocabulary(header: &Header, tokens: &[&str]) -> Result<Value, HubError> {
    let mut vocab = Map::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if vocab.insert((*token).into(), json!(id)).is_some() {
            return Err(header.error(format!("token `{}` is there twice", token.escape_debug())));
        }
    }
    Ok(Value::Object(vocab))
}

/// Control tokens are special; user-defined ones are matched whole but are ordinary text.
fn added_tokens(header: &Header, tokens: &[&str]) -> Result<Value, HubError> {
    let Some(GgufValue::Array(types)) = header.value("tokenizer.ggml.token_type") else { return Ok(json!([])) };
    if types.len() != tokens.len() {
        return Err(header.error("`tokenizer.ggml.token_type` and `tokenizer.ggml.tokens` differ in length"));
    }
    let mut added = Vec::new();
    for (id, (token, kind)) in tokens.iter().zip(types).enumerate() {
        let kind = match kind {
            GgufValue::I32(kind) => i64::from(*kind),
            other => other.to_u64().map_or(0, |kind| kind as i64),
        };
        if matches!(kind, CONTROL | USER_DEFINED) && !token.is_empty() {
            added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind == CONTROL,
            }));
        }
    }
    Ok(Value::Array(added))
}

/// Adds BOS and EOS around a text that is encoded "with special tokens".
fn post_processor(bos: Option<(usize, &str)>, eos: Option<(usize, &str)>) -> Value {
    if bos.is_none() && eos.is_none() {
        return Value::Null;
    }
    let piece = |token: &str, kind: u32| json!({ "SpecialToken": { "id": token, "type_id": kind } });
    let mut special = Map::new();
    let (mut single, mut pair) = (Vec::new(), Vec::new());
    for (kind, sequence) in [(0, "A"), (1, "B")] {
        let mut part = Vec::new();
        if let Some((id, token)) = bos {
            part.push(piece(token, kind));
            special.insert(token.into(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        }
        part.push(json!({ "Sequence": { "id": sequence, "type_id": kind } }));
        if let Some((id, token)) = eos {
            part.push(piece(token, kind));
            special.insert(token.into(), json!({ "id": token, "ids": [id], "tokens": [token] }));
        }
        if kind == 0 {
            single.clone_from(&part);
        }
        pair.extend(part);
    }
    json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special })
}

/// An array of strings.
fn strings<'a>(header: &'a Header, key: &str) -> Result<Option<Vec<&'a str>>, HubError> {
    let Some(value) = header.value(key) else { return Ok(None) };
    let GgufValue::Array(values) = value else {
        return Err(header.error(format!("metadata `{key}` is not an array")));
    };
    let text = |value: &'a GgufValue| match value {
        GgufValue::String(text) => Some(text.as_str()),
        _ => None,
    };
    values
        .iter()
        .map(text)
        .collect::<Option<Vec<_>>>()
        .map(Some)
        .ok_or_else(|| header.error(format!("metadata `{key}` holds something other than strings")))
}
