//! A small JSON reader: enough for `config.json`, and 20 KB smaller in a component than a general one.
//!
//! Numbers stay as they are written, so that messages quote the file and nothing is rounded twice.

use crate::number::is_number;
use crate::text::{decimal, join};

/// A JSON value; objects keep the file's order. Copyable: it points into the text, which is never freed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Json {
    Null,
    Flag(bool),
    /// The number's text.
    Number(&'static str),
    Text(&'static str),
    List(&'static [Json]),
    Object(&'static [(&'static str, Json)]),
}

/// Deeper than any config, and shallow enough for the stack.
const MAX_DEPTH: u32 = 64;

impl Json {
    /// Reads one value and nothing after it. The error says at which line.
    pub(crate) fn parse(text: &'static str) -> Result<Self, &'static str> {
        let mut reader = Reader { text, at: 0 };
        let value = reader.value(0)?;
        reader.space();
        if reader.at < text.len() {
            return Err(reader.error("something follows the end of the document"));
        }
        Ok(value)
    }

    /// As short text for a message.
    pub(crate) fn show(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Flag(true) => "true",
            Self::Flag(false) => "false",
            Self::Number(text) => text,
            Self::Text(text) => join(&["\"", text, "\""]),
            Self::List(items) => join(&["a list of ", decimal(items.len())]),
            Self::Object(_) => "an object",
        }
    }
}

struct Reader {
    text: &'static str,
    at: usize,
}

impl Reader {
    fn error(&self, what: &str) -> &'static str {
        let line = 1 + self.text.bytes().take(self.at).filter(|&b| b == b'\n').count();
        join(&["line ", decimal(line), ": ", what])
    }

    #[inline(never)]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// What was read since `start`; `get`, since a slice that may panic drags in half of the formatting code.
    fn since(&self, start: usize) -> &'static str {
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

    fn value(&mut self, depth: u32) -> Result<Json, &'static str> {
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

    fn object(&mut self, depth: u32) -> Result<Json, &'static str> {
        self.at += 1;
        let mut entries = Vec::new();
        if self.take(b'}') {
            return Ok(Json::Object(entries.leak()));
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
                return Ok(Json::Object(entries.leak()));
            }
            if !self.take(b',') {
                return Err(self.error("`,` or `}` is missing"));
            }
        }
    }

    fn list(&mut self, depth: u32) -> Result<Json, &'static str> {
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Json::List(items.leak()));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if self.take(b']') {
                return Ok(Json::List(items.leak()));
            }
            if !self.take(b',') {
                return Err(self.error("`,` or `]` is missing"));
            }
        }
    }

    fn string(&mut self) -> Result<&'static str, &'static str> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek(), b'"' | b'\\' | 0) {
                self.at += 1;
            }
            let piece = self.since(start);
            if self.peek() == b'"' {
                self.at += 1;
                return Ok(if out.is_empty() { piece } else { join(&[&out, piece]) });
            }
            out.push_str(piece);
            match self.peek() {
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
    fn unicode(&mut self) -> Result<char, &'static str> {
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

    fn hex(&mut self) -> Result<u32, &'static str> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = match self.peek() {
                digit @ b'0'..=b'9' => digit - b'0',
                letter @ (b'a'..=b'f' | b'A'..=b'F') => (letter & 7) + 9,
                _ => return Err("`\\u` without four digits"),
            };
            code = code * 16 + u32::from(digit);
            self.at += 1;
        }
        Ok(code)
    }

    fn word(&mut self) -> Result<Json, &'static str> {
        let start = self.at;
        while matches!(self.peek(), b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.') {
            self.at += 1;
        }
        match self.since(start) {
            "null" => Ok(Json::Null),
            "true" => Ok(Json::Flag(true)),
            "false" => Ok(Json::Flag(false)),
            word if is_number(word) => Ok(Json::Number(word)),
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
        let numbers = ["1", "-2.5e-3", "Infinity"].map(Json::Number);
        assert_eq!(entries[0], ("a", Json::List(numbers.to_vec().leak())));
        assert_eq!(entries[1].1, Json::Object(&[("c", Json::Text("x\né😀\"")), ("d", Json::Null)]));
        assert_eq!(entries[2].1, Json::Flag(true));
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(Json::parse("{\n\"a\": 1\n\"b\": 2}").unwrap_err(), "line 3: `,` or `}` is missing");
        assert_eq!(Json::parse("{\"a\": nul}").unwrap_err(), "line 1: not a JSON value");
        assert_eq!(Json::parse("[1] 2").unwrap_err(), "line 1: something follows the end of the document");
        assert_eq!(Json::parse("[".repeat(100).leak()).unwrap_err(), "line 1: nested too deep");
        for broken in ["", "{", "[1,", "\"a", "\"\\u12\"", "{\"a\" 1}", "{1: 2}", "\"\\", "\"\\ué000\""] {
            assert!(Json::parse(broken).is_err(), "{broken}");
        }
    }
}
