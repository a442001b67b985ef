//! ROUGE as the Python package `rouge` 1.0.1 defines it: F1 over sets of n-grams, and over the words of longest common
//! subsequences.
//!
//! It cuts a text at every `.` into sentences and at white space into words. Both sides count each n-gram or word once.

use crate::space::words;

/// A text as sentences of words.
pub(crate) struct Sentences<'a>(Vec<Vec<&'a str>>);

impl<'a> Sentences<'a> {
    /// `None` for a text of nothing but dots. A sentence of nothing but spaces has one empty word.
    pub(crate) fn of(text: &'a str) -> Option<Self> {
        let sentence = |text: &'a str| {
            let words: Vec<&str> = words(text).collect();
            if words.is_empty() { vec![""] } else { words }
        };
        let sentences: Vec<_> = text.split('.').filter(|text| !text.is_empty()).map(sentence).collect();
        (!sentences.is_empty()).then_some(Self(sentences))
    }

    fn words(&self) -> Vec<&'a str> {
        self.0.concat()
    }
}

/// The F1 of the n-grams of two texts, across their sentences.
#[allow(dead_code, reason = "the rewards, which share this file, need only ROUGE-L")]
pub(crate) fn rouge_n(hypothesis: &Sentences<'_>, reference: &Sentences<'_>, size: usize) -> f64 {
    let (said, wanted) = (hypothesis.words(), reference.words());
    let (said, wanted) = (unique(said.windows(size).collect()), unique(wanted.windows(size).collect()));
    let common = said.iter().filter(|ngram| wanted.binary_search(ngram).is_ok()).count();
    f1(common, said.len(), wanted.len())
}

/// ROUGE-L of two texts, `None` where one is empty.
#[allow(dead_code, reason = "the metrics score more than this, and cut their texts once")]
pub(crate) fn text_rouge_l(hypothesis: &str, reference: &str) -> Option<f64> {
    Some(rouge_l(&Sentences::of(hypothesis)?, &Sentences::of(reference)?))
}

/// The F1 of the longest common subsequences of all pairs of sentences.
pub(crate) fn rouge_l(hypothesis: &Sentences<'_>, reference: &Sentences<'_>) -> f64 {
    let mut common = Vec::new();
    for wanted in &reference.0 {
        for said in &hypothesis.0 {
            common_subsequence(wanted, said, &mut common);
        }
    }
    let unique = |words: &[&str]| unique(words.chunks(1).collect()).len();
    f1(unique(&common), unique(&hypothesis.words()), unique(&reference.words()))
}

/// Each n-gram once, in order.
fn unique<'a>(mut ngrams: Vec<&'a [&'a str]>) -> Vec<&'a [&'a str]> {
    ngrams.sort_unstable();
    ngrams.dedup();
    ngrams
}

/// The F1 of two sets, with the package's guard against a division by 0.
fn f1(common: usize, hypothesis: usize, reference: usize) -> f64 {
    let share = |of: usize| if of == 0 { 0.0 } else { common as f64 / of as f64 };
    let (precision, recall) = (share(hypothesis), share(reference));
    2.0 * ((precision * recall) / (precision + recall + 1e-8))
}

/// Puts the words of a longest common subsequence into `common`. Of several it finds the one that the package finds:
/// walking back from the ends, it leaves a word of the hypothesis out first.
fn common_subsequence<'a>(reference: &[&'a str], hypothesis: &[&str], common: &mut Vec<&'a str>) {
    // One row of lengths, and one bit for each cell that says where the longer subsequence lies: two long texts fit.
    let columns = hypothesis.len();
    let mut lengths = vec![0u32; columns + 1];
    let mut leave_reference = vec![0u64; (reference.len() * columns).div_ceil(64)];
    for (row, wanted) in reference.iter().enumerate() {
        let mut diagonal = 0;
        for (column, said) in hypothesis.iter().enumerate() {
            let above = lengths[column + 1];
            let left = lengths[column];
            if wanted == said {
                lengths[column + 1] = diagonal + 1;
            } else {
                lengths[column + 1] = above.max(left);
                if above > left {
                    let cell = row * columns + column;
                    leave_reference[cell / 64] |= 1 << (cell % 64);
                }
            }
            diagonal = above;
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
        assert!(close(text_rouge_l("the cat sat", "the cat sat"), 1.0));
        assert!(close(text_rouge_l("the cat sat", "the dog sat"), 2.0 / 3.0));
        assert!(close(text_rouge_l("a b", "c d"), 0.0));
        assert!(close(text_rouge_l("sat cat the", "the cat sat"), 1.0 / 3.0));
        // The words of two sentences together.
        assert!(close(text_rouge_l("a b. c d", "a b c d"), 1.0));
        let (said, wanted) = (Sentences::of("a b c").unwrap(), Sentences::of("b c. d").unwrap());
        assert!(close(Some(rouge_n(&said, &wanted, 1)), 2.0 / 3.0));
        assert!(close(Some(rouge_n(&said, &wanted, 2)), 0.5));
        assert!(close(Some(rouge_n(&said, &wanted, 9)), 0.0));
        assert_eq!((text_rouge_l("", "a"), text_rouge_l("a", "...")), (None, None));
    }
}
