//! What can be an answer at a given place of a text: a piece of LaTeX between `$`, `$$`, `\(` or `\[` (or several, joined
//! by commas, `and` or `or`), a bare `\frac{1}{2}`; outside of LaTeX a number or an arithmetic expression.
//!
//! Every search goes over a text a bounded number of times, whatever the text: completions are not to be trusted.

use std::cell::Cell;

/// A piece of LaTeX, or what follows the first operator of an expression, is no answer if it is longer.
const MAX_LENGTH: usize = 4000;

/// One place where an answer stands.
pub(super) struct Place {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) text: String,
}

/// Where a mark stands next. Searches go forward, so most of them know the answer from the one before.
struct Mark {
    sign: &'static [u8],
    /// From where to where it does not stand.
    absent: Cell<(usize, usize)>,
}

impl Mark {
    fn new(sign: &'static str) -> Self {
        Self { sign: sign.as_bytes(), absent: Cell::new((1, 0)) }
    }

    /// Its first place from here on; the end of the text where there is none.
    fn next(&self, text: &[u8], from: usize) -> usize {
        let (start, end) = self.absent.get();
        if start <= from && from <= end {
            return end;
        }
        let mut p = from;
        while p < text.len() && !(text[p] == self.sign[0] && text[p..].starts_with(self.sign)) {
            p += 1;
        }
        self.absent.set((from, p));
        p
    }
}

/// The text; positions are bytes, and every sign is ASCII.
pub(super) struct Text<'a> {
    text: &'a str,
    /// Where the word "answer" stands.
    answers: Vec<usize>,
    line: Mark,
    dollar: Mark,
    dollars: Mark,
    round: Mark,
    square: Mark,
    bracket: Mark,
    boxes: Mark,
    brace: Mark,
    /// Where it is known that no expression starts.
    no_expression: Cell<(usize, usize)>,
}

impl<'a> Text<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let is_answer = |&p: &usize| {
            bytes[p] | 0x20 == b'a' && bytes.get(p..p + 6).is_some_and(|word| word.eq_ignore_ascii_case(b"answer"))
        };
        Self {
            text,
            answers: (0..bytes.len()).filter(is_answer).collect(),
            line: Mark::new("\n"),
            dollar: Mark::new("$"),
            dollars: Mark::new("$$"),
            round: Mark::new("\\)"),
            square: Mark::new("\\]"),
            bracket: Mark::new("]"),
            boxes: Mark::new("\\boxed{"),
            brace: Mark::new("}"),
            no_expression: Cell::new((0, 0)),
        }
    }

    fn bytes(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    fn byte(&self, p: usize) -> u8 {
        self.bytes().get(p).copied().unwrap_or(0)
    }

    pub(super) fn is_space(&self, p: usize) -> bool {
        matches!(self.byte(p), b' ' | b'\t'..=b'\r')
    }

    pub(super) fn spaces(&self, mut p: usize) -> usize {
        while self.is_space(p) {
            p += 1;
        }
        p
    }

    pub(super) fn optional(&self, p: usize, byte: u8) -> usize {
        p + usize::from(self.byte(p) == byte)
    }

    fn starts(&self, p: usize, with: &[u8]) -> bool {
        self.bytes().get(p..).is_some_and(|rest| rest.starts_with(with))
    }

    /// Behind a word, in any case.
    pub(super) fn word(&self, p: usize, word: &[u8]) -> Option<usize> {
        self.bytes().get(p..p + word.len())?.eq_ignore_ascii_case(word).then_some(p + word.len())
    }

    /// Where `final` stands before the word at `p`.
    pub(super) fn finally(&self, p: usize) -> Option<usize> {
        let start = p.checked_sub(b"final ".len())?;
        self.word(start, b"final ").map(|_| start)
    }

    pub(super) fn line_end(&self, p: usize) -> usize {
        self.line.next(self.bytes(), p)
    }

    pub(super) fn is_equals_sign(&self, p: usize) -> bool {
        self.byte(p) == b'='
    }

    pub(super) fn equals_sign_follows(&self, p: usize) -> bool {
        self.is_equals_sign(self.spaces(p))
    }

    fn slice(&self, start: usize, end: usize) -> String {
        self.text.get(start..end).unwrap_or_default().to_owned()
    }

    /// The starts of this character and of the next ones.
    pub(super) fn within(&self, p: usize, characters: usize) -> Vec<usize> {
        (p..=self.text.len()).filter(|&p| self.byte(p) & 0xc0 != 0x80).take(characters + 1).collect()
    }

    /// The last place behind a sign, of those that a search from left to right finds, each behind the one before.
    pub(super) fn search(
        &self,
        sign: impl Fn(&Self, usize) -> Option<(usize, Vec<usize>)>,
        place: impl Fn(usize) -> Option<Place>,
    ) -> Option<Place> {
        let mut last: Option<Place> = None;
        for &answer in &self.answers {
            let Some((start, behind)) = sign(self, answer) else {
                continue;
            };
            if last.as_ref().is_some_and(|last| start < last.end) {
                continue;
            }
            if let Some(found) = behind.into_iter().find_map(&place) {
                last = Some(Place { start, ..found });
            }
        }
        last
    }

    /// As [`Text::search`], with no sign before the place, which can only start where `starts` says so.
    pub(super) fn scan(
        &self,
        starts: impl Fn(&Self, usize) -> bool,
        place: impl Fn(usize) -> Option<Place>,
    ) -> Option<Place> {
        let (mut last, mut p) = (None, 0);
        while p < self.text.len() {
            if !starts(self, p) {
                p += 1;
                continue;
            }
            let found = place(p);
            p = found.as_ref().map_or(p + 1, |found| found.end.max(p + 1));
            last = found.or(last);
        }
        last
    }

    /// Whether a piece of LaTeX may start here.
    pub(super) fn starts_latex(&self, p: usize) -> bool {
        match self.byte(p) {
            b'$' | b'\\' | b'-' => true,
            b' ' | b'\t'..=b'\r' => self.byte(p + 1) == b'[',
            _ => false,
        }
    }

    /// Whether a number or an expression may start here or behind this character.
    pub(super) fn starts_plain(&self, p: usize) -> bool {
        p == 0 || self.is_space(p) || self.is_equals_sign(p)
    }

    /// `place`, if `I hope` follows.
    pub(super) fn hoping(&self, place: Place) -> Option<Place> {
        let p = self.optional(place.end, b'.');
        let p = if self.is_space(p) { p + 1 } else { p };
        self.starts(p, b"I hope").then(|| Place { end: p + b"I hope".len(), ..place })
    }

    /// From the first `\boxed{` to the last brace.
    pub(super) fn boxed(&self) -> Option<Place> {
        let start = self.boxes.next(self.bytes(), 0);
        let end = self.bytes().iter().rposition(|&byte| byte == b'}')?;
        (end >= start + 8).then(|| Place { start, end: end + 1, text: self.slice(start, end + 1) })
    }

    /// A piece of LaTeX with a box inside.
    pub(super) fn framed(&self, p: usize) -> Option<Place> {
        self.pieces(p, |from, to| {
            let open = self.boxes.next(self.bytes(), from);
            open < to && self.brace.next(self.bytes(), open + 8) < to
        })
    }

    pub(super) fn latex(&self, p: usize) -> Option<Place> {
        self.pieces(p, |_, _| true)
    }

    /// One piece of LaTeX and up to five more, joined by `,`, `and` or `or`.
    fn pieces(&self, start: usize, wanted: impl Fn(usize, usize) -> bool) -> Option<Place> {
        let (mut text, mut end) = self.piece(start, &wanted)?;
        for _ in 0..5 {
            let p = self.spaces(end);
            let comma = self.byte(p) == b',';
            let word = self.word(p + usize::from(comma), b"and").or_else(|| self.word(p + usize::from(comma), b"or"));
            let Some(p) = word.or(comma.then_some(p + 1)) else {
                break;
            };
            let Some((next, next_end)) = self.piece(self.spaces(p), &wanted) else {
                break;
            };
            text.push_str(", ");
            text.push_str(&next);
            end = next_end;
        }
        Some(Place { start, end, text })
    }

    /// What stands between two signs for LaTeX, a percent sign behind it included; and where that ends.
    fn piece(&self, p: usize, wanted: impl Fn(usize, usize) -> bool) -> Option<(String, usize)> {
        let (from, to, end) = self.environment(p).filter(|&(from, to, _)| wanted(from, to))?;
        let mut text = self.slice(from, to);
        let behind = self.spaces(end);
        if let Some(end) = self.percent(self.optional(behind, b'\\')) {
            text.push('%');
            return Some((text, end));
        }
        Some((text, behind))
    }

    /// Behind a percent sign or a word for it.
    fn percent(&self, p: usize) -> Option<usize> {
        match self.byte(p) {
            b'%' => Some(p + 1),
            b'p' | b'P' => [&b"percentage"[..], b"percent", b"pct"].into_iter().find_map(|word| self.word(p, word)),
            _ => None,
        }
    }

    /// Where the content starts and ends, and where the piece ends.
    fn environment(&self, p: usize) -> Option<(usize, usize, usize)> {
        let before = if p > 0 { self.byte(p - 1) } else { 0 };
        let closed = |from, mark, lines| {
            let to = self.closed(from, mark, lines)?;
            Some((from, to, to + mark.sign.len()))
        };
        match self.byte(p) {
            b'$' if before != b'\\' => {
                let display = if self.byte(p + 1) == b'$' { closed(p + 2, &self.dollars, true) } else { None };
                display.or_else(|| if before.is_ascii_digit() { None } else { closed(p + 1, &self.dollar, false) })
            }
            b'\\' => match self.byte(p + 1) {
                b'[' if before != b'\\' => closed(p + 2, &self.square, true),
                b'(' if before != b'\\' => closed(p + 2, &self.round, false),
                _ => self.fraction(p, p),
            },
            b'-' => self.fraction(p, p + 1),
            _ if self.byte(p + 1) == b'[' && self.is_space(p) => {
                let (from, to, end) = closed(p + 2, &self.bracket, false)?;
                let inner = self.text.get(from..to)?;
                (!inner.contains('[') && self.is_space(end)).then_some((from, to, end + 1))
            }
            _ => None,
        }
    }

    /// The first closing mark that no backslash stands before, with something in between; on this line, or over several.
    fn closed(&self, start: usize, mark: &Mark, lines: bool) -> Option<usize> {
        let mut p = start;
        loop {
            p = mark.next(self.bytes(), p);
            let too_far = p == self.text.len() || p - start > MAX_LENGTH;
            if too_far || (!lines && self.line_end(start) < p) {
                return None;
            }
            if self.byte(p - 1) != b'\\' {
                return (p > start).then_some(p);
            }
            // Only in `$..$` may the mark stand inside, as `\$`.
            if mark.sign != b"$" {
                return None;
            }
            p += 1;
        }
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
    pub(super) fn plain(&self, p: usize) -> Option<Place> {
        self.prefixed(p, |p| self.expression(p).or_else(|| self.number(p)))
    }

    /// Behind the start of the text, a space or an equals sign, and `**`.
    fn prefixed(&self, p: usize, inner: impl Fn(usize) -> Option<Place>) -> Option<Place> {
        let stars = |p: usize| if self.starts(p, b"**") { p + 2 } else { p };
        if (self.is_space(p) || self.is_equals_sign(p))
            && let Some(place) = inner(stars(p + 1))
        {
            return Some(place);
        }
        if p == 0 { inner(stars(0)) } else { None }
    }

    pub(super) fn lone_expression(&self, p: usize) -> Option<Place> {
        self.prefixed(p, |p| self.expression(p))
    }

    pub(super) fn lone_number(&self, p: usize) -> Option<Place> {
        self.prefixed(p, |p| self.number(p))
    }

    /// `1/2`, `3 * (4 + 5)`: starts with a digit, holds an operator, and a sentence may go on behind it.
    fn expression(&self, start: usize) -> Option<Place> {
        let first = self.optional(self.optional(self.optional(start, b'-'), b'('), b'-');
        let (dead, dead_end) = self.no_expression.get();
        if !self.byte(first).is_ascii_digit() || (dead <= first && first < dead_end) {
            return None;
        }
        let (mut p, mut operator_end, mut end) = (first + 1, None, None);
        loop {
            // Something has to follow the first operator.
            if operator_end.is_some_and(|operator_end| p > operator_end) && self.may_end(p) {
                end = Some(p);
            }
            let character = self.expression_character(p);
            let Some((length, is_operator)) = character.filter(|_| p < operator_end.unwrap_or(p) + MAX_LENGTH) else {
                break;
            };
            p += length;
            if is_operator && operator_end.is_none() {
                operator_end = Some(p);
            }
        }
        if end.is_none() {
            // What starts later in these characters fails as well.
            self.no_expression.set((first, p));
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
        p == self.text.len() || self.is_space(p) || matches!(self.byte(p), b'.' | b',' | b':' | b')' | b'$')
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
        if let Some(behind) = self.percent(self.spaces(end)) {
            text.push('%');
            end = behind;
        }
        Some(Place { start, end, text })
    }

    /// The length of a currency sign.
    fn currency(&self, p: usize) -> usize {
        match self.bytes().get(p..) {
            Some([b'$', ..]) => 1,
            Some([0xc2, 0xa3 | 0xa5, ..]) => 2,
            // U+20A0 to U+20BF, and the baht sign.
            Some([0xe2, 0x82, 0xa0..=0xbf, ..] | [0xe0, 0xb8, 0xbf, ..]) => 3,
            _ => 0,
        }
    }
}
