//! A checkpoint's own chat template, rendered to the same text as transformers' `apply_chat_template`.
//!
//! Jinja2 is rendered by minijinja with Python's string methods, Python's printing of values, `tojson` as
//! `json.dumps`, `raise_exception`, and `strftime_now` with a date that is handed in. `{% generation %}` blocks mark
//! what the assistant wrote.

use std::ops::Range;

use jiff::civil::DateTime;
use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, ValueKind},
};
use serde_json::{Map, Value as Json};

use crate::{
    DataError, Message,
    python::{self, JsonStyle},
};

/// Unicode noncharacters: they mark generation blocks in a rendering and may not occur in a conversation.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';
/// What stands for a message's content where its place in a rendering is searched.
pub(crate) const SENTINEL: &str = "\u{fdd2}content\u{fdd2}";

/// Work one rendering may do: a template of a hostile checkpoint must not hang a run.
const FUEL: u64 = 20_000_000;

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    marks_generation: bool,
}

/// A rendering and the byte ranges of its `{% generation %}` blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    pub(crate) text: String,
    pub(crate) generated: Vec<Range<usize>>,
}

impl ChatTemplate {
    /// Compiles `source`. `special_tokens` are the variables a template may use (`bos_token`, ...).
    ///
    /// `now` is what `strftime_now` tells; it belongs to the run's settings. Without it `strftime_now` is undefined, as
    /// in older libraries, and templates fall back to the date written in them.
    pub fn new<'a>(
        source: &str,
        special_tokens: impl IntoIterator<Item = (&'a str, &'a str)>,
        now: Option<DateTime>,
    ) -> Result<Self, DataError> {
        let fail = |error: Error| DataError::Template { action: "cannot be compiled", message: message(&error) };
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(fail)?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(|out, _, value| out.write_str(&python::text(value)).map_err(Error::from));
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", to_json);
        environment.add_filter("string", |value: Value| python::text(&value));
        environment.add_function("raise_exception", |text: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, text))
        });
        if let Some(now) = now {
            environment.add_function("strftime_now", move |format: String| -> Result<String, Error> {
                jiff::fmt::strtime::format(&format, now)
                    .map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {e}")))
            });
        }
        for (name, text) in special_tokens {
            environment.add_global(name.to_owned(), text.to_owned());
        }
        let (marked, marks_generation) = mark_generation(source);
        environment.add_template_owned("chat", marked).map_err(fail)?;
        Ok(Self { environment, source: source.into(), marks_generation })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation. `add_generation_prompt` ends it where the assistant's answer would begin.
    pub fn render(
        &self,
        messages: &[Message],
        tools: Option<&[Json]>,
        add_generation_prompt: bool,
        kwargs: &Map<String, Json>,
    ) -> Result<String, DataError> {
        let fail = |message| DataError::Template { action: "cannot render this conversation", message };
        self.render_marked(messages, tools, add_generation_prompt, kwargs).map(|r| r.text).map_err(fail)
    }

    /// The same with the places of generation blocks. The error is the template's message.
    pub(crate) fn render_marked(
        &self,
        messages: &[Message],
        tools: Option<&[Json]>,
        add_generation_prompt: bool,
        kwargs: &Map<String, Json>,
    ) -> Result<Rendered, String> {
        let mut context: Vec<(String, Value)> =
            kwargs.iter().map(|(name, value)| (name.clone(), from_json(value))).collect();
        let mut set = |name: &str, value: Value| context.push((name.to_owned(), value));
        set("messages", messages.iter().map(message_value).collect());
        set("tools", tools.map_or(Value::from(()), |tools| tools.iter().map(from_json).collect()));
        set("documents", Value::from(()));
        set("add_generation_prompt", Value::from(add_generation_prompt));
        if self.marks_generation {
            set("__generation_open", Value::from(OPEN.to_string()));
            set("__generation_close", Value::from(CLOSE.to_string()));
        }
        let text = self
            .environment
            .get_template("chat")
            .and_then(|template| template.render(Value::from_pairs(context)))
            .map_err(|error| message(&error))?;
        if self.marks_generation { unmark(&text) } else { Ok(Rendered { text, generated: Vec::new() }) }
    }

    /// Whether the template says itself what the assistant wrote.
    pub(crate) fn marks_generation(&self) -> bool {
        self.marks_generation
    }
}

/// A JSON value as a template sees it; the order of keys is kept.
pub(crate) fn from_json(value: &Json) -> Value {
    match value {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(entries) => Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), from_json(value)))),
    }
}

fn message_value(message: &Message) -> Value {
    let known = [("role", Value::from(message.role.as_str())), ("content", Value::from(message.content.as_str()))];
    let extra = message.extra.iter().map(|(key, value)| (key.as_str(), from_json(value)));
    Value::from_pairs(known.into_iter().chain(extra))
}

/// `tojson` as transformers overrides it: `json.dumps(x, ensure_ascii=False, ...)`.
fn to_json(value: Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let indent = indent.filter(|value| !value.is_none()).map(usize::try_from).transpose()?;
    let mut style = JsonStyle::new(indent);
    style.ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    style.sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    if let Some(separators) = options.get::<Option<Value>>("separators")?.filter(|v| v.kind() == ValueKind::Seq) {
        let parts: Vec<String> = separators.try_iter()?.map(|part| python::text(&part)).collect();
        let [item, key]: [String; 2] = parts
            .try_into()
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: `separators` must be a pair"))?;
        (style.item_separator, style.key_separator) = (item, key);
    }
    options.assert_all_used()?;
    python::json_text(&value, &style).map_err(|text| Error::new(ErrorKind::InvalidOperation, format!("tojson: {text}")))
}

/// Replaces `{% generation %}` and `{% endgeneration %}`, which minijinja does not know, by markers that print
/// themselves. The tags' own whitespace control is kept: it acts on the outer sides of an `if`.
fn mark_generation(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut found = false;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}").map(|at| at + 2) else { break };
        let tag = &rest[start..start + length];
        let inner = tag[2..tag.len() - 2].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let marker = match inner {
            "generation" => Some("__generation_open"),
            "endgeneration" => Some("__generation_close"),
            _ => None,
        };
        out.push_str(&rest[..start]);
        match marker {
            Some(marker) => {
                found = true;
                let control = |side: Option<char>| side.filter(|c| matches!(c, '-' | '+')).map(String::from);
                let left = control(tag[2..].chars().next()).unwrap_or_default();
                let right = control(tag[..tag.len() - 2].chars().last()).unwrap_or_default();
                out.push_str(&format!("{{%{left} if true %}}{{{{ {marker} }}}}{{% endif {right}%}}"));
            }
            None => out.push_str(tag),
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    (out, found)
}

/// Takes the markers out of a rendering and notes where they were.
fn unmark(text: &str) -> Result<Rendered, String> {
    let mut clean = String::with_capacity(text.len());
    let mut generated = Vec::new();
    let mut open = None;
    for character in text.chars() {
        match (character, open) {
            (OPEN, None) => open = Some(clean.len()),
            (CLOSE, Some(start)) => {
                generated.push(start..clean.len());
                open = None;
            }
            (OPEN | CLOSE, _) => return Err("its generation blocks are nested or the text holds U+FDD0".into()),
            _ => clean.push(character),
        }
    }
    if open.is_some() {
        return Err("a generation block is not closed".into());
    }
    Ok(Rendered { text: clean, generated })
}

/// The innermost message of an error, with its line in the template.
fn message(error: &Error) -> String {
    let mut text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    if error.kind() == ErrorKind::OutOfFuel {
        text = "it does too much work (is there an endless loop?)".into();
    }
    if let Some(line) = error.line() {
        text.push_str(&format!(" (template line {line})"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn fixtures() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
    }

    fn template(name: &str) -> ChatTemplate {
        let source = std::fs::read_to_string(fixtures().join(format!("{name}.jinja"))).unwrap();
        ChatTemplate::new(&source, [("bos_token", "<s>"), ("eos_token", "</s>")], None).unwrap()
    }

    fn messages(value: &Json) -> Vec<Message> {
        let message = |value: &Json| {
            let mut extra = value.as_object().unwrap().clone();
            let mut take = |key: &str| extra.shift_remove(key).unwrap().as_str().unwrap().to_owned();
            let (role, content) = (take("role"), take("content"));
            Message { extra, ..Message::new(role, content) }
        };
        value.as_array().unwrap().iter().map(message).collect()
    }

    /// `golden.json` was written by transformers from the same templates (`make_golden.py`).
    #[test]
    fn renderings_equal_those_of_transformers() {
        let golden = std::fs::read(fixtures().join("golden.json")).unwrap();
        let golden: Vec<Json> = serde_json::from_slice(&golden).unwrap();
        assert_eq!(golden.len(), 96);
        for case in golden {
            let name = case["template"].as_str().unwrap();
            let mut kwargs = case["kwargs"].as_object().unwrap().clone();
            kwargs.insert("date_string".into(), "01 Feb 2025".into());
            let tools = case["tools"].as_array().map(Vec::as_slice);
            let prompt = case["prompt"].as_bool().unwrap();
            let rendered = template(name).render_marked(&messages(&case["messages"]), tools, prompt, &kwargs);
            match case["text"].as_str() {
                Some(text) => {
                    let rendered = rendered.unwrap();
                    assert_eq!(rendered.text, text, "{name}");
                    // transformers counts characters, we count bytes.
                    let character = |byte: usize| rendered.text[..byte].chars().count();
                    let spans: Vec<[usize; 2]> =
                        rendered.generated.iter().map(|r| [character(r.start), character(r.end)]).collect();
                    assert_eq!(serde_json::json!(spans), case["spans"], "{name}: {text:?}");
                }
                None => {
                    let error = rendered.unwrap_err();
                    assert!(error.contains(case["spans"].as_str().unwrap()), "{name}: {error}");
                }
            }
        }
    }

    #[test]
    fn the_date_is_handed_in_or_the_templates_own() {
        let source = std::fs::read_to_string(fixtures().join("llama3.jinja")).unwrap();
        let chat = [Message::new("user", "hi")];
        let render = |now| {
            let template = ChatTemplate::new(&source, [("bos_token", "<s>")], now).unwrap();
            template.render(&chat, None, false, &Map::new()).unwrap()
        };
        assert!(render(None).contains("Today Date: 26 Jul 2024\n"));
        assert!(render(Some(jiff::civil::date(2025, 3, 9).at(0, 0, 0, 0))).contains("Today Date: 09 Mar 2025\n"));
    }

    #[test]
    fn bad_templates_are_errors_with_a_line() {
        let error = ChatTemplate::new("{% for x in %}", [], None).unwrap_err();
        assert!(error.to_string().starts_with("the chat template cannot be compiled"), "{error}");
        let render = |source: &str| {
            let template = ChatTemplate::new(source, [], None).unwrap();
            template.render(&[Message::new("user", "hi")], None, false, &Map::new())
        };
        let error = render("a\n{{ raise_exception('only tools') }}").unwrap_err().to_string();
        assert!(error.contains("only tools (template line 2)"), "{error}");
        let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{{ c }}{% endfor %}{% endfor %}{% endfor %}";
        assert!(render(endless).unwrap_err().to_string().contains("too much work"));
        assert!(render("{{ messages[0].content }}").is_ok());
    }
}
