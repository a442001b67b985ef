//! Words of a text, and numbers in their place, which are quick to compare. White space is what Python's `str` takes for
//! it: Unicode's, and the four separators U+001C to U+001F.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `str.strip()`
#[allow(dead_code, reason = "the metrics, which share this file, do not strip")]
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.split()`
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Gives every word a number, the same word the same number.
#[derive(Default)]
pub(crate) struct Numbering<'a>(HashMap<&'a str, u32, BuildHasherDefault<Fnv>>);

impl<'a> Numbering<'a> {
    pub(crate) fn number(&mut self, word: &'a str) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(word).or_insert(next)
    }
}

/// The hash of Fowler, Noll and Vo, which is small. Texts made to collide only make their own call run out of fuel.
pub(crate) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// N-grams, and how often each stands in the words.
pub(crate) fn ngrams(words: &[u32], size: usize) -> HashMap<&[u32], usize, BuildHasherDefault<Fnv>> {
    let mut ngrams = HashMap::default();
    for ngram in words.windows(size) {
        *ngrams.entry(ngram).or_insert(0) += 1;
    }
    ngrams
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_words_have_equal_numbers() {
        let mut numbering = Numbering::default();
        let numbers: Vec<u32> = words("a b\u{1f}a\u{3000} c").map(|word| numbering.number(word)).collect();
        assert_eq!(numbers, [0, 1, 0, 2]);
        let count = |ngram: &[u32]| ngrams(&numbers, ngram.len()).get(ngram).copied();
        assert_eq!((count(&[0]), count(&[1]), count(&[3])), (Some(2), Some(1), None));
        assert_eq!((count(&[1, 0]), count(&[2, 0])), (Some(1), None));
        assert!(ngrams(&numbers, 5).is_empty());
        assert_eq!(strip("\u{1c} a \n"), "a");
    }
}
