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
