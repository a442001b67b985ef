//! Conversations to segments.

use swift_sdk::template::{Content, Conversation, Form, Message, Segment, ToolCall};
use swift_sdk::{Error, Json, Result};

use crate::family::{Family, Thinking, Tools};
use crate::python;

const START: &str = "<|im_start|>";
const END: &str = "<|im_end|>";
const TOOLS: &str = "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with \
                     function signatures within <tools></tools> XML tags:\n<tools>";
const TOOLS_END: &str = "\n</tools>\n\nFor each function call, return a json object with function name and arguments within \
                         <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": <function-name>, \"arguments\": \
                         <args-json-object>}\n</tool_call>";
const EMPTY_THINK: &str = "<think>\n\n</think>\n\n";

pub(crate) fn render(family: &Family, conversation: &Conversation, form: Form) -> Result<Vec<Segment>> {
    let messages = &conversation.messages;
    let mut writer = Writer { segments: Vec::new(), message: None };
    let texts = messages.iter().map(Message::text).collect::<Result<Vec<String>>>()?;
    let Some(first) = messages.first() else { return Err("a conversation without messages".into()) };
    if let Some(bos) = &family.bos {
        writer.special(bos, 0.0);
    }
    let given = (first.role == "system").then_some(0);
    system(family, conversation, given.map(|index| texts[index].as_str()), &mut writer)?;
    let last_question = last_question(messages, &texts);
    for (index, (message, text)) in messages.iter().zip(&texts).enumerate() {
        writer.message = u32::try_from(index).ok();
        match (message.role.as_str(), family.tools) {
            ("system", _) if index == 0 => {}
            ("assistant", _) => assistant(family, message, text, index, last_question, messages.len(), &mut writer)?,
            ("system" | "user", _) => writer.block(&message.role, text),
            ("tool", Tools::Hermes { .. }) => {
                let is_tool = |at: Option<usize>| at.and_then(|at| messages.get(at)).is_some_and(|m| m.role == "tool");
                if !is_tool(index.checked_sub(1)) {
                    writer.special(START, 0.0);
                    writer.text("user", 0.0);
                }
                writer.text(&format!("\n<tool_response>\n{text}\n</tool_response>"), 0.0);
                if !is_tool(index.checked_add(1)) {
                    writer.special(END, 0.0);
                    writer.text("\n", 0.0);
                }
            }
            (role, Tools::None) => writer.block(role, text),
            // The checkpoints' templates leave such a message out.
            (role, _) => return Err(Error::new(format!("this template has no place for the role `{role}`"))),
        }
    }
    writer.message = None;
    if form == Form::Prompt {
        writer.special(START, 0.0);
        writer.text("assistant\n", 0.0);
        match family.thinking {
            Thinking::Hybrid if conversation.argument("enable_thinking")? == Some(Json::Bool(false)) => {
                writer.text(EMPTY_THINK, 0.0);
            }
            Thinking::Always => writer.text("<think>\n", 0.0),
            _ => {}
        }
    }
    Ok(writer.segments)
}

/// The system message: the row's or the family's, with the tools.
fn system(family: &Family, conversation: &Conversation, given: Option<&str>, writer: &mut Writer) -> Result<()> {
    let text = given.or(family.default_system.as_deref());
    if given.is_some() {
        writer.message = Some(0);
    }
    if conversation.tools.is_empty() || family.tools == Tools::None {
        if let Some(text) = text {
            writer.block("system", text);
        }
        return Ok(());
    }
    let mut block = String::new();
    if let Some(text) = text {
        block.push_str(text);
        block.push_str("\n\n");
    }
    block.push_str(TOOLS);
    for tool in &conversation.tools {
        block.push('\n');
        python::write(&mut block, &Json::parse(tool)?);
    }
    block.push_str(TOOLS_END);
    writer.block("system", &block);
    Ok(())
}

/// The last message in which a user asks, and does not hand in a tool's result: reasoning is kept after it.
fn last_question(messages: &[Message], texts: &[String]) -> usize {
    let asks = |index: &usize| {
        let text = &texts[*index];
        messages[*index].role == "user" && !(text.starts_with("<tool_response>") && text.ends_with("</tool_response>"))
    };
    (0..messages.len()).rev().find(asks).unwrap_or(messages.len() - 1)
}

fn assistant(
    family: &Family,
    message: &Message,
    text: &str,
    index: usize,
    last_question: usize,
    count: usize,
    writer: &mut Writer,
) -> Result<()> {
    let weight = message.weight();
    writer.special(START, 0.0);
    writer.text("assistant\n", 0.0);
    let mut content = text;
    if family.thinking == Thinking::None {
        writer.answer(content, weight);
    } else {
        let reasoning = match &message.reasoning {
            Some(reasoning) => reasoning.as_str(),
            None => {
                let (reasoning, rest) = split_reasoning(text);
                content = rest;
                reasoning
            }
        };
        if index > last_question && (index + 1 == count || !reasoning.is_empty()) {
            let reasoning = reasoning.trim_matches('\n');
            // What the template puts where there is no reasoning is nothing that the row teaches.
            let block_weight = if reasoning.trim().is_empty() { 0.0 } else { weight };
            writer.text(&format!("<think>\n{reasoning}\n</think>\n\n"), block_weight);
            writer.text(content.trim_start_matches('\n'), weight);
        } else {
            writer.answer(content, weight);
        }
    }
    let mut calls = String::new();
    if let Tools::Hermes { quoted } = family.tools {
        for (number, call) in message.tool_calls.iter().enumerate() {
            if number > 0 || !content.is_empty() {
                calls.push('\n');
            }
            write_call(&mut calls, call, quoted)?;
        }
    }
    writer.text(&calls, weight);
    writer.special(END, weight);
    writer.text("\n", 0.0);
    Ok(())
}

fn write_call(out: &mut String, call: &ToolCall, quoted: bool) -> Result<()> {
    out.push_str("<tool_call>\n{\"name\": \"");
    out.push_str(&call.name);
    out.push_str("\", \"arguments\": ");
    match Json::parse(&call.arguments)? {
        Json::Text(text) if !quoted => out.push_str(&text),
        arguments => python::write(out, &arguments),
    }
    out.push_str("}\n</tool_call>");
    Ok(())
}

/// Reasoning that stands in the content, and the rest: `text.split("</think>")` of the templates.
fn split_reasoning(text: &str) -> (&str, &str) {
    let Some((before, _)) = text.split_once("</think>") else { return ("", text) };
    let (_, content) = text.rsplit_once("</think>").unwrap_or(("", text));
    let before = before.trim_end_matches('\n');
    let reasoning = before.rsplit_once("<think>").map_or(before, |(_, after)| after);
    (reasoning.trim_start_matches('\n'), content.trim_start_matches('\n'))
}

struct Writer {
    segments: Vec<Segment>,
    /// The message that is being rendered.
    message: Option<u32>,
}

impl Writer {
    fn special(&mut self, token: &str, weight: f32) {
        self.segments.push(Segment::special(token, weight, self.message));
    }

    /// Text; joined with what stands before it where both are alike.
    fn text(&mut self, text: &str, weight: f32) {
        if text.is_empty() {
            return;
        }
        if let Some(Segment { content: Content::Text(before), weight: last, message }) = self.segments.last_mut()
            && *last == weight
            && *message == self.message
        {
            before.push_str(text);
            return;
        }
        self.segments.push(Segment::text(text, weight, self.message));
    }

    fn block(&mut self, role: &str, text: &str) {
        self.special(START, 0.0);
        self.text(&format!("{role}\n{text}"), 0.0);
        self.special(END, 0.0);
        self.text("\n", 0.0);
    }

    /// An answer that may begin with an empty block of reasoning, which is not trained.
    fn answer(&mut self, text: &str, weight: f32) {
        let empty =
            text.trim_start().strip_prefix("<think>").and_then(|rest| rest.trim_start().strip_prefix("</think>"));
        let at = empty.map_or(0, |rest| text.len() - rest.trim_start().len());
        self.text(&text[..at], 0.0);
        self.text(&text[at..], weight);
    }
}
