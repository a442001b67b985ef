//! What the preprocessors share: a row's columns taken out one by one, and its messages put in front.

use swift_sdk::dataset::Outcome;
use swift_sdk::{Json, Result};

/// A row that is being taken apart.
pub(crate) struct Row(Vec<(String, Json)>);

impl Row {
    /// # Errors
    /// When it is no object: nothing that is called a row.
    pub(crate) fn new(row: Json) -> Result<Self> {
        match row {
            Json::Object(columns) => Ok(Self(columns)),
            _ => Err("a row is not an object".into()),
        }
    }

    /// Takes a column out of the row; null counts as absent.
    pub(crate) fn take(&mut self, name: &str) -> Option<Json> {
        let at = self.0.iter().rposition(|(column, _)| column == name)?;
        Some(self.0.remove(at).1).filter(|value| !value.is_null())
    }

    /// The text in a column.
    pub(crate) fn peek(&self, name: &str) -> Option<&str> {
        self.0.iter().rfind(|(column, _)| column == name)?.1.as_text()
    }

    /// Takes a text out of the row; an empty one counts as absent.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().rposition(|(column, _)| column == name)?;
        if !matches!(self.0[at].1, Json::Text(_) | Json::Null) {
            return None; // It is something else, and stays.
        }
        match self.0.remove(at).1 {
            Json::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// The first of these columns that is there, taken out as text.
    pub(crate) fn first_text(&mut self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.text(name))
    }

    /// Whether there is such a column, null or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(column, _)| column == name)
    }

    /// The row with its messages and further columns in front of what was not taken out.
    pub(crate) fn with(self, messages: Vec<Json>, further: impl IntoIterator<Item = (&'static str, Json)>) -> Outcome {
        let mut columns = vec![("messages".to_owned(), Json::List(messages))];
        columns.extend(further.into_iter().map(|(name, value)| (name.to_owned(), value)));
        for (name, value) in self.0 {
            if columns.iter().all(|(other, _)| *other != name) {
                columns.push((name, value));
            }
        }
        Outcome::Row(Json::Object(columns))
    }
}

/// Why a list of messages cannot be used.
pub(crate) type Reason = &'static str;

/// Messages of any usual form with the roles of a canonical row: `role` and `content`, `from` and `value`, or whole
/// rounds in one object (`human` and `assistant`, `user` and `gpt`, ...).
pub(crate) fn messages(value: Json, system: Option<String>) -> std::result::Result<Vec<Json>, Reason> {
    let value = match value {
        Json::Text(text) => Json::parse(&text).map_err(|_| "the messages are a text that is not JSON")?,
        other => other,
    };
    let Json::List(entries) = value else { return Err("the messages are no list") };
    let mut messages = Vec::with_capacity(entries.len());
    for entry in entries {
        let Json::Object(mut fields) = entry else { return Err("a message is no object") };
        let mut take = |names: &[&str]| {
            let at = fields.iter().position(|(key, _)| names.contains(&key.as_str()))?;
            Some(fields.remove(at).1)
        };
        let Some(role) = take(&["role", "from"]) else {
            let user = take(&["user", "human"]).ok_or("a message has no role")?;
            let assistant = take(&["assistant", "gpt", "bot"]).ok_or("a round has no answer")?;
            for (role, text) in [("user", user), ("assistant", assistant)] {
                let text = text.as_text().ok_or("a message has no content")?;
                messages.push(swift_sdk::dataset::message(role, text));
            }
            continue;
        };
        let role = canonical(role.as_text().ok_or("a message has no role")?)?;
        let content = take(&["content", "value"]).filter(|content| !content.is_null());
        let calls = fields.iter().any(|(key, value)| key == "tool_calls" && !value.is_null());
        let content = content.or(calls.then(|| Json::Text(String::new()))).ok_or("a message has no content")?;
        let mut message = vec![("role".to_owned(), role.into()), ("content".to_owned(), content)];
        message.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
        messages.push(Json::Object(message));
    }
    if let Some(system) = system
        && messages.first().is_some_and(|first| role_of(first) != "system")
    {
        messages.insert(0, swift_sdk::dataset::message("system", &system));
    }
    match messages.is_empty() {
        true => Err("no messages"),
        false => Ok(messages),
    }
}

pub(crate) fn role_of(message: &Json) -> &str {
    message.get("role").and_then(Json::as_text).unwrap_or_default()
}

fn canonical(role: &str) -> std::result::Result<&'static str, Reason> {
    Ok(match role.replace('-', "_").as_str() {
        "user" | "human" => "user",
        "assistant" | "gpt" | "bot" | "chatgpt" => "assistant",
        "system" => "system",
        "tool_call" | "function_call" => "tool_call",
        "tool" | "tool_response" | "function_response" | "observation" | "observations" => "tool_response",
        _ => return Err("a message has an unknown role"),
    })
}

/// What a preprocessor answers when a row cannot be used.
pub(crate) fn dropped(reason: &str) -> Result<Outcome> {
    Ok(Outcome::dropped(reason))
}
