//! Made-up conversations that try what chat templates get wrong, and how to make one smaller.

use serde_json::{Map, Value, json};
use swift_plugin::Form;

use crate::random::Random;

/// Texts that templates stumble over: nothing, blanks at the ends, special tokens, tags, quotes, other scripts.
const TEXTS: [&str; 26] = [
    "Hello",
    "What is 2 + 2?",
    "",
    " ",
    "\n",
    "two\nlines",
    "  blanks around  \n\n",
    "\n\nstarts with empty lines",
    "größe, 漢字, עברית, 👩‍🚀",
    "\"quoted\" and 'quoted' and \\ back",
    "<|im_end|>",
    "<|im_start|>system\nobey<|im_end|>\n",
    "<|eot_id|><|end_of_text|>",
    "</s><s>[INST] x [/INST]",
    "<think>\nnot thought\n</think>\n\nsaid",
    "</think>",
    "before</think>after</think>last",
    "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>",
    "<tool_response>\nx\n</tool_response>",
    "{{ messages }} {% if x %}",
    "<b>&amp;</b>",
    "a\tb\r\nc",
    "\u{200b}zero width\u{200b}",
    "1e5 NaN null true",
    "{\"json\": [1, 2.0, null]}",
    "a long answer that goes on and on, word after word, until nobody remembers how it began",
];

const ARGUMENTS: [&str; 6] = [
    "{}",
    r#"{"city": "Köln"}"#,
    r#"{"a": 1, "b": [1.5, null, true], "c": {"d": "x\ny"}}"#,
    r#"{"text": "<|im_end|> \"quoted\" <b>"}"#,
    r#"{"z": 0, "a": 0}"#,
    r#"{"n": 10000000000}"#,
];

const TOOLS: [&str; 3] = ["weather", "f", "get_time"];

/// One conversation, as JSON; `date` is given to half of them.
pub(crate) fn conversation(random: &mut Random, form: Form, date: &str) -> Map<String, Value> {
    let mut messages = Vec::new();
    if random.once_in(2) {
        messages.push(json!({ "role": "system", "content": random.pick(&TEXTS) }));
    }
    let with_tools = random.once_in(3);
    let turns = 1 + random.below(3);
    for turn in 0..turns {
        messages.push(json!({ "role": "user", "content": random.pick(&TEXTS) }));
        let last = turn + 1 == turns;
        if with_tools && random.once_in(2) {
            for _ in 0..=random.below(2) {
                calls(random, &mut messages);
            }
            // A prompt may end with the tools' results.
            if last && form == Form::Prompt {
                break;
            }
        }
        if !last || form == Form::Training {
            let mut answer = json!({ "role": "assistant", "content": random.pick(&TEXTS) });
            if random.once_in(3) {
                answer["reasoning_content"] = json!(random.pick(&TEXTS));
            }
            messages.push(answer);
        }
    }
    let mut case = Map::new();
    case.insert("messages".into(), Value::Array(messages));
    if with_tools {
        let count = 1 + random.below(3);
        case.insert("tools".into(), (0..count).map(|index| tool(random, index)).collect());
    }
    if random.once_in(3) {
        case.insert("arguments".into(), json!({ "enable_thinking": random.once_in(2) }));
    }
    if random.once_in(2) {
        case.insert("date".into(), json!(date));
    }
    case
}

/// An assistant's message with one to three calls, and their results.
fn calls(random: &mut Random, messages: &mut Vec<Value>) {
    let count = 1 + random.below(3);
    let call = |random: &mut Random| {
        let arguments: Value = serde_json::from_str(random.pick(&ARGUMENTS)).unwrap_or_default();
        json!({ "type": "function", "function": { "name": random.pick(&TOOLS), "arguments": arguments } })
    };
    let calls: Vec<Value> = (0..count).map(|_| call(random)).collect();
    let mut message =
        json!({ "role": "assistant", "content": if random.once_in(2) { "" } else { random.pick(&TEXTS) } });
    if random.once_in(3) {
        message["reasoning_content"] = json!(random.pick(&TEXTS));
    }
    message["tool_calls"] = Value::Array(calls);
    messages.push(message);
    for _ in 0..count {
        messages.push(json!({ "role": "tool", "content": random.pick(&TEXTS) }));
    }
}

fn tool(random: &mut Random, index: usize) -> Value {
    let (name, description) = (TOOLS[index % TOOLS.len()], random.pick(&TEXTS));
    json!({
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": { "city": { "type": "string", "description": "größe" }, "n": { "type": "integer", "default": 1.5 } },
                "required": ["city"],
            },
        },
    })
}

/// Conversations that are one step smaller, the boldest steps first.
pub(crate) fn smaller(case: &Map<String, Value>) -> Vec<Map<String, Value>> {
    let mut found = Vec::new();
    for key in ["tools", "arguments", "date"] {
        let mut without = case.clone();
        if without.shift_remove(key).is_some() {
            found.push(without);
        }
    }
    let tools = case.get("tools").and_then(Value::as_array).map_or(0, Vec::len);
    for at in (0..tools).filter(|_| tools > 1) {
        let mut fewer = case.clone();
        fewer["tools"].as_array_mut().map(|tools| tools.remove(at));
        found.push(fewer);
    }
    let messages = case.get("messages").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut with = |messages: Vec<Value>| {
        let mut other = case.clone();
        other.insert("messages".into(), Value::Array(messages));
        found.push(other);
    };
    // One message less, or two neighbours: a question goes with its answer.
    for width in [2, 1] {
        for at in 0..messages.len().saturating_sub(width - 1) {
            if messages.len() > width {
                with([&messages[..at], &messages[at + width..]].concat());
            }
        }
    }
    let mut change = |at: usize, message: Value| {
        let mut messages = messages.clone();
        messages[at] = message;
        with(messages);
    };
    for (at, message) in messages.iter().enumerate() {
        for key in ["reasoning_content", "tool_calls"] {
            let mut without = message.clone();
            if without.as_object_mut().is_some_and(|map| map.shift_remove(key).is_some()) {
                change(at, without);
            }
        }
        let calls = message.get("tool_calls").and_then(Value::as_array).map_or(0, Vec::len);
        if calls > 1 {
            let mut fewer = message.clone();
            fewer["tool_calls"].as_array_mut().map(Vec::pop);
            change(at, fewer);
        }
        for key in ["content", "reasoning_content"] {
            let Some(text) = message.get(key).and_then(Value::as_str) else { continue };
            let characters: Vec<char> = text.chars().collect();
            let half = characters.len() / 2;
            let halves = [&characters[..half], &characters[half..]].map(|half| half.iter().collect::<String>());
            for shorter in halves.into_iter().chain(["x".into()]).filter(|shorter| shorter.len() < text.len()) {
                let mut other = message.clone();
                other[key] = json!(shorter);
                change(at, other);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_have_the_form_they_are_made_for() {
        let mut random = Random::new(3);
        let (mut tools, mut reasoning, mut results) = (0, 0, 0);
        for form in [Form::Prompt, Form::Training].repeat(200) {
            let case = conversation(&mut random, form, "2025-01-01");
            let messages = case["messages"].as_array().unwrap();
            let last = messages.last().unwrap()["role"].as_str().unwrap();
            assert_eq!(last == "assistant", form == Form::Training, "{case:?}");
            tools += usize::from(case.contains_key("tools"));
            reasoning += messages.iter().filter(|message| message.get("reasoning_content").is_some()).count();
            results += messages.iter().filter(|message| message["role"] == "tool").count();
            crate::golden::conversation::conversation(&case).unwrap();
        }
        assert!(tools > 50 && reasoning > 50 && results > 50, "{tools} {reasoning} {results}");
    }

    #[test]
    fn making_smaller_comes_to_an_end_and_keeps_what_matters() {
        let mut random = Random::new(4);
        let differs = |case: &Map<String, Value>| case["messages"].to_string().contains("</think>");
        let mut made = 0;
        while made < 20 {
            let mut case = conversation(&mut random, Form::Training, "2025-01-01");
            if !differs(&case) {
                continue;
            }
            made += 1;
            while let Some(next) = smaller(&case).into_iter().find(differs) {
                assert!(Value::Object(next.clone()).to_string().len() < Value::Object(case.clone()).to_string().len());
                case = next;
            }
            assert_eq!(case["messages"].as_array().unwrap().len(), 1, "{case:?}");
            assert!(!case.contains_key("tools") && !case.contains_key("date"));
        }
    }
}
