//! What `export_loaders!` calls.

use std::cell::RefCell;

use super::{Named, chosen, settings};
use crate::bindings::loader::exports::swift::dataset::loaders as wire;
use crate::dataset::{Loader, Outcome, Reader};
use crate::{Json, Result, Settings};

/// One loader of a component.
pub struct Entry {
    name: &'static str,
    summary: &'static str,
    endings: &'static [&'static str],
    open: fn(&str, Option<&str>, &Settings, Option<&str>) -> Result<Box<dyn Reader>>,
}

impl Entry {
    pub const fn of<L: Loader>() -> Self {
        Self { name: L::NAME, summary: L::SUMMARY, endings: L::ENDINGS, open: L::open }
    }
}

impl Named for Entry {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// The resource that the host holds.
pub struct Open(RefCell<Box<dyn Reader>>);

pub fn loaders(entries: &[Entry]) -> Vec<wire::Info> {
    entries
        .iter()
        .map(|entry| wire::Info {
            name: entry.name.into(),
            summary: entry.summary.into(),
            endings: entry.endings.iter().map(|&ending| ending.into()).collect(),
        })
        .collect()
}

pub fn open(
    entries: &'static [Entry],
    name: &str,
    source: &wire::Source,
    cursor: Option<&str>,
) -> Result<Open, String> {
    let entry = chosen(entries, name, "dataset loader")?;
    let reader = settings(
        &source.config,
        |_| false,
        |settings| (entry.open)(&source.location, source.subset.as_deref(), settings, cursor),
    )?;
    Ok(Open(RefCell::new(reader)))
}

impl wire::GuestReader for Open {
    fn length(&self) -> Option<u64> {
        self.0.borrow().length()
    }

    fn next(&self, limit: u32) -> Result<wire::Batch, String> {
        let batch = self.0.borrow_mut().next(limit as usize)?;
        let outcomes = batch.outcomes.iter().map(|outcome| match outcome {
            Outcome::Row(row) => wire::Outcome::Row(row.write()),
            Outcome::Rows(rows) => wire::Outcome::Rows(rows.iter().map(Json::write).collect()),
            Outcome::Dropped(reason) => wire::Outcome::Dropped(reason.clone()),
        });
        Ok(wire::Batch { outcomes: outcomes.collect(), cursor: batch.cursor, last: batch.last })
    }
}
