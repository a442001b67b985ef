//! The order of an epoch, batches of rows or packs, and the ragged batch the engine runs.

use serde::{Deserialize, Serialize};

use crate::{DataError, Encoded, Stream, permutation};

/// How far a run has come in its data: everything needed to go on with the next batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// Whole epochs behind.
    pub epoch: u64,
    /// Batches of this epoch behind.
    pub position: usize,
}

/// Endless batches of units (rows or packs), epoch after epoch. Each epoch is a permutation that depends only on
/// (data_seed, epoch), so a restored [`Cursor`] continues exactly.
#[derive(Debug, Clone)]
pub struct EpochBatches {
    units: usize,
    batch_size: usize,
    data_seed: u64,
    shuffle: bool,
    cursor: Cursor,
    order: Vec<usize>,
    order_of: Option<u64>,
}

impl EpochBatches {
    /// Batches of `batch_size` out of `units`; the last batch of an epoch may be smaller. Neither may be zero.
    pub fn new(units: usize, batch_size: usize, data_seed: u64, shuffle: bool) -> Self {
        assert!(units > 0 && batch_size > 0, "an epoch needs at least one unit and a batch size of at least one");
        Self { units, batch_size, data_seed, shuffle, cursor: Cursor::default(), order: Vec::new(), order_of: None }
    }

    /// Batches in one epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.units.div_ceil(self.batch_size)
    }

    /// Where the next batch is.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Continues at `cursor`.
    pub fn restore(&mut self, cursor: Cursor) -> Result<(), DataError> {
        let batches = self.batches_per_epoch();
        if cursor.position >= batches {
            return Err(DataError::Cursor { epoch: cursor.epoch, position: cursor.position, batches });
        }
        self.cursor = cursor;
        Ok(())
    }

    /// The units of the next batch.
    pub fn next_batch(&mut self) -> Vec<usize> {
        let Cursor { epoch, position } = self.cursor;
        if self.order_of != Some(epoch) {
            self.order = if self.shuffle {
                permutation(self.units, self.data_seed, Stream::Epoch(epoch))
            } else {
                (0..self.units).collect()
            };
            self.order_of = Some(epoch);
        }
        let start = position * self.batch_size;
        let batch = self.order[start..(start + self.batch_size).min(self.units)].to_vec();
        self.cursor = if position + 1 == self.batches_per_epoch() {
            Cursor { epoch: epoch + 1, position: 0 }
        } else {
            Cursor { epoch, position: position + 1 }
        };
        batch
    }
}

/// Sequences end to end, without padding. All per-token lists have the same length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Tokens of all sequences.
    pub tokens: Vec<u32>,
    /// Tokens of each sequence.
    pub sequence_lengths: Vec<u32>,
    /// Position of each token in its sequence.
    pub positions: Vec<u32>,
    /// The token after each one in its sequence; 0 after the last.
    pub targets: Vec<u32>,
    /// The loss weight of each target; 0 after the last token of a sequence.
    pub weights: Vec<f32>,
}

/// Puts sequences end to end.
pub fn collate<'a>(sequences: impl IntoIterator<Item = &'a Encoded>) -> Batch {
    let mut batch = Batch::default();
    for sequence in sequences {
        let length = sequence.tokens.len();
        if length == 0 {
            continue;
        }
        batch.tokens.extend_from_slice(&sequence.tokens);
        batch.sequence_lengths.push(length as u32);
        batch.positions.extend(0..length as u32);
        batch.targets.extend_from_slice(&sequence.tokens[1..]);
        batch.targets.push(0);
        batch.weights.extend_from_slice(&sequence.weights[1..]);
        batch.weights.push(0.0);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_a_permutation_and_a_restored_cursor_continues() {
        let mut batches = EpochBatches::new(10, 3, 42, true);
        assert_eq!(batches.batches_per_epoch(), 4);
        let mut history = Vec::new();
        for _ in 0..12 {
            let cursor = batches.cursor();
            history.push((cursor, batches.next_batch()));
        }
        for epoch in 0..3 {
            let mut units: Vec<usize> = history[epoch * 4..epoch * 4 + 4].iter().flat_map(|(_, b)| b.clone()).collect();
            assert_eq!(history[epoch * 4].0, Cursor { epoch: epoch as u64, position: 0 });
            units.sort_unstable();
            assert!(units.into_iter().eq(0..10));
        }
        assert_ne!(history[0].1, history[4].1);
        for (cursor, expected) in &history {
            let mut restored = EpochBatches::new(10, 3, 42, true);
            restored.restore(*cursor).unwrap();
            assert_eq!(&restored.next_batch(), expected);
        }
        let error = batches.restore(Cursor { epoch: 0, position: 4 }).unwrap_err();
        assert!(error.to_string().contains("past the 4 batches"), "{error}");
    }

    #[test]
    fn unshuffled_batches_keep_the_order() {
        let mut batches = EpochBatches::new(3, 2, 42, false);
        let all: Vec<Vec<usize>> = (0..4).map(|_| batches.next_batch()).collect();
        assert_eq!(all, [vec![0, 1], vec![2], vec![0, 1], vec![2]]);
    }

    #[test]
    fn targets_are_the_next_tokens_of_the_same_sequence() {
        let sequence = |tokens: &[u32], weights: &[f32]| Encoded { tokens: tokens.into(), weights: weights.into() };
        let first = sequence(&[5, 6, 7], &[0.0, 0.0, 1.0]);
        let second = sequence(&[8, 9], &[0.0, 2.0]);
        let batch = collate([&first, &second]);
        assert_eq!(batch.tokens, [5, 6, 7, 8, 9]);
        assert_eq!(batch.sequence_lengths, [3, 2]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
        assert_eq!(batch.targets, [6, 7, 0, 9, 0]);
        assert_eq!(batch.weights, [0.0, 1.0, 0.0, 2.0, 0.0]);
    }
}
