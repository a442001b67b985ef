//! What `export_preprocessors!` calls.

use std::cell::Cell;

use super::{Named, chosen, not_configured, settings};
use crate::bindings::preprocessor::exports::swift::dataset::preprocessors::{Info, Outcome as Wire};
use crate::dataset::{Outcome, Preprocessor};
use crate::{Json, Result, Settings};

/// A preprocessor that was set up.
trait Configured {
    fn process(&self, row: Json) -> Result<Outcome>;
}

impl<P: Preprocessor> Configured for P {
    fn process(&self, row: Json) -> Result<Outcome> {
        Preprocessor::process(self, row)
    }
}

thread_local! {
    /// An instance is set up once and never changes after.
    static CONFIGURED: Cell<Option<&'static dyn Configured>> = const { Cell::new(None) };
}

/// One preprocessor of a component.
pub struct Entry {
    name: &'static str,
    summary: &'static str,
    datasets: &'static [&'static str],
    configure: fn(&Settings) -> Result<&'static dyn Configured>,
}

impl Entry {
    pub const fn of<P: Preprocessor>() -> Self {
        Self {
            name: P::NAME,
            summary: P::SUMMARY,
            datasets: P::DATASETS,
            configure: |settings| Ok(Box::leak(Box::new(P::configure(settings)?))),
        }
    }
}

impl Named for Entry {
    fn name(&self) -> &'static str {
        self.name
    }
}

pub fn preprocessors(entries: &[Entry]) -> Vec<Info> {
    entries
        .iter()
        .map(|entry| Info {
            name: entry.name.into(),
            summary: entry.summary.into(),
            datasets: entry.datasets.iter().map(|&id| id.into()).collect(),
        })
        .collect()
}

pub fn configure(entries: &'static [Entry], name: &str, config: &str) -> Result<(), String> {
    let entry = chosen(entries, name, "preprocessor")?;
    CONFIGURED.set(Some(settings(config, |_| false, entry.configure)?));
    Ok(())
}

pub fn process(rows: &[String]) -> Result<Vec<Wire>, String> {
    let preprocessor = CONFIGURED.get().ok_or_else(not_configured)?;
    let mut outcomes = Vec::with_capacity(rows.len());
    for row in rows {
        outcomes.push(match preprocessor.process(Json::parse(row)?)? {
            Outcome::Row(row) => Wire::Row(row.write()),
            Outcome::Rows(rows) => Wire::Rows(rows.iter().map(Json::write).collect()),
            Outcome::Dropped(reason) => Wire::Dropped(reason),
        });
    }
    Ok(outcomes)
}
