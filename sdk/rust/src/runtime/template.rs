//! What `export_templates!` calls.

use std::cell::{Cell, RefCell};

use super::{Named, chosen, not_configured, settings};
use crate::bindings::log::swift::plugin::log;
use crate::bindings::template::exports::swift::template::templates as wire;
use crate::template::{Context, Conversation, Event, Form, Parsed, Parser, Segment, Template, ToolCallStart};
use crate::{Json, Result, Settings};

/// A template that was set up.
trait Configured {
    fn render(&self, conversation: &Conversation, form: Form) -> Result<Vec<Segment>>;
    fn stops(&self) -> Vec<String>;
    fn parse(&self, completion: &str, context: &Context) -> Parsed;
    fn parser(&self, context: &Context) -> Option<Box<dyn Parser>>;
}

impl<T: Template> Configured for T {
    fn render(&self, conversation: &Conversation, form: Form) -> Result<Vec<Segment>> {
        Template::render(self, conversation, form)
    }

    fn stops(&self) -> Vec<String> {
        Template::stops(self)
    }

    fn parse(&self, completion: &str, context: &Context) -> Parsed {
        Template::parse(self, completion, context)
    }

    fn parser(&self, context: &Context) -> Option<Box<dyn Parser>> {
        Template::parser(self, context)
    }
}

thread_local! {
    /// An instance is set up once and never changes after.
    static CONFIGURED: Cell<Option<&'static dyn Configured>> = const { Cell::new(None) };
}

/// One template of a component.
pub struct Entry {
    name: &'static str,
    summary: &'static str,
    claims: fn(&Json, &Json) -> bool,
    configure: fn(&Settings) -> Result<&'static dyn Configured>,
}

impl Entry {
    pub const fn of<T: Template>() -> Self {
        Self {
            name: T::NAME,
            summary: T::SUMMARY,
            claims: T::claims,
            configure: |settings| Ok(Box::leak(Box::new(T::configure(settings)?))),
        }
    }
}

impl Named for Entry {
    fn name(&self) -> &'static str {
        self.name
    }
}

pub fn templates(entries: &[Entry]) -> Vec<wire::Info> {
    entries.iter().map(|entry| wire::Info { name: entry.name.into(), summary: entry.summary.into() }).collect()
}

pub fn claims(entries: &[Entry], config: &str, tokenizer_config: &str) -> Option<String> {
    super::install_panic_hook(log::abort);
    let [config, tokenizer_config] =
        [config, tokenizer_config].map(|text| Json::read(text, true).unwrap_or(Json::Null));
    let claimed = entries.iter().find(|entry| (entry.claims)(&config, &tokenizer_config));
    claimed.map(|entry| entry.name.to_owned())
}

pub fn configure(entries: &'static [Entry], name: &str, config: &str) -> Result<(), String> {
    let entry = chosen(entries, name, "template")?;
    // The host gives all of the tokenizer's special tokens, whatever a template makes of them.
    let special_token = |key: &str| key.ends_with("_token") || key.ends_with("_special_tokens");
    CONFIGURED.set(Some(settings(config, special_token, entry.configure)?));
    Ok(())
}

/// The template. There is no way to answer with an error where there is none.
fn template() -> &'static dyn Configured {
    CONFIGURED.get().unwrap_or_else(|| {
        log::abort(not_configured().message());
        std::process::abort()
    })
}

pub fn render(conversations: &[Conversation], form: Form) -> Vec<Result<Vec<Segment>, String>> {
    let template = template();
    conversations.iter().map(|conversation| Ok(template.render(conversation, form)?)).collect()
}

pub fn stops() -> Vec<String> {
    template().stops()
}

pub fn parse(completions: &[String], context: &Context) -> Vec<Parsed> {
    let template = template();
    completions.iter().map(|completion| template.parse(completion, context)).collect()
}

/// The resource that the host holds.
pub struct Reading(RefCell<Box<dyn Parser>>);

impl wire::GuestParser for Reading {
    fn new(context: Context) -> Self {
        let template = template();
        let parser = template.parser(&context);
        Self(RefCell::new(parser.unwrap_or_else(|| Box::new(Whole { template, context, text: String::new() }))))
    }

    fn push(&self, text: String) -> Vec<Event> {
        self.0.borrow_mut().push(&text)
    }

    fn finish(&self) -> Vec<Event> {
        self.0.borrow_mut().finish()
    }
}

/// The parser of a template that has none: it says everything at the end.
struct Whole {
    template: &'static dyn Configured,
    context: Context,
    text: String,
}

impl Parser for Whole {
    fn push(&mut self, text: &str) -> Vec<Event> {
        self.text.push_str(text);
        Vec::new()
    }

    fn finish(&mut self) -> Vec<Event> {
        let parsed = self.template.parse(&self.text, &self.context);
        let mut events = Vec::new();
        events.extend(parsed.reasoning.map(Event::Reasoning));
        if !parsed.content.is_empty() {
            events.push(Event::Text(parsed.content));
        }
        for call in parsed.tool_calls {
            events.push(Event::ToolCall(ToolCallStart { id: call.id, name: call.name }));
            events.push(Event::Arguments(call.arguments));
        }
        events.extend(parsed.problems.into_iter().map(Event::Problem));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::ToolCall;

    struct Fixed;

    impl Template for Fixed {
        const NAME: &'static str = "fixed";
        const SUMMARY: &'static str = "always the same";

        fn claims(config: &Json, _tokenizer_config: &Json) -> bool {
            config.get("model_type").and_then(Json::as_text) == Some("fixed")
        }

        fn configure(_settings: &Settings) -> Result<Self> {
            Ok(Self)
        }

        fn render(&self, _conversation: &Conversation, _form: Form) -> Result<Vec<Segment>> {
            Err("nothing to see".into())
        }

        fn stops(&self) -> Vec<String> {
            vec!["<end>".into()]
        }

        fn parse(&self, completion: &str, context: &Context) -> Parsed {
            let call = ToolCall { id: None, name: "f".into(), arguments: "{}".into() };
            let content = format!("{}{completion}", context.prefix);
            Parsed { content, reasoning: Some("so".into()), tool_calls: vec![call], problems: vec!["cut".into()] }
        }
    }

    const TEMPLATES: &[Entry] = &[Entry::of::<Fixed>()];

    #[test]
    fn a_template_without_a_parser_says_all_at_the_end() {
        use wire::GuestParser as _;
        // The host gives special tokens to all; a setting is another thing.
        configure(TEMPLATES, "fixed", r#"{"bos_token": "<s>", "additional_special_tokens": []}"#).unwrap();
        assert!(configure(TEMPLATES, "fixed", r#"{"style": 1}"#).unwrap_err().contains("`style`"));
        let context = Context { tools: Vec::new(), arguments: Vec::new(), prefix: "a".into() };
        let reading = Reading::new(context);
        assert!(reading.push("b".into()).is_empty() && reading.push("c".into()).is_empty());
        assert_eq!(
            reading.finish(),
            [
                Event::Reasoning("so".into()),
                Event::Text("abc".into()),
                Event::ToolCall(ToolCallStart { id: None, name: "f".into() }),
                Event::Arguments("{}".into()),
                Event::Problem("cut".into()),
            ]
        );
    }

    #[test]
    fn claims_never_fail() {
        assert_eq!(claims(TEMPLATES, r#"{"model_type": "fixed", "eps": NaN}"#, ""), Some("fixed".into()));
        assert_eq!(claims(TEMPLATES, "{", "{}"), None);
    }
}
