//! An answer as a value, and when two are equal.
//!
//! Numbers are exact. Whatever is not a number, an equation, a list, a set or an interval is text, compared without
//! spaces and without case: a value is never guessed.

use std::cmp::Ordering;

use super::number::{Number, number, without_thousands};

/// Answers nested deeper are text.
const MAX_DEPTH: u32 = 16;

/// What an answer says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Number(Number),
    Infinity {
        negative: bool,
    },
    /// Lower case, without spaces and outer brackets.
    Text(String),
    /// The first and the last side of `a = ... = b`.
    Equation(Box<[Value; 2]>),
    /// `\{1, 2\}`, and several answers side by side. In the order in which they were written.
    Set(Vec<Value>),
    Tuple(Vec<Value>),
    /// `[0, 1)`, and the pair `(0, 1)`; which ends are open.
    Interval {
        open: [bool; 2],
        ends: Box<[Value; 2]>,
    },
}

impl Value {
    /// Reads a [`super::latex::clean`] text; `None` if it is empty.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::nested(text, 0)
    }

    fn nested(text: &str, depth: u32) -> Option<Self> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        let plain = || Some(Self::Text(key(text)));
        if depth > MAX_DEPTH {
            return plain();
        }
        let bracketed = text.starts_with(['(', '[', '{']) || text.starts_with("\\{");
        let joined = if bracketed { None } else { without_thousands(text) };
        let text = joined.as_deref().unwrap_or(text);
        if let Some(number) = number(text) {
            return Some(Self::Number(number));
        }
        let items = split(text, |rest| rest.starts_with([',', ';']).then_some(1));
        if items.len() > 1 {
            return Some(Self::Set(Self::all(&items, depth)?));
        }
        let sides = split(text, equals_sign);
        if let [first, .., last] = sides[..] {
            let sides = [Self::nested(first, depth + 1)?, Self::nested(last, depth + 1)?];
            return Some(Self::Equation(Box::new(sides)));
        }
        match text.strip_prefix('+').unwrap_or(text).trim() {
            "\\infty" | "infinity" | "inf" => return Some(Self::Infinity { negative: false }),
            "-\\infty" | "- \\infty" | "-infinity" | "-inf" => return Some(Self::Infinity { negative: true }),
            _ => {}
        }
        Self::enclosed(text, depth).or_else(plain)
    }

    fn all(items: &[&str], depth: u32) -> Option<Vec<Self>> {
        items.iter().map(|item| Self::nested(item, depth + 1)).collect()
    }

    /// What stands between brackets that belong to each other.
    fn enclosed(text: &str, depth: u32) -> Option<Self> {
        if let Some(inner) = text.strip_prefix("\\{").and_then(|rest| rest.strip_suffix("\\}")) {
            if inner.trim().is_empty() {
                return Some(Self::Set(Vec::new()));
            }
            return Some(Self::Set(Self::all(&split_list(inner)?, depth)?));
        }
        let (first, last) = (*text.as_bytes().first()?, *text.as_bytes().last()?);
        let open = [first == b'(', last == b')'];
        let round_or_square = matches!(first, b'(' | b'[') && matches!(last, b')' | b']');
        if !(round_or_square || first == b'{' && last == b'}') || text.ends_with("\\}") {
            return None;
        }
        let items = split_list(text.get(1..text.len() - 1)?)?;
        if let [only] = items[..] {
            // `(3)`, `[3]`, `{3}`; but not `(3]`
            return if open[0] == open[1] { Self::nested(only, depth + 1) } else { None };
        }
        if !round_or_square {
            return Some(Self::Set(Self::all(&items, depth)?));
        }
        let mut values = Self::all(&items, depth)?;
        if let [start, end] = &values[..]
            && !(start.rank() < 3 && end.rank() < 3 && start.order(end) == Ordering::Greater)
        {
            let end = values.pop()?;
            let start = values.pop()?;
            return Some(Self::Interval { open, ends: Box::new([start, end]) });
        }
        Some(Self::Tuple(values))
    }

    /// Whether a prediction says what the solution (`self`) says.
    pub(crate) fn is_answered_by(&self, prediction: &Self) -> bool {
        match (self, prediction) {
            (Self::Equation(gold), Self::Equation(said)) => {
                let ([a, b], [c, d]) = (&**gold, &**said);
                (a.is_answered_by(c) && b.is_answered_by(d)) || (a.is_answered_by(d) && b.is_answered_by(c))
            }
            // `7` is answered by `3+4=7`, and `x=5` by `5`; but `3+4=7` is not answered by `7`.
            (_, Self::Equation(said)) => self.is_answered_by(&said[1]),
            (Self::Equation(gold), _) => gold[0].is_name() && gold[1].is_answered_by(prediction),
            (Self::Number(gold), Self::Number(said)) => gold.equals(*said),
            (Self::Interval { open, ends }, Self::Interval { open: said_open, ends: said }) => {
                open == said_open && pairwise(&ends[..], &said[..])
            }
            // The open interval (0, 1) is also how the pair is written.
            (Self::Interval { open: [true, true], ends }, Self::Set(said) | Self::Tuple(said)) => {
                pairwise(&ends[..], said)
            }
            (Self::Set(gold), Self::Interval { open: [true, true], ends }) => {
                pairwise(&sorted(gold, true), &sorted(&ends[..], false))
            }
            (Self::Tuple(gold), Self::Interval { open: [true, true], ends }) => pairwise(gold, &ends[..]),
            (Self::Set(gold), Self::Set(said)) => pairwise(&sorted(gold, true), &sorted(said, true)),
            (Self::Set(gold), Self::Tuple(said)) => pairwise(&sorted(gold, true), &sorted(said, false)),
            (Self::Tuple(gold), Self::Set(said) | Self::Tuple(said)) => pairwise(gold, said),
            (Self::Set(gold), one) => matches!(&sorted(gold, true)[..], [only] if only.is_answered_by(one)),
            (one, Self::Set(said)) => matches!(&sorted(said, true)[..], [only] if one.is_answered_by(only)),
            _ => self == prediction,
        }
    }

    /// Whether this can stand left in `name = value`: letters, no arithmetic.
    fn is_name(&self) -> bool {
        matches!(self, Self::Text(text) if !text.contains(|c: char| c.is_ascii_digit() || "+-*/^".contains(c)))
    }

    /// An order for sets: numbers first, by size; an equation stands where its value stands.
    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Equation(sides), _) => sides[1].order(other),
            (_, Self::Equation(sides)) => self.order(&sides[1]),
            (Self::Number(one), Self::Number(two)) => one.compare(*two),
            (Self::Text(one), Self::Text(two)) => one.cmp(two),
            _ => self.rank().cmp(&other.rank()),
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Infinity { negative: true } => 0,
            Self::Number(_) => 1,
            Self::Infinity { negative: false } => 2,
            Self::Text(_) => 3,
            _ => 4,
        }
    }
}

/// A text without what does not tell answers apart: spaces, case, one pair of outer brackets.
pub(crate) fn key(text: &str) -> String {
    let key: String = text.split_whitespace().collect::<String>().to_lowercase();
    let brackets = [("{", "}"), ("(", ")")];
    for (open, close) in brackets.into_iter().chain(brackets) {
        if let Some(inner) = key.strip_prefix(open).and_then(|rest| rest.strip_suffix(close))
            && !inner.is_empty()
            && inner.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            return inner.to_owned();
        }
    }
    key
}

fn pairwise(gold: &[Value], said: &[Value]) -> bool {
    gold.len() == said.len() && gold.iter().zip(said).all(|(one, two)| one.is_answered_by(two))
}

/// In ascending order; a set holds an element once.
fn sorted(items: &[Value], is_set: bool) -> Vec<Value> {
    let mut ordered: Vec<Value> = Vec::with_capacity(items.len());
    for item in items {
        let place = ordered.partition_point(|one| one.order(item) != Ordering::Greater);
        ordered.insert(place, item.clone());
    }
    if is_set {
        ordered.dedup_by(|two, one| match (one, two) {
            (Value::Number(one), Value::Number(two)) => one.is(*two),
            (one, two) => one == two,
        });
    }
    ordered
}

/// The length of an equals sign at the start: `=`, or `\in`, which says where a name lies.
fn equals_sign(rest: &str) -> Option<usize> {
    if rest.starts_with('=') {
        return Some(1);
    }
    let after = rest.strip_prefix("\\in")?;
    (!after.starts_with(|c: char| c.is_ascii_alphabetic())).then_some(3)
}

/// As [`split`] at commas and semicolons; `None` where a bracket is closed that was not opened: the outer pair of
/// brackets then does not belong together, as in `(1,2)*(3,4)`.
fn split_list(text: &str) -> Option<Vec<&str>> {
    let mut depth = 0i32;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return None;
        }
    }
    Some(split(text, |rest| rest.starts_with([',', ';']).then_some(1)))
}

/// Cuts at the separators that stand outside of all brackets. `<=`, `>=` and `!=` are no equations.
fn split(text: &str, separator: impl Fn(&str) -> Option<usize>) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0i32);
    let mut skip = 0;
    let mut before = ' ';
    for (at, character) in text.char_indices() {
        if at < skip {
            continue;
        }
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ if depth == 0 && !matches!(before, '<' | '>' | '!') => {
                if let Some(length) = separator(&text[at..]) {
                    parts.push(&text[start..at]);
                    start = at + length;
                    skip = start;
                }
            }
            _ => {}
        }
        before = character;
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::latex::clean;

    fn answered(gold: &str, said: &str) -> bool {
        let read = |text| Value::parse(&clean(text));
        read(gold).is_some_and(|gold| read(said).is_some_and(|said| gold.is_answered_by(&said)))
    }

    #[test]
    fn equal_answers() {
        for (gold, said) in [
            (r"\frac{1}{2}", "0.5"),
            ("1/3", "0.333333"),
            ("50%", "0.5"),
            ("50%", "50"),
            ("1,234", "1234"),
            ("x=5", "5"),
            ("5", "x = 5"),
            ("7", "3+4=7"),
            ("x=5", "5=x"),
            ("x=y=5", "5"),
            ("(1,2)", "1,2"),
            ("2,1", "(1,2)"),
            (r"\{1,1,2\}", "2, 1"),
            ("5", r"\{5\}"),
            ("[3]", "3"),
            ("[3,1]", "(3,1)"),
            (r"(-\infty, 3]", r"\left(-\infty,3\right]"),
            (r"(3, \frac{\pi}{2})", r"\left( 3, \frac{\pi}{2} \right)"),
            (r"\text{Paris}", "paris"),
            ("(A)", r"\textbf{A}"),
            ("a=1,b=2", "1,2"),
            (r"x\in[1,2]", "[1,2]"),
            ("2x + 1", "2x+1"),
        ] {
            assert!(answered(gold, said), "{gold} and {said}");
        }
    }

    #[test]
    fn other_answers() {
        for (gold, said) in [
            ("1/3", "0.33333"),
            ("5", "5.0000001"),
            ("3+4=7", "7"),
            ("x=5", "y=5"),
            ("(2,1)", "(1,2)"),
            ("(2,1)", "1,2"),
            ("[1,2]", "(1,2)"),
            ("(1,2,2)", "1,2"),
            (r"-\infty", r"\infty"),
            ("12,34", "1234"),
            ("Paris", "Rome"),
            ("x<=3", "3"),
            ("", ""),
        ] {
            assert!(!answered(gold, said), "{gold} and {said}");
        }
    }

    #[test]
    fn deep_and_broken_nesting_is_text() {
        for text in ["(".repeat(2000), format!("{}1{}", "(".repeat(2000), ")".repeat(2000)), ")(".repeat(500)] {
            assert!(matches!(Value::parse(&text), Some(Value::Text(_))));
        }
    }
}
