//! The next token from a row of logits.
//!
//! The penalty and the draw are candle-transformers'. The filters are ours: candle applies top-p to the probabilities
//! left by top-k without making them sum to one, cuts ties at the k-th place, and has no min-p.

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as Draw};
use candle_transformers::utils::apply_repeat_penalty;
use swift_engine::Choice;

use crate::error::InferError;
use crate::settings::Sampling;

/// Chooses tokens for one sequence; the same seed and the same logits give the same tokens.
pub struct Sampler {
    sampling: Sampling,
    seed: u64,
    draw: LogitsProcessor,
}

impl Sampler {
    /// A sampler with random numbers of its own.
    pub fn new(sampling: Sampling, seed: u64) -> Self {
        let draw = if sampling.is_greedy() { Draw::ArgMax } else { Draw::All { temperature: 1.0 } };
        Self { sampling, seed, draw: LogitsProcessor::from_sampling(seed, draw) }
    }

    /// The same for a device that chooses itself, behind `position` chosen tokens. Its random numbers are its own: the same
    /// seed gives other tokens than here. `None` when the settings ask for what devices do not do.
    pub fn choice(&self, position: u64) -> Option<Choice> {
        let s = &self.sampling;
        (s.repetition_penalty == 1.0).then(|| Choice {
            temperature: if s.is_greedy() { 0.0 } else { s.temperature as f32 },
            top_p: s.top_p as f32,
            top_k: u32::try_from(s.top_k).unwrap_or(u32::MAX),
            min_p: s.min_p as f32,
            seed: self.seed,
            position,
        })
    }

    /// The next token. `logits` has one finite number a token of the vocabulary, `context` are the tokens so far.
    ///
    /// # Errors
    /// When no token can be drawn.
    pub fn sample(&mut self, logits: Vec<f32>, context: &[u32]) -> Result<u32, InferError> {
        let failed = |e: candle_core::Error| InferError::Sampling { message: e.to_string() };
        let size = logits.len();
        let mut logits = Tensor::from_vec(logits, size, &Device::Cpu).map_err(failed)?;
        if self.sampling.repetition_penalty != 1.0 {
            logits = apply_repeat_penalty(&logits, self.sampling.repetition_penalty as f32, context).map_err(failed)?;
        }
        if !self.sampling.is_greedy() {
            let mut kept = logits.to_vec1::<f32>().map_err(failed)?;
            filter(&mut kept, &self.sampling);
            logits = Tensor::from_vec(kept, size, &Device::Cpu).map_err(failed)?;
        }
        self.draw.sample(&logits).map_err(failed)
    }
}

/// Temperature, then top-k, top-p and min-p, each on what the one before it left; what is cut gets minus infinity.
/// As transformers' logits warpers do it, ties included.
pub fn filter(logits: &mut [f32], sampling: &Sampling) {
    for logit in logits.iter_mut() {
        *logit = (f64::from(*logit) / sampling.temperature) as f32;
    }
    if sampling.top_k > 0 && sampling.top_k < logits.len() {
        let mut sorted = logits.to_vec();
        let (_, kth, _) = sorted.select_nth_unstable_by(sampling.top_k - 1, |a, b| b.total_cmp(a));
        let kth = *kth;
        cut(logits, |logit| logit < kth);
    }
    if sampling.top_p < 1.0 {
        let mut order: Vec<usize> = (0..logits.len()).filter(|&i| logits[i] > f32::NEG_INFINITY).collect();
        // Least likely first; of equal ones, the later first, so that the earlier is kept.
        order.sort_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
        let total = mass(logits);
        let most = most(logits);
        let mut below = 0.0;
        for &i in &order[..order.len().saturating_sub(1)] {
            below += f64::from(logits[i] - most).exp() / total;
            if below > 1.0 - sampling.top_p {
                break;
            }
            logits[i] = f32::NEG_INFINITY;
        }
    }
    if sampling.min_p > 0.0 {
        let most = most(logits);
        cut(logits, |logit| f64::from(logit - most).exp() < sampling.min_p);
    }
}

fn cut(logits: &mut [f32], unwanted: impl Fn(f32) -> bool) {
    logits.iter_mut().filter(|logit| unwanted(**logit)).for_each(|logit| *logit = f32::NEG_INFINITY);
}

fn most(logits: &[f32]) -> f32 {
    logits.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// Sum of the exponentials, relative to the largest.
fn mass(logits: &[f32]) -> f64 {
    let most = most(logits);
    logits.iter().map(|&logit| f64::from(logit - most).exp()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits of these probabilities.
    fn logits(probabilities: &[f64]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() as f32).collect()
    }

    fn kept(probabilities: &[f64], sampling: &Sampling) -> Vec<usize> {
        let mut logits = logits(probabilities);
        filter(&mut logits, sampling);
        (0..logits.len()).filter(|&i| logits[i] > f32::NEG_INFINITY).collect()
    }

    fn plain() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::GREEDY }
    }

    const P: [f64; 5] = [0.1, 0.4, 0.05, 0.25, 0.2];

    #[test]
    fn filters_keep_what_transformers_keeps() {
        assert_eq!(kept(&P, &plain()), [0, 1, 2, 3, 4]);
        assert_eq!(kept(&P, &Sampling { top_k: 2, ..plain() }), [1, 3]);
        // Equal to the k-th: kept too.
        assert_eq!(kept(&[0.3, 0.3, 0.3, 0.1], &Sampling { top_k: 2, ..plain() }), [0, 1, 2]);
        // 0.4 + 0.25 reaches 0.6.
        assert_eq!(kept(&P, &Sampling { top_p: 0.6, ..plain() }), [1, 3]);
        assert_eq!(kept(&P, &Sampling { top_p: 0.7, ..plain() }), [1, 3, 4]);
        assert_eq!(kept(&P, &Sampling { top_p: 0.0, ..plain() }), [1]);
        // After top-k 3, the rest sums to one again: 0.4 / 0.85 = 0.47, 0.25 / 0.85 = 0.29.
        assert_eq!(kept(&P, &Sampling { top_k: 3, top_p: 0.45, ..plain() }), [1]);
        assert_eq!(kept(&P, &Sampling { top_k: 3, top_p: 0.7, ..plain() }), [1, 3]);
        // A quarter of 0.4 is 0.1; half of it 0.2.
        assert_eq!(kept(&P, &Sampling { min_p: 0.24, ..plain() }), [0, 1, 3, 4]);
        assert_eq!(kept(&P, &Sampling { min_p: 0.6, ..plain() }), [1, 3]);
        // Temperature comes first: at 0.5 the probabilities are squared, 0.16 of 0.275.
        assert_eq!(kept(&P, &Sampling { temperature: 0.5, top_p: 0.55, ..plain() }), [1]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_the_seed() {
        let draws = |seed| {
            let mut sampler = Sampler::new(Sampling { top_k: 2, ..plain() }, seed);
            (0..4000).map(|_| sampler.sample(logits(&P), &[]).unwrap()).collect::<Vec<_>>()
        };
        let first = draws(1);
        assert_eq!(first, draws(1));
        assert_ne!(first, draws(2));
        assert!(first.iter().all(|t| [1, 3].contains(t)));
        let share = first.iter().filter(|&&t| t == 1).count() as f64 / 4000.0;
        // 0.4 of 0.65; four deviations are 0.031.
        assert!((share - 0.4 / 0.65).abs() < 0.031, "{share}");
    }

    #[test]
    fn the_penalty_counts_each_token_once_and_works_without_sampling() {
        let penalty = Sampling { repetition_penalty: 2.0, ..Sampling::GREEDY };
        let mut sampler = Sampler::new(penalty, 0);
        // 4 / 2 = 2 still wins over 1.5, also when the token stands three times.
        assert_eq!(sampler.sample(vec![4.0, 1.5, -1.0], &[0, 0, 0]).unwrap(), 0);
        assert_eq!(sampler.sample(vec![4.0, 2.5, -1.0], &[0]).unwrap(), 1);
        // Negative logits are multiplied: -2 against -1.5.
        assert_eq!(sampler.sample(vec![-1.0, -1.5], &[0]).unwrap(), 1);
        assert_eq!(Sampler::new(Sampling::GREEDY, 0).sample(vec![1.0, 3.0, 2.0], &[1]).unwrap(), 1);
    }
}
