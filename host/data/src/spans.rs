//! Where each assistant turn lies in a rendered conversation, exactly or not at all.
//!
//! The text is always the template's rendering of the whole conversation. A turn is found in it in one of three ways:
//!
//! 1. The template marks it with `{% generation %}`.
//! 2. The conversation before the turn, rendered with a generation prompt, begins the conversation up to and with the
//!    turn, and that begins the whole text: the turn is what lies between.
//! 3. Templates that rewrite history (dropping the reasoning of earlier answers, say) fail the second way for earlier
//!    turns. The whole conversation is then rendered with a placeholder as this turn's content: if everything before
//!    and after the placeholder is found unchanged at both ends of the text, the content is what lies between.
//!
//! A turn that none of them finds makes the row an error. Guessing would train on something else in silence.
//!
//! A turn ends with its end-of-turn token, which is trained; what the template writes after it (a line break, usually)
//! is not. An empty reasoning block at the start of a turn (`<think>\n\n</think>\n\n`) is not trained either: it is
//! what the template puts where there is no reasoning, not something the row teaches.

use std::ops::Range;

use serde_json::{Map, Value};

use crate::{
    Message, RowError,
    template::{ChatTemplate, SENTINEL},
};

/// One assistant turn: the index of its message and its bytes in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) message: usize,
    pub(crate) bytes: Range<usize>,
}

/// A conversation as the template prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located {
    pub(crate) text: String,
    pub(crate) turns: Vec<Turn>,
    /// Generation blocks that could not be assigned to messages one to one; then `turns` is empty.
    pub(crate) unassigned: Vec<Range<usize>>,
}

/// The tokens that can end a turn.
#[derive(Debug, Clone, Default)]
pub(crate) struct EndTokens {
    /// Those that end a generation.
    pub(crate) ends: Vec<String>,
    /// Every special token.
    pub(crate) special: Vec<String>,
}

impl EndTokens {
    /// How many bytes of a turn are its answer: all but a special token at its end.
    pub(crate) fn answer(&self, turn: &str) -> usize {
        let trimmed = turn.trim_end();
        let end = self.special.iter().filter(|token| trimmed.ends_with(token.as_str())).map(String::len).max();
        end.map_or(turn.len(), |length| trimmed.len() - length)
    }
}

pub(crate) struct Conversation<'a> {
    pub(crate) template: &'a ChatTemplate,
    pub(crate) messages: &'a [Message],
    pub(crate) tools: Option<&'a [Value]>,
    pub(crate) kwargs: &'a Map<String, Value>,
}

impl Conversation<'_> {
    fn render(&self, messages: &[Message], prompt: bool) -> Result<String, String> {
        self.template.render_marked(messages, self.tools, prompt, self.kwargs).map(|rendered| rendered.text)
    }

    /// The text without looking for turns.
    pub(crate) fn text(&self) -> Result<String, RowError> {
        self.render(self.messages, false).map_err(cannot_render)
    }

    /// Renders the conversation and finds the assistant turns listed in `wanted`.
    pub(crate) fn locate(&self, wanted: &[usize], ends: &EndTokens) -> Result<Located, RowError> {
        let whole =
            self.template.render_marked(self.messages, self.tools, false, self.kwargs).map_err(cannot_render)?;
        let text = whole.text;
        if self.template.marks_generation() {
            let assistants = (0..self.messages.len()).filter(|&index| self.messages[index].role == "assistant");
            let assistants: Vec<usize> = assistants.collect();
            if assistants.len() != whole.generated.len() {
                return Ok(Located { text, turns: Vec::new(), unassigned: whole.generated });
            }
            let turns = assistants
                .into_iter()
                .zip(whole.generated)
                .filter(|(message, _)| wanted.contains(message))
                .map(|(message, bytes)| Turn { message, bytes: skip_empty_reasoning(&text, bytes) })
                .collect();
            return Ok(Located { text, turns, unassigned: Vec::new() });
        }
        let mut turns: Vec<Turn> = Vec::new();
        for &message in wanted {
            let found = self.by_prefix(message, &text, ends).or_else(|| self.by_placeholder(message, &text, ends));
            let after = turns.last().map_or(0, |turn| turn.bytes.end);
            match found {
                Some(bytes) if bytes.start >= after => {
                    turns.push(Turn { message, bytes: skip_empty_reasoning(&text, bytes) });
                }
                _ => {
                    return Err(RowError::new(
                        "an assistant turn cannot be located in the rendered template",
                        format!("message {}", message + 1),
                    ));
                }
            }
        }
        Ok(Located { text, turns, unassigned: Vec::new() })
    }

    fn by_prefix(&self, message: usize, text: &str, ends: &EndTokens) -> Option<Range<usize>> {
        let prompt = self.render(&self.messages[..message], true).ok()?;
        if !text.starts_with(&prompt) {
            return None;
        }
        let with_turn;
        let turn = if message + 1 == self.messages.len() {
            text
        } else {
            with_turn = self.render(&self.messages[..=message], false).ok()?;
            with_turn.as_str()
        };
        if !turn.starts_with(&prompt) || !text.starts_with(turn) {
            return None;
        }
        let answer = &turn[prompt.len()..];
        let trimmed = answer.trim_end();
        let is_special = |token: &String| trimmed.ends_with(token.as_str());
        let length = if ends.special.iter().any(is_special) { trimmed.len() } else { answer.len() };
        Some(prompt.len()..prompt.len() + length)
    }

    fn by_placeholder(&self, message: usize, text: &str, ends: &EndTokens) -> Option<Range<usize>> {
        if self.messages.iter().any(|m| m.content.contains('\u{fdd2}')) {
            return None;
        }
        let mut messages = self.messages.to_vec();
        // Calls and reasoning belong to what is searched for: they must not stand beside the placeholder.
        messages[message] = Message::new("assistant", SENTINEL);
        let rendered = self.render(&messages, false).ok()?;
        let (before, after) = rendered.split_once(SENTINEL)?;
        let fits = !after.contains(SENTINEL)
            && before.len() + after.len() <= text.len()
            && text.starts_with(before)
            && text.ends_with(after);
        if !fits {
            return None;
        }
        let mut end = text.len() - after.len();
        // The end token stands after the content, perhaps after a space that the template puts there.
        let rest = &text[end..];
        let trimmed = rest.trim_start_matches(' ');
        if let Some(token) =
            ends.ends.iter().filter(|token| trimmed.starts_with(token.as_str())).max_by_key(|t| t.len())
        {
            end += rest.len() - trimmed.len() + token.len();
        }
        Some(before.len()..end)
    }
}

fn cannot_render(message: String) -> RowError {
    RowError::new("the chat template rejects the conversation", message)
}

/// The span without an empty reasoning block at its start.
fn skip_empty_reasoning(text: &str, bytes: Range<usize>) -> Range<usize> {
    let span = &text[bytes.clone()];
    let skipped = span
        .trim_start()
        .strip_prefix("<think>")
        .and_then(|rest| rest.trim_start().strip_prefix("</think>"))
        .map(|rest| span.len() - rest.trim_start().len());
    bytes.start + skipped.unwrap_or(0)..bytes.end
}
