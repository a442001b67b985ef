//! BLEU-4 of one sentence as nltk computes it with smoothing method 3.

use crate::words::ngrams;

const ORDER: usize = 4;

/// BLEU of a hypothesis that is not empty, against one reference or more.
pub(crate) fn sentence_bleu(hypothesis: &[u32], references: &[Vec<u32>]) -> f64 {
    let mut logarithms = 0.0;
    let mut nothing_found = 1.0;
    for size in 1..=ORDER {
        let (found, total) = clipped(hypothesis, references, size);
        if found == 0 && size == 1 {
            return 0.0;
        }
        let precision = if found == 0 {
            // The n-th order without a match counts as 1 / 2^n matches.
            nothing_found *= 2.0;
            1.0 / (nothing_found * total as f64)
        } else {
            found as f64 / total as f64
        };
        logarithms += precision.ln() / ORDER as f64;
    }
    brevity_penalty(hypothesis.len(), references) * logarithms.exp()
}

/// How many n-grams of the hypothesis stand in a reference, each at most as often as there; and how many it has, at
/// least 1.
fn clipped(hypothesis: &[u32], references: &[Vec<u32>], size: usize) -> (usize, usize) {
    let wanted: Vec<_> = references.iter().map(|reference| ngrams(reference, size)).collect();
    let found = ngrams(hypothesis, size).into_iter().map(|(ngram, count)| {
        let most = wanted.iter().filter_map(|reference| reference.get(ngram)).max();
        count.min(most.copied().unwrap_or(0))
    });
    (found.sum(), (hypothesis.len() + 1).saturating_sub(size).max(1))
}

/// 1 for a hypothesis longer than the reference that is closest in length (of two equally close the shorter).
fn brevity_penalty(length: usize, references: &[Vec<u32>]) -> f64 {
    let closest = references.iter().map(Vec::len).min_by_key(|&reference| (reference.abs_diff(length), reference));
    match closest {
        Some(closest) if length <= closest => (1.0 - closest as f64 / length as f64).exp(),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words are single letters.
    fn bleu(hypothesis: &str, references: &[&str]) -> f64 {
        let words = |text: &str| text.split(' ').map(|word| u32::from(word.as_bytes()[0])).collect::<Vec<_>>();
        sentence_bleu(&words(hypothesis), &references.iter().map(|text| words(text)).collect::<Vec<_>>())
    }

    #[test]
    fn sentences() {
        let close = |one: f64, two: f64| (one - two).abs() < 1e-12;
        assert!(close(bleu("a b c d e", &["a b c d e"]), 1.0));
        assert!(close(bleu("x y", &["a b"]), 0.0));
        // 1/1, then 1/2, 1/4 and 1/8 for orders without a match.
        assert!(close(bleu("a", &["a"]), (1.0f64 / 64.0).powf(0.25)));
        assert!(close(bleu("a b c d", &["a b c d e f g h"]), (-1.0f64).exp()));
        // The reference with 3 words is as close as that with 5, and shorter.
        assert!(bleu("a b c d", &["a b c", "a b c d e"]) > 0.9);
    }
}
