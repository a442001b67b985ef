//! Stanford Alpaca's form: `instruction`, `input`, `output`.

use swift_sdk::dataset::{Outcome, Preprocessor, message};
use swift_sdk::{Json, Result, Settings};

use crate::row::{Row, dropped};

/// What stands in front of the input in the Chinese data.
const INPUT: &str = "输入：";

pub struct Alpaca;

impl Preprocessor for Alpaca {
    const NAME: &'static str = "alpaca";
    const SUMMARY: &'static str = "instruction, input and output; input goes on a line of its own";
    const DATASETS: &'static [&'static str] = &[
        "AI-ModelScope/alpaca-gpt4-data-zh",
        "llm-wizard/alpaca-gpt4-data-zh",
        "AI-ModelScope/alpaca-gpt4-data-en",
        "vicgalle/alpaca-gpt4",
        "AI-ModelScope/alpaca-cleaned",
        "yahma/alpaca-cleaned",
        "tatsu-lab/alpaca",
    ];

    fn configure(_settings: &Settings) -> Result<Self> {
        Ok(Self)
    }

    fn process(&self, row: Json) -> Result<Outcome> {
        let mut row = Row::new(row)?;
        if !row.has("instruction") {
            return Err("the rows have no column `instruction`: this is not alpaca's form".into());
        }
        let (instruction, input) = (row.text("instruction"), row.text("input"));
        let input = input.as_deref().map(|text| text.strip_prefix(INPUT).unwrap_or(text)).filter(|t| !t.is_empty());
        let query = match (instruction, input) {
            (Some(instruction), Some(input)) => format!("{instruction}\n{input}"),
            (Some(instruction), None) => instruction,
            (None, Some(input)) => input.to_owned(),
            (None, None) => return dropped("no instruction"),
        };
        let Some(output) = row.text("output") else { return dropped("no output") };
        // The whole prompt once more, in the English data.
        row.take("text");
        let system = row.first_text(&["system", "system_prompt"]);
        let mut messages: Vec<Json> = system.iter().map(|system| message("system", system)).collect();
        messages.extend([message("user", &query), message("assistant", &output)]);
        Ok(row.with(messages, []))
    }
}
