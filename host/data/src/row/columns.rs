//! The columns of one row, under the names that they mean.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::{Map, Value};

use super::{ColumnMap, RowResult, kind, malformed};

/// The columns of a row under their canonical or lower-case names; null counts as absent.
pub(super) struct Columns {
    values: BTreeMap<String, Value>,
    /// As the row has them, for messages.
    names: Vec<String>,
    /// Those that became part of something else.
    used: RefCell<BTreeSet<String>>,
}

impl Columns {
    pub(super) fn new(object: Map<String, Value>, renames: &ColumnMap) -> RowResult<Self> {
        let names: Vec<String> = object.keys().cloned().collect();
        let mut values = BTreeMap::new();
        let mut renamed = BTreeMap::new();
        for (name, value) in object {
            if value.is_null() {
                continue;
            }
            match renames.0.get(&name) {
                Some(to) => {
                    if renamed.insert(to.clone(), value).is_some() {
                        return Err(malformed(format!("two columns are renamed to `{to}`")));
                    }
                }
                None => drop(values.insert(name.to_lowercase(), value)),
            }
        }
        values.extend(renamed);
        Ok(Self { values, names, used: RefCell::default() })
    }

    /// The names that the row has.
    pub(super) fn names(&self) -> String {
        self.names.join(", ")
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The column, which becomes part of something else.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        let (name, value) = self.values.get_key_value(name)?;
        self.used.borrow_mut().insert(name.clone());
        Some(value)
    }

    /// Those that became part of nothing.
    pub(super) fn rest(self) -> Map<String, Value> {
        let used = self.used.into_inner();
        self.values.into_iter().filter(|(name, _)| !used.contains(name)).collect()
    }

    pub(super) fn text(&self, name: &str) -> RowResult<Option<&str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(malformed(format!("`{name}` must be a text, this is {}", kind(other)))),
        }
    }

    /// A JSON value, given as such or as a text that holds it.
    pub(super) fn json(&self, name: &str) -> RowResult<Option<Value>> {
        self.get(name).map_or(Ok(None), |value| json(name, value))
    }

    /// The column `name` or, when it is absent, the only present alias.
    pub(super) fn aliased(&self, name: &str, aliases: &[&str]) -> RowResult<Option<&str>> {
        if let Some(text) = self.text(name)? {
            return Ok(Some(text));
        }
        let present: Vec<&str> = aliases.iter().copied().filter(|alias| self.has(alias)).collect();
        match present.as_slice() {
            [] => Ok(None),
            [only] => self.text(only),
            several => Err(malformed(format!(
                "columns {} could all be the {name}; say which with `columns`",
                several.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

/// A JSON value, given as such or as a text that holds it.
pub(super) fn json(name: &str, value: &Value) -> RowResult<Option<Value>> {
    match value {
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => serde_json::from_str(text)
            .map(Some)
            .map_err(|e| malformed(format!("`{name}` is a text that is not JSON: {e}"))),
        Value::Null => Ok(None),
        other => Ok(Some(other.clone())),
    }
}
