//! How to generate, resolved once: what the user said, else the checkpoint's `generation_config.json`, else greedy.

use swift_hub::GenerationDefaults;

use crate::error::InferError;

/// Tokens kept by top-k when sampling is on and nobody said: transformers' own default.
const TOP_K: usize = 50;

/// What the user may say; `None` leaves it to the checkpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationFlags {
    /// 0 is greedy.
    pub temperature: Option<f64>,
    /// 0 keeps all tokens.
    pub top_k: Option<u64>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    pub repetition_penalty: Option<f64>,
    pub max_new_tokens: Option<u64>,
    pub stop_words: Vec<String>,
    pub seed: u64,
}

/// How the next token is chosen. Filters apply in this order, as in transformers: repetition penalty, temperature,
/// top-k, top-p, min-p.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Logits are divided by it; 0 takes the most likely token.
    pub temperature: f64,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f64,
    /// Keep tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f64,
    /// Logits of tokens that occurred (prompt included) are divided by it, negative ones multiplied; 1 changes nothing.
    pub repetition_penalty: f64,
}

impl Sampling {
    /// The most likely token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0 };

    /// Whether nothing is drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

/// Everything that steers a generation.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationSettings {
    pub sampling: Sampling,
    /// `None`: until the model's context is full.
    pub max_new_tokens: Option<usize>,
    /// Texts that end an answer; they are not part of it.
    pub stop_words: Vec<String>,
    pub seed: u64,
}

impl GenerationSettings {
    /// Flags over the checkpoint's defaults. As ms-swift decides it: without `do_sample` in the checkpoint and without a
    /// temperature from the user, generation is greedy.
    ///
    /// # Errors
    /// When a number is out of its range.
    pub fn resolve(flags: &GenerationFlags, defaults: &GenerationDefaults) -> Result<Self, InferError> {
        let temperature = match flags.temperature {
            Some(given) => given,
            None if defaults.do_sample == Some(true) => defaults.temperature.unwrap_or(1.0),
            None => 0.0,
        };
        let sampling = Sampling {
            temperature,
            top_k: flags.top_k.or(defaults.top_k).map_or(TOP_K, |k| k as usize),
            top_p: flags.top_p.or(defaults.top_p).unwrap_or(1.0),
            min_p: flags.min_p.or(defaults.min_p).unwrap_or(0.0),
            repetition_penalty: flags.repetition_penalty.or(defaults.repetition_penalty).unwrap_or(1.0),
        };
        let wrong = |name, value: f64, message| Err(InferError::Setting { name, value: value.to_string(), message });
        if !(sampling.temperature >= 0.0 && sampling.temperature.is_finite()) {
            return wrong("temperature", sampling.temperature, "it must be 0 (greedy) or a positive number");
        }
        if !(0.0..=1.0).contains(&sampling.top_p) {
            return wrong("top_p", sampling.top_p, "it is a probability, from 0 to 1");
        }
        if !(0.0..=1.0).contains(&sampling.min_p) {
            return wrong("min_p", sampling.min_p, "it is a fraction, from 0 to 1");
        }
        if !(sampling.repetition_penalty > 0.0 && sampling.repetition_penalty.is_finite()) {
            return wrong(
                "repetition_penalty",
                sampling.repetition_penalty,
                "it must be a positive number; 1 changes nothing",
            );
        }
        let max_new_tokens = flags.max_new_tokens.or(defaults.max_new_tokens).map(|n| n as usize);
        if max_new_tokens == Some(0) {
            return wrong("max_new_tokens", 0.0, "it must be at least 1");
        }
        if flags.stop_words.iter().any(String::is_empty) {
            let message = "a stop word must have at least one character";
            return Err(InferError::Setting { name: "stop_words", value: "an empty text".into(), message });
        }
        Ok(Self { sampling, max_new_tokens, stop_words: flags.stop_words.clone(), seed: flags.seed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_stand_over_the_checkpoint_and_the_checkpoint_over_greedy() {
        let none = GenerationFlags::default();
        let plain = GenerationDefaults { temperature: Some(0.6), ..GenerationDefaults::default() };
        assert!(GenerationSettings::resolve(&none, &plain).unwrap().sampling.is_greedy());
        let sampled = GenerationDefaults { do_sample: Some(true), top_k: Some(20), max_new_tokens: Some(9), ..plain };
        let got = GenerationSettings::resolve(&none, &sampled).unwrap();
        assert_eq!((got.sampling.temperature, got.sampling.top_k, got.max_new_tokens), (0.6, 20, Some(9)));
        let flags = GenerationFlags { temperature: Some(0.0), max_new_tokens: Some(3), ..none.clone() };
        let got = GenerationSettings::resolve(&flags, &sampled).unwrap();
        assert!(got.sampling.is_greedy());
        assert_eq!(got.max_new_tokens, Some(3));
        let flags = GenerationFlags { temperature: Some(0.3), ..none };
        let got = GenerationSettings::resolve(&flags, &GenerationDefaults::default()).unwrap();
        assert_eq!((got.sampling.temperature, got.sampling.top_k), (0.3, TOP_K));
    }

    #[test]
    fn numbers_out_of_range_are_named() {
        let base = GenerationFlags::default;
        for (flags, name) in [
            (GenerationFlags { temperature: Some(-1.0), ..base() }, "temperature"),
            (GenerationFlags { temperature: Some(f64::NAN), ..base() }, "temperature"),
            (GenerationFlags { top_p: Some(1.5), ..base() }, "top_p"),
            (GenerationFlags { min_p: Some(-0.5), ..base() }, "min_p"),
            (GenerationFlags { repetition_penalty: Some(0.0), ..base() }, "repetition_penalty"),
            (GenerationFlags { max_new_tokens: Some(0), ..base() }, "max_new_tokens"),
            (GenerationFlags { stop_words: vec![String::new()], ..base() }, "stop_words"),
        ] {
            let error = GenerationSettings::resolve(&flags, &GenerationDefaults::default()).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
