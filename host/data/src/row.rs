//! One row of any accepted form as canonical messages.
//!
//! Accepted: `messages` / `conversation` / `conversations` (role and content, or sharegpt's from and value), alpaca
//! (`instruction`, `input`, `output`), query and response under their usual names with `history` and `system`, and
//! pre-training text (a response without a query).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::{DataError, Origin, RowError};

/// A conversation with what its template may want to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub messages: Vec<Message>,
    /// Tool descriptions as OpenAI function objects.
    pub tools: Option<Vec<Value>>,
    /// Extra template variables of this row (`enable_thinking`, ...).
    pub chat_template_kwargs: Map<String, Value>,
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
const MEDIA: [&str; 6] = ["images", "image", "videos", "video", "audios", "audio"];
/// What a column may be renamed to.
const CANONICAL: [&str; 12] = [
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
        if let Some(media) = MEDIA.iter().find(|name| columns.get(name).is_some_and(|value| !is_empty(value))) {
            return Err(RowError::new("images, videos and audio are not built yet", format!("column `{media}`")));
        }
        let mut messages = match MESSAGES.iter().find_map(|name| Some((name, columns.get(name)?))) {
            Some((name, value)) => parse_messages(name, value)?,
            None => query_response(&columns, aliases)?,
        };
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
            Some(Value::Array(tools)) => Some(tools),
            Some(other) => return Err(malformed(format!("`tools` must be a list, this is {}", kind(&other)))),
        };
        let chat_template_kwargs = match columns.json("chat_template_kwargs")? {
            None => Map::new(),
            Some(Value::Object(kwargs)) => kwargs,
            Some(other) => {
                return Err(malformed(format!("`chat_template_kwargs` must be an object, this is {}", kind(&other))));
            }
        };
        Ok(Self { messages, tools, chat_template_kwargs, origin })
    }
}

/// The columns of a row under their canonical or lower-case names; null counts as absent.
struct Columns(BTreeMap<String, Value>, Vec<String>);

impl Columns {
    fn new(object: Map<String, Value>, renames: &ColumnMap) -> RowResult<Self> {
        let names: Vec<String> = object.keys().cloned().collect();
        let mut columns = BTreeMap::new();
        let mut renamed = BTreeMap::new();
        for (name, value) in object {
            if value.is_null() {
                continue;
            }
            match renames.0.get(&name) {
                Some(to) => {
                    if renamed.insert(to.clone(), value).is_some() {
                        return Err(malformed(format!("two columns are renamed to `{to}`")));
                    }
                }
                None => drop(columns.insert(name.to_lowercase(), value)),
            }
        }
        columns.extend(renamed);
        Ok(Self(columns, names))
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    fn text(&self, name: &str) -> RowResult<Option<&str>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(malformed(format!("`{name}` must be a text, this is {}", kind(other)))),
        }
    }

    /// A JSON value, given as such or as a text that holds it.
    fn json(&self, name: &str) -> RowResult<Option<Value>> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
            Some(Value::String(text)) => serde_json::from_str(text)
                .map(Some)
                .map_err(|e| malformed(format!("`{name}` is a text that is not JSON: {e}"))),
            Some(other) => Ok(Some(other.clone())),
        }
    }

    /// The column `name` or, when it is absent, the only present alias.
    fn aliased(&self, name: &str, aliases: &[&str]) -> RowResult<Option<&str>> {
        if let Some(text) = self.text(name)? {
            return Ok(Some(text));
        }
        let present: Vec<&str> = aliases.iter().copied().filter(|alias| self.get(alias).is_some()).collect();
        match present.as_slice() {
            [] => Ok(None),
            [only] => self.text(only),
            several => Err(malformed(format!(
                "columns {} could all be the {name}; say which with `columns`",
                several.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

fn query_response(columns: &Columns, aliases: bool) -> RowResult<Vec<Message>> {
    let alpaca = columns.get("query").is_none()
        && columns.get("instruction").is_some()
        && (columns.get("input").is_some() || columns.get("output").is_some());
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
            columns.1.join(", ")
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

fn parse_messages(name: &str, value: &Value) -> RowResult<Vec<Message>> {
    let parsed;
    let list = match value {
        Value::String(text) => {
            parsed = serde_json::from_str::<Value>(text)
                .map_err(|e| malformed(format!("`{name}` is a text that is not JSON: {e}")))?;
            parsed.as_array()
        }
        other => other.as_array(),
    };
    let list = list.ok_or_else(|| malformed(format!("`{name}` must be a list of messages")))?;
    let mut messages: Vec<Message> = Vec::with_capacity(list.len());
    for (index, entry) in list.iter().enumerate() {
        let place = |error: RowError| RowError { detail: format!("message {}: {}", index + 1, error.detail), ..error };
        let object = entry
            .as_object()
            .ok_or_else(|| place(malformed(format!("a message must be an object, this is {}", kind(entry)))))?;
        if !object.contains_key("role") && !object.contains_key("from") {
            messages.extend(parse_pair(object).map_err(place)?);
            continue;
        }
        let message = parse_message(object).map_err(place)?;
        if message.role == "tool_call" {
            let call = tool_call(&message.content).map_err(place)?;
            attach_call(&mut messages, call, &message);
        } else {
            messages.push(message);
        }
    }
    Ok(messages)
}

/// `{"human": ..., "gpt": ...}` or `{"user": ..., "assistant": ...}`: a whole round in one object.
fn parse_pair(object: &Map<String, Value>) -> RowResult<[Message; 2]> {
    let find = |names: [&str; 2]| names.iter().find_map(|name| object.get(*name)?.as_str());
    match (find(["human", "user"]), find(["gpt", "assistant"])) {
        (Some(query), Some(response)) => Ok([Message::new("user", query), Message::new("assistant", response)]),
        _ => Err(malformed(format!(
            "it has no `role` (or `from`); its keys are {}",
            object.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
        ))),
    }
}

fn parse_message(object: &Map<String, Value>) -> RowResult<Message> {
    let mut message = Message::default();
    let mut content = None;
    for (key, value) in object {
        match key.as_str() {
            "role" | "from" => {
                let role = value.as_str().ok_or_else(|| malformed(format!("`{key}` must be a text")))?;
                message.role = canonical_role(role)?.into();
            }
            "content" | "value" => content = Some(value),
            "loss" => {
                message.loss = match value {
                    Value::Null => None,
                    Value::Bool(loss) => Some(*loss),
                    Value::Number(n) if n.as_f64() == Some(0.0) => Some(false),
                    Value::Number(n) if n.as_f64() == Some(1.0) => Some(true),
                    other => return Err(malformed(format!("`loss` must be true or false, this is {}", kind(other)))),
                }
            }
            "loss_scale" => {
                message.loss_scale = match value {
                    Value::Null => None,
                    other => Some(
                        other
                            .as_f64()
                            .filter(|scale| scale.is_finite() && *scale >= 0.0)
                            .ok_or_else(|| malformed("`loss_scale` must be a number that is not negative"))?
                            as f32,
                    ),
                }
            }
            "tool_calls" => {
                if let Some(calls) = value.as_array().filter(|calls| !calls.is_empty()) {
                    let calls = calls.iter().map(parse_arguments).collect();
                    message.extra.insert(key.clone(), Value::Array(calls));
                }
            }
            _ if value.is_null() => {}
            _ => drop(message.extra.insert(key.clone(), value.clone())),
        }
    }
    message.content = match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => joined_text(parts)?,
        Some(object @ Value::Object(_)) if matches!(message.role.as_str(), "tool" | "tool_call") => object.to_string(),
        None | Some(Value::Null) if message.extra.contains_key("tool_calls") => String::new(),
        None | Some(Value::Null) => return Err(malformed("it has no `content` (or `value`)")),
        Some(other) => return Err(malformed(format!("`content` must be a text, this is {}", kind(other)))),
    };
    if message.role != "assistant" && (message.loss == Some(true) || message.loss_scale.is_some_and(|s| s > 0.0)) {
        return Err(malformed(format!("only assistant messages can be trained, this is a {} message", message.role)));
    }
    Ok(message)
}

fn canonical_role(role: &str) -> RowResult<&'static str> {
    Ok(match role {
        "user" | "human" => "user",
        "assistant" | "gpt" | "bot" => "assistant",
        "system" => "system",
        "developer" => "developer",
        "tool" | "tool_response" | "observation" | "function" | "ipython" => "tool",
        "tool_call" | "function_call" => "tool_call",
        other => {
            return Err(malformed(format!(
                "unknown role `{other}`; the roles are system, user, assistant, tool_call and tool"
            )));
        }
    })
}

/// Text parts put together; other parts are media.
fn joined_text(parts: &[Value]) -> RowResult<String> {
    let mut text = String::new();
    for part in parts {
        match part.get("text").and_then(Value::as_str).or(part.as_str()) {
            Some(piece) => text.push_str(piece),
            None => {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or("unknown");
                return Err(RowError::new(
                    "images, videos and audio are not built yet",
                    format!("a content part of type `{kind}`"),
                ));
            }
        }
    }
    Ok(text)
}

/// The content of a `tool_call` message as an OpenAI tool call.
fn tool_call(content: &str) -> RowResult<Value> {
    let call: Value = serde_json::from_str(content)
        .map_err(|e| malformed(format!("a tool_call's content must be JSON with `name` and `arguments`: {e}")))?;
    if call.get("name").and_then(Value::as_str).is_none() {
        return Err(malformed("a tool_call's content must have a `name`"));
    }
    Ok(parse_arguments(&serde_json::json!({ "type": "function", "function": call })))
}

/// Templates print arguments with `tojson`, so a text that holds an object becomes that object.
fn parse_arguments(call: &Value) -> Value {
    let mut call = call.clone();
    let function = if call.get("function").is_some() { call.get_mut("function") } else { Some(&mut call) };
    if let Some(arguments) = function.and_then(|f| f.get_mut("arguments"))
        && let Some(object) =
            arguments.as_str().and_then(|t| serde_json::from_str::<Value>(t).ok()).filter(Value::is_object)
    {
        *arguments = object;
    }
    call
}

/// Adjacent calls are parallel calls of one assistant message, which may have begun with text.
fn attach_call(messages: &mut Vec<Message>, call: Value, source: &Message) {
    if messages.last().is_none_or(|last| last.role != "assistant") {
        messages.push(Message { loss: source.loss, loss_scale: source.loss_scale, ..Message::new("assistant", "") });
    }
    let last = messages.last_mut().expect("one was pushed");
    let calls = last.extra.entry("tool_calls").or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(calls) = calls {
        calls.push(call);
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
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
            (json!({ "query": "q", "response": "a", "images": ["x.png"] }), "column `images`"),
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
