//! The row ledger: what became of every row of a source. Nothing is lost in silence.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use crate::{Origin, RowError};

/// How many rows are shown for each reason.
const EXAMPLES: usize = 5;
/// How many reasons are kept apart: a plugin's reasons may be as many as the rows.
const REASONS: usize = 50;
/// What the others are counted as.
const OTHERS: &str = "other reasons";

/// Rows that were left out for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    pub count: usize,
    /// The first few: `file:line: what is wrong with it`.
    pub examples: Vec<String>,
}

/// The account of one source. Without `#n` sampling, `read + added == kept + dropped`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// The dataset as the user named it.
    pub source: String,
    /// Rows in the file.
    pub read: usize,
    /// Rows that came in addition, where a plugin made several of one.
    pub added: usize,
    /// Rows after `#n`, when that was asked for.
    pub sampled: Option<usize>,
    /// Rows in use.
    pub kept: usize,
    /// Rows in use that lost tokens to `max_length`.
    pub truncated: usize,
    /// Rows left out, by reason.
    pub dropped: BTreeMap<String, Dropped>,
}

impl Ledger {
    /// An empty account.
    pub fn new(source: impl Into<String>) -> Self {
        Self { source: source.into(), ..Self::default() }
    }

    /// Notes a row that is left out. Whoever had counted it as kept takes it off there.
    pub fn drop_row(&mut self, origin: &Origin, error: &RowError) {
        let full = self.dropped.len() >= REASONS && !self.dropped.contains_key(&*error.kind);
        let dropped = self.dropped.entry(if full { OTHERS.into() } else { error.kind.to_string() }).or_default();
        dropped.count += 1;
        if dropped.examples.len() < EXAMPLES {
            let detail = match (full, error.detail.is_empty()) {
                (true, _) => format!(": {error}"),
                (false, true) => String::new(),
                (false, false) => format!(": {}", error.detail),
            };
            dropped.examples.push(format!("{origin}{detail}"));
        }
    }

    /// How many rows were left out.
    pub fn dropped_rows(&self) -> usize {
        self.dropped.values().map(|dropped| dropped.count).sum()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, read, added, sampled, kept, truncated, dropped } = self;
        write!(f, "{source}: {read} read")?;
        if *added > 0 {
            write!(f, ", {added} added")?;
        }
        if let Some(sampled) = sampled {
            write!(f, ", {sampled} sampled")?;
        }
        write!(f, ", {kept} kept, {truncated} truncated, {} dropped", self.dropped_rows())?;
        for (reason, Dropped { count, examples }) in dropped {
            write!(f, "\n  {count:>6}  {reason}")?;
            for example in examples {
                write!(f, "\n          {example}")?;
            }
            if *count > examples.len() {
                write!(f, "\n          and {} more", count - examples.len())?;
            }
        }
        Ok(())
    }
}
