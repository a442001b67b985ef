//! The members of the family: what each adds to plain ChatML, and how its checkpoints are recognised.

use swift_sdk::template::{Context, Conversation, Form, Parsed, Parser, Segment, Template};
use swift_sdk::{Json, Result, Settings};

use crate::parse::{self, Reading};
use crate::render;

/// What is special about a member.
#[derive(Debug, Clone)]
pub(crate) struct Family {
    /// Written where a conversation has no system message.
    pub(crate) default_system: Option<String>,
    /// Written in front of everything.
    pub(crate) bos: Option<String>,
    pub(crate) tools: Tools,
    pub(crate) thinking: Thinking,
    /// Further texts that end an answer.
    pub(crate) stops: &'static [&'static str],
}

/// Where tools go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tools {
    /// Nowhere.
    None,
    /// As Hermes has them: definitions in the system message, calls in `<tool_call>`, results in `<tool_response>` of a
    /// user. `quoted`: arguments that are a text are written as a JSON text, not as they are.
    Hermes { quoted: bool },
}

/// What becomes of reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Thinking {
    /// There is none.
    None,
    /// Answers after the last question have a `<think>` block, earlier ones lose theirs; `enable_thinking` false asks for
    /// an answer with an empty one.
    Hybrid,
    /// The same, and every answer begins with `<think>`.
    Always,
}

const ENDOFTEXT: &[&str] = &["<|endoftext|>"];
const HERMES: Tools = Tools::Hermes { quoted: false };

/// The chat template of a checkpoint, as tokenizer_config.json has it: a text, or several with names.
fn chat_template(tokenizer_config: &Json) -> Option<&str> {
    match tokenizer_config.get("chat_template")? {
        Json::Text(text) => Some(text),
        Json::List(named) => {
            let default = named.iter().find(|one| one.get("name").and_then(Json::as_text) == Some("default"));
            default?.get("template")?.as_text()
        }
        _ => None,
    }
}

/// ChatML without anything that only other families have: XML parameters (Qwen3-Coder, Qwen3.5), images, several marks.
fn is_chatml(template: &str) -> bool {
    let foreign = ["<function=", "<|vision_start|>", "<|im_sep|>", "<|im_middle|>", "bos_token", "preserve_thinking"];
    template.contains("<|im_start|>")
        && template.contains("<|im_end|>")
        && !foreign.iter().any(|f| template.contains(f))
}

macro_rules! template {
    ($(#[$doc:meta])* $type:ident, $name:literal, $summary:literal, $family:expr, $claims:expr) => {
        $(#[$doc])*
        pub struct $type(Family);

        impl Template for $type {
            const NAME: &'static str = $name;
            const SUMMARY: &'static str = $summary;

            fn claims(_config: &Json, tokenizer_config: &Json) -> bool {
                let claims: fn(&str) -> bool = $claims;
                chat_template(tokenizer_config).is_some_and(|template| is_chatml(template) && claims(template))
            }

            fn configure(settings: &Settings) -> Result<Self> {
                let family: fn(&Settings) -> Result<Family> = $family;
                family(settings).map(Self)
            }

            fn render(&self, conversation: &Conversation, form: Form) -> Result<Vec<Segment>> {
                render::render(&self.0, conversation, form)
            }

            fn stops(&self) -> Vec<String> {
                std::iter::once("<|im_end|>").chain(self.0.stops.iter().copied()).map(str::to_owned).collect()
            }

            fn parse(&self, completion: &str, context: &Context) -> Parsed {
                parse::parse(&self.0, completion, context)
            }

            fn parser(&self, context: &Context) -> Option<Box<dyn Parser>> {
                Some(Box::new(Reading::new(&self.0, context)))
            }
        }
    };
}

fn family(
    default_system: Option<&str>,
    tools: Tools,
    thinking: Thinking,
    stops: &'static [&'static str],
) -> Result<Family> {
    Ok(Family { default_system: default_system.map(str::to_owned), bos: None, tools, thinking, stops })
}

const QWEN2_SYSTEM: &str = "You are a helpful assistant.";
const QWEN2_5_SYSTEM: &str = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.";
const SMOLLM2_SYSTEM: &str = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";

template!(
    /// Plain ChatML. Settings: `default_system`, and `bos` to write the tokenizer's `bos_token` first.
    ChatMl,
    "chatml",
    "plain ChatML: no default system, no tools",
    |settings| {
        let bos = match settings.flag_or("bos", false)? {
            true => Some(settings.text("bos_token")?.to_owned()),
            false => None,
        };
        let default_system = settings.optional_text("default_system")?.map(str::to_owned);
        Ok(Family { default_system, bos, tools: Tools::None, thinking: Thinking::None, stops: &[] })
    },
    |template| !template.contains("tools") && !template.contains("<think>") && !template.contains("You are")
);

template!(
    /// Qwen2 Instruct, and Qwen1.5.
    Qwen2,
    "qwen2",
    "Qwen2 Instruct: a default system, no tools",
    |_| family(Some(QWEN2_SYSTEM), Tools::None, Thinking::None, ENDOFTEXT),
    |template| !template.contains("tools") && template.contains(QWEN2_SYSTEM) && !template.contains(QWEN2_5_SYSTEM)
);

template!(
    /// Qwen2.5 Instruct.
    Qwen2_5,
    "qwen2_5",
    "Qwen2.5 Instruct: a default system, Hermes tools",
    |_| family(Some(QWEN2_5_SYSTEM), Tools::Hermes { quoted: true }, Thinking::None, ENDOFTEXT),
    |template| template.contains("<tool_call>") && template.contains(QWEN2_5_SYSTEM)
);

template!(
    /// Qwen3 that thinks or not, as it is asked.
    Qwen3,
    "qwen3",
    "Qwen3: Hermes tools, reasoning that can be switched off and is dropped from history",
    |_| family(None, HERMES, Thinking::Hybrid, ENDOFTEXT),
    |template| template.contains("last_query_index") && template.contains("enable_thinking")
);

template!(
    /// Qwen3 Thinking of July 2025.
    Qwen3Thinking,
    "qwen3_thinking",
    "Qwen3 Thinking 2507: Hermes tools, every answer begins with reasoning",
    |_| family(None, HERMES, Thinking::Always, ENDOFTEXT),
    |template| template.contains("last_query_index") && !template.contains("enable_thinking")
);

template!(
    /// Qwen3 Instruct of July 2025.
    Qwen3NoThinking,
    "qwen3_nothinking",
    "Qwen3 Instruct 2507: Hermes tools, no reasoning",
    |_| family(None, HERMES, Thinking::None, ENDOFTEXT),
    |template| {
        template.contains("<tool_call>") && !template.contains("think") && !template.contains("You are Qwen")
    }
);

template!(
    /// SmolLM2 Instruct.
    SmolLm2,
    "smollm2",
    "SmolLM2 Instruct: a default system, no tools",
    |_| family(Some(SMOLLM2_SYSTEM), Tools::None, Thinking::None, &[]),
    |template| !template.contains("tools") && template.contains(SMOLLM2_SYSTEM)
);
