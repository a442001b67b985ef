//! Completions back to reasoning, text and tool calls, while they come: a completion that is read whole is read in the same
//! way, in one piece.
//!
//! Nothing is said before it is certain: text that may be the beginning of a tag is held back until it is one or not. So
//! it does not matter where a completion is cut into pieces.

use swift_sdk::Json;
use swift_sdk::template::{Context, Event, Parsed, Parser, ToolCall, ToolCallStart};

use crate::family::{Family, Thinking, Tools};

const THINK: &str = "<think>";
const THINK_END: &str = "</think>";
const CALL: &str = "<tool_call>";
const CALL_END: &str = "</tool_call>";

pub(crate) fn parse(family: &Family, completion: &str, context: &Context) -> Parsed {
    let mut reading = Reading::new(family, context);
    let mut events = reading.push(completion);
    events.extend(reading.finish());
    let mut parsed = Parsed::default();
    for event in events {
        match event {
            Event::Reasoning(text) => parsed.reasoning.get_or_insert_default().push_str(&text),
            Event::Text(text) => parsed.content.push_str(&text),
            Event::ToolCall(ToolCallStart { id, name }) => {
                parsed.tool_calls.push(ToolCall { id, name, arguments: String::new() });
            }
            Event::Arguments(text) => {
                if let Some(call) = parsed.tool_calls.last_mut() {
                    call.arguments.push_str(&text);
                }
            }
            Event::Problem(problem) => parsed.problems.push(problem),
        }
    }
    parsed
}

/// A completion that is being read.
pub(crate) struct Reading {
    tools: bool,
    state: State,
    /// What came and is not understood yet.
    rest: String,
    events: Vec<Event>,
}

enum State {
    /// Nothing came yet that says whether there is reasoning.
    Start,
    /// In reasoning; whether something of it was said.
    Reasoning(bool),
    /// Line breaks after reasoning.
    AfterReasoning,
    Text,
    Call(Box<Call>),
}

impl Reading {
    pub(crate) fn new(family: &Family, context: &Context) -> Self {
        let state = if family.thinking == Thinking::None { State::Text } else { State::Start };
        // What the prompt began of the answer is part of it.
        Self { tools: family.tools != Tools::None, state, rest: context.prefix.clone(), events: Vec::new() }
    }

    /// Goes as far as is certain.
    fn go(&mut self, finished: bool) {
        while self.step(finished) {}
    }

    /// Whether there is more to do with what came.
    fn step(&mut self, finished: bool) -> bool {
        match &mut self.state {
            State::Start => {
                let text = self.rest.trim_start();
                if let Some(after) = text.strip_prefix(THINK) {
                    self.rest = after.to_owned();
                    self.state = State::Reasoning(false);
                } else if THINK.starts_with(text) && !finished {
                    return false;
                } else {
                    self.state = State::Text;
                }
                true
            }
            State::Reasoning(begun) => {
                if !*begun {
                    let skipped = self.rest.len() - self.rest.trim_start_matches('\n').len();
                    self.rest.drain(..skipped);
                }
                if let Some(at) = self.rest.find(THINK_END) {
                    let text = self.rest[..at].trim_end_matches('\n').to_owned();
                    self.rest.drain(..at + THINK_END.len());
                    self.state = State::AfterReasoning;
                    self.say(Event::Reasoning(text));
                    return true;
                }
                let held = if finished { 0 } else { held_back(&self.rest, THINK_END, usize::MAX) };
                let text: String = self.rest.drain(..self.rest.len() - held).collect();
                *begun |= !text.is_empty();
                self.say(Event::Reasoning(text));
                if finished {
                    self.say(Event::Problem("the reasoning is cut off: there is no </think>".into()));
                }
                false
            }
            State::AfterReasoning => {
                let skipped = self.rest.len() - self.rest.trim_start_matches('\n').len();
                self.rest.drain(..skipped);
                if self.rest.is_empty() {
                    return false;
                }
                self.state = State::Text;
                true
            }
            State::Text => {
                if self.tools
                    && let Some(at) = self.rest.find(CALL)
                {
                    let text = &self.rest[..at];
                    let line = text.ends_with('\n');
                    let text = text[..at - usize::from(line)].to_owned();
                    self.rest.drain(..at + CALL.len());
                    self.state = State::Call(Box::new(Call::new(line)));
                    self.say(Event::Text(text));
                    return true;
                }
                let held = if finished || !self.tools { 0 } else { held_back(&self.rest, CALL, 1) };
                let text: String = self.rest.drain(..self.rest.len() - held).collect();
                self.say(Event::Text(text));
                false
            }
            State::Call(call) => {
                let rest = std::mem::take(&mut self.rest);
                let mut events = Vec::new();
                let mut at = rest.len();
                for (index, character) in rest.char_indices() {
                    if call.take(character, &mut events) {
                        at = index + character.len_utf8();
                        break;
                    }
                }
                let ended = call.phase == Phase::Ended;
                if finished && !ended {
                    call.cut(&mut events);
                }
                self.rest = rest[at..].to_owned();
                if ended {
                    self.state = State::Text;
                }
                for event in events {
                    self.say(event);
                }
                ended
            }
        }
    }

    /// Adds an event, to the last one where both are of a kind.
    fn say(&mut self, event: Event) {
        match (self.events.last_mut(), event) {
            (_, Event::Text(text) | Event::Reasoning(text) | Event::Arguments(text)) if text.is_empty() => {}
            (Some(Event::Text(before)), Event::Text(text))
            | (Some(Event::Reasoning(before)), Event::Reasoning(text))
            | (Some(Event::Arguments(before)), Event::Arguments(text)) => before.push_str(&text),
            (_, event) => self.events.push(event),
        }
    }
}

impl Parser for Reading {
    fn push(&mut self, text: &str) -> Vec<Event> {
        self.rest.push_str(text);
        self.go(false);
        std::mem::take(&mut self.events)
    }

    fn finish(&mut self) -> Vec<Event> {
        self.go(true);
        std::mem::take(&mut self.events)
    }
}

/// Bytes at the end that may begin a tag, with up to so many line breaks in front of it.
fn held_back(text: &str, tag: &str, breaks: usize) -> usize {
    let partial = (1..tag.len()).rev().find(|&length| text.ends_with(&tag[..length])).unwrap_or(0);
    let before = &text[..text.len() - partial];
    partial + before.bytes().rev().take(breaks).take_while(|&byte| byte == b'\n').count()
}

/// A tool call that is being read, one character after another.
struct Call {
    phase: Phase,
    /// What came since the last value that was understood, all of it at first: if it turns out to be no call, it is text.
    raw: String,
    /// The value or key that is being read.
    value: String,
    key: String,
    scan: Scan,
    id: Option<String>,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    has_arguments: bool,
    /// How much of `</tool_call>` came.
    closing: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the object.
    Before,
    /// In the object, before a key or its end.
    BeforeKey {
        first: bool,
    },
    Key,
    Colon,
    BeforeValue,
    Value,
    /// After a value.
    AfterValue,
    /// After the object.
    After,
    Ended,
}

/// Finds the end of a JSON value without judging it.
#[derive(Default)]
struct Scan {
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Scan {
    /// Whether the value ends: before this character (`Some(false)`) or with it.
    fn ends(&mut self, character: char, first: bool) -> Option<bool> {
        if self.in_text {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => {
                    self.in_text = false;
                    return (self.depth == 0).then_some(true);
                }
                _ => {}
            }
            return None;
        }
        match character {
            '"' => self.in_text = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' if self.depth > 0 => {
                self.depth -= 1;
                return (self.depth == 0).then_some(true);
            }
            ',' | '}' | ']' if self.depth == 0 => return Some(false),
            space if self.depth == 0 && space.is_ascii_whitespace() && !first => return Some(false),
            _ => {}
        }
        None
    }
}

impl Call {
    fn new(line: bool) -> Self {
        Self {
            phase: Phase::Before,
            raw: if line { format!("\n{CALL}") } else { CALL.to_owned() },
            value: String::new(),
            key: String::new(),
            scan: Scan::default(),
            id: None,
            name: None,
            early: None,
            has_arguments: false,
            closing: 0,
        }
    }

    /// Takes the next character; whether the call ends with it.
    fn take(&mut self, character: char, events: &mut Vec<Event>) -> bool {
        self.raw.push(character);
        let space = character.is_ascii_whitespace();
        match self.phase {
            Phase::Before if space => {}
            Phase::Before if character == '{' => self.phase = Phase::BeforeKey { first: true },
            Phase::BeforeKey { .. } | Phase::Colon | Phase::BeforeValue | Phase::AfterValue if space => {}
            Phase::BeforeKey { .. } if character == '"' => self.begin(Phase::Key, character),
            Phase::BeforeKey { first: true } | Phase::AfterValue if character == '}' => return self.end(events),
            Phase::AfterValue if character == ',' => self.phase = Phase::BeforeKey { first: false },
            Phase::Key => {
                self.value.push(character);
                if self.scan.ends(character, false) == Some(true) {
                    match Json::parse(&self.value) {
                        Ok(Json::Text(key)) => self.key = key,
                        _ => return self.broken(events),
                    }
                    self.phase = Phase::Colon;
                }
            }
            Phase::Colon if character == ':' => self.phase = Phase::BeforeValue,
            Phase::BeforeValue if !matches!(character, ',' | '}' | ']' | ':') => {
                self.begin(Phase::Value, character);
                self.stream(character, events);
            }
            Phase::Value => match self.scan.ends(character, false) {
                Some(true) => {
                    self.value.push(character);
                    self.stream(character, events);
                    return self.whole(events);
                }
                Some(false) => {
                    let broken = self.whole(events);
                    // It belongs to what follows. It was noted above already.
                    return broken || self.again(character, events);
                }
                None => {
                    self.value.push(character);
                    self.stream(character, events);
                }
            },
            Phase::After => return self.close(character, events),
            _ => return self.broken(events),
        }
        false
    }

    fn again(&mut self, character: char, events: &mut Vec<Event>) -> bool {
        self.raw.pop();
        self.take(character, events)
    }

    /// Begins a key or a value.
    fn begin(&mut self, phase: Phase, character: char) {
        self.phase = phase;
        self.value = character.to_string();
        self.scan = Scan::default();
        self.scan.ends(character, true);
    }

    fn is_arguments(&self) -> bool {
        self.key == "arguments" && !self.has_arguments
    }

    /// Says a character of the arguments at once, if the name is known.
    fn stream(&mut self, character: char, events: &mut Vec<Event>) {
        if self.is_arguments() && self.name.is_some() {
            events.push(Event::Arguments(character.into()));
        }
    }

    /// A value is whole; whether that ended the call.
    fn whole(&mut self, events: &mut Vec<Event>) -> bool {
        self.phase = Phase::AfterValue;
        let value = std::mem::take(&mut self.value);
        match self.key.as_str() {
            "name" if self.name.is_none() => {
                let Ok(Json::Text(name)) = Json::parse(&value) else { return self.broken(events) };
                events.push(Event::ToolCall(ToolCallStart { id: self.id.take(), name: name.clone() }));
                self.name = Some(name);
                if let Some(early) = self.early.take() {
                    events.push(Event::Arguments(early.clone()));
                    self.judge(&early, events);
                }
            }
            "arguments" if !self.has_arguments => {
                self.has_arguments = true;
                match self.name {
                    Some(_) => self.judge(&value, events),
                    None => self.early = Some(value),
                }
            }
            "id" if self.name.is_none() && self.id.is_none() => {
                self.id = Json::parse(&value).ok().and_then(|id| id.as_text().map(str::to_owned));
            }
            key => events.push(Event::Problem(format!("a tool call has a further key: \"{key}\": {value}"))),
        }
        if self.name.is_some() {
            self.raw.clear();
        }
        false
    }

    fn judge(&self, arguments: &str, events: &mut Vec<Event>) {
        if Json::parse(arguments).is_err() {
            events.push(Event::Problem(format!("the arguments of `{}` are not JSON", self.called())));
        }
    }

    fn called(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// The object has ended.
    fn end(&mut self, events: &mut Vec<Event>) -> bool {
        if self.name.is_none() {
            return self.broken(events);
        }
        if !self.has_arguments {
            events.push(Event::Arguments("{}".into()));
        }
        self.phase = Phase::After;
        false
    }

    /// After the object: the closing tag.
    fn close(&mut self, character: char, events: &mut Vec<Event>) -> bool {
        if self.closing == 0 && character.is_ascii_whitespace() {
            return false;
        }
        if CALL_END[self.closing..].starts_with(character) {
            self.closing += 1;
            if self.closing == CALL_END.len() {
                self.phase = Phase::Ended;
            }
            return self.phase == Phase::Ended;
        }
        events.push(Event::Problem(format!("there is no {CALL_END} after the call of `{}`", self.called())));
        events.push(Event::Text(format!("{}{character}", &CALL_END[..self.closing])));
        self.phase = Phase::Ended;
        true
    }

    /// It is no call, or no whole one: what was not understood is text.
    fn broken(&mut self, events: &mut Vec<Event>) -> bool {
        events.push(Event::Problem(match &self.name {
            None => "a tool call that is not JSON with a `name`".into(),
            Some(name) => format!("the call of `{name}` is not JSON"),
        }));
        events.push(Event::Text(std::mem::take(&mut self.raw)));
        self.phase = Phase::Ended;
        true
    }

    /// There is no more.
    fn cut(&mut self, events: &mut Vec<Event>) {
        let problem = match (&self.name, self.phase) {
            (None, _) => {
                events.push(Event::Text(std::mem::take(&mut self.raw)));
                "a tool call is cut off".into()
            }
            (Some(name), Phase::After) => format!("there is no {CALL_END} after the call of `{name}`"),
            (Some(name), Phase::Value) if self.is_arguments() => format!("the arguments of `{name}` are cut off"),
            (Some(name), _) => format!("the call of `{name}` is cut off: {}", self.raw),
        };
        events.push(Event::Problem(problem));
    }
}
