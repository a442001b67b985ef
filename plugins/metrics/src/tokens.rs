//! A text as words, for metrics that count words: as jieba cuts a text without Chinese, and every Chinese character by
//! itself (jieba finds Chinese words with a dictionary of five megabytes).

/// The words of a text.
///
/// A word is a run of ASCII letters and digits, with a fraction (`3.14`) and a percent sign; or a run of the signs
/// `+ # & . _ % -`; or any other character by itself, line breaks and tabs included, but not the space.
pub(crate) fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(' ');
    while let Some(first) = rest.chars().next() {
        let length = if first.is_ascii_alphanumeric() {
            word(rest)
        } else if is_sign(first) {
            rest.find(|c| !is_sign(c)).unwrap_or(rest.len())
        } else if rest.starts_with("\r\n") {
            2
        } else {
            first.len_utf8()
        };
        let (token, behind) = rest.split_at(length);
        tokens.push(token);
        rest = behind.trim_start_matches(' ');
    }
    tokens
}

fn is_sign(c: char) -> bool {
    matches!(c, '+' | '#' | '&' | '.' | '_' | '%' | '-')
}

/// The length of `[a-zA-Z0-9]+(\.[0-9]+)?%?` at the start.
fn word(text: &str) -> usize {
    let run = |from: usize, belongs: fn(&u8) -> bool| {
        text.as_bytes().get(from..).map_or(0, |rest| rest.iter().take_while(|&byte| belongs(byte)).count())
    };
    let mut end = run(0, u8::is_ascii_alphanumeric);
    let digits = run(end + 1, u8::is_ascii_digit);
    if text.as_bytes().get(end) == Some(&b'.') && digits > 0 {
        end += 1 + digits;
    }
    end + usize::from(text.as_bytes().get(end) == Some(&b'%'))
}

#[cfg(test)]
mod tests {
    use super::tokens;

    #[test]
    fn words_signs_and_characters() {
        for (text, wanted) in [
            ("Hello, world.", &["Hello", ",", "world", "."][..]),
            ("3.14% of e.g. v1.2.3", &["3.14%", "of", "e", ".", "g", ".", "v1.2", ".", "3"]),
            ("well-known C++", &["well", "-", "known", "C", "++"]),
            ("我爱北京!", &["我", "爱", "北", "京", "!"]),
            ("naïve", &["na", "ï", "ve"]),
            (" a\u{3000}b \r\n\n", &["a", "\u{3000}", "b", "\r\n", "\n"]),
            ("  ", &[]),
            ("", &[]),
        ] {
            assert_eq!(tokens(text), wanted, "{text:?}");
        }
    }
}
