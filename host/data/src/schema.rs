//! Which columns the rows of a source have, and what is in them: what a person wants to know before training on it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// Columns that are kept apart: a source with a column for each row is no table.
const COLUMNS: usize = 200;
/// Characters of an example.
const EXAMPLE: usize = 120;

/// The columns of a source, in the order in which they were first seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Schema {
    pub columns: Vec<Column>,
    /// Whether there were more columns than are listed.
    pub more: bool,
}

/// One column.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Column {
    pub name: String,
    /// Rows that have it.
    pub rows: usize,
    /// How many of them hold what: `text`, `number`, `list`, ...
    pub kinds: BTreeMap<&'static str, usize>,
    /// The first value that is not empty, as JSON, cut short.
    pub example: String,
}

impl Schema {
    /// Takes a row into account.
    pub(crate) fn add(&mut self, row: &Value) {
        let Value::Object(row) = row else { return };
        for (name, value) in row {
            let at = match self.columns.iter().position(|column| column.name == *name) {
                Some(at) => at,
                None if self.columns.len() >= COLUMNS => {
                    self.more = true;
                    continue;
                }
                None => {
                    self.columns.push(Column { name: name.clone(), ..Column::default() });
                    self.columns.len() - 1
                }
            };
            let column = &mut self.columns[at];
            column.rows += 1;
            *column.kinds.entry(kind(value)).or_default() += 1;
            if column.example.is_empty() && !is_empty(value) {
                let text = value.to_string();
                column.example = text.chars().take(EXAMPLE).collect();
                if column.example.len() < text.len() {
                    column.example.push('…');
                }
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_counted_by_what_they_hold() {
        let mut schema = Schema::default();
        for row in [json!({"a": "", "b": 1}), json!({"a": "x".repeat(500), "b": null}), json!([1]), json!({"c": []})] {
            schema.add(&row);
        }
        let names: Vec<(&str, usize)> = schema.columns.iter().map(|c| (c.name.as_str(), c.rows)).collect();
        assert_eq!(names, [("a", 2), ("b", 2), ("c", 1)]);
        assert_eq!(schema.columns[1].kinds, [("null", 1), ("number", 1)].into());
        assert!(schema.columns[0].example.ends_with("x…") && schema.columns[2].example.is_empty());
        let many = (0..300).map(|i| (format!("k{i}"), json!(i))).collect();
        schema.add(&Value::Object(many));
        assert_eq!((schema.columns.len(), schema.more), (COLUMNS, true));
    }
}
