//! One row of any accepted form as canonical messages.
//!
//! Accepted: `messages` / `conversation` / `conversations` (role and content, or sharegpt's from and value), alpaca
//! (`instruction`, `input`, `output`), query and response under their usual names with `history` and `system`, and
//! pre-training text (a response without a query). Tool calls and media in OpenAI's and Anthropic's forms become ours.

mod columns;
mod media;
mod messages;
mod tasks;

use std::collections::BTreeMap;

use columns::Columns;
use serde_json::{Map, Value};

pub use self::{media::Media, tasks::Side};
use crate::{DataError, Origin, RowError};

/// A conversation with what its template may want to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub messages: Vec<Message>,
    /// Tool descriptions as OpenAI function objects.
    pub tools: Option<Vec<Value>>,
    /// Extra template variables of this row (`enable_thinking`, ...).
    pub chat_template_kwargs: Map<String, Value>,
    /// What the messages refer to.
    pub media: Media,
    /// Every other column, for tasks, rewards and metrics; [`Row::rejected`] and others read them.
    pub columns: Map<String, Value>,
    pub origin: Origin,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    pub content: String,
    /// Overrides whether this (assistant) message is trained.
    pub loss: Option<bool>,
    /// Overrides the weight of this (assistant) message's tokens.
    pub loss_scale: Option<f32>,
    /// Every other key, as the template sees it (`tool_calls`, `reasoning_content`, `name`, ...).
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message with nothing but role and content.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), ..Self::default() }
    }
}

/// Column names that mean a query or a response when the canonical name is absent.
const QUERY: [&str; 5] = ["prompt", "input", "instruction", "question", "problem"];
const RESPONSE: [&str; 10] =
    ["answer", "output", "targets", "target", "answer_key", "answers", "solution", "text", "completion", "content"];
const MESSAGES: [&str; 3] = ["messages", "conversation", "conversations"];
/// What a column may be renamed to.
const CANONICAL: [&str; 31] = [
    "messages",
    "query",
    "response",
    "system",
    "history",
    "tools",
    "instruction",
    "input",
    "output",
    "text",
    "chat_template_kwargs",
    "conversations",
    "images",
    "videos",
    "audios",
    "objects",
    "rejected_response",
    "rejected_messages",
    "rejected_images",
    "rejected_videos",
    "rejected_audios",
    "positive_messages",
    "positive_images",
    "negative_messages",
    "negative_images",
    "label",
    "margin",
    "channel",
    "solution",
    "teacher_prompt",
    "env_config",
];

/// The user's renaming of columns, from `columns`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColumnMap(BTreeMap<String, String>);

impl ColumnMap {
    /// From a JSON object `{"column": "canonical name"}`.
    pub fn parse(json: &str) -> Result<Self, DataError> {
        let fail = |message: String| DataError::Columns { message };
        let map: BTreeMap<String, String> =
            serde_json::from_str(json).map_err(|e| fail(format!("not a JSON object of strings: {e}")))?;
        for (from, to) in &map {
            if !CANONICAL.contains(&to.as_str()) {
                return Err(fail(format!("`{from}` cannot become `{to}`; the names are {}", CANONICAL.join(", "))));
            }
        }
        Ok(Self(map))
    }
}

type RowResult<T> = Result<T, RowError>;

fn malformed(detail: impl Into<String>) -> RowError {
    RowError::new("malformed row", detail)
}

impl Row {
    /// Reads a JSON object in any accepted form. `aliases`: accept the usual other names of query and response.
    pub fn from_json(value: Value, columns: &ColumnMap, aliases: bool, origin: Origin) -> RowResult<Self> {
        let Value::Object(object) = value else {
            return Err(malformed(format!("a row must be a JSON object, this is {}", kind(&value))));
        };
        let columns = Columns::new(object, columns)?;
        let mut media = Media::default();
        let mut messages = match MESSAGES.iter().find_map(|name| Some((name, columns.get(name)?))) {
            Some((name, value)) => messages::parse(name, value, &mut media)?,
            None => query_response(&columns, aliases)?,
        };
        media.add_columns(&columns)?;
        if messages.is_empty() {
            return Err(malformed("it has no messages"));
        }
        if let Some(system) = columns.text("system")? {
            match messages.first() {
                Some(first) if first.role == "system" => {
                    if first.content != system {
                        return Err(malformed("column `system` and the system message differ"));
                    }
                }
                _ => messages.insert(0, Message::new("system", system)),
            }
        }
        let tools = match columns.json("tools")? {
            None => None,
            Some(Value::Array(tools)) if tools.is_empty() => None,
            Some(Value::Array(tools)) => Some(tools.into_iter().map(messages::tool).collect()),
            Some(other) => return Err(malformed(format!("`tools` must be a list, this is {}", kind(&other)))),
        };
        let chat_template_kwargs = match columns.json("chat_template_kwargs")? {
            None => Map::new(),
            Some(Value::Object(kwargs)) => kwargs,
            Some(other) => {
                return Err(malformed(format!("`chat_template_kwargs` must be an object, this is {}", kind(&other))));
            }
        };
        Ok(Self { messages, tools, chat_template_kwargs, media, columns: columns.rest(), origin })
    }
}

fn query_response(columns: &Columns, aliases: bool) -> RowResult<Vec<Message>> {
    let alpaca = !columns.has("query") && columns.has("instruction") && (columns.has("input") || columns.has("output"));
    let (query, response) = if alpaca {
        let parts: Vec<&str> = [columns.text("instruction")?, columns.text("input")?]
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            .collect();
        (Some(parts.join("\n")), columns.aliased("response", &["output", "answer"])?)
    } else if aliases {
        (columns.aliased("query", &QUERY)?.map(str::to_owned), columns.aliased("response", &RESPONSE)?)
    } else {
        (columns.text("query")?.map(str::to_owned), columns.text("response")?)
    };
    if query.is_none() && response.is_none() {
        return Err(malformed(format!(
            "none of its columns ({}) is `messages`, `query`/`response`, `instruction`/`output` or `text`; name them \
             with `columns`",
            columns.names()
        )));
    }
    let mut messages = Vec::new();
    if let Some(history) = columns.json("history")? {
        let pairs = history.as_array().ok_or_else(|| malformed("`history` must be a list of [query, response]"))?;
        for pair in pairs {
            let turn: Option<(&str, &str)> = match pair.as_array().map(Vec::as_slice) {
                Some([query, response]) => query.as_str().zip(response.as_str()),
                _ => None,
            };
            let (query, response) = turn.ok_or_else(|| malformed("`history` must be a list of [query, response]"))?;
            messages.push(Message::new("user", query));
            messages.push(Message::new("assistant", response));
        }
    }
    if let Some(query) = query {
        messages.push(Message::new("user", query));
    }
    if let Some(response) = response {
        messages.push(Message::new("assistant", response));
    }
    Ok(messages)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: Value) -> RowResult<Row> {
        let origin = Origin { file: "x".into(), number: 1, item: false };
        Row::from_json(value, &ColumnMap::default(), true, origin)
    }

    fn turns(value: Value) -> Vec<(String, String)> {
        read(value).unwrap().messages.into_iter().map(|m| (m.role, m.content)).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect()
    }

    #[test]
    fn every_form_gives_the_same_messages() {
        let expected = pairs(&[("system", "s"), ("user", "q"), ("assistant", "a")]);
        let forms = [
            json!({ "messages": [{ "role": "system", "content": "s" }, { "role": "user", "content": "q" }, { "role": "assistant", "content": "a" }] }),
            json!({ "conversations": [{ "from": "human", "value": "q" }, { "from": "gpt", "value": "a" }], "system": "s" }),
            json!({ "conversation": [{ "human": "q", "gpt": "a" }], "system": "s" }),
            json!({ "messages": r#"[{"role":"system","content":"s"},{"role":"user","content":"q"},{"role":"assistant","content":[{"type":"text","text":"a"}]}]"# }),
            json!({ "instruction": "q", "input": "", "output": "a", "system": "s" }),
            json!({ "query": "q", "response": "a", "system": "s", "images": [], "history": null }),
            json!({ "Question": "q", "Answer": "a", "system": "s" }),
            json!({ "prompt": "q", "completion": "a", "system": "s" }),
        ];
        for form in forms {
            assert_eq!(turns(form.clone()), expected, "{form}");
        }
    }

    #[test]
    fn alpaca_history_and_text_rows() {
        assert_eq!(
            turns(json!({ "instruction": "do", "input": "x", "output": "y" })),
            pairs(&[("user", "do\nx"), ("assistant", "y")])
        );
        assert_eq!(
            turns(json!({ "query": "c", "response": "d", "history": [["a", "b"]] })),
            pairs(&[("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")])
        );
        assert_eq!(turns(json!({ "text": "once" })), pairs(&[("assistant", "once")]));
    }

    #[test]
    fn tool_calls_are_merged_and_their_arguments_are_objects() {
        let row = read(json!({
            "tools": r#"[{"type":"function","function":{"name":"f"}}]"#,
            "messages": [
                { "role": "user", "content": "q" },
                { "role": "tool_call", "content": r#"{"name":"f","arguments":"{\"x\":1}"}"# },
                { "role": "function_call", "content": { "name": "g", "arguments": { "y": 2 } } },
                { "role": "tool_response", "content": "7" },
                { "role": "assistant", "content": null, "tool_calls": [{ "type": "function", "function": { "name": "f", "arguments": "{}" } }] },
            ],
        }))
        .unwrap();
        assert_eq!(row.tools.unwrap().len(), 1);
        let roles: Vec<&str> = row.messages.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant", "tool", "assistant"]);
        let calls = row.messages[1].extra["tool_calls"].as_array().unwrap();
        assert_eq!(calls[0]["function"]["arguments"], json!({ "x": 1 }));
        assert_eq!(calls[1]["function"]["name"], "g");
        assert_eq!(row.messages[3].extra["tool_calls"][0]["function"]["arguments"], json!({}));
    }

    #[test]
    fn malformed_rows_say_what_is_wrong() {
        let cases = [
            (json!([1]), "a row must be a JSON object"),
            (json!({ "foo": "x", "bar": 1 }), "none of its columns (foo, bar)"),
            (json!({ "messages": [] }), "no messages"),
            (json!({ "messages": "oops" }), "not JSON"),
            (json!({ "messages": [{ "role": "user" }] }), "message 1: it has no `content`"),
            (
                json!({ "messages": [{ "role": "user", "content": "q" }, { "role": "wizard", "content": "x" }] }),
                "message 2: unknown role `wizard`",
            ),
            (json!({ "messages": [{ "content": "q" }] }), "no `role`"),
            (json!({ "messages": ["q"] }), "a message must be an object"),
            (json!({ "query": "q", "response": 7 }), "`response` must be a text, this is a number"),
            (
                json!({ "question": "q", "answer": "a", "solution": "b" }),
                "`answer`, `solution` could all be the response",
            ),
            (json!({ "query": "q", "response": "a", "images": 3 }), "`images` must be a list"),
            (json!({ "query": "q", "response": "a", "tools": 3 }), "`tools` must be a list"),
            (json!({ "messages": [{ "role": "user", "content": "q", "loss": true }] }), "only assistant messages"),
            (json!({ "messages": [{ "role": "assistant", "content": "q", "loss_scale": -1 }] }), "not negative"),
        ];
        for (row, expected) in cases {
            let error = read(row.clone()).unwrap_err().to_string();
            assert!(error.contains(expected), "{row}: {error}");
        }
    }

    #[test]
    fn columns_can_be_renamed() {
        let columns = ColumnMap::parse(r#"{"frage":"query","antwort":"response"}"#).unwrap();
        let origin = Origin { file: "x".into(), number: 1, item: false };
        let value = json!({ "frage": "q", "antwort": "a", "answer": "other" });
        let row = Row::from_json(value, &columns, true, origin).unwrap();
        assert_eq!(row.messages[1].content, "a");
        assert!(ColumnMap::parse(r#"{"a":"reply"}"#).unwrap_err().to_string().contains("`reply`"));
        assert!(ColumnMap::parse("[]").is_err());
    }
}
