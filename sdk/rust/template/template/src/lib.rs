//! A chat template: ChatML with reasoning in <think> and tool calls as Hermes writes them.
//!
//! What is `special` becomes one token; what is text never does, whatever it looks like.

use swift_sdk::template::{Context, Conversation, Form, Message, Parsed, Segment, Template, ToolCall};
use swift_sdk::{Json, Result, Settings, export_templates};

struct ChatMl;

impl Template for ChatMl {
    const NAME: &'static str = "chatml";
    const SUMMARY: &'static str = "ChatML with reasoning and tool calls";

    fn configure(_settings: &Settings) -> Result<Self> {
        Ok(Self)
    }

    /// Header, text and end of each message; only what the assistant says is trained.
    fn render(&self, conversation: &Conversation, form: Form) -> Result<Vec<Segment>> {
        let mut segments = Vec::new();
        let tools = tool_text(&conversation.tools);
        let starts_with_system = conversation.messages.first().is_some_and(|message| message.role == "system");
        if !starts_with_system && !tools.is_empty() {
            block(&mut segments, None, "system", &tools, 0.0);
        }
        for (index, message) in (0..).zip(&conversation.messages) {
            let text = message.text()?;
            let (role, text, weight) = match message.role.as_str() {
                "assistant" => ("assistant", answer(message, text), message.weight()),
                "tool" => ("user", format!("<tool_response>\n{text}\n</tool_response>"), 0.0),
                "system" if index == 0 && !tools.is_empty() => ("system", format!("{text}\n\n{tools}"), 0.0),
                role => (role, text, 0.0),
            };
            block(&mut segments, Some(index), role, &text, weight);
        }
        if form == Form::Prompt {
            segments.push(Segment::special("<|im_start|>", 0.0, None));
            segments.push(Segment::text("assistant\n", 0.0, None));
            if conversation.argument("enable_thinking")? == Some(Json::Bool(false)) {
                segments.push(Segment::text("<think>\n\n</think>\n\n", 0.0, None));
            }
        }
        Ok(segments)
    }

    fn stops(&self) -> Vec<String> {
        vec!["<|im_end|>".to_owned()]
    }

    /// Reasoning first, then text and tool calls.
    fn parse(&self, completion: &str, context: &Context) -> Parsed {
        let mut parsed = Parsed::default();
        let whole = format!("{}{completion}", context.prefix);
        let mut rest = whole.as_str();
        if let Some(inside) = rest.strip_prefix("<think>") {
            let (reasoning, after) = inside.split_once("</think>").unwrap_or_else(|| {
                parsed.problems.push("the reasoning does not end".to_owned());
                (inside, "")
            });
            let reasoning = reasoning.trim_matches('\n');
            parsed.reasoning = (!reasoning.is_empty()).then(|| reasoning.to_owned());
            rest = after.trim_start_matches('\n');
        }
        while let Some((before, from_call)) = rest.split_once("<tool_call>") {
            let Some((inside, after)) = from_call.split_once("</tool_call>") else {
                parsed.problems.push("a tool call does not end".to_owned());
                break;
            };
            if let Some(call) = tool_call(inside) {
                parsed.content += before.strip_suffix('\n').unwrap_or(before);
                parsed.tool_calls.push(call);
            } else {
                // Nothing of the text is lost.
                parsed.content += &rest[..rest.len() - after.len()];
                parsed.problems.push("a tool call is not a JSON object with name and arguments".to_owned());
            }
            rest = after;
        }
        parsed.content += rest;
        parsed
    }
}

fn block(segments: &mut Vec<Segment>, index: Option<u32>, role: &str, text: &str, weight: f32) {
    segments.push(Segment::special("<|im_start|>", 0.0, index));
    segments.push(Segment::text(&format!("{role}\n"), 0.0, index));
    segments.push(Segment::text(text, weight, index));
    segments.push(Segment::special("<|im_end|>", weight, index));
    segments.push(Segment::text("\n", 0.0, index));
}

/// What the assistant says: `parse` is the inverse.
fn answer(message: &Message, text: String) -> String {
    let mut parts: Vec<String> = if text.is_empty() { vec![] } else { vec![text] };
    for call in &message.tool_calls {
        let name = Json::from(call.name.as_str()).write();
        parts.push(format!("<tool_call>\n{{\"name\": {name}, \"arguments\": {}}}\n</tool_call>", call.arguments));
    }
    let text = parts.join("\n");
    match &message.reasoning {
        Some(reasoning) if !reasoning.is_empty() => format!("<think>\n{reasoning}\n</think>\n\n{text}"),
        _ => text,
    }
}

fn tool_call(text: &str) -> Option<ToolCall> {
    let call = Json::parse(text).ok()?;
    let arguments = call.get("arguments").filter(|arguments| arguments.as_object().is_some())?;
    Some(ToolCall { id: None, name: call.get("name")?.as_text()?.to_owned(), arguments: arguments.write() })
}

/// What the system says about the tools; nothing without any.
fn tool_text(tools: &[String]) -> String {
    if tools.is_empty() {
        return String::new();
    }
    format!(
        "# Tools\n\n\
         You may call one or more functions to assist with the user query.\n\n\
         You are provided with function signatures within <tools></tools> XML tags:\n\
         <tools>\n{}\n</tools>\n\n\
         For each function call, return a json object with function name and arguments within \
         <tool_call></tool_call> XML tags:\n\
         <tool_call>\n{{\"name\": <function-name>, \"arguments\": <args-json-object>}}\n</tool_call>",
        tools.join("\n")
    )
}

export_templates!(ChatMl);
