//! A small JSON reader: enough for `config.json`, and 20 KB smaller in a component than a general one.
//!
//! Numbers stay as they are written, so that messages quote the file and nothing is rounded twice.

use crate::number::is_number;

/// A JSON value; objects keep the file's order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Flag(bool),
    /// The number's text.
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

/// Deeper than any config, and shallow enough for the stack.
const MAX_DEPTH: u32 = 64;

impl Json {
    /// Reads one value and nothing after it. The error says at which line.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at < text.len() {
            return Err(reader.error("something follows the end of the document"));
        }
        Ok(value)
    }

    /// As short text for a message.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::Null => "null".into(),
            Self::Flag(flag) => flag.to_string(),
            Self::Number(text) => text.clone(),
            Self::Text(text) => format!("\"{text}\""),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Object(_) => "an object".into(),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn error(&self, what: &str) -> String {
        let line = 1 + self.text.bytes().take(self.at).filter(|&b| b == b'\n').count();
        format!("line {line}: {what}")
    }

    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// What was read since `start`; `get`, since a slice that may panic drags in half of the formatting code.
    fn since(&self, start: usize) -> &str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: u32) -> Result<Json, String> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deep"));
        }
        self.space();
        match self.peek() {
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'"' => Ok(Json::Text(self.string()?)),
            _ => self.word(),
        }
    }

    fn object(&mut self, depth: u32) -> Result<Json, String> {
        self.at += 1;
        let mut entries = Vec::new();
        if self.take(b'}') {
            return Ok(Json::Object(entries));
        }
        loop {
            self.space();
            if self.peek() != b'"' {
                return Err(self.error("a key in quotes is missing"));
            }
            let key = self.string()?;
            if !self.take(b':') {
                return Err(self.error("`:` is missing after a key"));
            }
            entries.push((key, self.value(depth + 1)?));
            if self.take(b'}') {
                return Ok(Json::Object(entries));
            }
            if !self.take(b',') {
                return Err(self.error("`,` or `}` is missing"));
            }
        }
    }

    fn list(&mut self, depth: u32) -> Result<Json, String> {
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b']') {
                return Ok(Json::List(items));
            }
            if !self.take(b',') {
                return Err(self.error("`,` or `]` is missing"));
            }
        }
    }

    fn string(&mut self) -> Result<String, String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek(), b'"' | b'\\' | 0) {
                self.at += 1;
            }
            out.push_str(self.since(start));
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(out);
                }
                b'\\' => {
                    self.at += 1;
                    let escape = self.peek();
                    self.at += 1;
                    out.push(match escape {
                        b'n' => '\n',
                        b't' => '\t',
                        b'r' => '\r',
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'u' => self.unicode()?,
                        b'"' | b'\\' | b'/' => escape as char,
                        _ => return Err(self.error("an unknown escape in a text")),
                    });
                }
                _ => return Err(self.error("a text without its closing quote")),
            }
        }
    }

    /// The four digits after `\u`, and the second half of a surrogate pair.
    fn unicode(&mut self) -> Result<char, String> {
        let first = self.hex()?;
        let code = if (0xd800..0xdc00).contains(&first)
            && self.text.get(self.at..).is_some_and(|rest| rest.starts_with("\\u"))
        {
            self.at += 2;
            let second = self.hex()?;
            0x10000 + ((first - 0xd800) << 10) + second.wrapping_sub(0xdc00) % 0x400
        } else {
            first
        };
        Ok(char::from_u32(code).unwrap_or('\u{fffd}'))
    }

    fn hex(&mut self) -> Result<u32, String> {
        let digits = self.text.get(self.at..self.at + 4).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += 4;
        digits.ok_or_else(|| "`\\u` without four digits".to_owned())
    }

    fn word(&mut self) -> Result<Json, String> {
        let start = self.at;
        while matches!(self.peek(), b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.') {
            self.at += 1;
        }
        match self.since(start) {
            "null" => Ok(Json::Null),
            "true" => Ok(Json::Flag(true)),
            "false" => Ok(Json::Flag(false)),
            word if is_number(word) => Ok(Json::Number(word.to_owned())),
            _ => {
                self.at = start;
                Err(self.error("not a JSON value"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_config_holds() {
        let text = r#" {"a": [1, -2.5e-3, Infinity], "b": {"c": "x\n\u00e9\ud83d\ude00\"", "d": null}, "e": true} "#;
        let value = Json::parse(text).unwrap();
        let Json::Object(entries) = value else { panic!("an object") };
        let numbers = ["1", "-2.5e-3", "Infinity"].map(|n| Json::Number(n.into()));
        assert_eq!(entries[0], ("a".into(), Json::List(numbers.into())));
        assert_eq!(
            entries[1].1,
            Json::Object(vec![("c".into(), Json::Text("x\né😀\"".into())), ("d".into(), Json::Null)])
        );
        assert_eq!(entries[2].1, Json::Flag(true));
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(Json::parse("{\n\"a\": 1\n\"b\": 2}").unwrap_err(), "line 3: `,` or `}` is missing");
        assert_eq!(Json::parse("{\"a\": nul}").unwrap_err(), "line 1: not a JSON value");
        assert_eq!(Json::parse("[1] 2").unwrap_err(), "line 1: something follows the end of the document");
        assert_eq!(Json::parse(&"[".repeat(100)).unwrap_err(), "line 1: nested too deep");
        for broken in ["", "{", "[1,", "\"a", "\"\\u12\"", "{\"a\" 1}", "{1: 2}", "\"\\", "\"\\ué000\""] {
            assert!(Json::parse(broken).is_err(), "{broken}");
        }
    }
}
