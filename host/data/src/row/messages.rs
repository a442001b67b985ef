//! Messages in the forms of OpenAI, Anthropic, sharegpt and ms-swift as ours.
//!
//! Tool calls are OpenAI's, with arguments as JSON and never as a text of it; the results of parallel calls stand in the
//! order of the calls. Media stand in the text as tags, and in the row's lists in the same order.

use serde_json::{Map, Value, json};

use super::{Media, Message, RowResult, kind, malformed};
use crate::RowError;

/// The messages of the column `name`: a list, or a text that holds one.
pub(super) fn parse(name: &str, value: &Value, media: &mut Media) -> RowResult<Vec<Message>> {
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
            messages.extend(pair(object).map_err(place)?);
            continue;
        }
        for message in message(object, media).map_err(place)? {
            if message.role == "tool_call" {
                let call = tool_call(&message.content).map_err(place)?;
                attach_call(&mut messages, call, &message);
            } else {
                messages.push(message);
            }
        }
    }
    align_results(&mut messages);
    Ok(messages)
}

/// `{"human": ..., "gpt": ...}` or `{"user": ..., "assistant": ...}`: a whole round in one object.
fn pair(object: &Map<String, Value>) -> RowResult<[Message; 2]> {
    let find = |names: [&str; 2]| names.iter().find_map(|name| object.get(*name)?.as_str());
    match (find(["human", "user"]), find(["gpt", "assistant"])) {
        (Some(query), Some(response)) => Ok([Message::new("user", query), Message::new("assistant", response)]),
        _ => Err(malformed(format!(
            "it has no `role` (or `from`); its keys are {}",
            object.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// One object: a message, or several where the results of tools stand in a user's message.
fn message(object: &Map<String, Value>, media: &mut Media) -> RowResult<Vec<Message>> {
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
    let mut before = Vec::new();
    message.content = match content {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let mut text = String::new();
            for part in parts {
                block(part, &mut message, &mut before, &mut text, media)?;
            }
            // A user's message that was nothing but results.
            if text.is_empty() && !before.is_empty() {
                return Ok(before);
            }
            text
        }
        Some(object @ Value::Object(_)) if matches!(message.role.as_str(), "tool" | "tool_call") => object.to_string(),
        None | Some(Value::Null) if message.extra.contains_key("tool_calls") => String::new(),
        None | Some(Value::Null) => return Err(malformed("it has no `content` (or `value`)")),
        Some(other) => return Err(malformed(format!("`content` must be a text, this is {}", kind(other)))),
    };
    if message.role != "assistant" && (message.loss == Some(true) || message.loss_scale.is_some_and(|s| s > 0.0)) {
        return Err(malformed(format!("only assistant messages can be trained, this is a {} message", message.role)));
    }
    before.push(message);
    Ok(before)
}

/// One part of a message's content: of OpenAI (`text`, `image_url`, `input_audio`, ...) or of Anthropic (`text`, `thinking`,
/// `tool_use`, `tool_result`, `image`). Results of tools go into `results`.
fn block(
    part: &Value,
    message: &mut Message,
    results: &mut Vec<Message>,
    text: &mut String,
    media: &mut Media,
) -> RowResult<()> {
    let kind = part.get("type").and_then(Value::as_str).unwrap_or("unknown");
    let unknown = || malformed(format!("a content part of type `{kind}` is not understood"));
    match kind {
        "thinking" => {
            let thought = part.get("thinking").and_then(Value::as_str).ok_or_else(unknown)?;
            let reasoning = message.extra.entry("reasoning_content").or_insert_with(|| Value::String(String::new()));
            if let Value::String(reasoning) = reasoning {
                reasoning.push_str(thought);
            }
        }
        // Nobody can read it.
        "redacted_thinking" => {}
        "tool_use" => {
            let name = part.get("name").and_then(Value::as_str).ok_or_else(unknown)?;
            let mut call = json!({"type": "function", "function": {"name": name, "arguments": part.get("input").unwrap_or(&json!({}))}});
            if let Some(id) = part.get("id").filter(|id| id.is_string()) {
                call["id"] = id.clone();
            }
            let calls = message.extra.entry("tool_calls").or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(calls) = calls {
                calls.push(call);
            }
        }
        "tool_result" => {
            let mut result = Message::new("tool", "");
            match part.get("content") {
                None | Some(Value::Null) => {}
                Some(Value::String(content)) => result.content.clone_from(content),
                Some(Value::Array(parts)) => {
                    let mut inner = String::new();
                    for part in parts {
                        if matches!(part.get("type").and_then(Value::as_str), Some("tool_result" | "tool_use")) {
                            return Err(unknown());
                        }
                        block(part, &mut result, &mut Vec::new(), &mut inner, media)?;
                    }
                    result.content = inner;
                }
                Some(other) => result.content = other.to_string(),
            }
            if let Some(id) = part.get("tool_use_id").filter(|id| id.is_string()) {
                result.extra.insert("tool_call_id".into(), id.clone());
            }
            results.push(result);
        }
        _ => match part.get("text").and_then(Value::as_str).or(part.as_str()) {
            Some(piece) => text.push_str(piece),
            None => text.push_str(media.add_part(part)?),
        },
    }
    Ok(())
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

/// The content of a `tool_call` message as an OpenAI tool call.
fn tool_call(content: &str) -> RowResult<Value> {
    let call: Value = serde_json::from_str(content)
        .map_err(|e| malformed(format!("a tool_call's content must be JSON with `name` and `arguments`: {e}")))?;
    if call.get("name").and_then(Value::as_str).is_none() {
        return Err(malformed("a tool_call's content must have a `name`"));
    }
    Ok(parse_arguments(&json!({ "type": "function", "function": call })))
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

/// Puts the results of parallel calls into the order of the calls: most templates print no id, and a result would be read as
/// that of another call. Results of which one names no call stay as they are.
fn align_results(messages: &mut [Message]) {
    let mut start = 0;
    while start < messages.len() {
        let calls: Vec<Value> =
            messages[start].extra.get("tool_calls").and_then(Value::as_array).cloned().unwrap_or_default();
        let results = messages[start + 1..].iter().take_while(|message| message.role == "tool").count();
        let results = &mut messages[start + 1..start + 1 + results];
        let place = |message: &Message| {
            let id = message.extra.get("tool_call_id")?;
            calls.iter().position(|call| call.get("id") == Some(id))
        };
        if results.len() > 1 && results.iter().all(|message| place(message).is_some()) {
            results.sort_by_key(|message| place(message));
        }
        start += 1 + results.len();
    }
}

/// The description of a tool in OpenAI's form; Anthropic's has `input_schema`, some have the function alone.
pub(super) fn tool(tool: Value) -> Value {
    let Some(object) = tool.as_object().filter(|object| !object.contains_key("function")) else { return tool };
    if let (Some(name), Some(schema)) = (object.get("name"), object.get("input_schema")) {
        let mut function = json!({"name": name});
        if let Some(description) = object.get("description") {
            function["description"] = description.clone();
        }
        function["parameters"] = schema.clone();
        return json!({"type": "function", "function": function});
    }
    match object.contains_key("name") && object.contains_key("parameters") && !object.contains_key("type") {
        true => json!({"type": "function", "function": tool}),
        false => tool,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(messages: &Value) -> (Vec<Message>, Media) {
        let mut media = Media::default();
        (parse("messages", messages, &mut media).unwrap(), media)
    }

    #[test]
    fn anthropics_blocks_are_openais_messages() {
        let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}});
        let (messages, media) = read(&json!([
            {"role": "user", "content": [{"type": "text", "text": "Look: "}, image]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "I ask."},
                {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "g", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "b", "content": [{"type": "text", "text": "of g"}]},
                {"type": "tool_result", "tool_use_id": "a", "content": "of f"},
                {"type": "text", "text": "and now?"},
            ]},
        ]));
        let said: Vec<(&str, &str)> = messages.iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        let expected = [
            ("user", "Look: <image>"),
            ("assistant", "I ask."),
            ("tool", "of f"),
            ("tool", "of g"),
            ("user", "and now?"),
        ];
        assert_eq!(said, expected);
        assert_eq!(media.images, [json!("data:image/png;base64,AAAA")]);
        assert_eq!(messages[1].extra["reasoning_content"], "hm");
        assert_eq!(messages[1].extra["tool_calls"][0]["function"], json!({"name": "f", "arguments": {"x": 1}}));

        let only = json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "x"}]}]);
        assert_eq!(read(&only).0.len(), 1);
    }

    #[test]
    fn results_stand_in_the_order_of_their_calls() {
        let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": id, "arguments": "{}"}});
        let tool = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": id});
        let order = |results: Vec<Value>| {
            let mut list = vec![json!({"role": "assistant", "tool_calls": [call("a"), call("b"), call("c")]})];
            list.extend(results);
            let messages = read(&Value::Array(list)).0;
            messages[1..].iter().map(|m| m.content.clone()).collect::<Vec<_>>().concat()
        };
        assert_eq!(order(vec![tool("c"), tool("a"), tool("b")]), "abc");
        assert_eq!(order(vec![tool("c"), tool("x"), tool("a")]), "cxa", "one is of no call");
        assert_eq!(order(vec![tool("b"), tool("a")]), "ab");
    }

    #[test]
    fn tools_of_all_forms_are_openais() {
        let schema = json!({"type": "object"});
        let expected = json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}});
        for form in [
            expected.clone(),
            json!({"name": "f", "description": "d", "input_schema": schema}),
            json!({"name": "f", "description": "d", "parameters": schema}),
        ] {
            assert_eq!(tool(form), expected);
        }
        assert_eq!(tool(json!({"type": "web_search"})), json!({"type": "web_search"}));
    }
}
