//! A reward: how many of the solution's words the completion has.

use std::collections::BTreeSet;

use swift_sdk::reward::{Outcome, Reward, Sample, State};
use swift_sdk::{Result, Settings, export_rewards};

struct Overlap {
    lowercase: bool,
}

impl Overlap {
    /// The distinct words of a text.
    fn words(&self, text: &str) -> BTreeSet<String> {
        let word = |word: &str| if self.lowercase { word.to_ascii_lowercase() } else { word.to_owned() };
        text.split_ascii_whitespace().map(word).collect()
    }
}

impl Reward for Overlap {
    const NAME: &'static str = "overlap";
    const SUMMARY: &'static str = "Share of the solution's words that the completion has";

    fn configure(settings: &Settings) -> Result<Self> {
        Ok(Self { lowercase: settings.flag_or("lowercase", true)? })
    }

    fn score(&self, sample: &Sample, _state: &State) -> Outcome {
        let wanted = self.words(sample.solution.as_deref().unwrap_or_default());
        if wanted.is_empty() {
            return Outcome::NoScore;
        }
        let said = self.words(&sample.completion);
        Outcome::Score(wanted.intersection(&said).count() as f64 / wanted.len() as f64)
    }
}

export_rewards!(Overlap);
