//! JSON: a small reader and writer, 20 KB smaller in a component than a general one.
//!
//! Numbers stay as they are written and objects keep their order, so that messages quote the file, a row goes out as it
//! came in, and nothing is rounded twice.

use crate::text::{decimal, join};
use crate::{Error, Result};

/// A JSON value: a row, a column, a setting.
///
/// ```
/// use swift_sdk::Json;
///
/// let row = Json::parse(r#"{"question": "2 + 2?", "answer": 4.0}"#)?;
/// let message = |role: &str, content: &str| Json::object([("role", role.into()), ("content", content.into())]);
/// let question = row.get("question").and_then(Json::as_text).ok_or("the row has no question")?;
/// let out = Json::object([("messages", Json::List(vec![message("user", question)]))]);
/// assert_eq!(out.write(), r#"{"messages":[{"role":"user","content":"2 + 2?"}]}"#);
/// assert_eq!(row.get("answer").map(Json::write).as_deref(), Some("4.0"));
/// # Ok::<(), swift_sdk::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as it is written.
    Number(Number),
    /// A text, its escapes resolved.
    Text(String),
    /// A list.
    List(Vec<Json>),
    /// An object, in the order in which it was written. Where a key stands twice, the last one counts.
    Object(Vec<(String, Json)>),
}

/// The text of a JSON number; equal where the texts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(String);

impl Number {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Deeper than any row, and shallow enough for the stack.
const MAX_DEPTH: u32 = 128;

impl Json {
    /// Reads one value and nothing after it.
    ///
    /// # Errors
    /// When the text is not JSON, or nested deeper than 128 lists and objects; with the line.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text, false)
    }

    /// As [`Json::parse`]; with `python`, the numbers `NaN`, `Infinity` and `-Infinity` are read too.
    pub(crate) fn read(text: &str, python: bool) -> Result<Self> {
        let mut reader = Reader { text, at: 0, python };
        let value = reader.value(0)?;
        reader.space();
        if reader.at < text.len() {
            return Err(reader.error("something follows the end of the document"));
        }
        Ok(value)
    }

    /// An object of these entries.
    pub fn object<K: Into<String>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Object(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// The value under this key; `None` where there is none or this is not an object. `null` is a value.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Self::Object(entries) = self else {
            return None;
        };
        entries.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The text, of a text.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The truth, of `true` and `false`.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(flag) = self { Some(*flag) } else { None }
    }

    /// The nearest float, of a number. One that is too large for a float is infinite.
    pub fn as_f64(&self) -> Option<f64> {
        if let Self::Number(number) = self { number.0.parse().ok() } else { None }
    }

    /// The whole number, of a number that is written as one (`8` or `8.0`) and fits.
    pub fn as_i64(&self) -> Option<i64> {
        let Self::Number(number) = self else {
            return None;
        };
        // `8192.0` is how some tools write a whole number.
        number.0.strip_suffix(".0").unwrap_or(&number.0).parse().ok()
    }

    /// The items, of a list.
    pub fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(items) = self { Some(items) } else { None }
    }

    /// The entries, of an object.
    pub fn as_object(&self) -> Option<&[(String, Self)]> {
        if let Self::Object(entries) = self { Some(entries) } else { None }
    }

    /// Whether this is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// As JSON text on one line, without spaces.
    pub fn write(&self) -> String {
        let mut out = String::new();
        self.write_to(&mut out);
        out
    }

    fn write_to(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Bool(true) => out.push_str("true"),
            Self::Bool(false) => out.push_str("false"),
            Self::Number(number) => out.push_str(&number.0),
            Self::Text(text) => write_text(text, out),
            Self::List(items) => {
                out.push('[');
                for (at, item) in items.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    item.write_to(out);
                }
                out.push(']');
            }
            Self::Object(entries) => {
                out.push('{');
                for (at, (key, value)) in entries.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    write_text(key, out);
                    out.push(':');
                    value.write_to(out);
                }
                out.push('}');
            }
        }
    }

    /// As short text for a message.
    pub(crate) fn show(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(true) => "true",
            Self::Bool(false) => "false",
            Self::Number(number) => join(&[&number.0]),
            Self::Text(text) => join(&["\"", text, "\""]),
            Self::List(items) => join(&["a list of ", decimal(items.len())]),
            Self::Object(_) => "an object",
        }
    }
}

impl From<bool> for Json {
    fn from(flag: bool) -> Self {
        Self::Bool(flag)
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Vec<Json>> for Json {
    fn from(items: Vec<Json>) -> Self {
        Self::List(items)
    }
}

macro_rules! whole_number {
    ($($whole:ty)*) => {
        $(impl From<$whole> for Json {
            fn from(number: $whole) -> Self {
                Self::Number(Number(number.to_string()))
            }
        })*
    };
}

whole_number!(i32 u32 i64 u64 usize);

impl From<f64> for Json {
    /// The shortest text that reads as this number; `null` for what JSON has no number for (infinite, not a number).
    fn from(number: f64) -> Self {
        if number.is_finite() { Self::Number(Number(format!("{number:?}"))) } else { Self::Null }
    }
}

/// Whether `text` is written as a number of JSON.
fn is_number(text: &str) -> bool {
    let digits_of = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut rest = text.strip_prefix('-').unwrap_or(text);
    let whole = digits_of(rest);
    if whole == 0 || whole > 1 && rest.starts_with('0') {
        return false;
    }
    rest = rest.get(whole..).unwrap_or_default();
    if let Some(fraction) = rest.strip_prefix('.') {
        let digits = digits_of(fraction);
        rest = fraction.get(digits..).unwrap_or_default();
        if digits == 0 {
            return false;
        }
    }
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        return digits_of(exponent) == exponent.len() && !exponent.is_empty();
    }
    rest.is_empty()
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..='\u{1f}' => {
                out.push_str(if c < '\u{10}' { "\\u000" } else { "\\u001" });
                let low = c as u8 % 16;
                out.push(if low < 10 { (b'0' + low) as char } else { (b'a' + low - 10) as char });
            }
            _ => out.push(c),
        }
    }
    out.push('"');
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    python: bool,
}

impl<'t> Reader<'t> {
    fn error(&self, what: &str) -> Error {
        let line = 1 + self.text.bytes().take(self.at).filter(|&b| b == b'\n').count();
        Error::of(join(&["line ", decimal(line), ": ", what]))
    }

    /// The byte at hand; 0 at the end, which a text of JSON cannot hold.
    #[inline(never)]
    fn peek(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// What was read since `start`; `get`, since a slice that may panic drags in half of the formatting code.
    fn since(&self, start: usize) -> &'t str {
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

    fn value(&mut self, depth: u32) -> Result<Json> {
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

    fn object(&mut self, depth: u32) -> Result<Json> {
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

    fn list(&mut self, depth: u32) -> Result<Json> {
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

    fn string(&mut self) -> Result<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while !matches!(self.peek(), b'"' | b'\\' | 0..=0x1f) {
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
                _ if self.at < self.text.len() => {
                    return Err(self.error("a text with a control character, which has to be escaped"));
                }
                _ => return Err(self.error("a text without its closing quote")),
            }
        }
    }

    /// The four digits after `\u`, and the second half of a surrogate pair. Half a pair is the replacement character.
    fn unicode(&mut self) -> Result<char> {
        let first = self.hex()?;
        let before = self.at;
        let mut code = first;
        if (0xd800..0xdc00).contains(&first) && self.text.get(self.at..).is_some_and(|rest| rest.starts_with("\\u")) {
            self.at += 2;
            let second = self.hex()?;
            if (0xdc00..0xe000).contains(&second) {
                code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            } else {
                self.at = before;
            }
        }
        Ok(char::from_u32(code).unwrap_or('\u{fffd}'))
    }

    fn hex(&mut self) -> Result<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = match self.peek() {
                digit @ b'0'..=b'9' => digit - b'0',
                letter @ (b'a'..=b'f' | b'A'..=b'F') => (letter & 7) + 9,
                _ => return Err(self.error("`\\u` without four digits")),
            };
            code = code * 16 + u32::from(digit);
            self.at += 1;
        }
        Ok(code)
    }

    fn word(&mut self) -> Result<Json> {
        let start = self.at;
        while matches!(self.peek(), b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'.') {
            self.at += 1;
        }
        match self.since(start) {
            "null" => Ok(Json::Null),
            "true" => Ok(Json::Bool(true)),
            "false" => Ok(Json::Bool(false)),
            word if is_number(word) || self.python && matches!(word, "NaN" | "Infinity" | "-Infinity") => {
                Ok(Json::Number(Number(word.to_owned())))
            }
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

    fn number(text: &str) -> Json {
        Json::Number(Number(text.into()))
    }

    fn refused(text: &str) -> &'static str {
        Json::parse(text).unwrap_err().message()
    }

    #[test]
    fn reads_what_a_row_holds() {
        let text =
            r#" {"a": [1, -2.5e-3, 0], "b": {"c": "x\n\u00e9\ud83d\ude00\"", "d": null}, "e": true, "e": false} "#;
        let value = Json::parse(text).unwrap();
        assert_eq!(value.get("a").unwrap().as_list().unwrap(), ["1", "-2.5e-3", "0"].map(number));
        assert_eq!(value.get("b").unwrap().get("c").unwrap().as_text(), Some("x\né😀\""));
        assert!(value.get("b").unwrap().get("d").unwrap().is_null());
        assert_eq!((value.get("e").unwrap().as_bool(), value.get("f")), (Some(false), None));
        assert_eq!(value.as_object().unwrap().len(), 4);
        assert_eq!(Json::parse(r#""\ud83d\u0041\udc00""#).unwrap().as_text(), Some("\u{fffd}A\u{fffd}"));
    }

    #[test]
    fn writes_what_it_read() {
        for text in [
            r#"{"b":[1,-2.50e-3,[],{}],"a":{"c":"x\n\t\r\\\"/é😀\u0000\u001f","b":null},"b":true}"#,
            "18446744073709551616",
            r#""""#,
        ] {
            assert_eq!(Json::parse(text).unwrap().write(), text);
        }
        let made =
            Json::object([("n", Json::from(-3)), ("f", 0.1.into()), ("l", vec![1e300.into(), f64::NAN.into()].into())]);
        assert_eq!(made.write(), r#"{"n":-3,"f":0.1,"l":[1e300,null]}"#);
        assert_eq!(Json::parse(&made.write()).unwrap().get("f").unwrap().as_f64(), Some(0.1));
    }

    #[test]
    fn numbers_are_read_when_asked_for() {
        assert_eq!(
            ["8", "8.0", "-1", "8.5", "1e3", "9223372036854775808"].map(|text| number(text).as_i64()),
            [Some(8), Some(8), Some(-1), None, None, None]
        );
        assert_eq!(
            ["1e-40", "0.1", "1e999"].map(|text| number(text).as_f64()),
            [Some(1e-40), Some(0.1), Some(f64::INFINITY)]
        );
        assert_eq!(Json::from("8").as_i64(), None);
    }

    #[test]
    fn knows_a_number() {
        for (text, right) in [
            ("0", true),
            ("-0", true),
            ("0.10", true),
            ("1E+05", true),
            ("1e400", true),
            ("1.5e00000007", true),
            ("", false),
            ("-", false),
            ("--1", false),
            ("+1", false),
            ("01", false),
            ("1.", false),
            (".5", false),
            ("1e", false),
            ("1e+", false),
            ("1.e5", false),
            ("0x10", false),
            ("1-2", false),
        ] {
            assert_eq!(is_number(text), right, "{text}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(refused("{\n\"a\": 1\n\"b\": 2}"), "line 3: `,` or `}` is missing");
        assert_eq!(refused("{\"a\": nul}"), "line 1: not a JSON value");
        assert_eq!(refused("[1] 2"), "line 1: something follows the end of the document");
        assert_eq!(refused(&"[".repeat(200)), "line 1: nested too deep");
        assert_eq!(refused("\"a\nb\""), "line 1: a text with a control character, which has to be escaped");
        assert_eq!(refused("\"\\u12\""), "line 1: `\\u` without four digits");
        for broken in
            ["", "{", "[1,", "\"a", "\"a\0\"", "{\"a\" 1}", "{1: 2}", "\"\\", "\"\\ué000\"", "NaN", "007", "1,"]
        {
            assert!(Json::parse(broken).is_err(), "{broken}");
        }
        assert!(Json::read("[NaN, -Infinity]", true).is_ok());
    }
}
