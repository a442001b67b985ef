//! Cases of chat templates: a rendering, or a completion read back, whole and in pieces of every small size.

use serde_json::{Map, Value, json};
use swift_plugin::{Context, Event, Form, Parsed, Plugin, Template, ToolCall};

use super::conversation::{context, conversation, form, parsed, text_of};
use super::{Answer, Answers, Test, failed};

/// Sizes of the pieces of a stream, in characters.
const PIECES: [usize; 8] = [1, 2, 3, 4, 5, 7, 11, 16];

pub(super) fn answers(plugin: &Plugin, test: &Test, case: &Map<String, Value>) -> Answers {
    let template = plugin.template(&test.name, &test.config).map_err(failed)?;
    match (case.get("conversation"), case.get("completion")) {
        (Some(Value::Object(map)), None) => rendering(&template, map, case),
        (None, Some(Value::String(completion))) => reading(&template, completion, case),
        _ => Err("a template case has either a `conversation` (an object) or a `completion` (a text)".into()),
    }
}

fn rendering(template: &Template, map: &Map<String, Value>, case: &Map<String, Value>) -> Answers {
    let conversation = conversation(map)?;
    let form = case.get("form").map_or(Ok(Form::Training), |name| form(name.as_str().unwrap_or_default()))?;
    let expected = case.get("text").ok_or("`text` is missing")?;
    let rendered = template.render(&[conversation], form).map_err(failed)?.remove(0)?;
    let text: String = rendered.iter().map(text_of).collect();
    let mut answers = vec![Answer::part("text", json!(text), expected.clone())];
    if let Some(trained) = case.get("trained") {
        let text: String = rendered.iter().filter(|segment| segment.weight > 0.0).map(text_of).collect();
        answers.push(Answer::part("trained", json!(text), trained.clone()));
    }
    Ok(answers)
}

fn reading(template: &Template, completion: &str, case: &Map<String, Value>) -> Answers {
    let context = match case.get("context") {
        None => context(&Map::new())?,
        Some(Value::Object(map)) => context(map)?,
        Some(_) => return Err("`context` is no object".into()),
    };
    let expected = expected(case.get("parsed").ok_or("`parsed` is missing")?)?;
    let whole = template.parse(&[completion.to_owned()], &context).map_err(failed)?.remove(0);
    let whole = parsed(&whole);
    let mut said = whole.clone();
    if expected.get("problems").is_none() {
        // A case need not say what is wrong with a completion.
        said.as_object_mut().map(|said| said.remove("problems"));
    }
    let mut answers = vec![Answer::new(said, expected)];
    let characters: Vec<char> = completion.chars().collect();
    for size in PIECES.into_iter().filter(|size| *size < characters.len()).chain([characters.len().max(1)]) {
        let pieces: Vec<String> = characters.chunks(size).map(|piece| piece.iter().collect()).collect();
        let read = streamed(template, &pieces, &context)?;
        answers.push(Answer::part(format!("read in pieces of {size}"), parsed(&read), whole.clone()));
    }
    Ok(answers)
}

/// What a case expects, in the form of [`parsed`]: what is absent and what is empty are the same.
fn expected(value: &Value) -> Result<Value, String> {
    let mut map = value.as_object().ok_or("`parsed` is no object")?.clone();
    let known = ["content", "reasoning", "tool_calls", "problems"];
    if let Some(key) = map.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("`parsed` has no `{}`", swift_plugin::clean(key, 40)));
    }
    map.entry("content").or_insert_with(|| json!(""));
    map.retain(|key, value| {
        let empty = value.is_null() || *value == json!("") || *value == json!([]);
        key == "content" || !empty
    });
    for call in map.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        let arguments = call.get("arguments").and_then(Value::as_str).and_then(|text| serde_json::from_str(text).ok());
        if let Some(arguments) = arguments {
            call["arguments"] = arguments;
        }
    }
    Ok(Value::Object(map))
}

/// What the events of a stream say in all.
fn streamed(template: &Template, pieces: &[String], context: &Context) -> Result<Parsed, String> {
    let mut parser = template.parser(context).map_err(failed)?;
    let mut events = Vec::new();
    for piece in pieces {
        events.extend(parser.push(piece).map_err(failed)?);
    }
    events.extend(parser.finish().map_err(failed)?);
    let mut read = Parsed { content: String::new(), reasoning: None, tool_calls: Vec::new(), problems: Vec::new() };
    for event in events {
        match event {
            Event::Text(text) => read.content.push_str(&text),
            Event::Reasoning(text) => read.reasoning.get_or_insert_default().push_str(&text),
            Event::ToolCall(start) => {
                read.tool_calls.push(ToolCall { id: start.id, name: start.name, arguments: String::new() });
            }
            Event::Arguments(text) => match read.tool_calls.last_mut() {
                Some(call) => call.arguments.push_str(&text),
                None => return Err("the stream has arguments before any tool call".into()),
            },
            Event::Problem(problem) => read.problems.push(problem),
        }
    }
    Ok(read)
}
