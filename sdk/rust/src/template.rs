//! Chat templates: conversations to segments of text and special tokens with loss weights, and a completion back to
//! message, reasoning and tool calls.
//!
//! ```no_run
//! use swift_sdk::template::{Content, Context, Conversation, Form, Parsed, Part, Segment, Template};
//! use swift_sdk::{Result, Settings, export_templates};
//!
//! /// `<|role|>text<|end|>` for each message.
//! struct Plain;
//!
//! impl Template for Plain {
//!     const NAME: &'static str = "plain";
//!     const SUMMARY: &'static str = "roles in angle brackets";
//!
//!     fn configure(_settings: &Settings) -> Result<Self> {
//!         Ok(Self)
//!     }
//!
//!     fn render(&self, conversation: &Conversation, form: Form) -> Result<Vec<Segment>> {
//!         let mut segments = Vec::new();
//!         for (index, message) in (0..).zip(&conversation.messages) {
//!             let weight = if message.role == "assistant" { message.weight() } else { 0.0 };
//!             segments.push(Segment::special(&format!("<|{}|>", message.role), 0.0, Some(index)));
//!             segments.push(Segment::text(&message.text()?, weight, Some(index)));
//!             segments.push(Segment::special("<|end|>", weight, Some(index)));
//!         }
//!         if form == Form::Prompt {
//!             segments.push(Segment::special("<|assistant|>", 0.0, None));
//!         }
//!         Ok(segments)
//!     }
//!
//!     fn stops(&self) -> Vec<String> {
//!         vec!["<|end|>".into()]
//!     }
//!
//!     fn parse(&self, completion: &str, _context: &Context) -> Parsed {
//!         Parsed { content: completion.into(), ..Parsed::default() }
//!     }
//! }
//!
//! export_templates!(Plain);
//! # fn main() {}
//! ```

pub use crate::bindings::template::exports::swift::template::templates::Form;
pub use crate::bindings::template::exports::swift::template::templates::{
    Context, Conversation, Event, Parsed, Segment,
};
pub use crate::bindings::template::swift::template::types::{Content, Message, Part, ToolCall, ToolCallStart};
use crate::{Error, Json, Result, Settings};

/// A chat template. It must be pure: neither clock nor what was rendered before may show.
pub trait Template: Sized + 'static {
    /// What the user writes after `--template`: lower case, digits, `_` and `-`.
    const NAME: &'static str;

    /// One line for lists.
    const SUMMARY: &'static str;

    /// Whether this is the template of a checkpoint, by its `config.json` and its `tokenizer_config.json` (with the
    /// `chat_template` in it). What cannot be read is null.
    fn claims(config: &Json, tokenizer_config: &Json) -> bool {
        let _ = (config, tokenizer_config);
        false
    }

    /// Reads the tokenizer's special tokens (`bos_token`, `eos_token`, ...) and the user's settings. A setting that is not
    /// read here is refused by name; a special token need not be read.
    ///
    /// # Errors
    /// When a setting is wrong; shown to the user as it is.
    fn configure(settings: &Settings) -> Result<Self>;

    /// Renders a conversation. Joined, the texts of the segments are what the checkpoint's own template gives.
    ///
    /// # Errors
    /// When this conversation cannot be rendered (a medium that the model has no place for, two users in a row).
    fn render(&self, conversation: &Conversation, form: Form) -> Result<Vec<Segment>>;

    /// Texts that end an answer.
    fn stops(&self) -> Vec<String>;

    /// Reads a completion back, its stop text already removed: the inverse of rendering an assistant's message.
    fn parse(&self, completion: &str, context: &Context) -> Parsed;

    /// Reads one completion back while it comes. Without a parser of your own, everything is said at the end.
    fn parser(&self, context: &Context) -> Option<Box<dyn Parser>> {
        let _ = context;
        None
    }
}

/// Reads one completion back while it comes. What it says in all must be what [`Template::parse`] says of the whole.
pub trait Parser: 'static {
    /// The next piece of text, cut anywhere.
    fn push(&mut self, text: &str) -> Vec<Event>;

    /// There is no more.
    fn finish(&mut self) -> Vec<Event>;
}

impl Conversation {
    /// The value of a template argument; `None` where it is not given or `null`.
    ///
    /// # Errors
    /// When the host's text of it is not JSON, which is no fault of the plugin.
    pub fn argument(&self, name: &str) -> Result<Option<Json>> {
        argument(&self.arguments, name)
    }
}

impl Context {
    /// The value of a template argument; `None` where it is not given or `null`.
    ///
    /// # Errors
    /// When the host's text of it is not JSON, which is no fault of the plugin.
    pub fn argument(&self, name: &str) -> Result<Option<Json>> {
        argument(&self.arguments, name)
    }
}

fn argument(arguments: &[(String, String)], name: &str) -> Result<Option<Json>> {
    let Some((_, text)) = arguments.iter().find(|(other, _)| other == name) else {
        return Ok(None);
    };
    Ok(Some(Json::parse(text)?).filter(|value| !value.is_null()))
}

impl Message {
    /// The text of a message without media.
    ///
    /// # Errors
    /// When there is an image, audio or video in it.
    pub fn text(&self) -> Result<String> {
        let mut out = String::new();
        for part in &self.content {
            let Part::Text(text) = part else {
                return Err(Error::new("this template has no place for images, audio or video"));
            };
            out.push_str(text);
        }
        Ok(out)
    }

    /// The loss weight that the row asks for: its own, 0 where it says not to train on this message, else 1.
    pub fn weight(&self) -> f32 {
        if self.loss == Some(false) { 0.0 } else { self.loss_scale.unwrap_or(1.0) }
    }
}

impl Segment {
    /// Text that is tokenised as text. `message` is the index of the message that it renders.
    pub fn text(text: &str, weight: f32, message: Option<u32>) -> Self {
        Self { content: Content::Text(text.into()), weight, message }
    }

    /// One special token of the tokenizer, by its text.
    pub fn special(token: &str, weight: f32, message: Option<u32>) -> Self {
        Self { content: Content::Special(token.into()), weight, message }
    }
}

impl Default for Parsed {
    /// A completion that says nothing.
    fn default() -> Self {
        Self { content: String::new(), reasoning: None, tool_calls: Vec::new(), problems: Vec::new() }
    }
}

/// Exports types that implement [`Template`] as this component's chat templates.
#[macro_export]
macro_rules! export_templates {
    ($($template:ty),+ $(,)?) => {
        const _: () = {
            use $crate::bindings::template::exports::swift::template::templates as wit;
            use $crate::runtime::template as runtime;

            const TEMPLATES: &[runtime::Entry] = &[$(runtime::Entry::of::<$template>()),+];

            struct Component;

            impl wit::Guest for Component {
                type Parser = runtime::Reading;

                fn templates() -> ::std::vec::Vec<wit::Info> {
                    runtime::templates(TEMPLATES)
                }

                fn claims(
                    config: ::std::string::String,
                    tokenizer_config: ::std::string::String,
                ) -> ::core::option::Option<::std::string::String> {
                    runtime::claims(TEMPLATES, &config, &tokenizer_config)
                }

                fn configure(
                    name: ::std::string::String,
                    config: ::std::string::String,
                ) -> ::core::result::Result<(), ::std::string::String> {
                    runtime::configure(TEMPLATES, &name, &config)
                }

                fn render(
                    conversations: ::std::vec::Vec<wit::Conversation>,
                    form: wit::Form,
                ) -> ::std::vec::Vec<::core::result::Result<::std::vec::Vec<wit::Segment>, ::std::string::String>> {
                    runtime::render(&conversations, form)
                }

                fn stops() -> ::std::vec::Vec<::std::string::String> {
                    runtime::stops()
                }

                fn parse(
                    completions: ::std::vec::Vec<::std::string::String>,
                    context: wit::Context,
                ) -> ::std::vec::Vec<wit::Parsed> {
                    runtime::parse(&completions, &context)
                }
            }

            $crate::bindings::template::export!(Component with_types_in $crate::bindings::template);
        };
    };
}
