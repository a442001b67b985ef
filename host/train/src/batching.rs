//! From encoded samples to the micro-batches of each step: order, windows and denominators.
//!
//! Everything here is a pure function of the samples, the settings and (epoch, window): nothing to save, nothing that
//! can drift on resume.

use sha2::{Digest, Sha256};

use crate::learner::Batch;

/// One encoded sequence.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sequence {
    pub tokens: Vec<u32>,
    /// Loss weight of each token as a target; 0 for tokens that are not trained. As long as `tokens`.
    pub weights: Vec<f32>,
    /// Where the row came from, for messages: `train.jsonl:12`.
    pub origin: String,
}

impl Sequence {
    /// Tokens that are predicted and counted: weight not 0 and not the first of the sequence.
    pub fn labelled(&self) -> u64 {
        self.weights.iter().skip(1).filter(|&&w| w != 0.0).count() as u64
    }
}

/// One draw of the loader: a sequence, or several packed together. Sequences of a sample do not see each other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sample {
    pub sequences: Vec<Sequence>,
}

impl Sample {
    /// Rows this sample adds to a batch.
    pub fn rows(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens.len()).sum()
    }

    /// Labelled tokens, see [`Sequence::labelled`].
    pub fn labelled(&self) -> u64 {
        self.sequences.iter().map(Sequence::labelled).sum()
    }
}

impl From<Sequence> for Sample {
    fn from(sequence: Sequence) -> Self {
        Self { sequences: vec![sequence] }
    }
}

/// How samples become steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loader {
    pub samples: usize,
    pub batch_size: usize,
    /// Micro-batches of one optimizer step; the last step of an epoch may have fewer.
    pub accumulation: usize,
    pub shuffle: bool,
    pub seed: u64,
}

impl Loader {
    /// Optimizer steps of one epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        self.samples.div_ceil(self.batch_size).div_ceil(self.accumulation) as u64
    }

    /// The sample order of an epoch.
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.samples).collect();
        if self.shuffle {
            let mut numbers = SplitMix64::new(mix(&[self.seed, epoch, SHUFFLE]));
            for i in (1..order.len()).rev() {
                order.swap(i, numbers.below(i as u64 + 1) as usize);
            }
        }
        order
    }

    /// The micro-batches of step `window` (from 0) of an epoch with this order.
    pub fn window<'a>(&self, order: &'a [usize], window: u64) -> impl Iterator<Item = &'a [usize]> + use<'a> {
        let start = (window as usize) * self.batch_size * self.accumulation;
        let end = (start + self.batch_size * self.accumulation).min(order.len());
        order[start.min(end)..end].chunks(self.batch_size)
    }
}

const SHUFFLE: u64 = 1;
const DROPOUT: u64 = 2;

/// The dropout key of a micro-batch: a pure function, so that a resumed run drops the same elements.
pub fn dropout_key(seed: u64, step: u64, micro_batch: u64) -> u64 {
    mix(&[seed, step, micro_batch, DROPOUT])
}

/// Joins the sequences of samples end to end and shifts their targets by one.
pub fn batch<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> Batch {
    let mut batch = Batch::default();
    for sequence in samples.into_iter().flat_map(|sample| &sample.sequences) {
        let length = sequence.tokens.len();
        if length == 0 {
            continue;
        }
        batch.tokens.extend_from_slice(&sequence.tokens);
        batch.sequence_lengths.push(length as u32);
        batch.positions.extend(0..length as u32);
        batch.targets.extend_from_slice(&sequence.tokens[1..]);
        batch.weights.extend_from_slice(&sequence.weights[1..]);
        // The last token of a sequence predicts nothing.
        batch.targets.push(0);
        batch.weights.push(0.0);
    }
    batch
}

/// Origins of samples for a message, a few of them.
pub fn origins<'a>(samples: impl IntoIterator<Item = &'a Sample>) -> String {
    const SHOWN: usize = 8;
    let all: Vec<&str> =
        samples.into_iter().flat_map(|sample| &sample.sequences).map(|sequence| sequence.origin.as_str()).collect();
    let mut text = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN {
        text.push_str(&format!(" and {} more", all.len() - SHOWN));
    }
    text
}

/// SHA-256 of all tokens and weights in order: what a resumed run must find unchanged.
pub fn digest(samples: &[Sample]) -> String {
    let mut hash = Sha256::new();
    for sample in samples {
        hash.update((sample.sequences.len() as u64).to_le_bytes());
        for sequence in &sample.sequences {
            hash.update((sequence.tokens.len() as u64).to_le_bytes());
            for (token, weight) in sequence.tokens.iter().zip(&sequence.weights) {
                hash.update(token.to_le_bytes());
                hash.update(weight.to_bits().to_le_bytes());
            }
        }
    }
    crate::checkpoint::hex(&hash.finalize())
}

/// SplitMix64 (Steele, Lea, Flood 2014). Written out because orders must stay the same for ever, across versions of
/// any library.
struct SplitMix64(u64);

impl SplitMix64 {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound`, by rejection.
    fn below(&mut self, bound: u64) -> u64 {
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let value = self.next();
            if value < limit {
                return value % bound;
            }
        }
    }
}

fn mix(words: &[u64]) -> u64 {
    words.iter().fold(0x5377_6966_7400_0001, |state, &word| SplitMix64(state ^ SplitMix64(word).next()).next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(tokens: &[u32], weights: &[f32]) -> Sequence {
        Sequence { tokens: tokens.into(), weights: weights.into(), origin: format!("rows.jsonl:{}", tokens[0]) }
    }

    #[test]
    fn batches_shift_targets_and_never_cross_sequences() {
        let packed = Sample { sequences: vec![sequence(&[5, 6, 7], &[1.0, 0.0, 2.0]), sequence(&[8, 9], &[1.0, 1.0])] };
        let got = batch([&packed]);
        assert_eq!(got.tokens, [5, 6, 7, 8, 9]);
        assert_eq!(got.sequence_lengths, [3, 2]);
        assert_eq!(got.positions, [0, 1, 2, 0, 1]);
        assert_eq!(got.targets, [6, 7, 0, 9, 0]);
        assert_eq!(got.weights, [0.0, 2.0, 0.0, 1.0, 0.0]);
        assert_eq!(packed.labelled(), got.weights.iter().filter(|&&w| w != 0.0).count() as u64);
    }

    #[test]
    fn an_epoch_visits_every_sample_once() {
        let loader = Loader { samples: 23, batch_size: 2, accumulation: 3, shuffle: true, seed: 42 };
        assert_eq!(loader.steps_per_epoch(), 4);
        let order = loader.order(0);
        let mut seen: Vec<usize> =
            (0..4).flat_map(|w| loader.window(&order, w).flatten().copied().collect::<Vec<_>>()).collect();
        assert_ne!(seen, (0..23).collect::<Vec<_>>());
        seen.sort_unstable();
        assert_eq!(seen, (0..23).collect::<Vec<_>>());
        assert_ne!(loader.order(0), loader.order(1));
        assert_eq!(loader.order(1), loader.order(1));
    }

    /// From an independent implementation. Changing these numbers breaks the resume of every older checkpoint.
    #[test]
    fn orders_and_keys_never_change() {
        let loader = Loader { samples: 8, batch_size: 1, accumulation: 1, shuffle: true, seed: 42 };
        assert_eq!(loader.order(0), [3, 4, 5, 2, 1, 7, 6, 0]);
        assert_eq!(loader.order(1), [4, 2, 7, 3, 1, 6, 5, 0]);
        assert_eq!(dropout_key(42, 1, 0), 0xe9a69076f0387d9c);
    }
}
