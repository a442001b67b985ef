//! Where in a text the answer stands: the places and the order of math-verify, without its regular expressions.
//!
//! From the strongest sign to the weakest: `final answer is .. I hope`, `\boxed{..}`, `final answer .. is ..`,
//! `answer: ..`, `answer ..`, anything at all. Within one sign the place that ends last counts. An answer is a piece of
//! LaTeX between `$`, `$$`, `\(` or `\[` (or several, joined by commas, `and` or `or`), a bare `\frac{1}{2}`, or, outside
//! of LaTeX, a number or an arithmetic expression.

use super::Answer;

/// A piece of LaTeX or an expression longer than this is not an answer: it keeps the search linear.
const MAX_LENGTH: usize = 4000;

/// One place where an answer stands.
struct Place {
    start: usize,
    end: usize,
    text: String,
}

/// The answer of a text that is one: a solution, or what stands in `<answer>`.
pub(crate) fn anywhere(text: &str) -> Option<Answer> {
    let at = Text(text);
    let plain = |p: usize| at.plain(p);
    let levels: [&dyn Fn() -> Vec<Option<Place>>; 5] = [
        &|| vec![at.search(hoped, |p| at.hoping(at.latex(p)?)), at.search(hoped, |p| at.hoping(plain(p)?))],
        &|| {
            let boxed = at.boxed().map(|place| unboxed(place, true));
            let framed = at.scan(|p| at.framed(p)).map(|place| unboxed(place, false));
            vec![at.search(concluded, |p| at.latex(p)), framed, boxed, at.search(concluding, plain)]
        },
        &|| {
            let expected = |p| plain(p).filter(|place| !at.equals_sign_follows(place.end));
            vec![
                at.search(|at, p| labelled(at, p, 0), |p| at.latex(p)),
                at.search(|at, p| labelled(at, p, 1), expected),
            ]
        },
        &|| {
            let expected = |p| plain(p).filter(|place| !at.equals_sign_follows(place.end));
            vec![at.search(|at, p| called(at, p, 0), |p| at.latex(p)), at.search(|at, p| called(at, p, 1), expected)]
        },
        &|| {
            let expression = |p| at.prefixed(p, |p| at.expression(p));
            let number = |p| at.prefixed(p, |p| at.number(p));
            vec![at.scan(|p| at.latex(p)), at.scan(expression), at.scan(number)]
        },
    ];
    first(&levels)
}

/// The answer that a long text points out: in a box, or in LaTeX behind the word "answer". A loose number is none.
pub(crate) fn pointed_out(text: &str) -> Option<Answer> {
    let at = Text(text);
    let levels: [&dyn Fn() -> Vec<Option<Place>>; 4] = [
        &|| {
            let boxed = at.boxed().map(|place| unboxed(place, true));
            let framed = at.scan(|p| at.framed(p)).map(|place| unboxed(place, false));
            vec![at.search(hoped, |p| at.hoping(at.latex(p)?)), framed, boxed]
        },
        &|| vec![at.search(concluded, |p| at.latex(p))],
        &|| vec![at.search(|at, p| labelled(at, p, 0), |p| at.latex(p))],
        &|| vec![at.search(|at, p| called(at, p, 0), |p| at.latex(p))],
    ];
    first(&levels)
}

/// The first level with a place decides, even where that place holds no answer.
fn first(levels: &[&dyn Fn() -> Vec<Option<Place>>]) -> Option<Answer> {
    for level in levels {
        let places = level();
        // The last end wins; of two with the same end the one that starts first.
        let mut best: Option<&Place> = None;
        for place in places.iter().flatten() {
            if best.is_none_or(|best| (place.end, best.start) > (best.end, place.start)) {
                best = Some(place);
            }
        }
        if let Some(best) = best {
            return Answer::new(&best.text);
        }
    }
    None
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

// Signs: where an answer may start behind the sign that starts at `p`, the likeliest first.

/// `final answer is`
fn hoped(at: &Text<'_>, p: usize) -> Vec<usize> {
    at.word(p, b"final answer is").map_or_else(Vec::new, |p| vec![at.spaces(at.optional(p, b':'))])
}

/// `final answer .. is`, with spaces or without behind it.
fn concluding(at: &Text<'_>, p: usize) -> Vec<usize> {
    let Some(p) = at.word(p, b"final answer") else {
        return Vec::new();
    };
    at.within(p, 100)
        .into_iter()
        .filter(|&p| at.is_space(p))
        .filter_map(|p| at.word(at.spaces(p), b"is"))
        .map(|p| at.optional(p, b':'))
        .collect()
}

fn concluded(at: &Text<'_>, p: usize) -> Vec<usize> {
    concluding(at, p).into_iter().map(|p| at.spaces(p)).collect()
}

/// `answer:`; see [`behind`].
fn labelled(at: &Text<'_>, p: usize, plain: u8) -> Vec<usize> {
    match at.word(p, b"answer:") {
        Some(p) => behind(at, p, plain),
        None => Vec::new(),
    }
}

/// `answer`; see [`behind`].
fn called(at: &Text<'_>, p: usize, plain: u8) -> Vec<usize> {
    match at.word(p, b"answer") {
        Some(p) => behind(at, p, plain),
        None => Vec::new(),
    }
}

/// The next 50 characters; for a plain number also behind the last equals sign of the next 100, and only on this line.
fn behind(at: &Text<'_>, p: usize, plain: u8) -> Vec<usize> {
    if plain == 0 {
        return at.within(p, 50);
    }
    let line = |limit| {
        let end = at.0.get(p..).and_then(|rest| rest.find('\n')).map_or(at.0.len(), |length| p + length);
        at.within(p, limit).into_iter().filter(move |&q| q <= end)
    };
    let mut places = Vec::new();
    let equals: Vec<usize> = line(100).filter(|&q| at.byte(q) == b'=').collect();
    for q in equals.into_iter().rev() {
        places.extend((q + 1..=at.spaces(q + 1)).rev());
    }
    places.extend(line(50));
    places
}

/// The text; positions are bytes, and every sign is ASCII.
struct Text<'a>(&'a str);

impl Text<'_> {
    fn byte(&self, p: usize) -> u8 {
        self.0.as_bytes().get(p).copied().unwrap_or(0)
    }

    fn is_space(&self, p: usize) -> bool {
        matches!(self.byte(p), b' ' | b'\t'..=b'\r')
    }

    fn spaces(&self, mut p: usize) -> usize {
        while self.is_space(p) {
            p += 1;
        }
        p
    }

    fn optional(&self, p: usize, byte: u8) -> usize {
        p + usize::from(self.byte(p) == byte)
    }

    fn starts(&self, p: usize, with: &[u8]) -> bool {
        self.0.as_bytes().get(p..).is_some_and(|rest| rest.starts_with(with))
    }

    /// Behind a word, in any case.
    fn word(&self, p: usize, word: &[u8]) -> Option<usize> {
        self.0.as_bytes().get(p..p + word.len())?.eq_ignore_ascii_case(word).then_some(p + word.len())
    }

    fn slice(&self, start: usize, end: usize) -> String {
        self.0.get(start..end).unwrap_or_default().to_owned()
    }

    /// The starts of this character and of the next ones.
    fn within(&self, p: usize, characters: usize) -> Vec<usize> {
        (p..=self.0.len()).filter(|&p| self.byte(p) & 0xc0 != 0x80).take(characters + 1).collect()
    }

    /// The last place of those that a search from left to right finds, each behind the one before.
    fn search(
        &self,
        sign: impl Fn(&Self, usize) -> Vec<usize>,
        place: impl Fn(usize) -> Option<Place>,
    ) -> Option<Place> {
        self.scan(|p| sign(self, p).into_iter().find_map(&place))
    }

    /// As [`Text::search`], with no sign before the place.
    fn scan(&self, place: impl Fn(usize) -> Option<Place>) -> Option<Place> {
        let (mut last, mut p) = (None, 0);
        while p < self.0.len() {
            match place(p) {
                Some(found) => {
                    let start = p;
                    p = found.end.max(p + 1);
                    last = Some(Place { start, ..found });
                }
                None => p += 1,
            }
        }
        last
    }

    /// `place`, if `I hope` follows.
    fn hoping(&self, place: Place) -> Option<Place> {
        let p = self.optional(place.end, b'.');
        let p = if self.is_space(p) { p + 1 } else { p };
        self.starts(p, b"I hope").then(|| Place { end: p + b"I hope".len(), ..place })
    }

    fn equals_sign_follows(&self, p: usize) -> bool {
        self.byte(self.spaces(p)) == b'='
    }

    /// From the first `\boxed{` to the last brace.
    fn boxed(&self) -> Option<Place> {
        let (start, end) = (self.0.find("\\boxed{")?, self.0.rfind('}')?);
        (end >= start + 8).then(|| Place { start, end: end + 1, text: self.slice(start, end + 1) })
    }

    /// A piece of LaTeX with a box inside.
    fn framed(&self, p: usize) -> Option<Place> {
        self.pieces(p, |piece| piece.find("\\boxed{").is_some_and(|at| piece[at + 8..].contains('}')))
    }

    fn latex(&self, p: usize) -> Option<Place> {
        self.pieces(p, |_| true)
    }

    /// One piece of LaTeX and up to five more, joined by `,`, `and` or `or`.
    fn pieces(&self, start: usize, wanted: impl Fn(&str) -> bool) -> Option<Place> {
        let (mut text, mut end) = self.piece(start).filter(|(text, _)| wanted(text))?;
        for _ in 0..5 {
            let p = self.spaces(end);
            let comma = self.byte(p) == b',';
            let word = self.word(p + usize::from(comma), b"and").or_else(|| self.word(p + usize::from(comma), b"or"));
            let Some(p) = word.or(comma.then_some(p + 1)) else {
                break;
            };
            let Some((next, next_end)) = self.piece(self.spaces(p)).filter(|(text, _)| wanted(text)) else {
                break;
            };
            text.push_str(", ");
            text.push_str(&next);
            end = next_end;
        }
        Some(Place { start, end, text })
    }

    /// What stands between two signs for LaTeX, a percent sign behind it included; and where that ends.
    fn piece(&self, p: usize) -> Option<(String, usize)> {
        let (from, to, end) = self.environment(p)?;
        let mut text = self.slice(from, to);
        let behind = self.spaces(end);
        let percent = [&b"\\%"[..], b"%", b"percentage", b"percent", b"pct"];
        if let Some(sign) = percent.into_iter().find(|sign| self.word(behind, sign).is_some()) {
            text.push('%');
            return Some((text, behind + sign.len()));
        }
        Some((text, behind))
    }

    /// Where the content starts and ends, and where the piece ends.
    fn environment(&self, p: usize) -> Option<(usize, usize, usize)> {
        let before = if p > 0 { self.byte(p - 1) } else { 0 };
        match self.byte(p) {
            b'$' if before != b'\\' => {
                if self.starts(p, b"$$")
                    && let Some(end) = self.closed(p + 2, b"$$", true)
                {
                    return Some((p + 2, end, end + 2));
                }
                if before.is_ascii_digit() {
                    return None;
                }
                let end = self.closed(p + 1, b"$", false)?;
                Some((p + 1, end, end + 1))
            }
            b'\\' if before != b'\\' && self.byte(p + 1) == b'[' => {
                let end = self.closed(p + 2, b"\\]", true)?;
                Some((p + 2, end, end + 2))
            }
            b'\\' if before != b'\\' && self.byte(p + 1) == b'(' => {
                let end = self.closed(p + 2, b"\\)", false)?;
                Some((p + 2, end, end + 2))
            }
            b'\\' => self.fraction(p, p),
            b'-' => self.fraction(p, p + 1),
            _ if self.is_space(p) && self.byte(p + 1) == b'[' => {
                let end = self.closed(p + 2, b"]", false)?;
                let inner = self.0.get(p + 2..end)?;
                (!inner.contains('[') && self.is_space(end + 1)).then_some((p + 2, end, end + 2))
            }
            _ => None,
        }
    }

    /// The first closing sign that no backslash stands before, with something in between; on this line, or over several.
    fn closed(&self, start: usize, sign: &[u8], lines: bool) -> Option<usize> {
        for p in start..self.0.len().min(start + MAX_LENGTH) {
            if !lines && self.byte(p) == b'\n' {
                return None;
            }
            if self.starts(p, sign) {
                if self.byte(p - 1) != b'\\' {
                    return (p > start).then_some(p);
                }
                // Only in `$..$` may the sign stand inside, as `\$`.
                if sign != b"$" {
                    return None;
                }
            }
        }
        None
    }

    /// `\frac{1}{2}` with simple numbers.
    fn fraction(&self, start: usize, p: usize) -> Option<(usize, usize, usize)> {
        let mut p = p + if self.starts(p, b"\\frac") { 5 } else { return None };
        for _ in 0..2 {
            if self.byte(p) != b'{' {
                return None;
            }
            let digits = self.optional(p + 1, b'-');
            p = self.digits(digits);
            if p == digits {
                return None;
            }
            if matches!(self.byte(p), b'.' | b',') && self.digits(p + 1) > p + 1 {
                p = self.digits(p + 1);
            }
            if self.byte(p) != b'}' {
                return None;
            }
            p += 1;
        }
        Some((start, p, p))
    }

    fn digits(&self, mut p: usize) -> usize {
        while self.byte(p).is_ascii_digit() {
            p += 1;
        }
        p
    }

    /// An expression or a number where a word starts.
    fn plain(&self, p: usize) -> Option<Place> {
        self.prefixed(p, |p| self.expression(p).or_else(|| self.number(p)))
    }

    /// Behind the start of the text, a space or an equals sign, and `**`.
    fn prefixed(&self, p: usize, inner: impl Fn(usize) -> Option<Place>) -> Option<Place> {
        let stars = |p: usize| if self.starts(p, b"**") { p + 2 } else { p };
        if (self.is_space(p) || self.byte(p) == b'=')
            && let Some(place) = inner(stars(p + 1))
        {
            return Some(place);
        }
        if p == 0 { inner(stars(0)) } else { None }
    }

    /// `1/2`, `3 * (4 + 5)`: starts with a digit, holds an operator, and a sentence may go on behind it.
    fn expression(&self, start: usize) -> Option<Place> {
        let first = self.optional(self.optional(self.optional(start, b'-'), b'('), b'-');
        if !self.byte(first).is_ascii_digit() {
            return None;
        }
        let (mut p, mut operator_end, mut end) = (first + 1, None, None);
        while p < first + MAX_LENGTH {
            // Something has to follow the first operator.
            if operator_end.is_some_and(|operator_end| p > operator_end) && self.may_end(p) {
                end = Some(p);
            }
            let Some((length, is_operator)) = self.expression_character(p) else {
                break;
            };
            p += length;
            if is_operator && operator_end.is_none() {
                operator_end = Some(p);
            }
        }
        end.map(|end| Place { start, end, text: self.slice(start, end) })
    }

    /// The length of a character of an expression, and whether it is an operator.
    fn expression_character(&self, p: usize) -> Option<(usize, bool)> {
        match self.byte(p) {
            b'0'..=b'9' | b'.' | b' ' | b'\t'..=b'\r' => Some((1, false)),
            b'+' | b'-' | b'*' | b'/' | b'^' | b'(' | b')' => Some((1, true)),
            _ if self.starts(p, "×".as_bytes()) || self.starts(p, "÷".as_bytes()) => Some((2, true)),
            _ => None,
        }
    }

    fn may_end(&self, p: usize) -> bool {
        let p = if self.starts(p, b"**") { p + 2 } else { p };
        p == self.0.len() || self.is_space(p) || matches!(self.byte(p), b'.' | b',' | b':' | b')' | b'$')
    }

    /// `1,234.5`, `12`, `.5`, `1e3`, a currency before it and a percent sign behind it.
    fn number(&self, start: usize) -> Option<Place> {
        let p = start + self.currency(start);
        let digits = self.optional(p, b'-');
        let mut end = self.digits(digits);
        if end > digits {
            let mut grouped = end;
            while (1..=3).contains(&(end - digits))
                && self.byte(digits) != b'0'
                && matches!(self.byte(grouped), b' ' | b',')
                && self.digits(grouped + 1) >= grouped + 4
            {
                grouped += 4;
                if self.byte(grouped).is_ascii_digit() {
                    break;
                }
            }
            let separators: &[u8] = if grouped > end { b"." } else { b".," };
            end = grouped;
            if separators.contains(&self.byte(end)) && self.digits(end + 1) > end + 1 {
                end = self.digits(end + 1);
            }
        } else if self.byte(p) == b'.' && self.digits(p + 1) > p + 1 {
            end = self.digits(p + 1);
        } else {
            return None;
        }
        let sign = usize::from(matches!(self.byte(end + 1), b'+' | b'-'));
        if matches!(self.byte(end), b'e' | b'E') && self.digits(end + 1 + sign) > end + 1 + sign {
            end = self.digits(end + 1 + sign);
        }
        let mut text = self.slice(p, end);
        // `1 234` and `1,234`; but `12,5` is a decimal.
        if text.contains([' ', ',']) {
            let thousands =
                text.split([' ', ',']).skip(1).all(|group| group.split('.').next().map(str::len) == Some(3));
            let leading = text.trim_start_matches('-').bytes().take_while(u8::is_ascii_digit).count();
            let grouped = thousands && leading <= 3 && !text.trim_start_matches('-').starts_with('0');
            text = text.replace([' ', ','], if grouped { "" } else { "." });
        }
        let behind = self.spaces(end);
        let percent = [&b"%"[..], b"percentage", b"percent", b"pct"];
        if let Some(sign) = percent.into_iter().find(|sign| self.word(behind, sign).is_some()) {
            text.push('%');
            end = behind + sign.len();
        }
        Some(Place { start, end, text })
    }

    /// The length of a currency sign.
    fn currency(&self, p: usize) -> usize {
        match self.0.as_bytes().get(p..) {
            Some([b'$', ..]) => 1,
            Some([0xc2, 0xa3 | 0xa5, ..]) => 2,
            // U+20A0 to U+20BF, and the baht sign.
            Some([0xe2, 0x82, 0xa0..=0xbf, ..] | [0xe0, 0xb8, 0xbf, ..]) => 3,
            _ => 0,
        }
    }
}
