//! A chat template against a checkpoint's own Jinja, on made-up conversations: the texts must be the same, and what the one
//! refuses the other must refuse. The first difference is made small before it is shown.

use std::path::Path;

use serde_json::{Map, Value, json};
use swift_data::{ChatTemplate, Message};
use swift_plugin::{Form, Plugin, Template};

use crate::golden::conversation::{conversation, text_of};
use crate::golden::difference::difference;
use crate::random::Random;
use crate::{AuthorError, Result, fuzz};

/// Renderings that making a difference small may take.
const ATTEMPTS: usize = 600;
/// The date that half of the conversations have.
const DATE: &str = "2025-03-09";
/// Largest file that is read of a checkpoint.
const MAX_FILE: u64 = 64 << 20;

/// What a comparison gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Conversations that both rendered to the same text.
    pub same: usize,
    /// Conversations that both refused.
    pub refused: usize,
    /// The first difference, as small as it could be made: the conversation, and what differs.
    pub difference: Option<String>,
}

/// A checkpoint's template in both forms.
struct Pair {
    template: Template,
    /// With the date, and without one.
    dated: ChatTemplate,
    undated: ChatTemplate,
}

/// Compares a template of `plugin` with the one in the folder `checkpoint`, on `cases` conversations. `name` chooses the
/// template; else it is the one that claims the checkpoint.
///
/// # Errors
/// When the checkpoint has no template, the plugin none for it, or a call into the plugin fails.
pub fn against_checkpoint(
    plugin: &Plugin,
    checkpoint: &Path,
    name: Option<&str>,
    cases: usize,
    seed: u64,
) -> Result<Compared> {
    let pair = Pair::open(plugin, checkpoint, name)?;
    let mut random = Random::new(seed);
    let mut compared = Compared::default();
    for _ in 0..cases {
        let form = if random.once_in(2) { Form::Prompt } else { Form::Training };
        let case = fuzz::conversation(&mut random, form, DATE);
        match pair.differs(&case, form)? {
            Verdict::Same => compared.same += 1,
            Verdict::Refused => compared.refused += 1,
            Verdict::Differs(kind, what) => {
                let (case, what) = pair.smallest(case, form, kind, what)?;
                let form = if form == Form::Prompt { "prompt" } else { "training" };
                let text = serde_json::to_string_pretty(&case).unwrap_or_default();
                compared.difference = Some(format!("{what}\nin the {form} form of\n{}", shown(&text)));
                return Ok(compared);
            }
        }
    }
    Ok(compared)
}

/// Lines for a terminal.
fn shown(text: &str) -> String {
    text.lines()
        .map(|line| format!("  {}{}", " ".repeat(line.len() - line.trim_start().len()), swift_plugin::clean(line, 400)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// How two renderings are alike.
enum Verdict {
    Same,
    Refused,
    /// Which way, and what a person reads.
    Differs(Kind, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    OnlyPluginRefuses,
    OnlyJinjaRefuses,
}

impl Pair {
    fn open(plugin: &Plugin, folder: &Path, name: Option<&str>) -> Result<Self> {
        let tokenizer = folder.join("tokenizer_config.json");
        let mut tokenizer_config = match read(&tokenizer)? {
            None => Map::new(),
            Some(text) => serde_json::from_str(&text).map_err(|error| {
                AuthorError::project(&tokenizer, error.to_string(), "fetch the checkpoint's files again")
            })?,
        };
        let source = source(folder, &tokenizer_config)?;
        tokenizer_config.insert("chat_template".into(), json!(source));
        let config = read(&folder.join("config.json"))?.unwrap_or_else(|| "{}".into());
        let claimed = plugin.claims_template(&config, &Value::Object(tokenizer_config.clone()).to_string())?;
        let name = name.map(str::to_owned).or(claimed).ok_or_else(|| {
            let hint = "name one of its templates with --template, or let `claims` know this checkpoint";
            AuthorError::project(folder, "no template of the plugin claims this checkpoint", hint)
        })?;
        let tokens: Vec<(&str, String)> = ["bos_token", "eos_token", "pad_token", "unk_token"]
            .into_iter()
            .filter_map(|key| {
                let token = tokenizer_config.get(key)?;
                let text = token.as_str().or_else(|| token.get("content")?.as_str())?;
                Some((key, text.to_owned()))
            })
            .collect();
        let settings: Map<String, Value> = tokens.iter().map(|(key, text)| ((*key).to_owned(), json!(text))).collect();
        let compile = |date: Option<&str>| {
            let now = date.and_then(|date| date.parse::<jiff::civil::Date>().ok()).map(|date| date.at(0, 0, 0, 0));
            let tokens = tokens.iter().map(|(key, text)| (*key, text.as_str()));
            ChatTemplate::new(&source, tokens, now).map_err(|error| {
                AuthorError::project(folder, error.to_string(), "this template cannot be compared with")
            })
        };
        Ok(Self {
            template: plugin.template(&name, &Value::Object(settings).to_string())?,
            dated: compile(Some(DATE))?,
            undated: compile(None)?,
        })
    }

    /// What the checkpoint makes of a conversation.
    fn jinja(&self, case: &Map<String, Value>, form: Form) -> std::result::Result<String, String> {
        let template = if case.contains_key("date") { &self.dated } else { &self.undated };
        let list = |key: &str| case.get(key).and_then(Value::as_array);
        let messages: Vec<Message> = list("messages").into_iter().flatten().filter_map(message).collect();
        let arguments = case.get("arguments").and_then(Value::as_object).cloned().unwrap_or_default();
        let tools = list("tools").map(Vec::as_slice);
        template.render(&messages, tools, form == Form::Prompt, &arguments).map_err(|error| error.to_string())
    }

    fn differs(&self, case: &Map<String, Value>, form: Form) -> Result<Verdict> {
        let wanted = self.jinja(case, form);
        let given = conversation(case).map_err(|what| AuthorError::Component { what, author: String::new() })?;
        let rendered = self.template.render(&[given], form)?.remove(0);
        Ok(match (wanted, rendered) {
            (Err(_), Err(_)) => Verdict::Refused,
            (Err(why), Ok(_)) => Verdict::Differs(
                Kind::OnlyJinjaRefuses,
                format!("the checkpoint refuses this, the plugin does not: {why}"),
            ),
            (Ok(_), Err(why)) => Verdict::Differs(
                Kind::OnlyPluginRefuses,
                format!("the plugin refuses this, the checkpoint does not: {why}"),
            ),
            (Ok(wanted), Ok(segments)) => {
                let text: String = segments.iter().map(text_of).collect();
                // A training text ends with the answer; what a template puts behind it for the next message is nobody's.
                let rest = wanted.strip_prefix(text.as_str()).filter(|_| form == Form::Training);
                if text == wanted || rest.is_some_and(|rest| rest.trim().is_empty()) {
                    Verdict::Same
                } else {
                    Verdict::Differs(Kind::Text, difference(&json!(wanted), &json!(text)).unwrap_or_default())
                }
            }
        })
    }

    /// The smallest conversation found that still differs in the same way.
    fn smallest(
        &self,
        mut case: Map<String, Value>,
        form: Form,
        kind: Kind,
        mut what: String,
    ) -> Result<(Map<String, Value>, String)> {
        let mut attempts = 0;
        'again: loop {
            for smaller in fuzz::smaller(&case) {
                attempts += 1;
                if attempts > ATTEMPTS {
                    break 'again;
                }
                if let Verdict::Differs(other, text) = self.differs(&smaller, form)?
                    && other == kind
                {
                    (case, what) = (smaller, text);
                    continue 'again;
                }
            }
            break;
        }
        Ok((case, what))
    }
}

/// A message as Jinja templates see it.
fn message(value: &Value) -> Option<Message> {
    let mut extra = value.as_object()?.clone();
    let role = extra.shift_remove("role")?.as_str()?.to_owned();
    let content = extra.shift_remove("content").and_then(|content| content.as_str().map(str::to_owned));
    Some(Message { extra, ..Message::new(role, content.unwrap_or_default()) })
}

/// A file's text; `None` where there is none.
fn read(path: &Path) -> Result<Option<String>> {
    match std::fs::metadata(path) {
        Err(_) => return Ok(None),
        Ok(found) if found.len() > MAX_FILE => {
            return Err(AuthorError::project(path, "it is too large to be read", "is this a checkpoint's file?"));
        }
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(AuthorError::io("read", path))
}

/// The template of a checkpoint: a file of its own, or in the tokenizer's config, alone or as `default` of several.
fn source(folder: &Path, tokenizer_config: &Map<String, Value>) -> Result<String> {
    if let Some(text) = read(&folder.join("chat_template.jinja"))? {
        return Ok(text);
    }
    let found = match tokenizer_config.get("chat_template") {
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|one| one["name"] == "default");
            default.and_then(|one| one["template"].as_str()).map(str::to_owned)
        }
        _ => None,
    };
    found.ok_or_else(|| {
        let hint = "name a folder with chat_template.jinja, or tokenizer_config.json with `chat_template`";
        AuthorError::project(folder, "it holds no chat template", hint)
    })
}
