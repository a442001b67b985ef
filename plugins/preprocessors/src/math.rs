//! Mathematics with an answer that a reward can compare: NuminaMath, DAPO, GSM8K.
//!
//! The answer stays in `solution`, which reward functions read, and is the assistant's message too: trainers that
//! generate drop that message, the others learn from it.

use swift_sdk::dataset::{Outcome, Preprocessor, message};
use swift_sdk::{Json, Result, Settings};

use crate::row::{Row, dropped, messages};

/// What GSM8K puts in front of the final number of a worked answer.
const FINAL: &str = "#### ";

pub struct Math {
    system: Option<String>,
}

impl Preprocessor for Math {
    const NAME: &'static str = "math";
    const SUMMARY: &'static str = "problems with a `solution` for rewards; `system` is put in front";
    const DATASETS: &'static [&'static str] = &[
        "AI-MO/NuminaMath-TIR",
        "AI-MO/NuminaMath-CoT",
        "AI-MO/NuminaMath-1.5",
        "open-r1/DAPO-Math-17k-Processed",
        "modelscope/gsm8k",
        "openai/gsm8k",
    ];

    fn configure(settings: &Settings) -> Result<Self> {
        Ok(Self { system: settings.optional_text("system")?.map(str::to_owned) })
    }

    fn process(&self, row: Json) -> Result<Outcome> {
        let mut row = Row::new(row)?;
        let given = row.take("messages");
        let problem = row.first_text(&["problem", "question", "query", "prompt"]);
        let solution = row.text("solution");
        let answer = if solution.is_none() { row.text("answer") } else { None };
        let Some(worked) = solution.as_ref().or(answer.as_ref()) else { return dropped("no solution") };
        let messages = match (given, &problem) {
            (Some(given), _) => match messages(given, self.system.clone()) {
                Ok(messages) => messages,
                Err(reason) => return dropped(reason),
            },
            (None, Some(problem)) => {
                let system = self.system.iter().map(|system| message("system", system));
                system.chain([message("user", problem), message("assistant", worked)]).collect()
            }
            (None, None) => return dropped("no problem"),
        };
        let solution = match solution {
            Some(solution) => solution,
            None => worked.rsplit_once(FINAL).map_or(worked.as_str(), |(_, last)| last).trim().to_owned(),
        };
        Ok(row.with(messages, [("solution", Json::Text(solution))]))
    }
}
