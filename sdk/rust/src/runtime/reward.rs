//! What `export_rewards!` calls.

use std::cell::Cell;

use super::{Named, chosen, not_configured, settings};
use crate::bindings::reward::exports::swift::reward::rewards::{Info, Outcome, Sample, State};
use crate::reward::Reward;
use crate::{Result, Settings};

/// A reward function that was set up.
trait Configured {
    fn score(&self, samples: &[Sample], state: &State) -> Result<Vec<Outcome>>;
}

impl<R: Reward> Configured for R {
    fn score(&self, samples: &[Sample], state: &State) -> Result<Vec<Outcome>> {
        self.score_batch(samples, state)
    }
}

thread_local! {
    /// An instance is set up once and never changes after.
    static CONFIGURED: Cell<Option<&'static dyn Configured>> = const { Cell::new(None) };
}

/// One reward function of a component.
pub struct Entry {
    name: &'static str,
    summary: &'static str,
    whole_batch: bool,
    configure: fn(&Settings) -> Result<&'static dyn Configured>,
}

impl Entry {
    pub const fn of<R: Reward>() -> Self {
        Self {
            name: R::NAME,
            summary: R::SUMMARY,
            whole_batch: R::WHOLE_BATCH,
            configure: |settings| Ok(Box::leak(Box::new(R::configure(settings)?))),
        }
    }
}

impl Named for Entry {
    fn name(&self) -> &'static str {
        self.name
    }
}

pub fn rewards(entries: &[Entry]) -> Vec<Info> {
    entries
        .iter()
        .map(|entry| Info { name: entry.name.into(), summary: entry.summary.into(), whole_batch: entry.whole_batch })
        .collect()
}

pub fn configure(entries: &'static [Entry], name: &str, config: &str) -> Result<(), String> {
    let entry = chosen(entries, name, "reward function")?;
    CONFIGURED.set(Some(settings(config, |_| false, entry.configure)?));
    Ok(())
}

pub fn score(samples: &[Sample], state: &State) -> Result<Vec<Outcome>, String> {
    let reward = CONFIGURED.get().ok_or_else(not_configured)?;
    Ok(reward.score(samples, state)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Length {
        per: f64,
    }

    impl Reward for Length {
        const NAME: &'static str = "length";
        const SUMMARY: &'static str = "characters";

        fn configure(settings: &Settings) -> Result<Self> {
            Ok(Self { per: settings.number_or("per", 1.0)? })
        }

        fn score(&self, sample: &Sample, _state: &State) -> Outcome {
            if sample.completion.is_empty() {
                return None.into();
            }
            let limit = sample.column("limit").map(|limit| limit.and_then(|limit| limit.as_f64()));
            limit.map(|limit| limit.unwrap_or(1e9).min(sample.completion.len() as f64 / self.per)).into()
        }
    }

    const REWARDS: &[Entry] = &[Entry::of::<Length>()];

    #[test]
    fn chosen_set_up_and_asked() {
        let state = State { step: 0, max_steps: 0, epoch: 0.0, seed: 0, extra: "{}".into() };
        assert_eq!(score(&[], &state), Err("`configure` was not called".into()));
        let unknown = configure(REWARDS, "lenght", "{}").unwrap_err();
        assert_eq!(unknown, "there is no reward function `lenght` in this plugin; it has length");
        let unread = configure(REWARDS, "length", r#"{"pre": 2}"#).unwrap_err();
        assert_eq!(unread, "there is no setting `pre`; there are `per`");
        configure(REWARDS, "length", r#"{"per": 2}"#).unwrap();

        let sample = |completion: &str, limit: &str| Sample {
            prompt: Vec::new(),
            completion: completion.into(),
            completion_tokens: 1,
            solution: None,
            columns: vec![("limit".into(), limit.into())],
        };
        let samples = [sample("four", "null"), sample("four", "1"), sample("", "1"), sample("four", "{")];
        let outcomes = score(&samples, &state).unwrap();
        assert_eq!(outcomes[..3], [Outcome::Score(2.0), Outcome::Score(1.0), Outcome::NoScore]);
        let Outcome::Failed(reason) = &outcomes[3] else { panic!("{:?}", outcomes[3]) };
        assert_eq!(reason, "the column `limit` is not JSON: line 1: a key in quotes is missing");
    }
}
