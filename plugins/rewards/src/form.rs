//! Whether a completion has a given form. The patterns are ms-swift's, matched by hand: `.*?` between fixed words is the
//! first place where the next word stands.

use crate::words::is_space;

/// `^<think>.*?</think>\s*<answer>.*?</answer>` and nothing behind it.
pub(crate) fn thinks_and_answers(completion: &str) -> bool {
    behind_thinking(completion, "<answer>").is_some_and(|rest| rest.ends_with("</answer>"))
}

/// `^<think>.*?</think>\s*Action:.*?Action Input:`, and anything behind it.
pub(crate) fn thinks_and_acts(completion: &str) -> bool {
    behind_thinking(completion, "Action:").is_some_and(|rest| rest.contains("Action Input:"))
}

/// What stands behind `<think>..</think>`, white space and this word, at the first place where that is so.
fn behind_thinking<'a>(completion: &'a str, word: &str) -> Option<&'a str> {
    let mut rest = completion.strip_prefix("<think>")?;
    loop {
        rest = rest.split_once("</think>")?.1;
        if let Some(behind) = rest.trim_start_matches(is_space).strip_prefix(word) {
            return Some(behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        for (completion, fits) in [
            ("<think>a</think><answer>b</answer>", true),
            ("<think></think> \n\u{3000}\u{1c}<answer></answer>", true),
            ("<think>a</think>x</think> <answer>b</answer>", true),
            ("<think>a</think><answer>b</answer> c</answer>", true),
            ("<think>a</think><answer>b</answer>\n", false),
            (" <think>a</think><answer>b</answer>", false),
            ("<think>a</think> so <answer>b</answer>", false),
            ("<think>a<answer>b</answer>", false),
            ("<think></think><answer></answer", false),
            ("<think></think><answer>", false),
            ("", false),
        ] {
            assert_eq!(thinks_and_answers(completion), fits, "{completion:?}");
        }
    }

    #[test]
    fn actions() {
        for (completion, fits) in [
            ("<think>a</think>\nAction: f\nAction Input: {}", true),
            ("<think>a</think>Action:Action Input:", true),
            ("<think>a</think>\nAction: f", false),
            ("<think>a</think>\nAction Input: {}\nAction: f", false),
            ("<think>a</think>\nso Action: f\nAction Input: {}", false),
        ] {
            assert_eq!(thinks_and_acts(completion), fits, "{completion:?}");
        }
    }
}
