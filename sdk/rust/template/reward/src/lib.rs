//! A reward: how many of the solution's words the completion has.

use std::borrow::Cow;
use std::collections::BTreeSet;

use swift_sdk::reward::{Outcome, Reward, Sample, State};
use swift_sdk::{Result, Settings, export_rewards};

struct Overlap {
    lowercase: bool,
}

impl Overlap {
    /// The text in the case in which words are compared.
    fn cased<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.lowercase { text.to_ascii_lowercase().into() } else { text.into() }
    }
}

/// The words of a text: what stands between spaces, tabs and ends of lines.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| c.is_ascii_whitespace() || c == '\u{b}').filter(|word| !word.is_empty())
}

impl Reward for Overlap {
    const NAME: &'static str = "overlap";
    const SUMMARY: &'static str = "Share of the solution's words that the completion has";

    fn configure(settings: &Settings) -> Result<Self> {
        Ok(Self { lowercase: settings.flag_or("lowercase", true)? })
    }

    fn score(&self, sample: &Sample, _state: &State) -> Outcome {
        let (solution, completion) =
            (self.cased(sample.solution.as_deref().unwrap_or_default()), self.cased(&sample.completion));
        let mut missing: BTreeSet<&str> = words(&solution).collect();
        let wanted = missing.len();
        if wanted == 0 {
            return Outcome::NoScore;
        }
        for word in words(&completion) {
            if missing.remove(word) && missing.is_empty() {
                break;
            }
        }
        Outcome::Score((wanted - missing.len()) as f64 / wanted as f64)
    }
}

export_rewards!(Overlap);
