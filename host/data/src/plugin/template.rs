//! A chat template that a plugin renders: rows to its conversations, its segments to pieces of text with loss weights.

use serde_json::{Map, Value, json};
use swift_hub::Model;
use swift_plugin::{ChatMessage, Content, Conversation, Form, Kind, Part, PluginSet, Segment, Template, ToolCall};

use super::check;
use crate::{ChatTemplate, DataError, Message, RowError};

/// A chat template of a plugin, set up for a checkpoint.
#[derive(Debug)]
pub struct PluginTemplate {
    template: Template,
    stops: Vec<String>,
    /// The run's date as YYYY-MM-DD.
    date: Option<String>,
}

/// One conversation with what its template may want to know.
pub(crate) struct Chat<'a> {
    pub(crate) messages: &'a [Message],
    pub(crate) tools: Option<&'a [Value]>,
    pub(crate) kwargs: &'a Map<String, Value>,
}

/// A piece of a rendering.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// One special token of the tokenizer.
    pub(crate) special: bool,
    /// 0 for what is no answer.
    pub(crate) weight: f32,
    /// The message that it renders.
    pub(crate) message: Option<usize>,
}

impl PluginTemplate {
    /// The template of this name; without a name, the one of a plugin given by the user that claims the checkpoint, if one
    /// does. `config` is a JSON object with the user's settings for it.
    pub fn find(
        set: &PluginSet,
        name: Option<&str>,
        model: &Model,
        config: &str,
        date: Option<String>,
    ) -> Result<Option<Self>, DataError> {
        let tokens: Map<String, Value> =
            model.special_tokens.named().map(|(name, text)| (name.to_owned(), text.into())).collect();
        let (plugin, name) = match name {
            Some(name) => set.find(Kind::Template, name)?,
            None => {
                let mut tokenizer_config = tokens.clone();
                tokenizer_config.insert("chat_template".into(), json!(model.chat_template));
                let tokenizer_config = Value::Object(tokenizer_config).to_string();
                let given = set.given().iter().filter(|plugin| plugin.kinds().contains(&Kind::Template));
                let mut claimed = None;
                for plugin in given {
                    if let Some(name) = plugin.claims_template(&model.config_text, &tokenizer_config)? {
                        claimed = Some((plugin.clone(), name));
                        break;
                    }
                }
                let Some(claimed) = claimed else { return Ok(None) };
                claimed
            }
        };
        let mut settings = tokens;
        match serde_json::from_str(config) {
            Ok(Value::Object(user)) => settings.extend(user),
            _ => {
                return Err(DataError::Template {
                    action: "cannot be set up",
                    message: "its settings are no JSON object".into(),
                });
            }
        }
        Self::new(plugin.template(&name, &Value::Object(settings).to_string())?, date).map(Some)
    }

    /// One that was set up. `date` is what it may tell, as YYYY-MM-DD.
    pub fn new(template: Template, date: Option<String>) -> Result<Self, DataError> {
        let stops = template.stops()?;
        Ok(Self { template, stops, date })
    }

    /// The plugin's handle.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Its name, as the user writes it.
    pub fn name(&self) -> &str {
        &self.template.info().name
    }

    /// Texts that end an answer.
    pub fn stops(&self) -> &[String] {
        &self.stops
    }

    /// Renders some conversations by both templates: a text that is not the checkpoint's is an error that shows where.
    pub fn check(&self, own: &ChatTemplate) -> Result<(), DataError> {
        check::check(self, own)
    }

    /// Renders conversations. The outer error ends the run, an inner one is its row's.
    pub(crate) fn render(
        &self,
        chats: &[Chat<'_>],
        form: Form,
    ) -> Result<Vec<Result<Vec<Piece>, RowError>>, DataError> {
        let conversations: Vec<Result<Conversation, RowError>> =
            chats.iter().map(|chat| self.conversation(chat)).collect();
        let whole: Vec<Conversation> = conversations.iter().filter_map(|one| one.as_ref().ok()).cloned().collect();
        let mut rendered = self.template.render(&whole, form)?.into_iter();
        let mut take = |conversation: Result<Conversation, RowError>| {
            let messages = conversation?.messages.len();
            // The host gives one answer for each, or fails.
            let segments = rendered.next().unwrap_or_else(|| Err("it was not rendered".into()));
            let segments = segments.map_err(|message| RowError::new(REJECTED, message))?;
            segments.into_iter().map(|segment| piece(segment, messages)).collect()
        };
        Ok(conversations.into_iter().map(&mut take).collect())
    }

    fn conversation(&self, chat: &Chat<'_>) -> Result<Conversation, RowError> {
        Ok(Conversation {
            messages: chat.messages.iter().map(message).collect::<Result<_, _>>()?,
            tools: chat.tools.unwrap_or_default().iter().map(Value::to_string).collect(),
            arguments: chat.kwargs.iter().map(|(name, value)| (name.clone(), value.to_string())).collect(),
            date: self.date.clone(),
        })
    }
}

const REJECTED: &str = "the chat template rejects the conversation";

/// Without the row's loss weights, which are the encoder's to apply.
fn message(message: &Message) -> Result<ChatMessage, RowError> {
    let text = |key: &str| message.extra.get(key).and_then(Value::as_str).map(str::to_owned);
    let calls = message.extra.get("tool_calls").and_then(Value::as_array);
    Ok(ChatMessage {
        role: message.role.clone(),
        content: vec![Part::Text(message.content.clone())],
        reasoning: text("reasoning_content"),
        tool_calls: calls.into_iter().flatten().map(tool_call).collect::<Result<_, _>>()?,
        tool_call_id: text("tool_call_id"),
        name: text("name"),
        loss: None,
        loss_scale: None,
    })
}

fn tool_call(call: &Value) -> Result<ToolCall, RowError> {
    let malformed = |detail: &str| RowError::new("malformed row", detail);
    let function = call.get("function").unwrap_or(call);
    let name = function.get("name").and_then(Value::as_str).ok_or_else(|| malformed("a tool call has no `name`"))?;
    let arguments = function.get("arguments").ok_or_else(|| malformed("a tool call has no `arguments`"))?;
    Ok(ToolCall {
        id: call.get("id").and_then(Value::as_str).map(str::to_owned),
        name: name.into(),
        arguments: arguments.to_string(),
    })
}

fn piece(segment: Segment, messages: usize) -> Result<Piece, RowError> {
    let Segment { content, weight, message } = segment;
    let (text, special) = match content {
        Content::Text(text) => (text, false),
        Content::Special(text) => (text, true),
        Content::Image(_) | Content::Audio(_) | Content::Video(_) => {
            return Err(RowError::new("images, videos and audio are not built yet", "the template renders one"));
        }
    };
    let message = message.map(|index| index as usize).filter(|&index| index < messages);
    Ok(Piece { text, special, weight, message })
}
