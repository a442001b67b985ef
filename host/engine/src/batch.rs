//! What a step is fed: the rows of all its sequences, end to end, without padding.

use crate::error::EngineError;

/// Rows of one step. All fields but `sequence_lengths` have one entry a row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    pub tokens: Vec<u32>,
    /// Rows of each sequence; they add up to the number of rows.
    pub sequence_lengths: Vec<u32>,
    /// Position of each row in its sequence.
    pub positions: Vec<u32>,
    /// The token that should follow each row.
    pub targets: Vec<u32>,
    /// Loss weight of predicting `targets` after each row; 0 where there is nothing to learn.
    pub weights: Vec<f32>,
}

impl Batch {
    /// A batch of whole sequences without anything to learn.
    pub fn of_sequences(sequences: &[&[u32]]) -> Self {
        let mut batch = Self::default();
        for sequence in sequences {
            batch.tokens.extend_from_slice(sequence);
            batch.sequence_lengths.push(sequence.len() as u32);
            batch.positions.extend(0..sequence.len() as u32);
        }
        batch.targets = vec![0; batch.tokens.len()];
        batch.weights = vec![0.0; batch.tokens.len()];
        batch
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Checks lengths and token ids.
    ///
    /// # Errors
    /// When a field has another length, a sequence is empty, or an id is not below `vocabulary`.
    pub fn check(&self, vocabulary: usize) -> Result<(), EngineError> {
        let rows = self.rows();
        let fail = |message: String| Err(EngineError::Batch(message));
        if rows == 0 {
            return fail("it has no rows".into());
        }
        if self.positions.len() != rows || self.targets.len() != rows || self.weights.len() != rows {
            return fail(format!(
                "{rows} tokens, {} positions, {} targets, {} weights",
                self.positions.len(),
                self.targets.len(),
                self.weights.len()
            ));
        }
        let total: u64 = self.sequence_lengths.iter().map(|&n| u64::from(n)).sum();
        if total != rows as u64 || self.sequence_lengths.contains(&0) {
            return fail(format!("sequence lengths {:?} do not make {rows} rows", self.sequence_lengths));
        }
        let targets = self.targets.iter().zip(&self.weights).filter(|(_, w)| **w != 0.0).map(|(t, _)| t);
        if let Some(id) = self.tokens.iter().chain(targets).find(|id| **id as usize >= vocabulary) {
            return fail(format!("token id {id} is outside of the vocabulary of {vocabulary}"));
        }
        if let Some(w) = self.weights.iter().find(|w| !w.is_finite()) {
            return fail(format!("a loss weight is {w}"));
        }
        Ok(())
    }
}
