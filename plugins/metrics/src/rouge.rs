//! ROUGE as the Python package `rouge` 1.0.1 defines it: F1 over sets of n-grams, and over the words of longest common
//! subsequences.
//!
//! It cuts a text at every `.` into sentences and at white space into words. Both sides count each n-gram or word once.

use crate::words::{Numbering, ngrams, words};

/// A text as sentences of numbered words.
pub(crate) struct Sentences(Vec<Vec<u32>>);

impl Sentences {
    /// `None` for a text of nothing but dots. A sentence of nothing but spaces has one empty word.
    pub(crate) fn of<'a>(text: &'a str, numbering: &mut Numbering<'a>) -> Option<Self> {
        let mut sentences = Vec::new();
        for sentence in text.split('.').filter(|sentence| !sentence.is_empty()) {
            let mut numbers: Vec<u32> = words(sentence).map(|word| numbering.number(word)).collect();
            if numbers.is_empty() {
                numbers.push(numbering.number(""));
            }
            sentences.push(numbers);
        }
        (!sentences.is_empty()).then_some(Self(sentences))
    }

    fn words(&self) -> Vec<u32> {
        self.0.concat()
    }
}

/// The F1 of the n-grams of two texts, across their sentences.
#[allow(dead_code, reason = "the rewards, which share this file, need only ROUGE-L")]
pub(crate) fn rouge_n(hypothesis: &Sentences, reference: &Sentences, size: usize) -> f64 {
    let (said, wanted) = (hypothesis.words(), reference.words());
    let (said, wanted) = (ngrams(&said, size), ngrams(&wanted, size));
    let common = said.keys().filter(|ngram| wanted.contains_key(*ngram)).count();
    f1(common, said.len(), wanted.len())
}

/// The F1 of the longest common subsequences of all pairs of sentences.
pub(crate) fn rouge_l(hypothesis: &Sentences, reference: &Sentences) -> f64 {
    let mut common = Vec::new();
    for wanted in &reference.0 {
        for said in &hypothesis.0 {
            common_subsequence(wanted, said, &mut common);
        }
    }
    let count = |words: &[u32]| ngrams(words, 1).len();
    f1(count(&common), count(&hypothesis.words()), count(&reference.words()))
}

/// The F1 of two sets, with the package's guard against a division by 0.
fn f1(common: usize, hypothesis: usize, reference: usize) -> f64 {
    let share = |of: usize| if of == 0 { 0.0 } else { common as f64 / of as f64 };
    let (precision, recall) = (share(hypothesis), share(reference));
    2.0 * ((precision * recall) / (precision + recall + 1e-8))
}

/// Puts the words of a longest common subsequence into `common`. Of several it finds the one that the package finds:
/// walking back from the ends, it leaves a word of the hypothesis out first.
fn common_subsequence(reference: &[u32], hypothesis: &[u32], common: &mut Vec<u32>) {
    // One row of lengths, and one bit for each cell that says where the longer subsequence lies: two long texts fit.
    let columns = hypothesis.len();
    let mut lengths = vec![0u32; columns + 1];
    let mut leave_reference = vec![0u64; (reference.len() * columns).div_ceil(64)];
    let mut cell = 0;
    for wanted in reference {
        let (mut diagonal, mut left) = (0, 0);
        for (said, length) in hypothesis.iter().zip(&mut lengths[1..]) {
            let above = *length;
            if wanted == said {
                left = diagonal + 1;
            } else if above > left {
                leave_reference[cell / 64] |= 1 << (cell % 64);
                left = above;
            }
            *length = left;
            diagonal = above;
            cell += 1;
        }
    }
    let (mut row, mut column) = (reference.len(), columns);
    while row > 0 && column > 0 {
        let cell = (row - 1) * columns + column - 1;
        if reference[row - 1] == hypothesis[column - 1] {
            common.push(reference[row - 1]);
            row -= 1;
            column -= 1;
        } else if leave_reference[cell / 64] >> (cell % 64) & 1 == 1 {
            row -= 1;
        } else {
            column -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_common_subsequences() {
        let close = |one: Option<f64>, two: f64| (one.expect("a score") - two).abs() < 1e-7;
        let read = |one, two| {
            let mut numbering = Numbering::default();
            Sentences::of(one, &mut numbering).zip(Sentences::of(two, &mut numbering))
        };
        let text_rouge_l = |one, two| read(one, two).map(|(one, two)| rouge_l(&one, &two));
        assert!(close(text_rouge_l("the cat sat", "the cat sat"), 1.0));
        assert!(close(text_rouge_l("the cat sat", "the dog sat"), 2.0 / 3.0));
        assert!(close(text_rouge_l("a b", "c d"), 0.0));
        assert!(close(text_rouge_l("sat cat the", "the cat sat"), 1.0 / 3.0));
        // The words of two sentences together.
        assert!(close(text_rouge_l("a b. c d", "a b c d"), 1.0));
        let (said, wanted) = read("a b c", "b c. d").unwrap();
        assert!(close(Some(rouge_n(&said, &wanted, 1)), 2.0 / 3.0));
        assert!(close(Some(rouge_n(&said, &wanted, 2)), 0.5));
        assert!(close(Some(rouge_n(&said, &wanted, 9)), 0.0));
        assert_eq!((text_rouge_l("", "a"), text_rouge_l("a", "...")), (None, None));
    }
}
