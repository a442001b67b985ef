//! A result file: one JSON object a line, in the order of the rows, each with the row's own columns.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};
use swift_data::{Message, Row};

use crate::error::InferError;
use crate::generate::Completion;

/// A row as a prompt: its messages without the answer it may end in, and that answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    pub messages: Vec<Message>,
    /// What the row says the answer is.
    pub label: Option<String>,
}

impl Prompt {
    /// Takes the last message off if it is the assistant's.
    pub fn of(row: &Row) -> Self {
        let mut messages = row.messages.clone();
        let label = messages.pop_if(|message| message.role == "assistant").map(|message| message.content);
        Self { messages, label }
    }

    /// The line of a result file: `response`, `labels`, the row's own `columns`, and `messages` with the answer.
    pub fn result(&self, columns: &Map<String, Value>, completion: &Completion) -> Value {
        let mut line = Map::new();
        line.insert("response".into(), json!(completion.text));
        line.insert("labels".into(), json!(self.label));
        line.insert("finish_reason".into(), json!(completion.finish_reason));
        for (name, value) in columns {
            if !line.contains_key(name) {
                line.insert(name.clone(), value.clone());
            }
        }
        let answer = Message::new("assistant", completion.text.clone());
        let messages: Vec<Value> = self.messages.iter().chain([&answer]).map(message_json).collect();
        line.insert("messages".into(), Value::Array(messages));
        Value::Object(line)
    }
}

fn message_json(message: &Message) -> Value {
    let mut object = Map::new();
    object.insert("role".into(), json!(message.role));
    object.insert("content".into(), json!(message.content));
    object.extend(message.extra.clone());
    Value::Object(object)
}

/// Writes lines in order although answers come in any order; each line is in the file as soon as all before it are.
pub struct ResultFile {
    path: PathBuf,
    file: File,
    next: usize,
    early: BTreeMap<usize, Value>,
}

impl ResultFile {
    /// Creates the file and its folder; an existing file is replaced.
    ///
    /// # Errors
    /// When that fails.
    pub fn create(path: &Path) -> Result<Self, InferError> {
        let fail = |source| InferError::Io { action: "create", path: path.into(), source };
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(fail)?;
        }
        Ok(Self { path: path.into(), file: File::create(path).map_err(fail)?, next: 0, early: BTreeMap::new() })
    }

    /// Adds the line of row `index`, counted from zero.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, index: usize, line: Value) -> Result<(), InferError> {
        self.early.insert(index, line);
        while let Some(line) = self.early.remove(&self.next) {
            let fail = |source| InferError::Io { action: "write", path: self.path.clone(), source };
            self.file.write_all((line.to_string() + "\n").as_bytes()).map_err(fail)?;
            self.next += 1;
        }
        Ok(())
    }

    /// How many lines are in the file.
    pub fn lines(&self) -> usize {
        self.next
    }
}
