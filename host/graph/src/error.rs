//! Errors of building and checking graphs: scope path, op, operand shapes, what is wrong, what to do.

use std::fmt;

/// A call that does not make a valid node, or a graph that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildError {
    /// Where in the model: `model.layers.0.self_attn`.
    pub scope: String,
    /// The op that was asked for.
    pub op: String,
    /// Operand shapes as printed, with their names.
    pub operands: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl BuildError {
    /// An error without a place; the builder fills in scope and op.
    pub fn new(message: impl Into<String>) -> Self {
        Self { scope: String::new(), op: String::new(), operands: Vec::new(), message: message.into(), hint: None }
    }

    /// Adds an operand's shape.
    #[must_use]
    pub fn operand(mut self, name: &str, shape: impl fmt::Display) -> Self {
        self.operands.push(format!("{name} {shape}"));
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.op.is_empty() {
            write!(f, "`{}`", self.op)?;
            if !self.scope.is_empty() {
                write!(f, " in `{}`", self.scope)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)?;
        if !self.operands.is_empty() {
            write!(f, " ({})", self.operands.join(", "))?;
        }
        Ok(())
    }
}

impl std::error::Error for BuildError {}

/// `[rows, 4, 32]`, `[4, 32]`.
pub fn shape_text(rows: bool, tail: &[u32]) -> String {
    let mut parts: Vec<String> = Vec::new();
    if rows {
        parts.push("rows".into());
    }
    parts.extend(tail.iter().map(u32::to_string));
    format!("[{}]", parts.join(", "))
}

/// The known name nearest to `name`, if one is near enough to suggest.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.len() / 3).max(2);
    known.into_iter().map(|k| (edit_distance(name, k), k)).filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
