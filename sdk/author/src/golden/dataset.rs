//! Cases of row preprocessors, and of loaders: each source is read at once, one row at a time, and again from every cursor.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use swift_plugin::{Loader, Plugin, RowOutcome};

use super::{Answer, Answers, Test, expected, failed, list};

/// Rows that are asked for at once where any number will do.
const MANY: u32 = 1000;
/// Rows from which on not every cursor is tried.
const TRIED: usize = 64;

pub(super) fn preprocessor(plugin: &Plugin, test: &Test, case: &Map<String, Value>) -> Answers {
    let rows: Vec<String> = list(case, "rows")?.iter().map(Value::to_string).collect();
    let preprocessor = plugin.preprocessor(&test.name, &test.config).map_err(failed)?;
    let process = |rows: &[String]| preprocessor.process(rows).map_err(failed);
    let whole = values(&process(&rows)?)?;
    let mut answers = vec![Answer::new(Value::Array(whole), expected(case)?.clone())];
    if rows.len() > 1 {
        let turned: Vec<String> = rows.iter().rev().cloned().collect();
        let mut outcomes = values(&process(&turned)?)?;
        outcomes.reverse();
        answers.push(Answer::part("in another order", Value::Array(outcomes), expected(case)?.clone()));
    }
    Ok(answers)
}

pub(super) fn loader(plugin: &Plugin, test: &Test, case: &Map<String, Value>) -> Answers {
    let folder = tempfile::tempdir().map_err(|error| format!("no folder for the case's files: {error}"))?;
    for (name, content) in case.get("files").and_then(Value::as_object).into_iter().flatten() {
        write(folder.path(), name, content)?;
    }
    let location = case.get("location").and_then(Value::as_str).ok_or("`location` is missing")?;
    let inside = folder.path().join(location);
    let location = if inside.exists() { inside.to_string_lossy().into_owned() } else { location.to_owned() };
    let subset = case.get("subset").and_then(Value::as_str);
    let loader = plugin.loader(&test.name).map_err(failed)?;
    let source = Source { loader: &loader, location: &location, subset, config: &test.config };

    let (whole, _) = source.read(None, MANY)?;
    let expected = expected(case)?;
    let mut answers = vec![Answer::new(Value::Array(whole), expected.clone())];
    let (single, cursors) = source.read(None, 1)?;
    answers.push(Answer::part("one row at a time", Value::Array(single), expected.clone()));
    let all = expected.as_array().map_or(&[][..], Vec::as_slice);
    let step = cursors.len().div_ceil(TRIED).max(1);
    for (read, cursor) in cursors.iter().step_by(step) {
        let (rest, _) = source.read(Some(cursor), MANY)?;
        let part = format!("opened again after {read} rows");
        answers.push(Answer::part(part, Value::Array(rest), json!(all.get(*read..).unwrap_or_default())));
    }
    Ok(answers)
}

struct Source<'a> {
    loader: &'a Loader,
    location: &'a str,
    subset: Option<&'a str>,
    config: &'a str,
}

impl Source<'_> {
    /// All rows from a cursor on, and the cursor after each batch with the number of rows before it.
    fn read(&self, cursor: Option<&str>, limit: u32) -> Result<(Vec<Value>, Vec<(usize, String)>), String> {
        let mut reader = self.loader.open(self.location, self.subset, self.config, cursor).map_err(failed)?;
        let (mut rows, mut cursors) = (Vec::new(), Vec::new());
        while let Some(batch) = reader.next(limit).map_err(failed)? {
            rows.extend(values(&batch.outcomes)?);
            if !batch.last {
                cursors.push((rows.len(), batch.cursor));
            }
        }
        Ok((rows, cursors))
    }
}

/// Writes a file of a case: a text, or `{"base64": "..."}`.
fn write(folder: &Path, name: &str, content: &Value) -> Result<(), String> {
    let plain = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if !plain {
        return Err(format!("files: `{}` leaves the folder of the case", swift_plugin::clean(name, 100)));
    }
    let bytes = match content {
        Value::String(text) => text.clone().into_bytes(),
        _ => {
            let text =
                content.get("base64").and_then(Value::as_str).ok_or("a file is a text or {\"base64\": \"...\"}")?;
            STANDARD.decode(text).map_err(|error| format!("{}: {error}", swift_plugin::clean(name, 100)))?
        }
    };
    crate::packed::write(&folder.join(name), &bytes).map_err(|error| error.to_string())
}

/// Outcomes as golden tests write them: a row, a list of rows, or why there is none.
pub(crate) fn values(outcomes: &[RowOutcome]) -> Result<Vec<Value>, String> {
    let row = |row: &String| {
        let parsed: Result<Value, _> = serde_json::from_str(row);
        parsed.map_err(|error| format!("a row is no JSON ({error}): {}", swift_plugin::clean(row, 200)))
    };
    let one = |outcome: &RowOutcome| match outcome {
        RowOutcome::Rows(rows) if rows.len() == 1 => row(&rows[0]),
        RowOutcome::Rows(rows) => rows.iter().map(row).collect::<Result<Vec<_>, _>>().map(Value::Array),
        RowOutcome::Dropped(reason) => Ok(json!({ "dropped": reason })),
    };
    outcomes.iter().map(one).collect()
}
