//! Conversations as JSON (OpenAI's message form, and the role names of canonical rows) to those of the contract.

use serde_json::{Map, Value, json};
use swift_plugin::{ChatMessage, Content, Context, Conversation, Form, Parsed, Part, Segment, ToolCall};

use super::columns;

/// A conversation: `messages`, and where given `tools`, `arguments` (or any other key as an argument) and `date`.
pub(crate) fn conversation(map: &Map<String, Value>) -> Result<Conversation, String> {
    let messages = map.get("messages").and_then(Value::as_array).ok_or("`messages` is missing or no list")?;
    let one = |(index, value): (usize, &Value)| message(value).map_err(|what| format!("message {}: {what}", index + 1));
    let messages = messages.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    let date = match map.get("date") {
        None | Some(Value::Null) => None,
        Some(Value::String(date)) => Some(date.clone()),
        Some(_) => return Err("`date` is no text".into()),
    };
    let (tools, arguments) = settings(map)?;
    Ok(Conversation { messages, tools, arguments, date })
}

/// What a completion continues: `tools`, `arguments`, `prefix`.
pub(crate) fn context(map: &Map<String, Value>) -> Result<Context, String> {
    let (tools, arguments) = settings(map)?;
    let prefix = match map.get("prefix") {
        None => String::new(),
        Some(Value::String(prefix)) => prefix.clone(),
        Some(_) => return Err("`prefix` is no text".into()),
    };
    Ok(Context { tools, arguments, prefix })
}

fn settings(map: &Map<String, Value>) -> Result<(Vec<String>, Vec<(String, String)>), String> {
    let tools = match map.get("tools") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tools)) => tools.iter().map(Value::to_string).collect(),
        Some(_) => return Err("`tools` is no list".into()),
    };
    let arguments = match map.get("arguments") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Object(arguments)) => columns(arguments, &[]),
        Some(_) => return Err("`arguments` is no object".into()),
    };
    Ok((tools, arguments))
}

fn message(value: &Value) -> Result<ChatMessage, String> {
    let map = value.as_object().ok_or("it is no object")?;
    let text = |key: &str| match map.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("`{key}` is no text")),
    };
    let role = text("role")?.ok_or("`role` is missing")?;
    let content = match map.get("content") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![Part::Text(text.clone())],
        Some(Value::Array(parts)) => parts.iter().map(part).collect::<Result<_, _>>()?,
        Some(_) => return Err("`content` is neither a text nor a list of parts".into()),
    };
    let tool_calls = match map.get("tool_calls") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(calls)) => calls.iter().map(tool_call).collect::<Result<_, _>>()?,
        Some(_) => return Err("`tool_calls` is no list".into()),
    };
    let reasoning = text("reasoning")?.or(text("reasoning_content")?);
    Ok(ChatMessage {
        role: if role == "tool_response" { "tool".into() } else { role },
        content,
        reasoning,
        tool_calls,
        tool_call_id: text("tool_call_id")?,
        name: text("name")?,
        loss: map.get("loss").and_then(Value::as_bool),
        loss_scale: map.get("loss_scale").and_then(Value::as_f64).map(|scale| scale as f32),
    })
}

/// `{"type": "text", "text": ".."}`, `{"type": "image", "image": ".."}`, ...; an URL may stand in an object as OpenAI has it.
fn part(value: &Value) -> Result<Part, String> {
    let kind = value.get("type").and_then(Value::as_str).ok_or("a part has no `type`")?;
    let medium = kind.trim_end_matches("_url");
    let content = value.get(kind).or_else(|| value.get(medium));
    let content = content.map(|content| content.get("url").unwrap_or(content)).and_then(Value::as_str);
    let content = content.ok_or_else(|| format!("a part has no `{}`", swift_plugin::clean(kind, 40)))?.to_owned();
    match medium {
        "text" => Ok(Part::Text(content)),
        "image" => Ok(Part::Image(content)),
        "audio" => Ok(Part::Audio(content)),
        "video" => Ok(Part::Video(content)),
        _ => Err(format!("a part is of the type `{}`", swift_plugin::clean(kind, 40))),
    }
}

/// OpenAI's form, or the inner object alone. Arguments that are a text are JSON as it stands there.
fn tool_call(value: &Value) -> Result<ToolCall, String> {
    let inner = value.get("function").unwrap_or(value);
    let name = inner.get("name").and_then(Value::as_str).ok_or("a tool call has no `name`")?.to_owned();
    let arguments = match inner.get("arguments") {
        None => "{}".into(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    Ok(ToolCall { id: value.get("id").and_then(Value::as_str).map(str::to_owned), name, arguments })
}

/// "prompt" or "training".
pub(crate) fn form(name: &str) -> Result<Form, String> {
    match name {
        "prompt" => Ok(Form::Prompt),
        "training" => Ok(Form::Training),
        _ => Err(format!("`{}` is no form; there are prompt and training", swift_plugin::clean(name, 40))),
    }
}

/// What a segment adds to the text.
pub(crate) fn text_of(segment: &Segment) -> &str {
    match &segment.content {
        Content::Text(text)
        | Content::Special(text)
        | Content::Image(text)
        | Content::Audio(text)
        | Content::Video(text) => text,
    }
}

/// A completion read back, as golden tests write it. Arguments that are JSON are written as such.
pub(crate) fn parsed(parsed: &Parsed) -> Value {
    let call = |call: &ToolCall| {
        let arguments: Value =
            serde_json::from_str(&call.arguments).unwrap_or_else(|_| Value::String(call.arguments.clone()));
        let mut value = json!({ "name": call.name, "arguments": arguments });
        if let Some(id) = &call.id {
            value["id"] = json!(id);
        }
        value
    };
    let mut value = json!({ "content": parsed.content });
    if let Some(reasoning) = parsed.reasoning.as_ref().filter(|text| !text.is_empty()) {
        value["reasoning"] = json!(reasoning);
    }
    if !parsed.tool_calls.is_empty() {
        value["tool_calls"] = parsed.tool_calls.iter().map(call).collect();
    }
    if !parsed.problems.is_empty() {
        value["problems"] = json!(parsed.problems);
    }
    value
}
