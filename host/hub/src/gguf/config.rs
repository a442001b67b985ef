//! `config.json` from a GGUF's metadata, with the key names Hugging Face uses for the same architecture.

use serde_json::{Map, Value, json};

use super::{Architecture, Header};
use crate::HubError;

/// The frequency factors that llama 3.1 and later store beside the weights: (low, high, original context).
const LLAMA3_ROPE: (f32, f32, f32) = (1.0, 4.0, 8192.0);

/// The model's configuration as Hugging Face would write it. `dtype` is the weights' type after conversion.
pub(crate) fn config(header: &Header, vocabulary: usize, dtype: &str) -> Result<Value, HubError> {
    if header.integer("expert_count")?.unwrap_or(0) > 0 {
        return Err(HubError::Unsupported {
            path: header.path().into(),
            feature: "a GGUF with experts".into(),
            instead: "use the model's Hugging Face folder (config.json and safetensors)".into(),
        });
    }
    let hidden = header.required_integer("embedding_length")?;
    let heads = header.required_integer("attention.head_count")?;
    let head_size = match header.architecture {
        Architecture::Llama => header.integer("rope.dimension_count")?,
        Architecture::Qwen2 => None,
        Architecture::Qwen3 => header.integer("attention.key_length")?,
    };
    let head_size = head_size.unwrap_or(hidden / heads);
    let theta = header.float("rope.freq_base").unwrap_or(10_000.0);
    let epsilon = header
        .float("attention.layer_norm_rms_epsilon")
        .ok_or_else(|| header.error("metadata `attention.layer_norm_rms_epsilon` is missing"))?;
    let (class, model_type) = match header.architecture {
        Architecture::Llama => ("LlamaForCausalLM", "llama"),
        Architecture::Qwen2 => ("Qwen2ForCausalLM", "qwen2"),
        Architecture::Qwen3 => ("Qwen3ForCausalLM", "qwen3"),
    };
    let biases = header.has_tensor("blk.0.attn_q.bias");
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.into(), value);
    set("architectures", json!([class]));
    set("model_type", json!(model_type));
    set("attention_dropout", json!(0.0));
    match header.architecture {
        Architecture::Llama => {
            set("attention_bias", json!(biases));
            set("mlp_bias", json!(header.has_tensor("blk.0.ffn_up.bias")));
        }
        Architecture::Qwen3 => drop(set("attention_bias", json!(biases))),
        Architecture::Qwen2 => {} // its class always has them
    }
    for (key, name) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        if let Some(id) = header.index(&format!("tokenizer.ggml.{name}_token_id"))? {
            set(key, json!(id));
        }
    }
    set("hidden_act", json!("silu"));
    set("hidden_size", json!(hidden));
    set("head_dim", json!(head_size));
    set("intermediate_size", json!(header.required_integer("feed_forward_length")?));
    set("max_position_embeddings", json!(header.required_integer("context_length")?));
    set("num_attention_heads", json!(heads));
    set("num_hidden_layers", json!(header.required_integer("block_count")?));
    set("num_key_value_heads", json!(header.integer("attention.head_count_kv")?.unwrap_or(heads)));
    set("rms_norm_eps", decimal(epsilon));
    set("rope_theta", decimal(theta));
    if let Some(scaling) = rope_scaling(header, head_size, theta)? {
        set("rope_scaling", scaling);
    }
    set("tie_word_embeddings", json!(!header.has_tensor("output.weight")));
    set("torch_dtype", json!(dtype));
    set("vocab_size", json!(vocabulary));
    if matches!(header.architecture, Architecture::Qwen2 | Architecture::Qwen3) {
        set("use_sliding_window", json!(false));
    }
    Ok(Value::Object(config))
}

/// The shortest decimal that reads back as this f32: `1e-05`, not `9.999999747378752e-06`.
fn decimal(value: f32) -> Value {
    let shortest: f64 = format!("{value:e}").parse().expect("a printed float parses");
    json!(shortest)
}

fn rope_scaling(header: &Header, head_size: usize, theta: f32) -> Result<Option<Value>, HubError> {
    let unsupported = |feature: String| HubError::Unsupported {
        path: header.path().into(),
        feature,
        instead: "use the model's Hugging Face folder, whose config.json says how positions are scaled".into(),
    };
    if header.has_tensor("rope_freqs.weight") {
        let factors = header.small_tensor("rope_freqs.weight")?;
        let factor = factors.iter().copied().fold(1.0, f32::max);
        let expected = llama3_factors(head_size, theta, factor);
        let same = expected.len() == factors.len()
            && expected.iter().zip(&factors).all(|(a, b)| (a - b).abs() <= 1e-3 * b.abs());
        if !same {
            return Err(unsupported("a GGUF whose rope_freqs.weight is not llama 3's scaling".into()));
        }
        let (low, high, original) = LLAMA3_ROPE;
        return Ok(Some(json!({
            "rope_type": "llama3", "factor": decimal(factor), "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original as u32,
        })));
    }
    let prefix = header.architecture.prefix();
    let Some(kind) = header.string(&format!("{prefix}.rope.scaling.type")) else { return Ok(None) };
    if kind == "none" {
        return Ok(None);
    }
    let factor = header
        .float("rope.scaling.factor")
        .ok_or_else(|| header.error(format!("metadata `{prefix}.rope.scaling.factor` is missing")))?;
    match kind {
        "linear" => Ok(Some(json!({ "rope_type": "linear", "factor": decimal(factor) }))),
        "yarn" => {
            let mut scaling = json!({ "rope_type": "yarn", "factor": decimal(factor) });
            if let Some(original) = header.integer("rope.scaling.original_context_length")? {
                scaling["original_max_position_embeddings"] = json!(original);
            }
            Ok(Some(scaling))
        }
        other => Err(unsupported(format!("GGUF rope scaling `{other}`"))),
    }
}

/// What each rotary frequency is divided by under llama 3's scaling (the formula of Hugging Face's
/// `_compute_llama3_parameters`).
fn llama3_factors(head_size: usize, theta: f32, factor: f32) -> Vec<f32> {
    let (low, high, original) = LLAMA3_ROPE;
    (0..head_size / 2)
        .map(|pair| {
            let frequency = theta.powf(-2.0 * pair as f32 / head_size as f32);
            let wavelength = 2.0 * std::f32::consts::PI / frequency;
            if wavelength < original / high {
                1.0
            } else if wavelength > original / low {
                factor
            } else {
                let smooth = (original / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        })
        .collect()
}
