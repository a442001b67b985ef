//! Values as Python prints them: templates are written against `json.dumps` and `str`, and a training text must have
//! the same bytes.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind};

/// How `json.dumps` is asked to print.
#[derive(Debug, Clone)]
pub(crate) struct JsonStyle {
    pub(crate) ensure_ascii: bool,
    pub(crate) indent: Option<usize>,
    pub(crate) item_separator: String,
    pub(crate) key_separator: String,
    pub(crate) sort_keys: bool,
}

impl JsonStyle {
    /// The defaults of `json.dumps` under transformers' `tojson`: nothing escaped to ASCII.
    pub(crate) fn new(indent: Option<usize>) -> Self {
        let item_separator = if indent.is_some() { "," } else { ", " };
        Self {
            ensure_ascii: false,
            indent,
            item_separator: item_separator.into(),
            key_separator: ": ".into(),
            sort_keys: false,
        }
    }
}

/// `json.dumps(value)`. Fails on what JSON cannot hold.
pub(crate) fn json_text(value: &Value, style: &JsonStyle) -> Result<String, String> {
    let mut out = String::new();
    write_json(&mut out, value, style, 0)?;
    Ok(out)
}

fn write_json(out: &mut String, value: &Value, style: &JsonStyle, depth: usize) -> Result<(), String> {
    if depth > 128 {
        return Err("the value is nested too deeply".into());
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => json_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter().map_err(|e| e.to_string())?.collect();
            write_items(out, style, depth, ('[', ']'), items, |out, item| write_json(out, &item, style, depth + 1))?;
        }
        ValueKind::Map => {
            let mut entries = Vec::new();
            for key in value.try_iter().map_err(|e| e.to_string())? {
                let item = value.get_item(&key).map_err(|e| e.to_string())?;
                let key = match key.kind() {
                    ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                    _ => json_text(&key, style)?,
                };
                entries.push((key, item));
            }
            if style.sort_keys {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            write_items(out, style, depth, ('{', '}'), entries, |out, (key, item)| {
                json_string(out, &key, style.ensure_ascii);
                out.push_str(&style.key_separator);
                write_json(out, &item, style, depth + 1)
            })?;
        }
        other => return Err(format!("a value of kind {other} is not JSON serializable")),
    }
    Ok(())
}

fn write_items<T>(
    out: &mut String,
    style: &JsonStyle,
    depth: usize,
    (open, close): (char, char),
    items: Vec<T>,
    mut write: impl FnMut(&mut String, T) -> Result<(), String>,
) -> Result<(), String> {
    let new_line = |out: &mut String, depth: usize| {
        if let Some(indent) = style.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    };
    out.push(open);
    let empty = items.is_empty();
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(out, depth + 1);
        write(out, item)?;
    }
    if !empty {
        new_line(out, depth);
    }
    out.push(close);
    Ok(())
}

fn json_string(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && !(' '..='~').contains(&c)) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    write!(out, "\\u{unit:04x}").expect("writing to a string");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `str(value)`: what `{{ value }}` writes under Jinja2.
pub(crate) fn text(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().unwrap_or_default().to_owned(),
        _ => {
            let mut out = String::new();
            repr(&mut out, value, 0);
            out
        }
    }
}

/// `repr(value)`.
fn repr(out: &mut String, value: &Value, depth: usize) {
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => repr_string(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq if depth < 128 => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let items: Vec<Value> = value.try_iter().map(Iterator::collect).unwrap_or_default();
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(out, item, depth + 1);
            }
            if value.is_tuple() && items.len() == 1 {
                out.push(',');
            }
            out.push(close);
        }
        ValueKind::Map if depth < 128 => {
            out.push('{');
            let keys: Vec<Value> = value.try_iter().map(Iterator::collect).unwrap_or_default();
            for (index, key) in keys.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                repr(out, key, depth + 1);
                out.push_str(": ");
                repr(out, &value.get_item(key).unwrap_or_default(), depth + 1);
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
}

fn repr_string(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || c == '\u{7f}' => write!(out, "\\x{:02x}", c as u32).expect("writing to a string"),
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        value.to_string()
    } else {
        f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
    }
}

/// `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("and it is an integer");
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = value.to_string();
    if plain.contains('.') { plain } else { plain + ".0" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_in_python() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.25e22, "1.25e+22"),
            (123456.789, "123456.789"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn json_prints_as_in_python() {
        let value = Value::from_pairs([
            ("name", Value::from("größe \"x\" </s> \u{1}")),
            ("list", Value::from(vec![Value::from(1), Value::from(2.0), Value::from(()), Value::from(true)])),
            ("empty", Value::from(Vec::<Value>::new())),
        ]);
        assert_eq!(
            json_text(&value, &JsonStyle::new(None)).unwrap(),
            r#"{"name": "größe \"x\" </s> \u0001", "list": [1, 2.0, null, true], "empty": []}"#
        );
        assert_eq!(
            json_text(&value, &JsonStyle { ensure_ascii: true, ..JsonStyle::new(Some(2)) }).unwrap(),
            "{\n  \"name\": \"gr\\u00f6\\u00dfe \\\"x\\\" </s> \\u0001\",\n  \"list\": [\n    1,\n    2.0,\n    null,\n    true\n  ],\n  \"empty\": []\n}"
        );
        assert!(json_text(&Value::UNDEFINED, &JsonStyle::new(None)).is_err());
        assert_eq!(text(&value), r#"{'name': 'größe "x" </s> \x01', 'list': [1, 2.0, None, True], 'empty': []}"#);
        assert_eq!(text(&Value::from("it's")), "it's");
        assert_eq!(text(&Value::from(vec!["it's"])), r#"["it's"]"#);
    }
}
