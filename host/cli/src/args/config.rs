//! Configuration files: YAML or JSON with argument names as keys. Flags on the command line win.

use std::path::Path;

use serde_yaml_ng::Value;

use super::{Kind, Known, UsageError, Verb, lookup, parse};

/// Reads a file into argument values, checked like flags.
pub(crate) fn read(path: &Path, verb: Verb) -> Result<Vec<(&'static str, Vec<String>)>, UsageError> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| {
        UsageError::new(format!("cannot read {shown}: {e}"), "check the path of the configuration file")
    })?;
    // JSON is YAML.
    let value: Value = serde_yaml_ng::from_str(&text)
        .map_err(|e| UsageError::new(format!("{shown} is not valid YAML: {e}"), "write one `name: value` a line"))?;
    let Value::Mapping(map) = value else {
        return Err(UsageError::new(format!("{shown} does not hold a map"), "write one `name: value` a line"));
    };
    let mut found = Vec::new();
    for (key, value) in map {
        let Some(key) = key.as_str() else {
            return Err(UsageError::new(format!("{shown}: a key is not a text"), "keys are argument names"));
        };
        let place = format!("{shown}: ");
        if key == "ENV" {
            let hint = "set environment variables in the shell that starts swift";
            return Err(UsageError::new(format!("{place}ENV is known but not built yet"), hint));
        }
        let texts = texts(&value)
            .ok_or_else(|| UsageError::new(format!("{place}{key} has a list of lists or maps"), "give plain values"))?;
        let Some(texts) = texts else { continue };
        match lookup(key) {
            None => return Err(parse::unknown(&format!("`{key}` in {shown}"), key, verb)),
            Some((name, Known::Unbuilt(topic))) => parse::refuse_unless_harmless(&name, topic, &texts, &place)?,
            Some((_, Known::Built(spec))) => {
                parse::check_verb(spec, verb, &place)?;
                if texts.len() != 1 && !matches!(spec.kind, Kind::List | Kind::Repeated(_)) {
                    return Err(UsageError::new(format!("{place}{key} takes one value"), "give a single value"));
                }
                found.push((spec.name, texts));
            }
        }
    }
    Ok(found)
}

/// The values as on a command line. `Some(None)`: null, as if not given. `None`: not expressible.
fn texts(value: &Value) -> Option<Option<Vec<String>>> {
    match value {
        Value::Null => Some(None),
        Value::Sequence(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>().map(Some),
        Value::Mapping(_) => serde_json::to_string(value).ok().map(|text| Some(vec![text])),
        other => scalar(other).map(|text| Some(vec![text])),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        Value::String(s) => Some(s.clone()),
        _ => None,
    }
}
