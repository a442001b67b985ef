//! Reading back is the inverse of rendering, wherever a completion is cut into pieces; and nothing that a model may write
//! is lost or makes the reader fail.

use crate::{Qwen2_5, Qwen3, Qwen3Thinking};
use swift_sdk::template::{
    Content, Context, Conversation, Event, Form, Message, Parsed, Part, Template, ToolCall, ToolCallStart,
};
use swift_sdk::{Json, Settings};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn text(&mut self, words: &[&str], most: usize) -> String {
        let count = self.below(most + 1);
        (0..count).map(|_| self.pick(words)).collect()
    }

    fn json(&mut self, depth: usize) -> Json {
        match self.below(if depth > 2 { 4 } else { 6 }) {
            0 => Json::Null,
            1 => Json::Bool(self.below(2) == 0),
            2 => Json::parse(self.pick(&["0", "-12", "1.5", "1e+16", "123456789012345678901"])).unwrap(),
            3 => Json::Text(self.text(WORDS, 4)),
            4 => Json::List((0..self.below(3)).map(|_| self.json(depth + 1)).collect()),
            _ => Json::object(
                (0..self.below(3)).map(|key| (format!("k{key}"), self.json(depth + 1))).collect::<Vec<_>>(),
            ),
        }
    }
}

/// What texts are made of: beginnings of tags too, but no whole ones, which would be tags.
const WORDS: &[&str] = &[
    "a",
    "größe",
    " ",
    "\n",
    "\n\n",
    "<",
    "</",
    "<think",
    "</thin",
    "<tool_call",
    "</tool_call",
    "tool_call>",
    "{",
    "}",
    "\"",
    "\\",
    "\\\"",
    "🙂",
    "<|im_end|>",
    "[1, 2]",
];

fn configured<T: Template>() -> T {
    T::configure(&Settings::parse("{}").unwrap()).unwrap()
}

fn message(role: &str, text: &str) -> Message {
    Message {
        role: role.into(),
        content: vec![Part::Text(text.into())],
        reasoning: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
        name: None,
        loss: None,
        loss_scale: None,
    }
}

fn context(prefix: &str) -> Context {
    Context { tools: Vec::new(), arguments: Vec::new(), prefix: prefix.into() }
}

/// The text of the answer that a conversation ends with.
fn answer(template: &impl Template, message: Message) -> String {
    let conversation = Conversation {
        messages: vec![self::message("user", "q"), message],
        tools: Vec::new(),
        arguments: Vec::new(),
        date: None,
    };
    let segments = template.render(&conversation, Form::Training).unwrap();
    let text: String = segments
        .iter()
        .map(|segment| match &segment.content {
            Content::Text(text) | Content::Special(text) => text.as_str(),
            _ => panic!("no media here"),
        })
        .collect();
    let (_, answer) = text.split_once("<|im_start|>assistant\n").unwrap();
    answer.strip_suffix("<|im_end|>\n").unwrap().to_owned()
}

/// A completion read in pieces of random size, put together again.
fn streamed(template: &impl Template, completion: &str, context: &Context, random: &mut Random) -> Parsed {
    let mut parser = template.parser(context).unwrap();
    let characters: Vec<char> = completion.chars().collect();
    let mut events = Vec::new();
    let mut at = 0;
    let most = 1 + random.below(9);
    while at < characters.len() {
        let end = characters.len().min(at + random.below(most + 1));
        events.extend(parser.push(&characters[at..end].iter().collect::<String>()));
        at = end;
    }
    events.extend(parser.finish());
    let mut read = Parsed::default();
    for event in events {
        match event {
            Event::Reasoning(text) => read.reasoning.get_or_insert_default().push_str(&text),
            Event::Text(text) => read.content.push_str(&text),
            Event::ToolCall(ToolCallStart { id, name }) => {
                read.tool_calls.push(ToolCall { id, name, arguments: String::new() });
            }
            Event::Arguments(text) => read.tool_calls.last_mut().unwrap().arguments.push_str(&text),
            Event::Problem(problem) => read.problems.push(problem),
        }
    }
    read
}

fn assert_same(a: &Parsed, b: &Parsed, of: &str) {
    assert_eq!((&a.content, &a.reasoning, &a.problems), (&b.content, &b.reasoning, &b.problems), "{of}");
    let calls = |parsed: &Parsed| {
        let calls = parsed.tool_calls.iter();
        calls.map(|call| (call.id.clone(), call.name.clone(), call.arguments.clone())).collect::<Vec<_>>()
    };
    assert_eq!(calls(a), calls(b), "{of}");
}

#[test]
fn reading_is_the_inverse_of_rendering() {
    let (qwen3, qwen2_5) = (configured::<Qwen3>(), configured::<Qwen2_5>());
    let mut random = Random(7);
    let (mut with_calls, mut with_reasoning) = (0, 0);
    for _ in 0..4000 {
        let thinks = random.below(2) == 0;
        let mut content = random.text(WORDS, 6);
        let reasoning = if thinks { random.text(WORDS, 6) } else { String::new() };
        if thinks {
            // The template drops line breaks around reasoning.
            content = content.trim_start_matches('\n').to_owned();
        }
        let reasoning = reasoning.trim_matches('\n').to_owned();
        if ["<think>", "</think>", "<tool_call>"].iter().any(|tag| content.contains(tag) || reasoning.contains(tag)) {
            continue; // Words that make a tag together.
        }
        let tool_calls: Vec<ToolCall> = (0..random.below(3))
            .map(|_| ToolCall {
                id: None,
                name: random.pick(&["f", "get_weather", "größe"]).into(),
                arguments: Json::object([("x", random.json(0)), ("y", random.json(0))]).write(),
            })
            .collect();
        let given = Message {
            reasoning: thinks.then(|| reasoning.clone()),
            tool_calls: tool_calls.clone(),
            ..message("assistant", &content)
        };
        let (text, read) = if thinks {
            let text = answer(&qwen3, given);
            (text.clone(), qwen3.parse(&text, &context("")))
        } else {
            let text = answer(&qwen2_5, given);
            (text.clone(), qwen2_5.parse(&text, &context("")))
        };
        let stream = match thinks {
            true => streamed(&qwen3, &text, &context(""), &mut random),
            false => streamed(&qwen2_5, &text, &context(""), &mut random),
        };
        assert_same(&stream, &read, &text);
        assert_eq!(read.content, content, "{text}");
        assert_eq!(read.reasoning.unwrap_or_default(), reasoning, "{text}");
        assert!(read.problems.is_empty(), "{text}: {:?}", read.problems);
        assert_eq!(read.tool_calls.len(), tool_calls.len(), "{text}");
        for (read, given) in read.tool_calls.iter().zip(&tool_calls) {
            assert_eq!((&read.name, read.id.as_ref()), (&given.name, None));
            assert_eq!(Json::parse(&read.arguments), Json::parse(&given.arguments), "{text}");
        }
        with_calls += usize::from(!tool_calls.is_empty());
        with_reasoning += usize::from(!reasoning.is_empty());
    }
    assert!(with_calls > 1500 && with_reasoning > 1000, "{with_calls}, {with_reasoning}");
}

#[test]
fn whatever_comes_is_read_alike_in_any_pieces_and_not_lost() {
    let mut words = WORDS.to_vec();
    words.extend([
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "{\"name\": \"f\"",
        ", \"arguments\": {\"a\": 1}",
        "name",
    ]);
    words.extend(["\"arguments\": ", "{\"name\": \"g\", \"arguments\": ", "}\n</tool_call>", "\"id\": 7, ", "null"]);
    let (qwen3, thinking) = (configured::<Qwen3>(), configured::<Qwen3Thinking>());
    let mut random = Random(11);
    let mut problems = 0;
    for _ in 0..20_000 {
        let text = random.text(&words, 12);
        let prefix = context(random.pick(&["", "<think>\n", "<think>\n\n</think>\n\n"]));
        let (whole, stream) = match random.below(2) {
            0 => (qwen3.parse(&text, &prefix), streamed(&qwen3, &text, &prefix, &mut random)),
            _ => (thinking.parse(&text, &prefix), streamed(&thinking, &text, &prefix, &mut random)),
        };
        assert_same(&stream, &whole, &text);
        problems += usize::from(!whole.problems.is_empty());
        // Letters are never part of the syntax here, so all of them are somewhere.
        let letters = |text: &str| text.matches('ö').count() + text.matches('🙂').count();
        let said = letters(&whole.content)
            + whole.reasoning.as_deref().map_or(0, letters)
            + whole.tool_calls.iter().map(|call| letters(&call.arguments) + letters(&call.name)).sum::<usize>()
            + whole.problems.iter().map(|problem| letters(problem)).sum::<usize>();
        assert!(said >= letters(&text), "{text:?}: {whole:?}");
    }
    assert!(problems > 1000, "{problems}");
}
