//! A row preprocessor: rows with instruction, input and output to messages.

use swift_sdk::dataset::{Outcome, Preprocessor, message};
use swift_sdk::{Json, Result, Settings, export_preprocessors};

struct Alpaca;

impl Preprocessor for Alpaca {
    const NAME: &'static str = "alpaca";
    const SUMMARY: &'static str = "Rows with instruction, input and output to messages";

    fn configure(_settings: &Settings) -> Result<Self> {
        Ok(Self)
    }

    fn process(&self, row: Json) -> Result<Outcome> {
        let column = |name| row.get(name).and_then(Json::as_text).filter(|text| !text.is_empty());
        let Some(answer) = column("output") else {
            return Ok(Outcome::dropped("no answer"));
        };
        let mut question = column("instruction").ok_or("the rows have no column `instruction`")?.to_owned();
        if let Some(input) = column("input") {
            question += "\n";
            question += input;
        }
        let messages = vec![message("user", &question), message("assistant", answer)];
        Ok(Json::object([("messages", messages.into())]).into())
    }
}

export_preprocessors!(Alpaca);
