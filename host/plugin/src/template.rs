//! Chat templates: conversations to segments with loss weights, and completions back to messages.

use wasmtime::component::ResourceAny;

use crate::binding::State;
pub use crate::binding::template::exports::swift::template::templates::Info as TemplateInfo;
pub use crate::binding::template::swift::template::types::{
    Content, Context, Conversation, Event, Form, Message as ChatMessage, Parsed, Part, Segment, ToolCall, ToolCallStart,
};
use crate::binding::template::{Template as Exports, TemplatePre};
use crate::call::{Budget, Live, MESSAGE, in_pieces};
use crate::clean::clean;
use crate::{Kind, Plugin, PluginError, Result};

/// Conversations that one instance renders.
const PIECE: usize = 32;
/// Bytes of what one conversation, or one completion, becomes.
const EACH: usize = 4 << 20;

/// A chat template, set up.
pub struct Template {
    plugin: Plugin,
    prepared: TemplatePre<State>,
    info: TemplateInfo,
    config: String,
}

impl std::fmt::Debug for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Template").field("plugin", &self.plugin).field("name", &self.info.name).finish_non_exhaustive()
    }
}

impl Plugin {
    fn template_exports(&self) -> Result<TemplatePre<State>> {
        self.expect(Kind::Template)?;
        TemplatePre::new(self.0.prepared.clone()).map_err(|error| self.wrong_types(Kind::Template, &error))
    }

    /// The chat templates in this component.
    ///
    /// # Errors
    /// When it holds none, or fails at saying which.
    pub fn templates(&self) -> Result<Vec<TemplateInfo>> {
        let prepared = self.template_exports()?;
        let budget = Budget::of(Kind::Template, 256, 4 << 10);
        let live = self.start("templates", self.state(), budget, |_, store| prepared.instantiate(store))?;
        let (_, mut infos) =
            live.call("templates", budget, |exports, store| exports.swift_template_templates().call_templates(store))?;
        for info in &mut infos {
            self.check_function(Kind::Template, &info.name, &mut info.summary)?;
        }
        Ok(infos)
    }

    /// The name of the template that fits a checkpoint: its `config.json` and `tokenizer_config.json` (with its
    /// `chat_template` in it), if one of this component does.
    ///
    /// # Errors
    /// When the plugin traps or runs out of its budget.
    pub fn claims_template(&self, config: &str, tokenizer_config: &str) -> Result<Option<String>> {
        let prepared = self.template_exports()?;
        let budget = Budget::of(Kind::Template, 1, EACH);
        let live = self.start("claims", self.state(), budget, |_, store| prepared.instantiate(store))?;
        let (_, name) = live.call("claims", budget, |exports, store| {
            exports.swift_template_templates().call_claims(store, config, tokenizer_config)
        })?;
        Ok(name.map(|name| clean(&name, 100)))
    }

    /// The template of this name, set up with `config`, a JSON object: `bos_token`, `eos_token`, ... and the user's settings.
    ///
    /// # Errors
    /// When the component has no such template, or it refuses the settings.
    pub fn template(&self, name: &str, config: &str) -> Result<Template> {
        let infos = self.templates()?;
        let names = infos.iter().map(|info| info.name.clone()).collect();
        let info = infos.into_iter().find(|info| info.name == name);
        let info = info.ok_or_else(|| self.no_function(Kind::Template, name, names))?;
        let template =
            Template { plugin: self.clone(), prepared: self.template_exports()?, info, config: config.into() };
        template.start(0)?;
        Ok(template)
    }
}

impl Template {
    /// The component.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// What the plugin says about it.
    pub fn info(&self) -> &TemplateInfo {
        &self.info
    }

    fn start(&self, units: usize) -> Result<Live<Exports>> {
        let budget = Budget::of(Kind::Template, units, EACH);
        let live =
            self.plugin.start("configure", self.plugin.state(), budget, |_, store| self.prepared.instantiate(store))?;
        let (live, answer) = live.call("configure", budget, |exports, store| {
            exports.swift_template_templates().call_configure(store, &self.info.name, &self.config)
        })?;
        answer.map_err(|message| self.plugin.refused_settings(&self.info.name, &message))?;
        Ok(live)
    }

    fn wrong(&self, call: &str, what: String) -> PluginError {
        PluginError::Answer { plugin: self.plugin.name().into(), call: call.into(), what }
    }

    fn render_piece(&self, conversations: &[Conversation], form: Form) -> Result<Vec<Rendered>> {
        let live = self.start(conversations.len())?;
        let (_, rendered) =
            live.call("render", Budget::of(Kind::Template, conversations.len(), EACH), |exports, store| {
                exports.swift_template_templates().call_render(store, conversations, form)
            })?;
        if rendered.len() != conversations.len() {
            let what = format!("it gave {} texts for {} conversations", rendered.len(), conversations.len());
            return Err(self.wrong("render", what));
        }
        for segment in rendered.iter().flatten().flatten() {
            if !segment.weight.is_finite() || segment.weight < 0.0 {
                return Err(self.wrong("render", format!("a segment's weight is {}", segment.weight)));
            }
        }
        Ok(rendered.into_iter().map(|one| one.map_err(|message| clean(&message, MESSAGE))).collect())
    }

    /// Renders each conversation, in their order, on all cores; one that cannot be rendered has its own reason.
    ///
    /// # Errors
    /// When the plugin traps, runs out of its budget, or gives what cannot be.
    pub fn render(&self, conversations: &[Conversation], form: Form) -> Result<Vec<Rendered>> {
        if conversations.is_empty() {
            return Ok(Vec::new());
        }
        let pieces = in_pieces(conversations, PIECE, self.plugin.0.waits, |piece| self.render_piece(piece, form));
        Ok(pieces.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Texts that end an answer.
    ///
    /// # Errors
    /// When the plugin traps or runs out of its budget.
    pub fn stops(&self) -> Result<Vec<String>> {
        let live = self.start(1)?;
        let (_, stops) = live.call("stops", Budget::of(Kind::Template, 1, EACH), |exports, store| {
            exports.swift_template_templates().call_stops(store)
        })?;
        Ok(stops)
    }

    /// Reads completions back, in their order, on all cores.
    ///
    /// # Errors
    /// When the plugin traps, runs out of its budget, or gives what cannot be.
    pub fn parse(&self, completions: &[String], context: &Context) -> Result<Vec<Parsed>> {
        if completions.is_empty() {
            return Ok(Vec::new());
        }
        let pieces = in_pieces(completions, PIECE, self.plugin.0.waits, |completions| {
            let live = self.start(completions.len())?;
            let (_, parsed) =
                live.call("parse", Budget::of(Kind::Template, completions.len(), EACH), |exports, store| {
                    exports.swift_template_templates().call_parse(store, completions, context)
                })?;
            if parsed.len() != completions.len() {
                let what = format!("it gave {} messages for {} completions", parsed.len(), completions.len());
                return Err(self.wrong("parse", what));
            }
            Ok(parsed)
        });
        Ok(pieces.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Begins to read one completion back while it comes.
    ///
    /// # Errors
    /// When the plugin traps or runs out of its budget.
    pub fn parser(&self, context: &Context) -> Result<StreamParser> {
        let live = self.start(1)?;
        let (live, handle) = live.call("parser", Budget::of(Kind::Template, 1, EACH), |exports, store| {
            exports.swift_template_templates().parser().call_constructor(store, context)
        })?;
        Ok(StreamParser { live: Some((live, handle)), plugin: self.plugin.name().into() })
    }
}

/// What one conversation became, or why nothing did.
pub type Rendered = std::result::Result<Vec<Segment>, String>;

/// Reads one completion while it comes, in an instance of its own.
pub struct StreamParser {
    live: Option<(Live<Exports>, ResourceAny)>,
    plugin: String,
}

impl std::fmt::Debug for StreamParser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamParser").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

impl StreamParser {
    fn live(&mut self, call: &str) -> Result<(Live<Exports>, ResourceAny)> {
        self.live.take().ok_or_else(|| PluginError::Answer {
            plugin: self.plugin.clone(),
            call: call.into(),
            what: "its parser failed before and is gone".into(),
        })
    }

    /// The next piece of text, cut anywhere.
    ///
    /// # Errors
    /// When the plugin traps or runs out of its budget; the parser is gone then.
    pub fn push(&mut self, text: &str) -> Result<Vec<Event>> {
        let (live, handle) = self.live("push")?;
        let (live, events) = live.call("push", Budget::of(Kind::Template, 1, EACH), |exports, store| {
            exports.swift_template_templates().parser().call_push(store, handle, text)
        })?;
        self.live = Some((live, handle));
        Ok(events)
    }

    /// There is no more.
    ///
    /// # Errors
    /// When the plugin traps or runs out of its budget.
    pub fn finish(mut self) -> Result<Vec<Event>> {
        let (live, handle) = self.live("finish")?;
        let (_, events) = live.call("finish", Budget::of(Kind::Template, 1, EACH), |exports, store| {
            exports.swift_template_templates().parser().call_finish(store, handle)
        })?;
        Ok(events)
    }
}
