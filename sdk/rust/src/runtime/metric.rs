//! What `export_metrics!` calls.

use std::cell::Cell;

use super::{Named, chosen, not_configured, settings};
use crate::bindings::metric::exports::swift::metric::metrics::{Example, Info};
use crate::metric::Metric;
use crate::{Result, Settings};

/// A metric that was set up.
trait Configured {
    fn update(&mut self, examples: &[Example]) -> Result<()>;
    fn state(&self) -> Vec<u8>;
    fn merge(&mut self, state: &[u8]) -> Result<()>;
    fn compute(&self) -> Result<Vec<(String, f64)>>;
}

impl<M: Metric> Configured for M {
    fn update(&mut self, examples: &[Example]) -> Result<()> {
        Metric::update(self, examples)
    }

    fn state(&self) -> Vec<u8> {
        Metric::state(self)
    }

    fn merge(&mut self, state: &[u8]) -> Result<()> {
        Metric::merge(self, state)
    }

    fn compute(&self) -> Result<Vec<(String, f64)>> {
        Metric::compute(self)
    }
}

thread_local! {
    static CONFIGURED: Cell<Option<Box<dyn Configured>>> = const { Cell::new(None) };
}

/// One metric of a component.
pub struct Entry {
    name: &'static str,
    summary: &'static str,
    higher_is_better: bool,
    configure: fn(&Settings) -> Result<Box<dyn Configured>>,
}

impl Entry {
    pub const fn of<M: Metric>() -> Self {
        Self {
            name: M::NAME,
            summary: M::SUMMARY,
            higher_is_better: M::HIGHER_IS_BETTER,
            configure: |settings| Ok(Box::new(M::configure(settings)?)),
        }
    }
}

impl Named for Entry {
    fn name(&self) -> &'static str {
        self.name
    }
}

pub fn metrics(entries: &[Entry]) -> Vec<Info> {
    entries
        .iter()
        .map(|entry| Info {
            name: entry.name.into(),
            summary: entry.summary.into(),
            higher_is_better: entry.higher_is_better,
        })
        .collect()
}

pub fn configure(entries: &'static [Entry], name: &str, config: &str) -> Result<(), String> {
    let entry = chosen(entries, name, "metric")?;
    CONFIGURED.set(Some(settings(config, |_| false, entry.configure)?));
    Ok(())
}

fn with<T>(call: impl FnOnce(&mut dyn Configured) -> Result<T>) -> Result<T, String> {
    let mut metric = CONFIGURED.take().ok_or_else(not_configured)?;
    let result = call(&mut *metric);
    CONFIGURED.set(Some(metric));
    Ok(result?)
}

pub fn update(examples: &[Example]) -> Result<(), String> {
    with(|metric| metric.update(examples))
}

pub fn state() -> Result<Vec<u8>, String> {
    with(|metric| Ok(metric.state()))
}

pub fn merge(state: &[u8]) -> Result<(), String> {
    with(|metric| metric.merge(state))
}

pub fn compute() -> Result<Vec<(String, f64)>, String> {
    with(|metric| metric.compute())
}
