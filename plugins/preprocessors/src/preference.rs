//! A better and a worse answer: `chosen` and `rejected`, as texts or whole conversations, or the bilingual columns of
//! `shareAI/DPO-zh-en-emoji`.

use swift_sdk::dataset::{Outcome, Preprocessor, message};
use swift_sdk::{Json, Result, Settings};

use crate::row::{Reason, Row, dropped, messages, role_of};

/// The sign that asks for a coloured emoji; the emoji data is full of stray ones.
const VARIATION_SELECTOR: char = '\u{fe0f}';

pub struct Preference;

impl Preprocessor for Preference {
    const NAME: &'static str = "preference";
    const SUMMARY: &'static str = "chosen and rejected answers, as texts or conversations";
    const DATASETS: &'static [&'static str] = &[
        "hjh0119/shareAI-Llama3-DPO-zh-en-emoji",
        "shareAI/DPO-zh-en-emoji",
        "AI-ModelScope/orpo-dpo-mix-40k",
        "mlabonne/orpo-dpo-mix-40k",
        "HuggingFaceH4/ultrafeedback_binarized",
    ];

    fn configure(_settings: &Settings) -> Result<Self> {
        Ok(Self)
    }

    fn process(&self, row: Json) -> Result<Outcome> {
        let mut row = Row::new(row)?;
        if row.has("answer_zh") && row.has("answer_en") {
            return Ok(emoji(row));
        }
        if !row.has("chosen") || !row.has("rejected") {
            return Err("the rows have no columns `chosen` and `rejected`: these are no preferences".into());
        }
        // Written to do harm.
        if row.peek("source") == Some("toxic-dpo-v0.2") {
            return dropped("from toxic-dpo-v0.2");
        }
        let (chosen, rejected) = match (row.take("chosen"), row.take("rejected")) {
            (None, _) => return dropped("no chosen answer"),
            (_, None) => return dropped("no rejected answer"),
            (Some(chosen), Some(rejected)) => (chosen, rejected),
        };
        let system = row.first_text(&["system", "system_prompt"]);
        match (&chosen, &rejected) {
            (Json::Text(chosen), Json::Text(rejected)) => {
                let Some(query) = row.first_text(&["prompt", "question", "query", "instruction"]) else {
                    return dropped("no prompt");
                };
                if chosen == rejected {
                    return dropped("chosen and rejected are the same");
                }
                let system = system.iter().map(|system| message("system", system));
                let messages = system.chain([message("user", &query), message("assistant", chosen)]).collect();
                Ok(row.with(messages, [("rejected_response", Json::Text(rejected.clone()))]))
            }
            _ => {
                // The prompt is in the conversations too.
                row.take("prompt");
                Ok(conversations(row, chosen, rejected, system).unwrap_or_else(Outcome::dropped))
            }
        }
    }
}

fn emoji(mut row: Row) -> Outcome {
    let mut clean = |names: &[&str]| row.first_text(names).map(|text| text.replace(VARIATION_SELECTOR, ""));
    let (query, chosen, rejected) =
        (clean(&["question", "query", "prompt"]), clean(&["answer_zh"]), clean(&["answer_en"]));
    match (query, chosen, rejected) {
        (None, ..) => Outcome::dropped("no question"),
        (_, None, _) => Outcome::dropped("no chosen answer"),
        (.., None) => Outcome::dropped("no rejected answer"),
        (_, Some(chosen), Some(rejected)) if chosen == rejected => Outcome::dropped("chosen and rejected are the same"),
        (Some(query), Some(chosen), Some(rejected)) => row.with(
            vec![message("user", &query), message("assistant", &chosen)],
            [("rejected_response", Json::Text(rejected))],
        ),
    }
}

fn conversations(
    row: Row,
    chosen: Json,
    rejected: Json,
    system: Option<String>,
) -> std::result::Result<Outcome, Reason> {
    let (chosen, rejected) = (messages(chosen, system.clone())?, messages(rejected, system)?);
    if chosen == rejected {
        return Err("chosen and rejected are the same");
    }
    let answered = |messages: &[Json]| messages.last().is_some_and(|last| role_of(last) == "assistant");
    if !answered(&chosen) || !answered(&rejected) {
        return Err("a conversation does not end with an answer");
    }
    Ok(row.with(chosen, [("rejected_messages", Json::List(rejected))]))
}
