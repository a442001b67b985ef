//! What differs between the answer that was expected and the one that came, as a person wants to read it.

use std::fmt::Write as _;

use serde_json::Value;

/// Numbers this close, relatively, are equal.
const TOLERANCE: f64 = 1e-9;
/// Differences that are shown.
const SHOWN: usize = 8;
/// Longest value that is shown whole, in characters.
const LONG: usize = 120;

/// The first few differences, a line each; `None` when the values are equal.
pub(crate) fn difference(expected: &Value, actual: &Value) -> Option<String> {
    let mut found = Vec::new();
    compare("", expected, actual, &mut found);
    if found.is_empty() {
        return None;
    }
    let mut text = found.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n");
    if found.len() > SHOWN {
        let _ = write!(text, "\n... and {} more differences", found.len() - SHOWN);
    }
    Some(text)
}

/// Whether two numbers count as equal.
pub(crate) fn close(a: f64, b: f64) -> bool {
    a == b || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0)
}

fn compare(path: &str, expected: &Value, actual: &Value, found: &mut Vec<String>) {
    match (expected, actual) {
        (Value::Number(a), Value::Number(b)) => {
            let same = a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| close(a, b));
            if !same {
                found.push(line(path, expected, actual));
            }
        }
        // A reason may carry more than the test wants to say of it.
        (Value::Object(a), Value::Object(b)) if is_failure(a) && is_failure(b) => {
            let reason = |map: &serde_json::Map<String, Value>| map["failed"].as_str().unwrap_or_default().to_owned();
            if !reason(b).contains(&reason(a)) {
                found.push(line(path, expected, actual));
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match b.get(key) {
                    Some(other) => compare(&inner, value, other, found),
                    None => found.push(format!("{inner}: expected {}, got nothing", shown(value))),
                }
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                found.push(format!("{inner}: expected nothing, got {}", shown(value)));
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for (index, (one, other)) in a.iter().zip(b).enumerate() {
                compare(&format!("{path}[{index}]"), one, other, found);
            }
            if a.len() != b.len() {
                let path = if path.is_empty() { "answer" } else { path };
                found.push(format!("{path}: expected {} elements, got {}", a.len(), b.len()));
            }
        }
        (Value::String(a), Value::String(b)) if a != b => found.push(texts(path, a, b)),
        _ if expected == actual => {}
        _ => found.push(line(path, expected, actual)),
    }
}

fn is_failure(map: &serde_json::Map<String, Value>) -> bool {
    map.len() == 1 && map.get("failed").is_some_and(Value::is_string)
}

fn line(path: &str, expected: &Value, actual: &Value) -> String {
    let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
    format!("{path}expected {}, got {}", shown(expected), shown(actual))
}

fn shown(value: &Value) -> String {
    swift_plugin::clean(&value.to_string(), LONG)
}

/// Two texts from a little before the place where they part.
fn texts(path: &str, expected: &str, actual: &str) -> String {
    let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
    let same = expected.chars().zip(actual.chars()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(30);
    let part = |text: &str| {
        let cut: String = text.chars().skip(from).take(LONG).collect();
        let (before, after) =
            (if from > 0 { "…" } else { "" }, if text.chars().count() > from + LONG { "…" } else { "" });
        format!("{before}{}{after}", swift_plugin::clean(&Value::from(cut).to_string(), 4 * LONG))
    };
    format!("{path}the texts part at character {same}\n  expected {}\n  got      {}", part(expected), part(actual))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn equal_within_tolerance_is_equal() {
        for (a, b) in [
            (json!(0.1), json!(0.1 + 1e-12)),
            (json!(1), json!(1.0)),
            (json!({"a": [1, null]}), json!({"a": [1.0, null]})),
            (json!({"failed": "no number"}), json!({"failed": "line 3: no number in it"})),
        ] {
            assert_eq!(difference(&a, &b), None, "{a} {b}");
        }
    }

    #[test]
    fn differences_name_their_place() {
        let shown = |a: Value, b: Value| difference(&a, &b).unwrap();
        assert_eq!(shown(json!([1.0, null]), json!([0.5, null])), "[0]: expected 1.0, got 0.5");
        assert_eq!(shown(json!({"a": {"b": 1}}), json!({"a": {}})), "a.b: expected 1, got nothing");
        assert_eq!(shown(json!({}), json!({"x": "y"})), "x: expected nothing, got \"y\"");
        assert_eq!(shown(json!([1]), json!([1, 2])), "answer: expected 1 elements, got 2");
        assert_eq!(
            shown(json!("abc\nd"), json!("abc\ne")),
            "the texts part at character 4\n  expected \"abc\\nd\"\n  got      \"abc\\ne\""
        );
        assert!(shown(json!({"failed": "a"}), json!({"failed": "b"})).contains("expected"));
        let many: Vec<i32> = (0..20).collect();
        assert!(shown(json!(many), json!(vec![-1; 20])).ends_with("... and 12 more differences"));
    }
}
