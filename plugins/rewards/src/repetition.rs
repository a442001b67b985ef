//! How often a completion says the same again.

use crate::words::{Numbering, ngrams, words};

/// The share of repeated n-grams of lower-cased words, between 0 (none repeated, or fewer than `size` words) and 1.
///
/// Words are what white space separates. A text in a script without spaces, such as Chinese, is one word or a few, and
/// almost always gets 0.
pub(crate) fn repeated(text: &str, size: usize) -> f64 {
    if words(text).take(size).count() < size {
        return 0.0;
    }
    let text = text.to_lowercase();
    let mut numbering = Numbering::default();
    let words: Vec<u32> = words(&text).map(|word| numbering.number(word)).collect();
    match (words.len() + 1).checked_sub(size) {
        None | Some(0) => 0.0,
        Some(total) => 1.0 - ngrams(&words, size).len() as f64 / total as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::repeated;

    #[test]
    fn shares() {
        for (text, size, share) in [
            ("", 3, 0.0),
            ("a b", 3, 0.0),
            ("a b c", 3, 0.0),
            ("a b C a B c", 3, 0.25),
            ("a a a a", 1, 0.75),
            ("no\u{3000}no\u{1f}no", 1, 2.0 / 3.0),
            ("重复重复重复重复", 3, 0.0),
        ] {
            assert!((repeated(text, size) - share).abs() < 1e-12, "{text:?}");
        }
    }
}
