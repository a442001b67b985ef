//! Typed access to `config.json`. Errors name the key, what stands there and what is needed; a key that changes the
//! mathematics is either read by the family or refused by name.

use crate::json::Json;
use crate::number;
use crate::text::join;
use crate::{Error, Result};

/// Keys of well-known configs that change what a decoder computes. A family names those it builds and refuses the
/// rest, see [`Config::refuse_all_but`]. Neutral: null, false, 0, empty; for a multiplier 1.
const CHANGES_THE_MODEL: &[&str] = &[
    // storage that is not plain tensors
    "quantization_config",
    "compression_config",
    // biases, norms and activations
    "attention_bias",
    "attention_out_bias",
    "mlp_bias",
    "qkv_bias",
    "use_bias",
    "lm_head_bias",
    "use_qk_norm",
    "qk_norm",
    "qk_layernorm",
    "clip_qkv",
    "sandwich_norm",
    // which rows attend to which, and how
    "sliding_window",
    "use_sliding_window",
    "layer_types",
    "attention_chunk_size",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logits_soft_cap",
    "attn_temperature_tuning",
    "attention_multiplier",
    "query_pre_attn_scalar",
    "attention_sinks",
    "use_alibi",
    "alibi",
    // rotary embeddings
    "partial_rotary_factor",
    "rotary_pct",
    "rope_interleaved",
    "rope_local_base_freq",
    "mrope_section",
    "use_mrope",
    "no_rope_layers",
    "no_rope_layer_interval",
    // multipliers
    "residual_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "logit_scale",
    "scale_emb",
    "scale_depth",
    "normalize_embedding",
    "scale_embeddings",
    // experts, latent attention, recurrence
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "kv_lora_rank",
    "q_lora_rank",
    "linear_attention",
    "full_attention_interval",
    "num_kv_shared_layers",
    // dropout in training
    "attention_dropout",
    "hidden_dropout",
    "residual_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "embedding_dropout",
    // other networks
    "is_encoder_decoder",
    "add_cross_attention",
    "vision_config",
    "audio_config",
];

/// `config.json`, or an object inside it.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    entries: &'static [(String, Json)],
    /// Keys that lead here, each followed by a dot.
    path: &'static str,
}

impl Config {
    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// When it is not a JSON object; with the line.
    pub fn parse(text: &str) -> Result<Self> {
        let message = match Json::read(text, true) {
            Ok(Json::Object(entries)) => return Ok(Self { entries: entries.leak(), path: "" }),
            Ok(other) => join(&[other.show(), " stands where an object is needed"]),
            Err(error) => error.message(),
        };
        Err(Error::of(join(&["config.json: ", message])))
    }

    /// The keys of this object, in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.entries.iter().map(|(key, _)| key.as_str())
    }

    /// Whether the key is there, be it with null.
    pub fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    fn entry(&self, key: &str) -> Option<&'static Json> {
        // As in Python, the last of two equal keys counts.
        self.entries.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The value of a key; null counts as absent.
    fn value(&self, key: &str) -> Option<&'static Json> {
        self.entry(key).filter(|value| !matches!(value, Json::Null))
    }

    /// `config.json: ` key `, then these parts.
    fn about(&self, key: &str, first: &str, second: &str, third: &str) -> Error {
        Error::of(join(&["config.json: `", self.path, key, "` is ", first, second, third]))
    }

    fn wrong(&self, key: &str, value: &Json, needed: &str) -> Error {
        self.about(key, join(&[value.show(), ", "]), needed, " is needed")
    }

    fn missing(&self, key: &str, needed: &str) -> Error {
        self.about(key, "missing, ", needed, " is needed")
    }

    /// A positive whole number: a width, a count.
    ///
    /// # Errors
    /// When the key is absent, null or something else.
    pub fn size(&self, key: &str) -> Result<u32> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key, SIZE))
    }

    /// As [`Config::size`], with a value for an absent or null key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn size_or(&self, key: &str, default: u32) -> Result<u32> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    /// As [`Config::size`], `None` for an absent or null key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn optional_size(&self, key: &str) -> Result<Option<u32>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let size = match value {
            // `8192.0` is how some tools write a whole number.
            Json::Number(text) => {
                let text = text.as_str();
                number::whole(text.strip_suffix(".0").unwrap_or(text)).filter(|&size| size > 0)
            }
            _ => None,
        };
        size.map(Some).ok_or_else(|| self.wrong(key, value, SIZE))
    }

    /// A number.
    ///
    /// # Errors
    /// When the key is absent, null or something else.
    pub fn number(&self, key: &str) -> Result<f64> {
        self.optional_number(key)?.ok_or_else(|| self.missing(key, NUMBER))
    }

    /// As [`Config::number`], with a value for an absent or null key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn number_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.optional_number(key)?.unwrap_or(default))
    }

    /// As [`Config::number`], `None` for an absent or null key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = match value {
            Json::Number(text) => number::parse(text.as_str()),
            _ => None,
        };
        number.map(Some).ok_or_else(|| self.wrong(key, value, NUMBER))
    }

    /// true or false, with a value for an absent or null key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.optional_flag(key)?.unwrap_or(default))
    }

    /// true or false, `None` for an absent or null key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        match self.value(key) {
            None => Ok(None),
            Some(Json::Bool(flag)) => Ok(Some(*flag)),
            Some(value) => Err(self.wrong(key, value, "true or false")),
        }
    }

    /// A text, `None` for an absent or null key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn optional_text(&self, key: &str) -> Result<Option<&'static str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong(key, value, "a text")),
        }
    }

    /// A list of texts, `None` for an absent or null key.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn texts(&self, key: &str) -> Result<Option<&'static [&'static str]>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let mut texts = Vec::new();
        if let Json::List(items) = value {
            for item in items {
                if let Json::Text(text) = item {
                    texts.push(text.as_str());
                }
            }
            if texts.len() == items.len() {
                return Ok(Some(texts.leak()));
            }
        }
        Err(self.wrong(key, value, "a list of texts"))
    }

    /// An object inside this one, `None` for an absent, null or empty one.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn section(&self, key: &str) -> Result<Option<Self>> {
        match self.value(key) {
            None => Ok(None),
            Some(Json::Object(entries)) if entries.is_empty() => Ok(None),
            Some(Json::Object(entries)) => Ok(Some(Self { entries, path: join(&[self.path, key, "."]) })),
            Some(value) => Err(self.wrong(key, value, "an object")),
        }
    }

    /// The activation function under `key` by the name that the host gives it; absent means silu.
    ///
    /// # Errors
    /// When it is not one that the contract has.
    pub fn activation(&self, key: &str) -> Result<&'static str> {
        let name = self.optional_text(key)?.unwrap_or("silu");
        match ACTIVATIONS.iter().find(|(config, _)| *config == name) {
            Some((_, host)) => Ok(host),
            None => Err(self.about(
                key,
                "the activation \"",
                name,
                "\", which is not built; built are silu, gelu, gelu_new, gelu_pytorch_tanh, relu, relu2, sigmoid and tanh",
            )),
        }
    }

    /// Refuses every key that changes the mathematics and stands at a value that is not neutral, but for those that
    /// the family reads itself. Call it first: then nothing of the config is ignored in silence.
    ///
    /// # Errors
    /// Names the key and its value.
    pub fn refuse_all_but(&self, built: &[&str]) -> Result<()> {
        for (key, value) in self.entries {
            let key = key.as_str();
            if CHANGES_THE_MODEL.contains(&key) && !built.contains(&key) && !is_neutral(key, value) {
                return Err(self.refuse(key, "which changes the model in a way that this plugin does not build"));
            }
        }
        Ok(())
    }

    /// An error about this key: `config.json: ` key ` is ` value `, ` what.
    pub fn refuse(&self, key: &str, what: &str) -> Error {
        let shown = self.entry(key).map_or("missing", Json::show);
        self.about(key, shown, ", ", what)
    }

    /// Whether the value of `key` is itself an object.
    pub(crate) fn is_object(&self, key: &str) -> bool {
        matches!(self.entry(key), Some(Json::Object(_)))
    }
}

/// Activations as configs name them, and by the contract's names.
const ACTIVATIONS: &[(&str, &str)] = &[
    ("silu", "silu"),
    ("swish", "silu"),
    ("gelu", "gelu"),
    ("gelu_new", "gelu-tanh"),
    ("gelu_fast", "gelu-tanh"),
    ("gelu_pytorch_tanh", "gelu-tanh"),
    ("relu", "relu"),
    ("relu2", "relu2"),
    ("sigmoid", "sigmoid"),
    ("tanh", "tanh"),
];

const SIZE: &str = "a positive whole number";
const NUMBER: &str = "a number";

fn is_neutral(key: &str, value: &Json) -> bool {
    let multiplier = key.ends_with("multiplier") || key.starts_with("logit") || key.starts_with("scale_");
    let stands_at = |neutral: f64| match value {
        Json::Number(text) => number::parse(text.as_str()) == Some(neutral),
        _ => false,
    };
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Bool(true) => false,
        Json::Number(_) if key == "partial_rotary_factor" || key == "rotary_pct" || multiplier => stands_at(1.0),
        Json::Number(_) => stands_at(0.0),
        Json::Text(text) => text.is_empty(),
        Json::List(items) => items.iter().all(|item| item.as_text() == Some("full_attention")),
        Json::Object(entries) => entries.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    #[test]
    fn errors_name_key_value_and_need() {
        let c = config(r#"{"a": "x", "n": null, "z": 0, "b": {"factor": true}, "big": 5000000000, "w": 8192.0}"#);
        let message = |error: Error| error.to_string();
        assert_eq!(message(c.size("a").unwrap_err()), "config.json: `a` is \"x\", a positive whole number is needed");
        assert_eq!(
            message(c.size("hidden_size").unwrap_err()),
            "config.json: `hidden_size` is missing, a positive whole number is needed"
        );
        assert!(c.size("n").is_err() && c.size("z").is_err() && c.size("big").is_err());
        assert_eq!(c.size("w"), Ok(8192));
        assert_eq!(c.size_or("n", 7), Ok(7));
        let inner = c.section("b").unwrap().unwrap();
        assert_eq!(message(inner.number("factor").unwrap_err()), "config.json: `b.factor` is true, a number is needed");
    }

    #[test]
    fn what_changes_the_model_is_refused_unless_built_or_neutral() {
        let neutral = r#"{"attention_bias": false, "sliding_window": null, "attention_dropout": 0.0, "logits_scaling": 1.0,
            "layer_types": ["full_attention"], "partial_rotary_factor": 1.0, "hidden_size": 64}"#;
        assert_eq!(config(neutral).refuse_all_but(&[]), Ok(()));
        for (text, key) in [
            (r#"{"quantization_config": {"bits": 4}}"#, "quantization_config"),
            (r#"{"attention_bias": true}"#, "attention_bias"),
            (r#"{"sliding_window": 4096}"#, "sliding_window"),
            (r#"{"logits_scaling": 8.0}"#, "logits_scaling"),
            (r#"{"attention_dropout": 0.1}"#, "attention_dropout"),
            (r#"{"layer_types": ["full_attention", "sliding_attention"]}"#, "layer_types"),
            (r#"{"partial_rotary_factor": 0.5}"#, "partial_rotary_factor"),
        ] {
            let error = config(text).refuse_all_but(&[]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{key}`")), "{error}");
            assert_eq!(config(text).refuse_all_but(&[key]), Ok(()));
        }
    }

    #[test]
    fn activations_have_the_hosts_names() {
        assert_eq!(config("{}").activation("hidden_act"), Ok("silu"));
        assert_eq!(config(r#"{"hidden_act": "gelu_pytorch_tanh"}"#).activation("hidden_act"), Ok("gelu-tanh"));
        let error = config(r#"{"hidden_act": "quick_gelu"}"#).activation("hidden_act").unwrap_err();
        assert!(error.to_string().contains("\"quick_gelu\""));
    }
}
