//! What an answer looks like without its dress: LaTeX commands that only set type, units, degrees, words.
//!
//! It knows no numbers; [`super::value`] reads what comes out of here.

/// Commands that only set type; their argument, if any, stays.
const DROPPED: &[&str] = &[
    "left",
    "right",
    "mleft",
    "mright",
    "big",
    "Big",
    "bigg",
    "Bigg",
    "bigl",
    "bigr",
    "Bigl",
    "Bigr",
    "biggl",
    "biggr",
    "displaystyle",
    "textstyle",
    "limits",
    "boxed",
    "fbox",
];

/// Commands whose argument is text.
const TEXTS: &[&str] = &[
    "text",
    "mbox",
    "textbf",
    "textit",
    "textrm",
    "textnormal",
    "texttt",
    "mathrm",
    "mathbf",
    "mathit",
    "operatorname",
];

/// Units that are dropped at the end of an answer, in singular: the commonest of those that math-verify drops.
const UNITS: &[&str] = &[
    "acre", "apple", "cc", "cent", "cm", "coin", "cube", "cubic", "day", "deg", "degree", "digit", "dm", "edge",
    "feet", "foot", "ft", "g", "gallon", "gm", "h", "hectare", "hour", "hr", "inch", "inches", "integer", "kg", "km",
    "kmph", "l", "lb", "liter", "litre", "m", "man", "men", "meter", "metre", "mile", "min", "minute", "mm", "month",
    "mph", "number", "per", "point", "pound", "rupee", "s", "sec", "second", "sq", "square", "student", "ton", "unit",
    "woman", "women", "yard", "year", "yr",
];

/// The answer in its plainest form: `\frac` for every fraction, `*` and `/` for products and quotients, `%` for percent,
/// a comma between several answers, no type setting, no unit behind something else, and single spaces.
pub(crate) fn clean(text: &str) -> String {
    let text = typeset(text);
    let text = words(&text);
    let text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\degrees", "").replace("\\degree", "");
    let text = without_units(text.trim());
    // What is left of `\text{..}` is an answer in words.
    let mut text = text.replace("\\text", "");
    while text.ends_with(['.', ' ']) {
        text.pop();
    }
    text.trim_start().to_owned()
}

/// Resolves the commands that only set type, and the characters that mean the same as a command.
pub(crate) fn typeset(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let behind = &rest[first.len_utf8()..];
        if first == '\\' {
            rest = command(behind, &mut out);
            continue;
        }
        if let Some(after) = rest.strip_prefix("{,}") {
            out.push(',');
            rest = after;
            continue;
        }
        match first {
            '$' | '"' | '\'' | '°' => {}
            '\u{2212}' => out.push('-'),
            '×' | '·' => out.push('*'),
            '÷' => out.push('/'),
            '∞' => out.push_str("\\infty "),
            // Two spaces say no more than one.
            _ if first.is_whitespace() || first == '~' => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            _ => out.push(first),
        }
        rest = behind;
    }
    out
}

/// Resolves what follows a backslash; returns what is left.
fn command<'a>(behind: &'a str, out: &mut String) -> &'a str {
    // An answer that was escaped once too often: `\\frac`.
    let behind = match behind.strip_prefix('\\') {
        Some(after) if after.starts_with(|c: char| c.is_ascii_alphabetic()) => after,
        _ => behind,
    };
    let letters = behind.bytes().take_while(u8::is_ascii_alphabetic).count();
    let (name, rest) = behind.split_at(letters);
    match name {
        "" => {
            let mut characters = behind.chars();
            match characters.next() {
                Some('!' | ',' | ';' | ':' | '$') | None => {}
                Some(other @ ('%' | '#' | '&' | '_')) => out.push(other),
                Some(other) if other.is_whitespace() => out.push(' '),
                Some(other) => {
                    out.push('\\');
                    out.push(other);
                }
            }
            return characters.as_str();
        }
        "dfrac" | "tfrac" | "cfrac" => out.push_str("\\frac"),
        "times" | "cdot" => out.push('*'),
        "div" => out.push('/'),
        "lbrace" => out.push_str("\\{"),
        "rbrace" => out.push_str("\\}"),
        "lbrack" => out.push('['),
        "rbrack" => out.push(']'),
        "quad" | "qquad" => out.push(' '),
        "leq" => out.push_str("\\le "),
        "geq" => out.push_str("\\ge "),
        _ if DROPPED.contains(&name) => {}
        _ if TEXTS.contains(&name) => {
            out.push_str("\\text");
            // `\text {x}`
            return if rest.trim_start().starts_with('{') { rest.trim_start() } else { rest };
        }
        _ => {
            out.push('\\');
            out.push_str(name);
        }
    }
    rest
}

/// `percent` to `%`, `and` and `or` to a comma, also inside `\text{..}`.
fn words(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        if letters == 0 {
            let first = rest.chars().next().map_or(1, char::len_utf8);
            out.push_str(&rest[..first]);
            rest = &rest[first..];
            continue;
        }
        let (word, after) = rest.split_at(letters);
        let command = out.ends_with('\\');
        let (sign, in_text) = match word {
            "and" | "or" if !command => (",", true),
            "percent" | "percentage" | "pct" | "Percent" if !command => ("%", true),
            _ => (word, false),
        };
        rest = after;
        if in_text {
            let kept = out.trim_end();
            let opened = kept.strip_suffix("\\text{").filter(|_| after.trim_start().starts_with('}'));
            if let Some(outside) = opened {
                rest = after.trim_start().strip_prefix('}').unwrap_or_default();
                out.truncate(outside.trim_end().len());
            } else {
                out.truncate(kept.len());
            }
            // `1, 2, and 3`
            if sign == "," && out.ends_with(',') {
                out.pop();
            }
        }
        out.push_str(sign);
    }
    out
}

/// Drops `\text{..}` and well-known words at the end, as long as something else is left.
fn without_units(text: &str) -> String {
    let mut text = text.to_owned();
    let base = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let powered = base.strip_suffix('^').or_else(|| base.strip_suffix("^{")).unwrap_or(&text);
    if powered.ends_with('}')
        && let Some(start) = text.find("\\text{")
        && !text[..start].trim().is_empty()
        && text[..start].matches('{').count() == text[..start].matches('}').count()
    {
        text.truncate(start);
    }
    // `5 km per hour`
    for _ in 0..4 {
        let kept = text.trim_end();
        let letters = kept.bytes().rev().take_while(u8::is_ascii_alphabetic).count();
        let (before, word) = kept.split_at(kept.len() - letters);
        let stands_alone = before.ends_with(|c: char| c.is_ascii_digit() || c == '}' || c == ' ');
        if word.is_empty() || !stands_alone || before.trim().is_empty() || !is_unit(word) {
            break;
        }
        text.truncate(before.trim_end().len());
    }
    text
}

fn is_unit(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let singular = |ending| word.strip_suffix(ending).is_some_and(|stem| UNITS.contains(&stem));
    UNITS.contains(&word.as_str()) || singular("s") || singular("es")
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn type_setting_goes() {
        for (text, plain) in [
            (r"\left( \dfrac{1}{2}, 3 \right)", r"( \frac{1}{2}, 3 )"),
            (r"\\frac{1}{2}", r"\frac{1}{2}"),
            (r"1{,}234", "1,234"),
            (r"12\,000", "12000"),
            (r"3 \times 4 \cdot 5 \div 6", "3 * 4 * 5 / 6"),
            (r"\$5", "5"),
            ("  5. ", "5"),
            (r"90^\circ", "90"),
            (r"90^{\circ}", "90"),
            (r"\text{Paris}", "{Paris}"),
            (r"\textbf{(C)}", "{(C)}"),
            ("\\", ""),
            ("", ""),
        ] {
            assert_eq!(clean(text), plain, "{text}");
        }
    }

    #[test]
    fn units_go_where_something_is_left() {
        for (text, plain) in [
            ("5 cm", "5"),
            (r"5\text{ cm}^2", "5"),
            (r"25\text{ square units}", "25"),
            (r"5\ \mathrm{cm}", "5"),
            (r"{5\text{ cm}}", r"{5{ cm}}"),
            ("5 km per hour", "5"),
            ("60 miles", "60"),
            ("cm", "cm"),
            (r"\text{cm}", "{cm}"),
            ("5 bananas", "5 bananas"),
            ("2x", "2x"),
        ] {
            assert_eq!(clean(text), plain, "{text}");
        }
    }

    #[test]
    fn words_become_signs() {
        for (text, plain) in [
            ("50 percent", "50%"),
            (r"50\%", "50%"),
            (r"1 \text{ or } 2", "1, 2"),
            ("1, 2, and 3", "1, 2, 3"),
            ("1 and 2", "1, 2"),
            ("band", "band"),
            (r"\text{yes and no}", "{yes, no}"),
        ] {
            assert_eq!(clean(text), plain, "{text}");
        }
    }
}
