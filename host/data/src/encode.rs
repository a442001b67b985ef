//! Rows to tokens with a loss weight each.
//!
//! A conversation is rendered whole by the checkpoint's template and tokenized in one piece, so the trained tokens are
//! the tokens that inference sees for the same text. What looks like a special token in a message stays text, unless the
//! user allows it (transformers makes control tokens of it). A token's weight is that of the text its first byte lies in: a token that straddles the start of an
//! answer belongs to the prompt, one that straddles its end to the answer.

use std::ops::Range;

use rayon::prelude::*;
use serde_json::{Map, Value};
use swift_hub::Model;
use swift_plugin::Form;
use tokenizers::{PostProcessorWrapper, Tokenizer};

use crate::{
    ChatTemplate, DataError, Ledger, Message, PluginTemplate, Row, RowError,
    guard::Hidden,
    loss_scale::{LossScale, TurnWeight},
    pieces::Pieces,
    plugin::{Chat, Piece},
    spans::{Conversation, EndTokens, Located},
};

/// A token sequence and, for each token, the weight of the loss of predicting it (0: not trained). The first token
/// is never predicted; its weight is 0.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Encoded {
    pub tokens: Vec<u32>,
    pub weights: Vec<f32>,
}

impl Encoded {
    /// How many tokens are trained.
    pub fn trained(&self) -> usize {
        self.weights.iter().filter(|&&weight| weight > 0.0).count()
    }
}

/// What to do with a row longer than `max_length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Truncation {
    /// Leave it out.
    #[default]
    Delete,
    /// Cut its beginning off.
    Left,
    /// Cut its end off.
    Right,
    /// Cut it into several sequences (pre-training text only).
    Split,
}

impl Truncation {
    /// By ms-swift's name.
    pub fn parse(name: &str) -> Result<Self, DataError> {
        match name {
            "delete" => Ok(Self::Delete),
            "left" => Ok(Self::Left),
            "right" => Ok(Self::Right),
            "split" => Ok(Self::Split),
            other => Err(DataError::Truncation { name: other.into(), message: "is unknown" }),
        }
    }
}

/// How to encode.
#[derive(Debug, Clone)]
pub struct EncodeOptions {
    /// System message for rows that have none. Without it the template decides.
    pub system: Option<String>,
    pub loss_scale: LossScale,
    /// Handed to the template as `enable_thinking`; a row's own wins.
    pub enable_thinking: Option<bool>,
    /// Longest sequence in tokens.
    pub max_length: Option<usize>,
    pub truncation: Truncation,
    /// Off: messages are put end to end as plain text and closed with the end-of-sequence token.
    pub use_chat_template: bool,
    /// A row that cannot be encoded is an error, not an entry of the ledger.
    pub strict: bool,
    /// Special tokens that are written in rows and prompts are control tokens, as in transformers.
    pub special_tokens_in_text: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self {
            system: None,
            loss_scale: LossScale::default(),
            enable_thinking: None,
            max_length: None,
            truncation: Truncation::Delete,
            use_chat_template: true,
            strict: false,
            special_tokens_in_text: false,
        }
    }
}

/// Encodes rows for training and prompts for generation.
pub struct Encoder {
    tokenizer: Tokenizer,
    /// The same without its post-processor, which may move offsets away from the bytes a token stands for.
    plain: Tokenizer,
    /// Makes tokens of a rendering in pieces.
    pieces: Pieces,
    template: Option<Template>,
    ends: EndTokens,
    end_of_sequence: Option<u32>,
    options: EncodeOptions,
}

/// What makes text of a conversation.
#[allow(clippy::large_enum_variant, reason = "there is one of it in a run")]
enum Template {
    /// The checkpoint's own.
    Own(ChatTemplate),
    /// A plugin's, and what makes tokens of its pieces.
    Plugin(PluginTemplate),
}

/// What became of one row.
struct Outcome {
    sequences: Vec<Encoded>,
    truncated: bool,
}

impl Encoder {
    /// For a checkpoint. `now` is the date its template may tell, see [`ChatTemplate::new`].
    pub fn new(model: &Model, now: Option<jiff::civil::DateTime>, options: EncodeOptions) -> Result<Self, DataError> {
        let template = match &model.chat_template {
            Some(source) if options.use_chat_template => {
                Some(Template::Own(ChatTemplate::new(source, model.special_tokens.named(), now)?))
            }
            _ => None,
        };
        Self::of_model(model, template, options)
    }

    /// For a checkpoint whose conversations a plugin renders.
    pub fn with_plugin(model: &Model, template: PluginTemplate, options: EncodeOptions) -> Result<Self, DataError> {
        Self::of_model(model, Some(Template::Plugin(template)), options)
    }

    /// The same from parts.
    pub fn from_parts_with_plugin(
        tokenizer: Tokenizer,
        template: PluginTemplate,
        options: EncodeOptions,
    ) -> Result<Self, DataError> {
        Self::of(tokenizer, Some(Template::Plugin(template)), &[], None, options)
    }

    fn of_model(model: &Model, template: Option<Template>, options: EncodeOptions) -> Result<Self, DataError> {
        let tokenizer = model.tokenizer()?.clone();
        let end = model.special_tokens.eos.as_ref().and_then(|token| token.id);
        let end = end.or(model.eos_token_ids.first().copied());
        Self::of(tokenizer, template, &model.eos_token_ids, end, options)
    }

    /// From parts. `end_ids` are the tokens that end a turn, `end_of_sequence` closes plain text.
    pub fn from_parts(
        tokenizer: Tokenizer,
        template: Option<ChatTemplate>,
        end_ids: &[u32],
        end_of_sequence: Option<u32>,
        options: EncodeOptions,
    ) -> Result<Self, DataError> {
        Self::of(tokenizer, template.map(Template::Own), end_ids, end_of_sequence, options)
    }

    fn of(
        tokenizer: Tokenizer,
        template: Option<Template>,
        end_ids: &[u32],
        end_of_sequence: Option<u32>,
        options: EncodeOptions,
    ) -> Result<Self, DataError> {
        if options.use_chat_template && template.is_none() {
            return Err(DataError::NoTemplate);
        }
        if options.use_chat_template && options.truncation == Truncation::Split {
            return Err(DataError::Truncation { name: "split".into(), message: "would cut conversations apart" });
        }
        if !options.use_chat_template && end_of_sequence.is_none() {
            return Err(DataError::NoEndToken);
        }
        let mut plain = tokenizer.clone();
        plain.with_post_processor(None::<PostProcessorWrapper>);
        let ends = EndTokens {
            ends: end_ids.iter().filter_map(|&id| tokenizer.id_to_token(id)).collect(),
            special: tokenizer
                .get_added_tokens_decoder()
                .values()
                .filter(|token| token.special)
                .map(|token| token.content.clone())
                .collect(),
        };
        let pieces = Pieces::new(&tokenizer);
        Ok(Self { tokenizer, plain, pieces, template, ends, end_of_sequence, options })
    }

    /// The options this encoder was made with.
    pub fn options(&self) -> &EncodeOptions {
        &self.options
    }

    /// Texts that end an answer, beyond the checkpoint's end tokens.
    pub fn stops(&self) -> &[String] {
        match &self.template {
            Some(Template::Plugin(template)) => template.stops(),
            _ => &[],
        }
    }

    /// Encodes rows in parallel, keeping their order; each sequence comes with the index of its row. Rows that cannot be used
    /// are errors when `strict`, else they are taken off `ledger.kept` and noted there.
    pub fn encode_rows(&self, rows: &[Row], ledger: &mut Ledger) -> Result<Vec<(usize, Encoded)>, DataError> {
        let mut sequences = Vec::with_capacity(rows.len());
        for (index, outcome) in self.outcomes(rows)?.into_iter().enumerate() {
            let row = &rows[index];
            match outcome {
                Ok(outcome) => {
                    ledger.truncated += usize::from(outcome.truncated);
                    sequences.extend(outcome.sequences.into_iter().map(|sequence| (index, sequence)));
                }
                Err(error) if self.options.strict => {
                    return Err(DataError::Row { origin: row.origin.clone(), error });
                }
                Err(error) => {
                    ledger.kept = ledger.kept.saturating_sub(1);
                    ledger.drop_row(&row.origin, &error);
                }
            }
        }
        Ok(sequences)
    }

    /// Encodes one row: one sequence, or several when it is split.
    pub fn encode_row(&self, row: &Row) -> Result<Vec<Encoded>, RowError> {
        let outcome = self.outcomes(std::slice::from_ref(row)).map_err(plugin_failed)?.remove(0);
        outcome.map(|outcome| outcome.sequences)
    }

    /// The text a row is trained on.
    pub fn render_row(&self, row: &Row) -> Result<String, RowError> {
        match &self.template {
            None => Ok(row.messages.iter().map(|message| message.content.as_str()).collect()),
            Some(Template::Own(template)) => {
                let messages = self.with_system(&row.messages);
                let kwargs = self.kwargs(&row.chat_template_kwargs);
                let tools = row.tools.as_deref();
                Conversation { template, messages: &messages, tools, kwargs: &kwargs }.text()
            }
            Some(Template::Plugin(template)) => {
                let pieces = self.rendered(template, std::slice::from_ref(row)).map_err(plugin_failed)?.remove(0)?;
                Ok(pieces.into_iter().map(|piece| piece.text).collect())
            }
        }
    }

    /// The tokens after which the model is to answer.
    pub fn encode_prompt(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        kwargs: &Map<String, Value>,
    ) -> Result<Vec<u32>, DataError> {
        let failed = |error: RowError| DataError::Template {
            action: "cannot render this conversation",
            message: error.to_string(),
        };
        let (text, special) = match &self.template {
            // The tokenizer adds its own special tokens to plain text only; a template writes them itself.
            None => (messages.iter().map(|message| message.content.as_str()).collect(), true),
            Some(Template::Own(template)) => {
                let (messages, kwargs) = (self.with_system(messages), self.kwargs(kwargs));
                if let Some(hidden) = self.hidden(&messages, tools, &kwargs).map_err(failed)? {
                    let text = template.render(&hidden.messages, hidden.tools.as_deref(), true, &hidden.kwargs)?;
                    let pieces = self.pieces.guard.pieces(&text, 0.0, &[]);
                    return Ok(self.pieces.encode(&self.plain, &pieces).map_err(failed)?.tokens);
                }
                (template.render(&messages, tools, true, &kwargs)?, false)
            }
            Some(Template::Plugin(template)) => {
                let messages = self.with_system(messages);
                let chat = Chat { messages: &messages, tools, kwargs: &self.kwargs(kwargs) };
                let rendered = template.render(&[chat], Form::Prompt)?.remove(0);
                let encoded = rendered.and_then(|rendered| self.encode_pieces(&rendered));
                return encoded.map(|encoded| encoded.tokens).map_err(failed);
            }
        };
        let encoding =
            self.tokenizer.encode(text, special).map_err(|e| DataError::Tokenizer { message: e.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The conversation with what looks like special tokens hidden, if there is such and it may not be one.
    fn hidden(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        kwargs: &Map<String, Value>,
    ) -> Result<Option<Hidden>, RowError> {
        if self.options.special_tokens_in_text {
            return Ok(None);
        }
        self.pieces.guard.hide(messages, tools, kwargs)
    }

    /// What a plugin rendered. It says itself which texts are special tokens; others may be as well if the user allows it.
    fn encode_pieces(&self, pieces: &[Piece]) -> Result<Encoded, RowError> {
        if !self.options.special_tokens_in_text {
            return self.pieces.encode(&self.plain, pieces);
        }
        let (mut text, mut spans) = (String::new(), Vec::new());
        for piece in pieces {
            spans.push((text.len()..text.len() + piece.text.len(), piece.weight));
            text.push_str(&piece.text);
        }
        self.tokenize(&text, 0.0, &spans)
    }

    fn with_system(&self, messages: &[Message]) -> Vec<Message> {
        let has_system = messages.first().is_some_and(|first| matches!(first.role.as_str(), "system" | "developer"));
        let system = self.options.system.as_ref().filter(|_| !has_system);
        system.map(|text| Message::new("system", text)).into_iter().chain(messages.iter().cloned()).collect()
    }

    fn kwargs(&self, row: &Map<String, Value>) -> Map<String, Value> {
        let mut kwargs = Map::new();
        if let Some(thinking) = self.options.enable_thinking {
            kwargs.insert("enable_thinking".into(), thinking.into());
        }
        kwargs.extend(row.iter().map(|(name, value)| (name.clone(), value.clone())));
        kwargs
    }

    /// What becomes of each row. The outer error ends the run: a plugin that fails.
    fn outcomes(&self, rows: &[Row]) -> Result<Vec<Result<Outcome, RowError>>, DataError> {
        let mut outcomes: Vec<Result<Outcome, RowError>> = match &self.template {
            None => rows.par_iter().map(|row| self.settle(self.encode_text(row)?)).collect(),
            Some(Template::Own(template)) => {
                rows.par_iter().map(|row| self.settle(self.encode_conversation(template, row)?)).collect()
            }
            Some(Template::Plugin(template)) => {
                let rendered = self.rendered(template, rows)?;
                rendered.into_par_iter().map(|rendered| self.settle(self.encode_pieces(&rendered?)?)).collect()
            }
        };
        for (outcome, _) in outcomes.iter_mut().zip(rows).filter(|(_, row)| !row.media.is_empty()) {
            *outcome = Err(RowError::new("images, videos and audio are not built yet", ""));
        }
        Ok(outcomes)
    }

    /// Rows as a plugin renders them for training. It says which text is an answer and what counts more in it; how much a
    /// message counts is said here, by the row and the options.
    fn rendered(
        &self,
        template: &PluginTemplate,
        rows: &[Row],
    ) -> Result<Vec<Result<Vec<Piece>, RowError>>, DataError> {
        let prepared: Vec<_> =
            rows.iter().map(|row| (self.with_system(&row.messages), self.kwargs(&row.chat_template_kwargs))).collect();
        let chats: Vec<Chat<'_>> = rows
            .iter()
            .zip(&prepared)
            .map(|(row, (messages, kwargs))| Chat { messages, tools: row.tools.as_deref(), kwargs })
            .collect();
        let scale = &self.options.loss_scale;
        let mut rendered = template.render(&chats, Form::Training)?;
        for (pieces, (messages, _)) in rendered.iter_mut().zip(&prepared) {
            let Ok(pieces) = pieces else { continue };
            let mut by_parts = Vec::new();
            for piece in pieces.iter_mut() {
                let answer = piece.message.filter(|&index| messages[index].role == "assistant");
                piece.weight = match answer {
                    _ if piece.weight == 0.0 => scale.around(),
                    None => piece.weight,
                    Some(index) => match scale.turn(messages, index) {
                        TurnWeight::Flat(weight) => piece.weight * weight,
                        TurnWeight::ByParts => {
                            by_parts.push(index);
                            piece.weight
                        }
                    },
                };
            }
            by_parts.dedup();
            for index in by_parts {
                weigh_parts(pieces, scale, messages, index);
            }
        }
        Ok(rendered)
    }

    fn settle(&self, encoded: Encoded) -> Result<Outcome, RowError> {
        if encoded.tokens.len() < 2 {
            return Err(RowError::new("shorter than two tokens", ""));
        }
        if encoded.trained() == 0 {
            return Err(RowError::new("no token is trained", "no assistant message, or all have loss 0"));
        }
        self.truncate(encoded)
    }

    fn encode_conversation(&self, template: &ChatTemplate, row: &Row) -> Result<Encoded, RowError> {
        let (mut messages, mut kwargs) = (self.with_system(&row.messages), self.kwargs(&row.chat_template_kwargs));
        let mut tools = row.tools.as_deref();
        let hidden = self.hidden(&messages, tools, &kwargs)?;
        let is_hidden = hidden.is_some();
        let hidden_tools;
        if let Some(hidden) = hidden {
            (messages, kwargs, hidden_tools) = (hidden.messages, hidden.kwargs, hidden.tools);
            tools = hidden_tools.as_deref();
        }
        let tokenize = |text: &str, base: f32, spans: &[(Range<usize>, f32)]| match is_hidden {
            true => self.pieces.encode(&self.plain, &self.pieces.guard.pieces(text, base, spans)),
            false => self.tokenize(text, base, spans),
        };
        let conversation = Conversation { template, messages: &messages, tools, kwargs: &kwargs };
        let scale = &self.options.loss_scale;
        let base = scale.around();
        // The weight of each assistant turn that differs from the rest of the text.
        let turns: Vec<(usize, TurnWeight)> = messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message.role == "assistant")
            .map(|(index, _)| (index, scale.turn(&messages, index)))
            .filter(|(_, weight)| *weight != TurnWeight::Flat(base))
            .collect();
        if turns.is_empty() {
            if base == 0.0 {
                return Err(RowError::new("no token is trained", "no assistant message, or all have loss 0"));
            }
            return tokenize(&conversation.text()?, base, &[]);
        }
        let wanted: Vec<usize> = turns.iter().map(|(index, _)| *index).collect();
        let Located { text, turns: found, unassigned } = conversation.locate(&wanted, &self.ends)?;
        // A turn's parts end before its end token, which counts once.
        let weighed = |bytes: Range<usize>, index: usize, weight: TurnWeight| match weight {
            TurnWeight::Flat(weight) => vec![(bytes, weight)],
            TurnWeight::ByParts => {
                let (mut at, mut spans) = (bytes.start, Vec::new());
                let said = &text[bytes.start..bytes.start + self.ends.answer(&text[bytes.clone()])];
                for (length, weight) in scale.parts(said, &messages, index) {
                    spans.push((at..at + length, weight));
                    at += length;
                }
                spans.push((at..bytes.end, 1.0));
                spans
            }
        };
        let weight_of = |message| turns.iter().find(|(index, _)| *index == message).expect("it was wanted").1;
        let mut spans: Vec<_> =
            found.into_iter().flat_map(|turn| weighed(turn.bytes, turn.message, weight_of(turn.message))).collect();
        if !unassigned.is_empty() {
            let assistants = messages.iter().filter(|message| message.role == "assistant").count();
            let uniform = turns.len() == assistants && turns.iter().all(|(_, weight)| *weight == turns[0].1);
            if !uniform {
                return Err(RowError::new(
                    "an assistant turn cannot be located in the rendered template",
                    format!("{} generation blocks for {assistants} assistant messages", unassigned.len()),
                ));
            }
            spans = unassigned.into_iter().flat_map(|bytes| weighed(bytes, turns[0].0, turns[0].1)).collect();
        }
        tokenize(&text, base, &spans)
    }

    fn tokenize(&self, text: &str, base: f32, spans: &[(Range<usize>, f32)]) -> Result<Encoded, RowError> {
        tokenize(&self.plain, text, base, spans)
    }

    /// Plain text: the messages end to end, the tokenizer's own special tokens around it, closed with the
    /// end-of-sequence token.
    fn encode_text(&self, row: &Row) -> Result<Encoded, RowError> {
        let scale = &self.options.loss_scale;
        let base = scale.around();
        let mut text = String::new();
        let mut spans: Vec<(Range<usize>, f32)> = Vec::new();
        let mut last = base;
        for (index, message) in row.messages.iter().enumerate() {
            let said = message.content.as_str();
            let weight = match message.role.as_str() {
                "assistant" => scale.turn(&row.messages, index),
                _ => TurnWeight::Flat(base),
            };
            let parts = match weight {
                TurnWeight::Flat(weight) => vec![(said.len(), weight)],
                TurnWeight::ByParts => scale.parts(said, &row.messages, index),
            };
            let start = text.len();
            text.push_str(said);
            let mut at = start;
            for (length, weight) in parts {
                spans.push((at..at + length, weight));
                at += length;
            }
            last = if let TurnWeight::Flat(weight) = weight { weight } else { 1.0 };
        }
        let hidden = !self.options.special_tokens_in_text && self.pieces.guard.finds_in(&text);
        let mut encoded = if hidden {
            let piece = |(bytes, weight): &(Range<usize>, f32)| Piece {
                text: text[bytes.clone()].to_owned(),
                special: false,
                weight: *weight,
                message: None,
            };
            self.pieces.encode(&self.plain, &spans.iter().map(piece).collect::<Vec<_>>())?
        } else {
            self.tokenize(&text, base, &spans)?
        };
        // The tokens it adds are those of the special encoding that stand before and after the plain one.
        let failed = |e: tokenizers::Error| RowError::new("the tokenizer fails", e.to_string());
        let asked = if hidden { self.pieces.guard.masked(&text)? } else { text };
        let special = self.tokenizer.encode(asked.as_str(), true).map_err(failed)?;
        let bare = match hidden {
            true => self.plain.encode(asked.as_str(), false).map_err(failed)?.len(),
            false => encoded.tokens.len(),
        };
        let added = special.get_special_tokens_mask();
        let before = added.iter().take_while(|&&mask| mask == 1).count();
        if special.len() > bare && before > 0 {
            let front = before.min(special.len() - bare);
            if !encoded.weights.is_empty() {
                // What was the first token is predicted now.
                encoded.weights[0] = spans.iter().find(|(bytes, _)| !bytes.is_empty()).map_or(base, |(_, w)| *w);
            }
            encoded.tokens.splice(0..0, special.get_ids()[..front].iter().copied());
            encoded.weights.splice(0..0, std::iter::repeat_n(0.0, front));
        }
        let end = self.end_of_sequence.expect("checked when the encoder was made");
        if encoded.tokens.last() != Some(&end) {
            encoded.tokens.push(end);
            encoded.weights.push(last);
        }
        Ok(encoded)
    }

    fn truncate(&self, encoded: Encoded) -> Result<Outcome, RowError> {
        let length = encoded.tokens.len();
        let Some(limit) = self.options.max_length.filter(|&limit| length > limit) else {
            return Ok(Outcome { sequences: vec![encoded], truncated: false });
        };
        let piece = |range: Range<usize>| {
            let mut weights = encoded.weights[range.clone()].to_vec();
            if let Some(first) = weights.first_mut() {
                *first = 0.0;
            }
            Encoded { tokens: encoded.tokens[range].to_vec(), weights }
        };
        let sequences: Vec<Encoded> = match self.options.truncation {
            Truncation::Delete => {
                return Err(RowError::new("longer than max_length", format!("{length} tokens, the limit is {limit}")));
            }
            Truncation::Left => vec![piece(length - limit..length)],
            Truncation::Right => vec![piece(0..limit)],
            Truncation::Split => {
                (0..length).step_by(limit.max(1)).map(|at| piece(at..(at + limit).min(length))).collect()
            }
        };
        let sequences: Vec<Encoded> = sequences.into_iter().filter(|sequence| sequence.trained() > 0).collect();
        if sequences.is_empty() {
            return Err(RowError::new(
                "no trained token is left after truncation",
                format!("{length} tokens, the limit is {limit}"),
            ));
        }
        Ok(Outcome { sequences, truncated: self.options.truncation != Truncation::Split })
    }
}

/// Tokenizes in one piece; bytes in a span have the span's weight, others `base`.
pub(crate) fn tokenize(
    tokenizer: &Tokenizer,
    text: &str,
    base: f32,
    spans: &[(Range<usize>, f32)],
) -> Result<Encoded, RowError> {
    let encoding = tokenizer.encode(text, false).map_err(|e| RowError::new("the tokenizer fails", e.to_string()))?;
    let mut remaining = spans.iter().peekable();
    let mut weights: Vec<f32> = encoding
        .get_offsets()
        .iter()
        .map(|&(start, _)| {
            while remaining.next_if(|(bytes, _)| bytes.end <= start).is_some() {}
            remaining.peek().filter(|(bytes, _)| bytes.contains(&start)).map_or(base, |(_, weight)| *weight)
        })
        .collect();
    if let Some(first) = weights.first_mut() {
        *first = 0.0;
    }
    Ok(Encoded { tokens: encoding.get_ids().to_vec(), weights })
}

/// A plugin that fails ends a run; where one row is asked for, it is that row's trouble.
fn plugin_failed(error: DataError) -> RowError {
    RowError::new("the chat template fails", error.to_string())
}

/// Weighs the parts of one answer in a rendering in pieces: its end token, the last special one, belongs to none.
fn weigh_parts(pieces: &mut Vec<Piece>, scale: &LossScale, messages: &[Message], index: usize) {
    let mut own: Vec<usize> =
        (0..pieces.len()).filter(|&at| pieces[at].message == Some(index) && pieces[at].weight > 0.0).collect();
    if own.last().is_some_and(|&last| pieces[last].special) {
        own.pop();
    }
    let text: String = own.iter().map(|&at| pieces[at].text.as_str()).collect();
    let mut parts = scale.parts(&text, messages, index).into_iter();
    let (mut left, mut weight) = parts.next().unwrap_or((0, 1.0));
    let mut cut: Vec<(usize, Vec<Piece>)> = Vec::new();
    for at in own {
        let (mut rest, mut made) = (pieces[at].text.as_str(), Vec::new());
        while !rest.is_empty() {
            while left == 0 {
                (left, weight) = parts.next().unwrap_or((usize::MAX, 1.0));
            }
            // A special token is one token: it has the weight of its first byte.
            let length = if pieces[at].special { rest.len() } else { left.min(rest.len()) };
            made.push(Piece {
                text: rest[..length].to_owned(),
                weight: pieces[at].weight * weight,
                ..pieces[at].clone()
            });
            rest = &rest[length..];
            let mut over = length;
            while over > left {
                over -= left;
                (left, weight) = parts.next().unwrap_or((usize::MAX, 1.0));
            }
            left -= over;
        }
        cut.push((at, made));
    }
    for (at, made) in cut.into_iter().rev() {
        pieces.splice(at..=at, made);
    }
}
