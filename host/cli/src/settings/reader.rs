//! Reads single arguments: default, type, range, with an error that names the argument and its place. It must not know
//! what an argument is for.

use std::{collections::BTreeSet, path::PathBuf, str::FromStr};

use serde_json::{Map, Value, json};
use swift_train::schedule::Every;

use super::Result;
use crate::args::{ArgumentSpec, Default, Given, Kind, Origin, UsageError, parse::boolean, table::ARGUMENTS};

#[cfg(test)]
thread_local! {
    /// Names read on this thread: how the tests know that nothing is ignored.
    pub(super) static READ: std::cell::RefCell<BTreeSet<&'static str>> = const { std::cell::RefCell::new(BTreeSet::new()) };
}

/// Reads arguments by name, remembers which were read and what they came to.
pub(super) struct Reader<'a> {
    pub(super) given: &'a Given,
    used: BTreeSet<&'static str>,
    effective: Map<String, Value>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(given: &'a Given) -> Self {
        Self { given, used: BTreeSet::new(), effective: Map::new() }
    }

    /// The effective values. Every given argument must have been read: nothing is accepted and ignored.
    pub(super) fn finish(self) -> Value {
        debug_assert!(self.given.values.keys().all(|name| self.used.contains(name)), "an argument was ignored");
        Value::Object(self.effective)
    }

    fn spec(&self, name: &str) -> &'static ArgumentSpec {
        ARGUMENTS.iter().find(|spec| spec.name == name).expect("settings read only names of the table")
    }

    /// Texts of the argument, given or by default; empty if neither.
    fn texts(&mut self, name: &'static str) -> Vec<String> {
        let spec = self.spec(name);
        self.used.insert(spec.name);
        #[cfg(test)]
        READ.with_borrow_mut(|read| read.insert(spec.name));
        let texts = match (self.given.values.get(name), spec.default) {
            (Some(value), _) => value.texts.clone(),
            (None, Default::Value(text)) => vec![text.into()],
            (None, _) => Vec::new(),
        };
        let value = match (spec.kind, texts.as_slice()) {
            (Kind::List | Kind::Repeated(_), texts) => json!(texts),
            (_, []) => Value::Null,
            (Kind::Boolean, [text, ..]) => json!(boolean(text)),
            (Kind::Integer, [text, ..]) => json!(text.parse::<u64>().ok()),
            (Kind::Float, [text, ..]) => json!(text.parse::<f64>().ok()),
            (_, [text, ..]) => json!(text),
        };
        self.effective.insert(name.into(), value);
        texts
    }

    pub(super) fn is_given(&self, name: &str) -> bool {
        self.given.values.contains_key(name)
    }

    /// Records what a computed default came to.
    pub(super) fn settle(&mut self, name: &'static str, value: Value) {
        self.effective.insert(name.into(), value);
    }

    fn bad(&self, name: &str, text: &str, expected: &str) -> UsageError {
        let place = match self.given.values.get(name).map(|value| &value.origin) {
            Some(Origin::File(path)) => format!("{}: {name}", path.display()),
            _ => format!("--{name}"),
        };
        UsageError::new(format!("{place}: `{text}` is not {expected}"), self.spec(name).help)
    }

    pub(super) fn parse_as<T: FromStr>(&self, name: &str, text: &str, expected: &str) -> Result<T> {
        text.trim().parse().map_err(|_| self.bad(name, text, expected))
    }

    pub(super) fn check<T>(&self, name: &str, value: T, holds: bool, rule: &str) -> Result<T> {
        if holds { Ok(value) } else { Err(UsageError::new(format!("--{name} {rule}"), self.spec(name).help)) }
    }

    pub(super) fn text(&mut self, name: &'static str) -> Result<Option<String>> {
        Ok(self.texts(name).into_iter().next())
    }

    pub(super) fn path(&mut self, name: &'static str) -> Result<Option<PathBuf>> {
        Ok(self.text(name)?.map(PathBuf::from))
    }

    pub(super) fn list(&mut self, name: &'static str) -> Result<Vec<String>> {
        Ok(self.texts(name))
    }

    pub(super) fn optional<T: FromStr>(&mut self, name: &'static str, expected: &str) -> Result<Option<T>> {
        self.text(name)?.map(|text| self.parse_as(name, &text, expected)).transpose()
    }

    pub(super) fn required<T: FromStr>(&mut self, name: &'static str, expected: &str) -> Result<T> {
        self.optional(name, expected)?
            .ok_or_else(|| UsageError::new(format!("--{name} is needed"), self.spec(name).help))
    }

    pub(super) fn number(&mut self, name: &'static str) -> Result<u64> {
        self.required(name, "a whole number")
    }

    pub(super) fn positive(&mut self, name: &'static str) -> Result<usize> {
        let value = self.required(name, "a whole number")?;
        self.check(name, value, value > 0, "must be at least 1")
    }

    pub(super) fn optional_positive(&mut self, name: &'static str) -> Result<Option<usize>> {
        match self.optional(name, "a whole number")? {
            Some(value) => self.check(name, Some(value), value > 0, "must be at least 1"),
            None => Ok(None),
        }
    }

    pub(super) fn optional_at_least_zero(&mut self, name: &'static str) -> Result<Option<f64>> {
        match self.optional::<f64>(name, "a number")? {
            Some(value) => self.check(name, Some(value), value.is_finite() && value >= 0.0, "must not be negative"),
            None => Ok(None),
        }
    }

    pub(super) fn at_least_zero(&mut self, name: &'static str) -> Result<f64> {
        let value: f64 = self.required(name, "a number")?;
        self.check(name, value, value.is_finite() && value >= 0.0, "must not be negative")
    }

    pub(super) fn optional_share(&mut self, name: &'static str) -> Result<Option<f64>> {
        match self.optional::<f64>(name, "a number")? {
            Some(value) => self.check(name, Some(value), (0.0..=1.0).contains(&value), "must be from 0 to 1"),
            None => Ok(None),
        }
    }

    pub(super) fn share(&mut self, name: &'static str) -> Result<f64> {
        let value: f64 = self.required(name, "a number")?;
        self.check(name, value, (0.0..1.0).contains(&value), "must be from 0 to below 1")
    }

    pub(super) fn optional_flag(&mut self, name: &'static str) -> Result<Option<bool>> {
        let text = self.text(name)?;
        text.map(|text| boolean(&text).ok_or_else(|| self.bad(name, &text, "true or false"))).transpose()
    }

    pub(super) fn flag(&mut self, name: &'static str) -> Result<bool> {
        Ok(self.optional_flag(name)?.unwrap_or(false))
    }

    pub(super) fn choice(&mut self, name: &'static str) -> Result<Option<String>> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let Kind::Choice(choices) = self.spec(name).kind else { return Ok(Some(text)) };
        if choices.contains(&text.as_str()) {
            return Ok(Some(text));
        }
        Err(UsageError::new(format!("--{name} {text} is not built"), format!("one of {}", choices.join(", "))))
    }

    pub(super) fn every(&mut self, name: &'static str, steps: usize) -> Result<Option<Every>> {
        Ok(self.choice(name)?.map(|choice| match choice.as_str() {
            "no" => Every::Never,
            "epoch" => Every::Epoch,
            _ => Every::Steps(steps as u64),
        }))
    }

    /// `5GB` and the like: powers of 1000, or of 1024 with an `i`.
    pub(super) fn bytes(&mut self, name: &'static str) -> Result<u64> {
        let text = self.text(name)?.unwrap_or_default();
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let factor: Option<f64> = match text[digits..].trim().to_ascii_uppercase().as_str() {
            "" | "B" => Some(1.0),
            "KB" => Some(1e3),
            "MB" => Some(1e6),
            "GB" => Some(1e9),
            "TB" => Some(1e12),
            "KIB" => Some(1024.0),
            "MIB" => Some(1024f64.powi(2)),
            "GIB" => Some(1024f64.powi(3)),
            _ => None,
        };
        let number: Option<f64> = text[..digits].parse().ok().filter(|&n: &f64| n > 0.0);
        let bytes = number.zip(factor).map(|(number, factor)| (number * factor) as u64);
        bytes.filter(|&bytes| bytes > 0).ok_or_else(|| self.bad(name, &text, "a size like 5GB or 500MB"))
    }
}
