//! Special tokens that a row writes in its texts stay text.
//!
//! A chat template prints messages and control tokens into one string, and a tokenizer cannot tell which of them a message
//! holds. So what looks like a special token in a row is hidden before the template sees it: its first character is replaced
//! by a noncharacter of Unicode. The special tokens of the rendering are then the template's own; everything between them is
//! tokenized as text, with the hidden characters put back.
//!
//! It must not know where a turn begins or ends, only which bytes have which weight.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::{Message, RowError, plugin::Piece};

/// Noncharacters that stand for first characters. Those before them mark places in renderings.
const STAND_INS: std::ops::RangeInclusive<char> = '\u{fdd8}'..='\u{fdef}';

/// A conversation in which special tokens are hidden.
pub(crate) struct Hidden {
    pub(crate) messages: Vec<Message>,
    pub(crate) tools: Option<Vec<Value>>,
    pub(crate) kwargs: Map<String, Value>,
}

/// The special tokens of a tokenizer.
pub(crate) struct Guard {
    finder: AhoCorasick,
    /// What they begin with; the place is that of the stand-in.
    firsts: Vec<char>,
}

impl Guard {
    /// For the tokenizer's special tokens.
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.values().filter(|token| token.special && !token.content.is_empty());
        let mut special: Vec<&str> = special.map(|token| token.content.as_str()).collect();
        special.sort_unstable();
        let mut firsts: Vec<char> = special.iter().filter_map(|token| token.chars().next()).collect();
        firsts.dedup();
        // Tokenizers have two or three; one with more than two dozen hides the first of them.
        firsts.truncate(STAND_INS.count());
        special.retain(|token| token.chars().next().is_some_and(|first| firsts.contains(&first)));
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&special);
        Self { finder: finder.expect("a few hundred short texts make an automaton"), firsts }
    }

    /// Whether the text holds what looks like a special token.
    pub(crate) fn finds_in(&self, text: &str) -> bool {
        self.finder.is_match(text)
    }

    fn in_json(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.finds_in(text),
            Value::Array(items) => items.iter().any(|item| self.in_json(item)),
            Value::Object(entries) => self.in_map(entries),
            _ => false,
        }
    }

    fn in_map(&self, entries: &Map<String, Value>) -> bool {
        entries.iter().any(|(key, value)| self.finds_in(key) || self.in_json(value))
    }

    /// The conversation with special tokens hidden; nothing when it holds none.
    ///
    /// # Errors
    /// When a text that holds one also holds a stand-in: the hidden could not be told from it.
    pub(crate) fn hide(
        &self,
        messages: &[Message],
        tools: Option<&[Value]>,
        kwargs: &Map<String, Value>,
    ) -> Result<Option<Hidden>, RowError> {
        let found = messages.iter().any(|message| self.finds_in(&message.content) || self.in_map(&message.extra))
            || tools.into_iter().flatten().any(|tool| self.in_json(tool))
            || self.in_map(kwargs);
        if !found {
            return Ok(None);
        }
        let mut messages = messages.to_vec();
        for message in &mut messages {
            message.content = self.masked(&message.content)?;
            message.extra = self.masked_map(&message.extra)?;
        }
        let tools = tools.map(|tools| tools.iter().map(|tool| self.masked_json(tool)).collect()).transpose()?;
        Ok(Some(Hidden { messages, tools, kwargs: self.masked_map(kwargs)? }))
    }

    /// The text with special tokens hidden.
    pub(crate) fn masked(&self, text: &str) -> Result<String, RowError> {
        if text.contains(|c| STAND_INS.contains(&c)) {
            return Err(RowError::new("a text with special tokens holds noncharacters of Unicode", ""));
        }
        let mut masked = String::with_capacity(text.len());
        let mut end = 0;
        for found in self.finder.find_iter(text) {
            masked.push_str(&text[end..found.start()]);
            let mut characters = text[found.range()].chars();
            let first = characters.next().and_then(|first| self.firsts.iter().position(|one| *one == first));
            masked.extend(first.and_then(|at| STAND_INS.clone().nth(at)));
            masked.push_str(characters.as_str());
            end = found.end();
        }
        masked.push_str(&text[end..]);
        Ok(masked)
    }

    fn masked_json(&self, value: &Value) -> Result<Value, RowError> {
        Ok(match value {
            Value::String(text) => Value::String(self.masked(text)?),
            Value::Array(items) => items.iter().map(|item| self.masked_json(item)).collect::<Result<_, _>>()?,
            Value::Object(entries) => Value::Object(self.masked_map(entries)?),
            other => other.clone(),
        })
    }

    fn masked_map(&self, entries: &Map<String, Value>) -> Result<Map<String, Value>, RowError> {
        entries.iter().map(|(key, value)| Ok((self.masked(key)?, self.masked_json(value)?))).collect()
    }

    /// Puts the hidden characters back.
    pub(crate) fn shown(&self, masked: &str) -> String {
        let back = |c: char| match STAND_INS.contains(&c) {
            true => self.firsts.get(c as usize - *STAND_INS.start() as usize).copied().unwrap_or(c),
            false => c,
        };
        masked.chars().map(back).collect()
    }

    /// A rendering of a hidden conversation in pieces: its special tokens, and what lies between them. Bytes in a span have
    /// the span's weight, others `base`.
    pub(crate) fn pieces(&self, masked: &str, base: f32, spans: &[(Range<usize>, f32)]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut add = |range: Range<usize>, special: bool| {
            let (mut at, end) = (range.start, range.end);
            while at < end {
                let inside = spans.iter().find(|(bytes, _)| bytes.contains(&at));
                let next = match inside {
                    Some((bytes, _)) => bytes.end,
                    None => spans.iter().map(|(bytes, _)| bytes.start).filter(|start| *start > at).min().unwrap_or(end),
                };
                // A special token is one token: it has the weight of its first byte.
                let next = if special { end } else { next.min(end) };
                let weight = inside.map_or(base, |(_, weight)| *weight);
                pieces.push(Piece { text: self.shown(&masked[at..next]), special, weight, message: None });
                at = next;
            }
        };
        let mut end = 0;
        for found in self.finder.find_iter(masked) {
            add(end..found.start(), false);
            add(found.range(), true);
            end = found.end();
        }
        add(end..masked.len(), false);
        pieces
    }
}
