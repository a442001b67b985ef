//! A mean that does not depend on how the data was cut, and the bytes of a metric's state.

use swift_sdk::{Error, Result};

/// One, in units of a sum.
const ONE: f64 = 18_446_744_073_709_551_616.0;

/// The sum of scores between 0 and 1 in whole units of 2^-64: adding these is exact, so any order and any cut of the data
/// give the same mean to the last bit, which sums of floats do not.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mean {
    units: u128,
    count: u64,
}

impl Mean {
    pub(crate) fn add(&mut self, score: f64) {
        self.units += (score.clamp(0.0, 1.0) * ONE) as u128;
        self.count += 1;
    }

    /// `None` for a mean of nothing.
    pub(crate) fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.units as f64 / ONE / self.count as f64)
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.extend(self.units.to_le_bytes());
        out.extend(self.count.to_le_bytes());
    }

    /// Adds what [`Mean::write`] wrote.
    pub(crate) fn merge(&mut self, state: &mut State<'_>) -> Result<()> {
        let units = self.units.checked_add(u128::from_le_bytes(state.take()?));
        let count = self.count.checked_add(u64::from_le_bytes(state.take()?));
        (self.units, self.count) = units.zip(count).ok_or_else(foreign)?;
        Ok(())
    }
}

/// A state that is read from front to back.
pub(crate) struct State<'a>(&'a [u8]);

impl<'a> State<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(foreign)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn number(&mut self) -> Result<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str> {
        let length = usize::try_from(self.number()?).map_err(|_| foreign())?;
        let (text, rest) = self.0.split_at_checked(length).ok_or_else(foreign)?;
        self.0 = rest;
        std::str::from_utf8(text).map_err(|_| foreign())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Nothing may be left.
    pub(crate) fn end(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(foreign()) }
    }
}

fn foreign() -> Error {
    Error::new("this is not a state of this metric in this version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_bits() {
        let scores: Vec<f64> = (1..1000).map(|i| 1.0 / f64::from(i)).collect();
        let mut whole = Mean::default();
        scores.iter().for_each(|&score| whole.add(score));
        for size in [1, 7, 100, 999] {
            let mut merged = Mean::default();
            for batch in scores.chunks(size) {
                let mut part = Mean::default();
                batch.iter().for_each(|&score| part.add(score));
                let mut bytes = Vec::new();
                part.write(&mut bytes);
                let mut state = State::new(&bytes);
                merged.merge(&mut state).unwrap();
                state.end().unwrap();
            }
            assert_eq!(merged, whole);
        }
        let mean = scores.iter().sum::<f64>() / 999.0;
        assert!((whole.value().unwrap() - mean).abs() < 1e-15);
        assert_eq!(Mean::default().value(), None);
    }

    #[test]
    fn broken_states_are_refused() {
        assert!(Mean::default().merge(&mut State::new(&[0; 23])).is_err());
        assert!(Mean::default().merge(&mut State::new(&[255; 24])).is_ok());
        let mut full = Mean::default();
        full.add(1.0);
        assert!(full.merge(&mut State::new(&[255; 24])).is_err());
        assert!(State::new(&[255; 8]).text().is_err());
        assert!(State::new(&[1, 0, 0, 0, 0, 0, 0, 0, 0xff]).text().is_err());
        assert!(State::new(&[0]).end().is_err());
    }
}
