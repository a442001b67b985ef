//! JSON as Python prints it: the templates' `tojson` is `json.dumps(value, ensure_ascii=False)`, and a training text must
//! have the same bytes.

use std::fmt::Write;

use swift_sdk::Json;

pub(crate) fn write(out: &mut String, value: &Json) {
    match value {
        Json::Null => out.push_str("null"),
        Json::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Json::Number(number) => write_number(out, number.as_str()),
        Json::Text(text) => write_text(out, text),
        Json::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write(out, item);
            }
            out.push(']');
        }
        Json::Object(entries) => {
            out.push('{');
            let mut first = true;
            for (index, (key, _)) in entries.iter().enumerate() {
                // A key that stands twice keeps its first place and its last value, as in Python.
                if entries[..index].iter().any(|(earlier, _)| earlier == key) {
                    continue;
                }
                if !first {
                    out.push_str(", ");
                }
                first = false;
                write_text(out, key);
                out.push_str(": ");
                write(out, value.get(key).unwrap_or(&Json::Null));
            }
            out.push('}');
        }
    }
}

fn write_text(out: &mut String, text: &str) {
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
            control if control < ' ' => _ = write!(out, "\\u{:04x}", control as u32),
            other => out.push(other),
        }
    }
    out.push('"');
}

/// A whole number as it is written, another one as the shortest digits that read back, with an exponent below 1e-4 and
/// from 1e16 on.
fn write_number(out: &mut String, text: &str) {
    if !text.contains(['.', 'e', 'E']) {
        out.push_str(if text == "-0" { "0" } else { text });
        return;
    }
    let Ok(value) = text.parse::<f64>() else { return out.push_str(text) };
    if value.is_infinite() {
        out.push_str(if value > 0.0 { "Infinity" } else { "-Infinity" });
        return;
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if value != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        _ = write!(out, "{digits}e{sign}{:02}", exponent.abs());
        return;
    }
    let plain = value.to_string();
    out.push_str(&plain);
    if !plain.contains('.') {
        out.push_str(".0");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_python_does() {
        let cases = [
            (
                r#"{"b":1,"a":[1.0,-0.0,1e16,1E-5,123456.789,0.0001],"b":2}"#,
                r#"{"b": 2, "a": [1.0, -0.0, 1e+16, 1e-05, 123456.789, 0.0001]}"#,
            ),
            (
                r#"["größe \"x\"\u0001\u007f",null,true,{},[]]"#,
                "[\"größe \\\"x\\\"\\u0001\u{7f}\", null, true, {}, []]",
            ),
            ("[123456789012345678901234567890,-0,1e999]", "[123456789012345678901234567890, 0, Infinity]"),
        ];
        for (json, expected) in cases {
            let mut out = String::new();
            write(&mut out, &Json::parse(json).unwrap());
            assert_eq!(out, expected);
        }
    }
}
