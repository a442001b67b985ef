//! ShareGPT's conversations: lists of `from` and `value`, or of whole rounds.

use swift_sdk::dataset::{Outcome, Preprocessor};
use swift_sdk::{Json, Result, Settings};

use crate::row::{Row, dropped, messages, role_of};

pub struct ShareGpt;

impl Preprocessor for ShareGpt {
    const NAME: &'static str = "sharegpt";
    const SUMMARY: &'static str = "conversations of from and value, or of human and assistant";
    const DATASETS: &'static [&'static str] = &["swift/sharegpt"];

    fn configure(_settings: &Settings) -> Result<Self> {
        Ok(Self)
    }

    fn process(&self, row: Json) -> Result<Outcome> {
        let mut row = Row::new(row)?;
        let names = ["conversations", "conversation", "messages"];
        if !names.iter().any(|name| row.has(name)) {
            return Err("the rows have no column `conversations` or `conversation`: this is not ShareGPT's form".into());
        }
        let conversation = names.iter().find_map(|name| row.take(name));
        let Some(conversation) = conversation else { return dropped("no messages") };
        let system = row.first_text(&["system", "system_prompt"]);
        match messages(conversation, system) {
            Ok(messages) if messages.iter().all(|message| role_of(message) != "assistant") => dropped("no answer"),
            Ok(messages) => Ok(row.with(messages, [])),
            Err(reason) => dropped(reason),
        }
    }
}
