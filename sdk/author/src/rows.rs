//! Rows of JSON as the kinds' inputs, and their outputs as JSON: one form for golden tests and for `swift plugin run`.

use serde_json::{Map, Value, json};
use swift_plugin::{Context, Conversation, Example, Form, Parsed, Segment, TrainerState};

use crate::golden;

/// A conversation: `messages`, and where given `tools`, `arguments` and `date`.
///
/// # Errors
/// When a key is missing or has another type; the message names it. So everywhere here.
pub fn conversation(row: &Map<String, Value>) -> Result<Conversation, String> {
    golden::conversation::conversation(row)
}

/// What a completion continues: `tools`, `arguments`, `prefix`.
///
/// # Errors
/// See [`conversation`].
pub fn context(row: &Map<String, Value>) -> Result<Context, String> {
    golden::conversation::context(row)
}

/// "prompt" or "training".
///
/// # Errors
/// For any other name.
pub fn form(name: &str) -> Result<Form, String> {
    golden::conversation::form(name)
}

/// An example: `prediction`, `references`, and every other key as a column.
///
/// # Errors
/// See [`conversation`].
pub fn example(row: &Map<String, Value>) -> Result<Example, String> {
    golden::metric::example(row)
}

/// Where the run is; what is not named is zero.
///
/// # Errors
/// See [`conversation`].
pub fn state(map: &Map<String, Value>) -> Result<TrainerState, String> {
    golden::reward::state(map)
}

/// A completion read back.
pub fn parsed(parsed: &Parsed) -> Value {
    golden::conversation::parsed(parsed)
}

/// A rendering: the text, and what of it is trained.
pub fn rendered(segments: &[Segment]) -> Value {
    let text: String = segments.iter().map(golden::conversation::text_of).collect();
    let trained = segments.iter().filter(|segment| segment.weight > 0.0);
    let trained: String = trained.map(golden::conversation::text_of).collect();
    json!({ "text": text, "trained": trained })
}
