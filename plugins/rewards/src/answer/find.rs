//! Where in a text the answer stands: the places and the order of math-verify, without its regular expressions.
//!
//! From the strongest sign to the weakest: `final answer is .. I hope`, `\boxed{..}`, `final answer .. is ..`,
//! `answer: ..`, `answer ..`, anything at all. The first sign that points at anything decides, and of several places the
//! one that ends last. What can stand in a place is [`super::place`]'s.

use super::Answer;
use super::place::{Place, Text};

/// The answer of a text that is one: a solution, or what stands in `<answer>`.
pub(crate) fn anywhere(text: &str) -> Option<Answer> {
    let at = Text::new(text);
    let latex = |p| at.latex(p);
    let plain = |p| at.plain(p);
    let expected = |p| at.plain(p).filter(|place| !at.equals_sign_follows(place.end));
    let place = last([at.search(hoped, |p| at.hoping(at.latex(p)?)), at.search(hoped, |p| at.hoping(at.plain(p)?))])
        .or_else(|| last([at.search(concluded, latex), framed(&at), boxed(&at), at.search(concluding, plain)]))
        .or_else(|| last([at.search(labelled, latex), at.search(labelled_plainly, expected)]))
        .or_else(|| last([at.search(called, latex), at.search(called_plainly, expected)]))
        .or_else(|| {
            last([
                at.scan(Text::starts_latex, latex),
                at.scan(Text::starts_plain, |p| at.lone_expression(p)),
                at.scan(Text::starts_plain, |p| at.lone_number(p)),
            ])
        })?;
    Answer::new(&place.text)
}

/// The answer that a long text points out: in a box, or in LaTeX behind the word "answer". A loose number is none.
pub(crate) fn pointed_out(text: &str) -> Option<Answer> {
    let at = Text::new(text);
    let latex = |p| at.latex(p);
    let place = last([at.search(hoped, |p| at.hoping(at.latex(p)?)), framed(&at), boxed(&at)])
        .or_else(|| at.search(concluded, latex))
        .or_else(|| at.search(labelled, latex))
        .or_else(|| at.search(called, latex))?;
    Answer::new(&place.text)
}

/// The place that ends last; of two with the same end the one that starts first.
fn last<const N: usize>(places: [Option<Place>; N]) -> Option<Place> {
    let later = |best: Place, place: Place| {
        if (place.end, best.start) > (best.end, place.start) { place } else { best }
    };
    places.into_iter().flatten().reduce(later)
}

/// From the first `\boxed{` to the last brace: its last boxes.
fn boxed(at: &Text<'_>) -> Option<Place> {
    at.boxed().map(|place| unboxed(place, true))
}

/// The last piece of LaTeX with a box inside: all its boxes.
fn framed(at: &Text<'_>) -> Option<Place> {
    at.boxed()?;
    at.scan(Text::starts_latex, |p| at.framed(p)).map(|place| unboxed(place, false))
}

/// The contents of the boxes of a place.
fn unboxed(place: Place, only_last: bool) -> Place {
    let text = boxes(&place.text, only_last).unwrap_or(place.text);
    Place { text, ..place }
}

/// What the last `\boxed{..}` holds, and those shortly before it, joined by commas.
fn boxes(text: &str, only_last: bool) -> Option<String> {
    let mut found: Vec<String> = Vec::new();
    let (mut end, mut last_start) = (text.len(), None);
    while let Some((start, command)) = last_box(&text[..end]) {
        let inner = text[start + command..].trim_start();
        let open = text.len() - inner.len();
        if !inner.starts_with('{') {
            // `\boxed 5`
            if found.is_empty() {
                found.push(inner.to_owned());
            }
            break;
        }
        let Some(length) = braced(inner, last_start.map_or(inner.len(), |last: usize| last.saturating_sub(open)))
        else {
            if found.is_empty() {
                found.push(inner.to_owned());
            }
            break;
        };
        let content = inner[1..length].trim();
        if only_last && let Some(last) = last_start {
            let between = &text[open + length + 1..last];
            let close = between.chars().count() < 10;
            let joined =
                between.chars().count() < 70 && joins(between) && found.last().is_none_or(|last| last != content);
            if !close && !joined {
                break;
            }
        }
        if found.last().is_none_or(|last| last != content) {
            found.push(content.to_owned());
        }
        last_start = Some(start);
        end = start;
    }
    found.reverse();
    (!found.is_empty()).then(|| found.join(", "))
}

/// Where the last `\boxed` or `\fbox` starts, and how long the command is.
fn last_box(text: &str) -> Option<(usize, usize)> {
    let boxed = text.rfind("\\boxed").map(|at| (at, "\\boxed".len()));
    boxed.max(text.rfind("\\fbox").map(|at| (at, "\\fbox".len())))
}

/// Where the brace is closed that a text starts with, before `limit`.
fn braced(text: &str, limit: usize) -> Option<usize> {
    let mut depth = 0;
    for (at, byte) in text.bytes().enumerate().take(limit) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Whether something between two boxes makes them one answer.
fn joins(between: &str) -> bool {
    between.contains([',', ';'])
        || between.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "and" || word == "or")
}

// Signs: where an answer may stand behind the word "answer" at `p`, the likeliest place first; and where the sign starts.

/// `final answer is`
fn hoped(at: &Text<'_>, p: usize) -> Option<(usize, Vec<usize>)> {
    let start = at.finally(p)?;
    let behind = at.optional(at.word(p, b"answer is")?, b':');
    Some((start, vec![at.spaces(behind)]))
}

/// `final answer .. is`
fn concluding(at: &Text<'_>, p: usize) -> Option<(usize, Vec<usize>)> {
    let start = at.finally(p)?;
    let behind = at.within(p + b"answer".len(), 100).into_iter().filter(|&p| at.is_space(p));
    let behind = behind.filter_map(|p| at.word(at.spaces(p), b"is")).map(|p| at.optional(p, b':'));
    Some((start, behind.collect()))
}

/// As [`concluding`], with spaces behind it.
fn concluded(at: &Text<'_>, p: usize) -> Option<(usize, Vec<usize>)> {
    let (start, behind) = concluding(at, p)?;
    Some((start, behind.into_iter().map(|p| at.spaces(p)).collect()))
}

/// `answer:` and up to 50 characters.
fn labelled(at: &Text<'_>, p: usize) -> Option<(usize, Vec<usize>)> {
    Some((p, at.within(at.word(p, b"answer:")?, 50)))
}

fn labelled_plainly(at: &Text<'_>, p: usize) -> Option<(usize, Vec<usize>)> {
    Some((p, on_line(at, at.word(p, b"answer:")?)))
}

/// `answer` and up to 50 characters.
fn called(at: &Text<'_>, p: usize) -> Option<(usize, Vec<usize>)> {
    Some((p, at.within(p + b"answer".len(), 50)))
}

fn called_plainly(at: &Text<'_>, p: usize) -> Option<(usize, Vec<usize>)> {
    Some((p, on_line(at, p + b"answer".len())))
}

/// On this line: behind the last equals sign of the next 100 characters, behind the one before it, and so on; then behind
/// up to 50 characters.
fn on_line(at: &Text<'_>, p: usize) -> Vec<usize> {
    let end = at.line_end(p);
    let mut places = Vec::new();
    for q in at.within(p, 100).into_iter().rev().filter(|&q| q < end && at.is_equals_sign(q)) {
        places.extend((q + 1..=at.spaces(q + 1)).rev());
    }
    places.extend(at.within(p, 50).into_iter().filter(|&q| q <= end));
    places
}
