//! Reciprocal ranks and discounted gains, as ms-swift's reranker metrics compute them.

use std::cmp::Ordering;

/// The queries of one list of labels: each starts at a label 1 and goes on to the next; alone it is none.
pub(crate) fn queries(labels: &[f64]) -> Vec<std::ops::Range<usize>> {
    let mut starts: Vec<usize> = (0..labels.len()).filter(|&at| labels[at] == 1.0).collect();
    starts.push(labels.len());
    starts.windows(2).map(|pair| pair[0]..pair[1]).filter(|query| query.len() > 1).collect()
}

/// The candidates from the highest score to the lowest. Equal scores keep their order, and what is no number comes last.
fn ranking(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&one, &two| match (scores[one].is_nan(), scores[two].is_nan()) {
        (false, false) => scores[two].partial_cmp(&scores[one]).unwrap_or(Ordering::Equal),
        (one, two) => one.cmp(&two),
    });
    order
}

/// 1 over the rank of the first candidate whose label is above 0; 0 without one.
pub(crate) fn reciprocal_rank(scores: &[f64], labels: &[f64]) -> f64 {
    let rank = ranking(scores).into_iter().position(|candidate| labels[candidate] > 0.0);
    rank.map_or(0.0, |before| 1.0 / (before + 1) as f64)
}

/// The normalised discounted cumulative gain, with gains of 2^label - 1.
pub(crate) fn ndcg(scores: &[f64], labels: &[f64]) -> f64 {
    let gain = |by: &[f64]| -> f64 {
        let ranked = ranking(by).into_iter().enumerate();
        ranked.map(|(before, candidate)| (labels[candidate].exp2() - 1.0) / ((before + 2) as f64).log2()).sum()
    };
    let best = gain(labels);
    if best == 0.0 { 0.0 } else { gain(scores) / best }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_starts_at_each_positive() {
        assert_eq!(queries(&[1.0, 0.0, 0.0, 1.0, 0.0]), [0..3, 3..5]);
        assert_eq!(queries(&[0.0, 1.0, 0.0]), [1..3]);
        assert_eq!(queries(&[1.0, 1.0, 0.0, 1.0]), [1..3]);
        assert!(queries(&[0.0, 0.0]).is_empty() && queries(&[]).is_empty());
    }

    #[test]
    fn ranks_and_gains() {
        assert_eq!(reciprocal_rank(&[0.1, 0.5, 0.3], &[1.0, 0.0, 0.0]), 1.0 / 3.0);
        assert_eq!(reciprocal_rank(&[0.5, 0.5], &[1.0, 0.0]), 1.0);
        assert_eq!(reciprocal_rank(&[f64::NAN, -1.0], &[1.0, 0.0]), 0.5);
        assert_eq!(reciprocal_rank(&[0.5], &[0.0]), 0.0);
        assert_eq!(ndcg(&[0.1, 0.5], &[1.0, 0.0]), 1.0 / 3f64.log2());
        assert_eq!(ndcg(&[3.0, 2.0, 1.0], &[2.0, 1.0, 0.0]), 1.0);
        assert_eq!(ndcg(&[1.0], &[0.0]), 0.0);
    }
}
