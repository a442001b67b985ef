//! The answer that a text gives: where it stands, and what it says.
//!
//! Follows math-verify (which ms-swift's `accuracy` stands on) in where an answer stands, see [`find`]. What it says is
//! read without a computer algebra system, see [`value`]; an answer that is no value is compared as text.

mod find;
pub(crate) mod latex;
pub(crate) mod number;
mod place;
mod rational;
mod value;

use value::Value;

/// An answer: what it says, and how it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    value: Value,
    text: String,
}

impl Answer {
    /// `None` where nothing is written.
    pub(crate) fn new(text: &str) -> Option<Self> {
        let plain = latex::clean(text);
        Some(Self { value: Value::parse(&plain)?, text: value::key(plain.trim_end_matches('%')) })
    }

    /// Whether a prediction gives this answer.
    pub(crate) fn is_answered_by(&self, prediction: &Self) -> bool {
        self.value.is_answered_by(&prediction.value) || self.text == prediction.text
    }
}

/// What stands between the first `<answer>` and the `</answer>` behind it.
fn tagged(text: &str) -> Option<&str> {
    let (_, behind) = text.split_once("<answer>")?;
    let (inner, _) = behind.split_once("</answer>")?;
    Some(inner.trim())
}

/// Whether a completion gives the answer of the solution.
pub(crate) fn is_right(completion: &str, solution: &str) -> bool {
    let solution = tagged(solution).unwrap_or(solution);
    // A solution in which no answer can be found is one as a whole.
    let Some(gold) = find::anywhere(solution).or_else(|| Answer::new(solution)) else {
        return false;
    };
    let said = match tagged(completion) {
        Some(inner) => find::anywhere(inner).or_else(|| Answer::new(inner)),
        None => find::pointed_out(completion),
    };
    said.is_some_and(|said| gold.is_answered_by(&said))
}
