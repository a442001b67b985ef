//! The special tokens of a checkpoint, gathered from the files that name them.

use serde_json::{Map, Value};
use tokenizers::Tokenizer;

/// A special token: its text and, when the vocabulary has it, its id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialToken {
    pub text: String,
    pub id: Option<u32>,
}

/// The named special tokens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    pub bos: Option<SpecialToken>,
    pub eos: Option<SpecialToken>,
    pub pad: Option<SpecialToken>,
    pub unk: Option<SpecialToken>,
}

/// What ends an assistant turn in the templates that are about; a checkpoint's own configuration often names only one.
const USUAL_ENDS: [&str; 8] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|end_of_turn|>",
    "<end_of_turn>",
    "<|end|>",
    "<|eom_id|>",
    "<|turn_end|>",
    "<|return|>",
];

type Object = Map<String, Value>;

impl SpecialTokens {
    /// Looks in `tokenizer_config.json`, then `special_tokens_map.json`, then the ids of `config.json`.
    pub(crate) fn gather(
        tokenizer_config: Option<&Object>,
        special_tokens_map: Option<&Object>,
        config: &Object,
        tokenizer: Option<&Tokenizer>,
    ) -> Self {
        let find = |name: &str| -> Option<SpecialToken> {
            let key = format!("{name}_token");
            for file in [tokenizer_config, special_tokens_map].into_iter().flatten() {
                if let Some(text) = file.get(&key).and_then(token_text) {
                    let id = tokenizer.and_then(|t| t.token_to_id(text));
                    return Some(SpecialToken { text: text.to_owned(), id });
                }
                if tokenizer_config.is_some_and(|c| c.contains_key(&key)) {
                    return None; // stated as null: this model has none
                }
            }
            let id = ids(config.get(&format!("{name}_token_id"))).first().copied()?;
            Some(SpecialToken { text: tokenizer.and_then(|t| t.id_to_token(id))?, id: Some(id) })
        };
        Self { bos: find("bos"), eos: find("eos"), pad: find("pad"), unk: find("unk") }
    }

    /// Name and text of each token there is, as templates know them (`bos_token`, ...).
    pub fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        [("bos_token", &self.bos), ("eos_token", &self.eos), ("pad_token", &self.pad), ("unk_token", &self.unk)]
            .into_iter()
            .filter_map(|(name, token)| Some((name, token.as_ref()?.text.as_str())))
    }
}

/// Every id that ends a generation: of the generation config, the config, the tokenizer, and the end-of-turn tokens
/// that the template writes.
pub(crate) fn eos_token_ids(
    generation: Option<&Object>,
    config: &Object,
    special: &SpecialTokens,
    template: Option<&str>,
    tokenizer: Option<&Tokenizer>,
) -> Vec<u32> {
    let mut found = ids(generation.and_then(|g| g.get("eos_token_id")));
    found.extend(ids(config.get("eos_token_id")));
    found.extend(special.eos.as_ref().and_then(|token| token.id));
    if let (Some(template), Some(tokenizer)) = (template, tokenizer) {
        for end in USUAL_ENDS.iter().filter(|end| template.contains(*end)) {
            found.extend(tokenizer.token_to_id(end));
        }
    }
    let mut unique = Vec::new();
    for id in found {
        if !unique.contains(&id) {
            unique.push(id);
        }
    }
    unique
}

/// A token is written as a string or as an object with `content`.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// One id or a list of ids.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(values)) => values.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}
