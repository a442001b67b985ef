//! Which text of a conversation is trained, and how much it counts: ms-swift's `loss_scale`, `[base+]name[+name...]`.
//!
//! The base says which messages are trained, a message's own `loss` overrides it. The names weigh parts of an answer; of
//! several the weights are multiplied, each looking at the parts that the one before left. A message's own `loss_scale`
//! stands for all of them. The end token of an answer belongs to no part.

use regex::Regex;

use crate::{DataError, Message};

/// What is trained and what counts more.
#[derive(Debug, Clone)]
pub struct LossScale {
    name: String,
    base: Base,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Base {
    /// Every assistant message.
    Default,
    /// Those after the last message of the user or of a tool.
    LastRound,
    /// Everything.
    All,
}

const BASES: [(&str, Base); 3] = [("default", Base::Default), ("last_round", Base::LastRound), ("all", Base::All)];

/// How much the parts of an answer count.
#[derive(Debug, Clone)]
struct Rule {
    /// Finds the texts that are told apart; group n belongs to entry n of `weights`.
    finder: Regex,
    /// Weight of the text that was found, and, where it begins a section, of what follows it up to the next.
    weights: Vec<(f32, Option<f32>)>,
    /// A question that holds one of these gives its whole answer this weight.
    queries: &'static [(&'static str, f32)],
}

/// Sections of an agent's answer: a key with its weight, and the weight of what follows it.
type Sections = &'static [(&'static str, f32, f32)];

const REACT: Sections = &[
    ("Action:", 2.0, 2.0),
    ("Action Input:", 2.0, 2.0),
    ("Thought:", 1.0, 1.0),
    ("Final Answer:", 1.0, 1.0),
    ("Observation:", 2.0, 0.0),
];
const ALPHA_UMI: Sections = &[
    ("Action:", 2.0, 2.0),
    ("Action Input:", 2.0, 2.0),
    ("Thought:", 1.0, 1.0),
    ("Final Answer:", 1.0, 1.0),
    ("Observation:", 2.0, 0.0),
    ("Next:", 2.0, 2.0),
];
const QWEN: Sections =
    &[("✿FUNCTION✿:", 2.0, 2.0), ("✿ARGS✿:", 2.0, 2.0), ("✿RETURN✿:", 1.0, 1.0), ("✿RESULT✿:", 2.0, 0.0)];
const AGENTFLAN: Sections = &[
    ("Name:", 1.0, 3.0),
    ("Action:", 1.0, 3.0),
    ("ACTION:", 1.0, 3.0),
    ("Tool:", 1.0, 3.0),
    ("Command", 1.0, 3.0),
    ("Arguments:", 1.0, 3.0),
    ("action input", 1.0, 3.0),
    ("ACTION_INPUT:", 1.0, 3.0),
    ("Action Input:", 1.0, 3.0),
    ("Thought:", 1.0, 1.0),
    ("Final Answer:", 1.0, 1.0),
    ("Observation:", 2.0, 0.0),
];
const AGENTFLAN_QUERIES: &[(&str, f32)] = &[
    ("What is the tool you want to use", 3.0),
    ("What are the required parameter names", 3.0),
    ("What is the value of", 3.0),
];

/// Texts that are found by a pattern, with their weight.
type Patterns = &'static [(&'static str, f32)];

const HERMES: Patterns = &[("<tool_call>.+?</tool_call>", 2.0)];
const IGNORE_THINK_PREFIX: Patterns = &[("^<think>\n?", 0.0)];
/// What templates write where there is no reasoning.
const IGNORE_EMPTY_THINK: Patterns = &[
    (r"^<think>\s*</think>\s*", 0.0),
    (
        "^<seed:think><seed:cot_budget_reflect>The current thinking budget is 0, so I will directly start answering the \
         question.</seed:cot_budget_reflect>\n</seed:think>\\s*",
        0.0,
    ),
    (r"^</think>\s*", 0.0),
    (r"^<\|channel>thought\n<channel\|>", 0.0),
    (r"^</mm:think>\s*", 0.0),
];

/// The names after the base.
const NAMES: [&str; 7] =
    ["ignore_empty_think", "ignore_think_prefix", "hermes", "react", "qwen", "alpha_umi", "agentflan"];

fn rule(name: &str) -> Option<Rule> {
    Some(match name {
        "ignore_empty_think" => patterns(IGNORE_EMPTY_THINK),
        "ignore_think_prefix" => patterns(IGNORE_THINK_PREFIX),
        "hermes" => patterns(HERMES),
        "react" => sections(REACT, &[]),
        "qwen" => sections(QWEN, &[]),
        "alpha_umi" => sections(ALPHA_UMI, &[]),
        "agentflan" => sections(AGENTFLAN, AGENTFLAN_QUERIES),
        _ => return None,
    })
}

fn finder(parts: impl Iterator<Item = String>) -> Regex {
    let parts: Vec<String> = parts.map(|part| format!("({part})")).collect();
    Regex::new(&format!("(?s){}", parts.join("|"))).expect("the patterns of this file are well-formed")
}

fn patterns(patterns: Patterns) -> Rule {
    let weights = patterns.iter().map(|(_, weight)| (*weight, None)).collect();
    Rule { finder: finder(patterns.iter().map(|(pattern, _)| (*pattern).to_owned())), weights, queries: &[] }
}

fn sections(sections: Sections, queries: &'static [(&'static str, f32)]) -> Rule {
    let weights = sections.iter().map(|(_, key, content)| (*key, Some(*content))).collect();
    Rule { finder: finder(sections.iter().map(|(key, ..)| regex::escape(key))), weights, queries }
}

impl Rule {
    /// The parts of `text`, as their lengths in bytes, with their weights.
    fn parts(&self, text: &str, query: &str) -> Vec<(usize, f32)> {
        if let Some((_, weight)) = self.queries.iter().find(|(key, _)| query.contains(key)) {
            return vec![(text.len(), *weight)];
        }
        let (mut parts, mut end, mut current) = (Vec::new(), 0, 1.0);
        for found in self.finder.captures_iter(text) {
            let whole = found.get_match();
            let group = (0..self.weights.len()).find(|group| found.get(group + 1).is_some()).unwrap_or(0);
            let (key, content) = self.weights[group];
            parts.push((whole.start() - end, current));
            parts.push((whole.len(), key));
            (end, current) = (whole.end(), content.unwrap_or(1.0));
        }
        parts.push((text.len() - end, current));
        parts.retain(|(length, _)| *length > 0);
        parts
    }
}

/// The weight of an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum TurnWeight {
    /// One for all of it.
    Flat(f32),
    /// The rules say, part by part.
    ByParts,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { name: "default".into(), base: Base::Default, rules: Vec::new() }
    }
}

impl PartialEq for LossScale {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl LossScale {
    /// Parses `[base+]name[+name...]`, such as `last_round+hermes+ignore_empty_think`.
    ///
    /// # Errors
    /// When there is no such name.
    pub fn parse(text: &str) -> Result<Self, DataError> {
        let mut names = text.split('+').map(str::trim).peekable();
        let base = names.peek().and_then(|first| BASES.iter().find(|(name, _)| name == first)).map(|(_, base)| *base);
        if base.is_some() {
            names.next();
        }
        let unknown = |name: &str| DataError::LossScale { name: swift_plugin::clean(name, 60) };
        let rules = names.map(|name| rule(name).ok_or_else(|| unknown(name))).collect::<Result<_, _>>()?;
        Ok(Self { name: text.replace(' ', ""), base: base.unwrap_or(Base::Default), rules })
    }

    /// The names that [`LossScale::parse`] knows, for messages.
    pub(crate) fn names() -> String {
        BASES.iter().map(|(name, _)| *name).chain(NAMES).collect::<Vec<_>>().join(", ")
    }

    /// The weight of what is no answer.
    pub(crate) fn around(&self) -> f32 {
        if self.base == Base::All { 1.0 } else { 0.0 }
    }

    /// The weight of the assistant's message at `index`.
    pub(crate) fn turn(&self, messages: &[Message], index: usize) -> TurnWeight {
        let message = &messages[index];
        let asks = |message: &Message| matches!(message.role.as_str(), "user" | "tool");
        let trained = match self.base {
            Base::Default | Base::All => true,
            Base::LastRound => !messages[index..].iter().any(asks),
        };
        match (message.loss.unwrap_or(trained), message.loss_scale) {
            (false, _) => TurnWeight::Flat(0.0),
            (true, Some(scale)) => TurnWeight::Flat(scale),
            (true, None) if self.rules.is_empty() => TurnWeight::Flat(1.0),
            (true, None) => TurnWeight::ByParts,
        }
    }

    /// The parts of the answer `text` of the message at `index`, as their lengths in bytes, with their weights.
    pub(crate) fn parts(&self, text: &str, messages: &[Message], index: usize) -> Vec<(usize, f32)> {
        let asked = messages[..index].iter().rev().find(|message| matches!(message.role.as_str(), "user" | "tool"));
        let query = asked.map_or("", |message| message.content.as_str());
        let mut parts = vec![(text.len(), 1.0)];
        for rule in &self.rules {
            let mut at = 0;
            let mut finer = Vec::new();
            for (length, weight) in parts {
                let inner = rule.parts(&text[at..at + length], query);
                finer.extend(inner.into_iter().map(|(length, factor)| (length, weight * factor)));
                at += length;
            }
            parts = finer;
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighed<'a>(name: &str, query: &str, text: &'a str) -> Vec<(&'a str, f32)> {
        let messages = [Message::new("user", query), Message::new("assistant", text)];
        let mut rest = text;
        let parts = LossScale::parse(name).unwrap().parts(text, &messages, 1);
        let part = |(length, weight)| {
            let (part, after) = rest.split_at(length);
            rest = after;
            (part, weight)
        };
        parts.into_iter().map(part).collect()
    }

    #[test]
    fn parts_are_weighed_as_in_ms_swift() {
        assert_eq!(
            weighed("react", "", "Thought: a\nAction: f\nAction Input: {}\nObservation: no\nFinal Answer: b"),
            [
                ("Thought:", 1.0),
                (" a\n", 1.0),
                ("Action:", 2.0),
                (" f\n", 2.0),
                ("Action Input:", 2.0),
                (" {}\n", 2.0),
                ("Observation:", 2.0),
                (" no\n", 0.0),
                ("Final Answer:", 1.0),
                (" b", 1.0)
            ]
        );
        assert_eq!(
            weighed("hermes", "", "x<tool_call>\na\n</tool_call>y<tool_call>b</tool_call>"),
            [("x", 1.0), ("<tool_call>\na\n</tool_call>", 2.0), ("y", 1.0), ("<tool_call>b</tool_call>", 2.0)]
        );
        assert_eq!(weighed("hermes", "", "<tool_call></tool_call>")[0].1, 1.0, "nothing is in it");
        for empty in ["<think>\n\n</think>\n\n", "</think>\n", "<|channel>thought\n<channel|>", "</mm:think>"] {
            let text = format!("{empty}a");
            assert_eq!(weighed("ignore_empty_think", "", &text), [(empty, 0.0), ("a", 1.0)]);
        }
        assert_eq!(weighed("ignore_empty_think", "", "a<think></think>"), [("a<think></think>", 1.0)]);
        assert_eq!(weighed("ignore_think_prefix", "", "<think>\na</think>"), [("<think>\n", 0.0), ("a</think>", 1.0)]);
        assert_eq!(weighed("qwen", "", "a✿RESULT✿:b"), [("a", 1.0), ("✿RESULT✿:", 2.0), ("b", 0.0)]);
        assert_eq!(weighed("agentflan", "What is the value of x?", "Thought: 1"), [("Thought: 1", 3.0)]);
        assert_eq!(weighed("agentflan", "x?", "Tool: f"), [("Tool:", 1.0), (" f", 3.0)]);
        assert_eq!(weighed("alpha_umi", "", "Next: f")[1], (" f", 2.0));
        assert_eq!(weighed("react", "", ""), []);
    }

    #[test]
    fn names_are_chained_after_a_base() {
        assert_eq!(
            weighed("last_round+hermes+ignore_empty_think", "", "<think></think><tool_call>a</tool_call>b"),
            [("<think></think>", 0.0), ("<tool_call>a</tool_call>", 2.0), ("b", 1.0)]
        );
        assert_eq!(weighed("hermes+hermes", "", "<tool_call>a</tool_call>"), [("<tool_call>a</tool_call>", 4.0)]);
        for wrong in ["", "wizard", "default+", "hermes+default", "default+wizard"] {
            let error = LossScale::parse(wrong).unwrap_err();
            assert!(error.hint().contains("ignore_empty_think"), "{wrong}: {error}");
        }
        for name in NAMES {
            assert!(rule(name).is_some(), "{name}");
        }
    }

    #[test]
    fn the_base_and_the_messages_say_what_is_trained() {
        let mut messages = ["user", "assistant", "tool", "assistant", "assistant"].map(|role| Message::new(role, "x"));
        let turns = |messages: &[Message], name: &str| {
            [1, 3, 4].map(|index| LossScale::parse(name).unwrap().turn(messages, index))
        };
        let flat = TurnWeight::Flat;
        assert_eq!(turns(&messages, "default"), [flat(1.0); 3]);
        assert_eq!(turns(&messages, "last_round"), [flat(0.0), flat(1.0), flat(1.0)]);
        (messages[1].loss, messages[3].loss, messages[4].loss_scale) = (Some(true), Some(false), Some(0.5));
        messages[3].loss_scale = Some(3.0);
        assert_eq!(turns(&messages, "last_round+react"), [TurnWeight::ByParts, flat(0.0), flat(0.5)]);
    }
}
