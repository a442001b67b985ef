//! The eight rewards of ms-swift under their names, with its definitions and its names for their settings.
//!
//! Everything is computed here: no computer algebra, no network, no chance. Where a reward differs from ms-swift it is
//! said in `docs/plugins/rewards.md`, and `tests/` holds what ms-swift itself gives. This file knows the plugin
//! interface; the modules know only text and numbers.

mod answer;
mod form;
mod length;
mod math;
mod repetition;
// Shared with the metrics, which report it.
#[path = "../../metrics/src/rouge.rs"]
mod rouge;
mod toolbench;
// Shared with the metrics.
#[path = "../../metrics/src/words.rs"]
mod words;

use swift_sdk::reward::{Outcome, Reward, Sample, State};
use swift_sdk::{Error, Result, Settings, export_rewards};

/// 1 where a judgement holds, else 0.
fn score(holds: bool) -> Outcome {
    Outcome::Score(f64::from(u8::from(holds)))
}

/// Judges a completion by the solution; without one there is nothing to judge by, which is the data's fault.
fn judge(sample: &Sample, holds: impl Fn(&str, &str) -> bool) -> Result<bool> {
    match &sample.solution {
        Some(solution) => Ok(holds(&sample.completion, solution)),
        None => Err("the row has no column `solution`".into()),
    }
}

/// A reward without settings.
macro_rules! plain_reward {
    ($reward:ident, $name:literal, $summary:literal, $score:expr) => {
        struct $reward;

        impl Reward for $reward {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = $summary;

            fn configure(_settings: &Settings) -> Result<Self> {
                Ok(Self)
            }

            fn score(&self, sample: &Sample, _state: &State) -> Outcome {
                let score: fn(&Sample) -> Outcome = $score;
                score(sample)
            }
        }
    };
}

plain_reward!(
    Accuracy,
    "accuracy",
    "1 for the answer of the solution: in <answer>, boxed, or in LaTeX behind \"answer\"",
    |sample| { judge(sample, answer::is_right).map_or_else(failed, score) }
);
plain_reward!(Math, "math", "1 for the answer of the solution: in the first box or behind `# Answer`", |sample| {
    judge(sample, math::is_right).map_or_else(failed, score)
});
plain_reward!(Toolbench, "toolbench", "1 for the solution's tool call in ReAct form", |sample| {
    judge(sample, toolbench::is_right).map_or_else(failed, score)
});
plain_reward!(Format, "format", "1 for <think>..</think> <answer>..</answer>", |sample| {
    score(form::thinks_and_answers(&sample.completion))
});
plain_reward!(ReactFormat, "react_format", "1 for <think>..</think> Action:.. Action Input:..", |sample| {
    score(form::thinks_and_acts(&sample.completion))
});

fn failed(error: Error) -> Outcome {
    Outcome::Failed(error.message().to_owned())
}

/// `accuracy`, shaped by length.
struct Cosine(length::Cosine);

impl Reward for Cosine {
    const NAME: &'static str = "cosine";
    const SUMMARY: &'static str = "accuracy on a cosine wave over the length, which favours short right answers";

    fn configure(settings: &Settings) -> Result<Self> {
        Ok(Self(length::Cosine {
            min_len_value_wrong: settings.number_or("cosine_min_len_value_wrong", -0.5)?,
            max_len_value_wrong: settings.number_or("cosine_max_len_value_wrong", 0.0)?,
            min_len_value_correct: settings.number_or("cosine_min_len_value_correct", 1.0)?,
            max_len_value_correct: settings.number_or("cosine_max_len_value_correct", 0.5)?,
            max_len: tokens(settings, "cosine_max_len")?,
        }))
    }

    fn score(&self, sample: &Sample, _state: &State) -> Outcome {
        judge(sample, answer::is_right).map(|correct| self.0.reward(sample.completion_tokens, correct)).into()
    }
}

/// A number of tokens that must be set, 1 or more.
fn tokens(settings: &Settings, key: &'static str) -> Result<f64> {
    match settings.optional_integer(key)? {
        Some(tokens @ 1..) => Ok(tokens as f64),
        _ => Err(settings.refuse(key, "a number of tokens is needed, usually that of --max_completion_length")),
    }
}

struct Repetition {
    n_grams: usize,
    max_penalty: f64,
}

impl Reward for Repetition {
    const NAME: &'static str = "repetition";
    const SUMMARY: &'static str = "0 where nothing is said again, down to repetition_max_penalty";

    fn configure(settings: &Settings) -> Result<Self> {
        let n_grams = usize::try_from(settings.integer_or("repetition_n_grams", 3)?).unwrap_or(0);
        if n_grams == 0 {
            return Err(settings.refuse("repetition_n_grams", "1 or more is needed"));
        }
        Ok(Self { n_grams, max_penalty: settings.number_or("repetition_max_penalty", -1.0)? })
    }

    fn score(&self, sample: &Sample, _state: &State) -> Outcome {
        Outcome::Score(repetition::repeated(&sample.completion, self.n_grams) * self.max_penalty)
    }
}

struct SoftOverlong {
    max_length: f64,
    cache_length: f64,
}

impl Reward for SoftOverlong {
    const NAME: &'static str = "soft_overlong";
    const SUMMARY: &'static str = "0 up to soft_cache_length tokens before soft_max_length, then falling to -1 there";

    fn configure(settings: &Settings) -> Result<Self> {
        let max_length = tokens(settings, "soft_max_length")?;
        let cache_length = tokens(settings, "soft_cache_length")?;
        if cache_length >= max_length {
            return Err(settings.refuse("soft_cache_length", "less than `soft_max_length` is needed"));
        }
        Ok(Self { max_length, cache_length })
    }

    fn score(&self, sample: &Sample, _state: &State) -> Outcome {
        Outcome::Score(length::soft_overlong(sample.completion_tokens, self.max_length, self.cache_length))
    }
}

export_rewards!(Accuracy, Math, Format, ReactFormat, Toolbench, Cosine, SoftOverlong, Repetition);
