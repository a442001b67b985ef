//! ms-swift's `math`: the answer in the first box or behind `# Answer`, equal as text or as an exact number.

use crate::answer::latex;
use crate::answer::number::{number, without_thousands};
use crate::words::strip;

/// Whether a completion gives the answer of the solution.
pub(crate) fn is_right(completion: &str, solution: &str) -> bool {
    let (said, gold) = (answer(completion), answer(solution));
    if said == gold {
        return true;
    }
    let value = |text: &str| {
        let text = latex::typeset(text);
        let number = number(without_thousands(&text).as_deref().unwrap_or(&text));
        number.filter(|number| !number.is_percent())
    };
    match (value(&said), value(&gold)) {
        (Some(said), Some(gold)) => said.is(gold),
        _ => false,
    }
}

/// The answer of a text without the signs that LaTeX is set between.
fn answer(text: &str) -> String {
    let text = text.split("# Answer").nth(1).unwrap_or(text);
    let text = first_box(strip(text));
    let mut text = text.to_owned();
    for sign in ["\\(", "\\)", "\\[", "\\]"] {
        text = text.replace(sign, "");
    }
    let text = strip(&text);
    let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    strip(inner.filter(|inner| !inner.contains(['{', '}'])).unwrap_or(text)).to_owned()
}

/// What the first `\boxed{..}` holds, or the whole text.
fn first_box(text: &str) -> &str {
    let Some((_, behind)) = text.split_once("\\boxed{") else {
        return text;
    };
    let (mut depth, mut before) = (1, 0);
    for (at, byte) in behind.bytes().enumerate() {
        match byte {
            b'{' if before != b'\\' => depth += 1,
            b'}' if before != b'\\' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return strip(&behind[..at]);
        }
        before = byte;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::is_right;

    #[test]
    fn answers() {
        for (completion, solution, right) in [
            (r"so \boxed{\frac{1}{2}}", "0.5", true),
            (r"\boxed{1} or \boxed{2}", "1", true),
            ("thinking # Answer 12", "# Answer\n12.0", true),
            (r"\boxed{\{1, 2\}}", r"\{1, 2\}", true),
            (r"\boxed{x + 1}", "x + 1", true),
            (r"\boxed{x + 1}", "1 + x", false),
            (r"\[ 5 \]", "{5}", true),
            (r"\boxed{5", r"\boxed{5}", false),
            ("1,234", "1234", true),
            ("5%", "5", false),
            ("", "", true),
            ("5", "6", false),
        ] {
            assert_eq!(is_right(completion, solution), right, "{completion} and {solution}");
        }
    }
}
