//! Numbers as people and models write them: `-1,234.5`, `3 1/2`, `\frac{3}{4}`, `1.5*10^{3}`, `2.5e-3`, `12%`.

use std::cmp::Ordering;

use super::rational::Rational;

/// Brackets nested deeper are not a number.
const MAX_DEPTH: u32 = 32;

/// A number and how it was written, which decides how it is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Number {
    /// Without the percent sign: 12 for `12%`.
    value: Rational,
    /// Written with a decimal point: compared to six places.
    decimal: bool,
    percent: bool,
}

impl Number {
    /// As math-verify compares numbers: `9%` is answered by `9`, `1/3` by `0.333333`, and `5` by `5.0`, not `5.0000001`.
    pub(crate) fn equals(self, other: Self) -> bool {
        let (one, two) = (self.amount(), other.amount());
        if self.decimal || other.decimal {
            let near = self.decimal == other.decimal || !(one.is_whole() || two.is_whole());
            return if near { one.is_nearly(two) } else { one == two };
        }
        if self.value.is_whole() && other.value.is_whole() {
            return self.value == other.value;
        }
        one == two
    }

    pub(crate) fn compare(self, other: Self) -> Ordering {
        self.amount().compare(other.amount())
    }

    pub(crate) fn is_percent(self) -> bool {
        self.percent
    }

    /// Whether both are the same amount, however written.
    pub(crate) fn is(self, other: Self) -> bool {
        self.amount() == other.amount()
    }

    fn amount(self) -> Rational {
        if !self.percent {
            return self.value;
        }
        Rational::new(1, 100).and_then(|hundredth| self.value.times(hundredth)).unwrap_or(self.value)
    }
}

/// Reads a whole text as one number; sums, products and powers of numbers are computed.
pub(crate) fn number(text: &str) -> Option<Number> {
    let text = text.trim();
    let (text, percent) = match text.strip_suffix('%') {
        Some(before) => (before.trim_end(), true),
        None => (text, false),
    };
    let mut reader = Reader { text: text.as_bytes(), at: 0, depth: 0, decimal: false };
    let value = match grouped(text) {
        Some(value) => value,
        None => {
            let value = reader.sum()?;
            if reader.peek() != 0 {
                return None;
            }
            value
        }
    };
    Some(Number { value, decimal: reader.decimal, percent })
}

/// `1,234,567` and `x=1,234` without their commas: `None` unless every comma separates thousands.
pub(crate) fn without_thousands(text: &str) -> Option<String> {
    let mut parts = text.split(',');
    let first = parts.next()?;
    let lead = first.len() - first.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    // `0,123` and `1234,567` are two numbers, and so is `1.5,123`.
    let start = &first[first.len() - lead..];
    if !(1..=3).contains(&lead) || start.starts_with('0') || first[..first.len() - lead].ends_with('.') {
        return None;
    }
    let mut joined = first.to_owned();
    let mut rest = parts.peekable();
    rest.peek()?;
    while let Some(part) = rest.next() {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        if digits != 3 || (rest.peek().is_some() && part.len() != 3) {
            return None;
        }
        joined.push_str(part);
    }
    Some(joined)
}

/// What spaces mean between digits: `3 1/2` is three and a half, `1 234` is a thousand and more.
fn grouped(text: &str) -> Option<Rational> {
    let (first, rest) = text.split_once(' ')?;
    let (digits, negative) = match first.strip_prefix('-') {
        Some(digits) => (digits, true),
        None => (first, false),
    };
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(digits) {
        return None;
    }
    let value = if let Some((above, below)) = rest.split_once('/') {
        if !is_digits(above) || !is_digits(below) {
            return None;
        }
        Rational::whole(digits.parse().ok()?).plus(Rational::new(above.parse().ok()?, below.parse().ok()?)?)?
    } else {
        let mut joined = digits.to_owned();
        for group in rest.split(' ') {
            if digits.len() > 3 || digits.starts_with('0') || group.len() != 3 || !is_digits(group) {
                return None;
            }
            joined.push_str(group);
        }
        Rational::whole(joined.parse().ok()?)
    };
    if negative { value.negated() } else { Some(value) }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: u32,
    decimal: bool,
}

impl Reader<'_> {
    /// The next byte that is not a space; 0 at the end.
    fn peek(&mut self) -> u8 {
        while self.text.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
        self.byte(0)
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == byte;
        self.at += usize::from(found);
        found
    }

    fn at_fraction(&mut self) -> bool {
        self.peek();
        self.text[self.at.min(self.text.len())..].starts_with(b"\\frac")
    }

    fn sum(&mut self) -> Option<Rational> {
        let mut value = self.product()?;
        loop {
            if self.take(b'+') {
                value = value.plus(self.product()?)?;
            } else if self.take(b'-') {
                value = value.plus(self.product()?.negated()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn product(&mut self) -> Option<Rational> {
        let mut value = self.signed()?;
        loop {
            if self.take(b'*') {
                value = value.times(self.signed()?)?;
            } else if self.take(b'/') {
                value = value.times(self.signed()?.inverse()?)?;
            } else if self.peek() == b'(' || self.at_fraction() {
                value = value.times(self.power()?)?;
            } else {
                return Some(value);
            }
        }
    }

    fn signed(&mut self) -> Option<Rational> {
        let mut negative = false;
        while matches!(self.peek(), b'+' | b'-') {
            negative ^= self.byte(0) == b'-';
            self.at += 1;
        }
        let value = self.power()?;
        if negative { value.negated() } else { Some(value) }
    }

    fn power(&mut self) -> Option<Rational> {
        let base = self.atom()?;
        if !self.take(b'^') {
            return Some(base);
        }
        let negative = self.take(b'-');
        let exponent = self.atom()?.as_exponent()?;
        base.power(if negative { exponent.checked_neg()? } else { exponent })
    }

    fn atom(&mut self) -> Option<Rational> {
        if self.at_fraction() {
            return self.fraction();
        }
        match self.peek() {
            b'(' => self.enclosed(b')'),
            b'{' => self.enclosed(b'}'),
            b'0'..=b'9' | b'.' => {
                let start = self.at;
                let value = self.literal()?;
                let whole = self.text[start..self.at].iter().all(u8::is_ascii_digit);
                // `3\frac{1}{2}` is a mixed number, not a product.
                if whole && self.at_fraction() {
                    return value.plus(self.fraction()?);
                }
                Some(value)
            }
            _ => None,
        }
    }

    fn enclosed(&mut self, close: u8) -> Option<Rational> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        self.at += 1;
        let value = self.sum()?;
        self.depth -= 1;
        self.take(close).then_some(value)
    }

    fn fraction(&mut self) -> Option<Rational> {
        self.at += b"\\frac".len();
        let above = self.argument()?;
        above.times(self.argument()?.inverse()?)
    }

    /// `{12}`, or a single digit as in `\frac12`.
    fn argument(&mut self) -> Option<Rational> {
        match self.peek() {
            b'{' => self.enclosed(b'}'),
            digit @ b'0'..=b'9' => {
                self.at += 1;
                Some(Rational::whole(i128::from(digit - b'0')))
            }
            _ => None,
        }
    }

    /// Digits, at most one point, and a power of ten as in `1.5e-3`.
    fn literal(&mut self) -> Option<Rational> {
        let (mut digits, mut places, mut point) = (String::new(), 0, false);
        loop {
            match self.byte(0) {
                digit @ b'0'..=b'9' => {
                    digits.push(digit as char);
                    places += usize::from(point);
                }
                b'.' if !point => point = true,
                _ => break,
            }
            self.at += 1;
        }
        self.decimal |= places > 0;
        let exponent = self.exponent()?;
        Rational::decimal(&digits, places, exponent)
    }

    /// 0 where there is none.
    fn exponent(&mut self) -> Option<i32> {
        if !matches!(self.byte(0), b'e' | b'E') {
            return Some(0);
        }
        let sign = usize::from(matches!(self.byte(1), b'+' | b'-'));
        let digits = self.text.get(self.at + 1 + sign..).unwrap_or_default();
        let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=3).contains(&length) {
            return None;
        }
        let size: i32 = digits[..length].iter().fold(0, |size, digit| size * 10 + i32::from(digit - b'0'));
        let negative = self.byte(1) == b'-';
        self.at += 1 + sign + length;
        Some(if negative { -size } else { size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: &str, two: &str) -> bool {
        number(one).expect(one).is(number(two).expect(two))
    }

    #[test]
    fn one_number_in_many_forms() {
        for (one, two) in [
            ("3 1/2", "7/2"),
            ("-3 1/2", "-7/2"),
            (r"3\frac{1}{2}", "3.5"),
            (r"-3\frac12", "-3.5"),
            (r"\frac{-1}{2}", r"-\frac{1}{2}"),
            (r"\frac{\frac{1}{2}}{3}", "1/6"),
            ("1 234", "1234"),
            ("1.5*10^{3}", "1500"),
            ("1.5e3", "1500"),
            ("2E-3", "0.002"),
            ("2^10", "1024"),
            ("2^{-1}", "1/2"),
            ("-2^2", "-4"),
            ("2(3)", "6"),
            ("3+4*5-1", "22"),
            ("--5", "5"),
            ("+5", "5"),
            (".5", "1/2"),
            ("007", "7"),
            ("12%", "3/25"),
        ] {
            assert!(same(one, two), "{one} and {two}");
        }
    }

    #[test]
    fn not_numbers() {
        for text in [
            "", "-", ".", "1 2", "1/0", "x", "2x", "1..2", "1.2.3", "3 1/0", "(1", "1)", "e3", "1e", "2^x", "1 234 5",
            "٣", r"\frac", "9e999",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
        assert_eq!(number(&"(".repeat(5000)), None);
    }

    #[test]
    fn thousands() {
        assert_eq!(without_thousands("1,234,567.5").as_deref(), Some("1234567.5"));
        assert_eq!(without_thousands("x=12,345").as_deref(), Some("x=12345"));
        for text in ["12,34", "1234,567", "0,123", "1, 234", "1,2345", "1,234,5", "5", ",123", "1.5,123"] {
            assert_eq!(without_thousands(text), None, "{text}");
        }
    }
}
