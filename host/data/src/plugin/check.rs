//! A plugin's template against the checkpoint's own: a model must be trained on the text that it will be served with.

use serde_json::{Map, Value, json};
use swift_plugin::{Form, clean};

use super::template::{Chat, PluginTemplate};
use crate::{ChatTemplate, DataError, Message};

/// Bytes that are shown before and after the first difference.
const AROUND: usize = 60;

/// A conversation that templates differ on.
struct Sample {
    /// What is tried.
    what: &'static str,
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
    kwargs: Map<String, Value>,
}

pub(super) fn check(template: &PluginTemplate, own: &ChatTemplate) -> Result<(), DataError> {
    let samples = samples();
    let mut rejected = None;
    let mut compared = 0;
    for (form, name) in [(Form::Prompt, "a prompt"), (Form::Training, "a training text")] {
        let ends_with_answer = |sample: &&Sample| sample.messages.last().is_some_and(|last| last.role == "assistant");
        let samples: Vec<&Sample> =
            samples.iter().filter(|sample| (form == Form::Training) == ends_with_answer(sample)).collect();
        let chats: Vec<Chat<'_>> = samples
            .iter()
            .map(|sample| Chat { messages: &sample.messages, tools: sample.tools.as_deref(), kwargs: &sample.kwargs })
            .collect();
        for (sample, pieces) in samples.iter().zip(template.render(&chats, form)?) {
            let prompt = form == Form::Prompt;
            // What the checkpoint has no place for needs no comparison, and what the plugin rejects it does not train.
            let Ok(wanted) = own.render(&sample.messages, sample.tools.as_deref(), prompt, &sample.kwargs) else {
                continue;
            };
            let pieces = match pieces {
                Ok(pieces) => pieces,
                Err(error) => {
                    rejected.get_or_insert(format!("it rejects {} ({error})", sample.what));
                    continue;
                }
            };
            let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
            compared += 1;
            // What stands behind the last answer for the next message is nobody's.
            let rest = wanted.strip_prefix(text.as_str()).filter(|rest| !prompt && rest.trim().is_empty());
            if text != wanted && rest.is_none() {
                let difference = format!("{name} with {} differs{}", sample.what, difference(&wanted, &text));
                return Err(DataError::TemplateDiffers { template: template.name().into(), difference });
            }
        }
    }
    match rejected {
        Some(difference) if compared == 0 => {
            Err(DataError::TemplateDiffers { template: template.name().into(), difference })
        }
        _ => Ok(()),
    }
}

/// Both texts around the place where they part.
fn difference(wanted: &str, text: &str) -> String {
    let at = wanted.bytes().zip(text.bytes()).take_while(|(a, b)| a == b).count();
    let around = |text: &str| {
        let (mut start, mut end) = (at.saturating_sub(AROUND), (at + AROUND).min(text.len()));
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        while !text.is_char_boundary(end) {
            end += 1;
        }
        let (left, right) = (if start > 0 { "..." } else { "" }, if end < text.len() { "..." } else { "" });
        clean(&format!("{left}{:?}{right}", &text[start..end]), 1000)
    };
    format!(", first at byte {at}:\n  checkpoint: {}\n  plugin:     {}", around(wanted), around(text))
}

fn samples() -> Vec<Sample> {
    let weather = json!({ "type": "function", "function": {
        "name": "get_weather", "description": "Wetter \"heute\"",
        "parameters": { "type": "object", "properties": { "city": { "type": "string" } }, "required": ["city"] },
    } });
    let call = |city: &str| json!({ "type": "function", "function": { "name": "get_weather", "arguments": { "city": city, "days": 2, "exact": true } } });
    let (system, user) = (|text: &str| Message::new("system", text), |text: &str| Message::new("user", text));
    let (assistant, tool) = (|text: &str| Message::new("assistant", text), |text: &str| Message::new("tool", text));
    let with = |text: &str, key: &str, value: Value| {
        let extra = [(key.to_owned(), value)].into_iter().collect();
        Message { extra, ..Message::new("assistant", text) }
    };
    let plain = |what, messages| Sample { what, messages, tools: None, kwargs: Map::new() };
    let tools = |what, messages| Sample { tools: Some(vec![weather.clone()]), ..plain(what, messages) };
    let thinking = |what, flag: bool| Sample {
        kwargs: [("enable_thinking".to_owned(), json!(flag))].into_iter().collect(),
        ..plain(what, vec![user("q")])
    };
    vec![
        plain("one question", vec![user("Hello,\n größe 🙂 ")]),
        plain("a system message", vec![system("Be brief."), user("q")]),
        plain("several rounds", vec![user("q1"), assistant("a1"), user("q2")]),
        thinking("enable_thinking true", true),
        thinking("enable_thinking false", false),
        tools("tools", vec![user("q")]),
        tools("tools and a system message", vec![system("Be brief."), user("q")]),
        tools("a tool's result", vec![user("q"), with("", "tool_calls", json!([call("Köln")])), tool("sunny")]),
        plain("one answer", vec![user("q"), assistant("a\n")]),
        plain("several answers", vec![system("s"), user("q1"), assistant("a1"), user("q2"), assistant("a2")]),
        plain(
            "reasoning",
            vec![
                user("q1"),
                with("a1", "reasoning_content", json!("old")),
                user("q2"),
                with("a2", "reasoning_content", json!("new\nthoughts")),
            ],
        ),
        tools(
            "parallel tool calls",
            vec![
                user("q"),
                with("Let me see.", "tool_calls", json!([call("Köln"), call("Rom")])),
                tool("sunny"),
                tool("rainy"),
                assistant("done"),
            ],
        ),
        tools("a tool call", vec![user("q"), with("", "tool_calls", json!([call("Rom")]))]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_where_it_begins() {
        let long = "ö".repeat(100);
        let shown = difference(&format!("{long}<|im_end|>\n{long}"), &format!("{long}<|im_end|>{long}"));
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[0], ", first at byte 210:");
        assert!(lines[1].starts_with("  checkpoint: ...\"öö"), "{shown}");
        assert!(lines[1].contains("<|im_end|>\\nöö") && lines[2].contains("<|im_end|>öö"), "{shown}");
        assert_eq!(difference("a", "a!"), ", first at byte 1:\n  checkpoint: \"a\"\n  plugin:     \"a!\"");
    }
}
