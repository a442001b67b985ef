//! Rewards that follow from how long a completion is, in tokens.

/// The reward of a correct or a wrong completion as a half cosine wave over its length (arXiv 2502.03373).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cosine {
    pub(crate) min_len_value_wrong: f64,
    pub(crate) max_len_value_wrong: f64,
    pub(crate) min_len_value_correct: f64,
    pub(crate) max_len_value_correct: f64,
    pub(crate) max_len: f64,
}

impl Cosine {
    /// From `min_len_value` at no tokens to `max_len_value` at `max_len` tokens. The wave goes on behind that, as in
    /// ms-swift: the host cuts completions at `max_len`.
    pub(crate) fn reward(&self, tokens: u32, correct: bool) -> f64 {
        let (start, end) = if correct {
            (self.min_len_value_correct, self.max_len_value_correct)
        } else {
            (self.min_len_value_wrong, self.max_len_value_wrong)
        };
        let angle = f64::from(tokens) * std::f64::consts::PI / self.max_len;
        start - (start - end) * (1.0 - angle.cos()) / 2.0
    }
}

/// DAPO's penalty (arXiv 2503.14476): 0 up to `max_length - cache_length` tokens, -1 at `max_length`, and on with the
/// same slope behind that, as in ms-swift.
pub(crate) fn soft_overlong(tokens: u32, max_length: f64, cache_length: f64) -> f64 {
    let exceeding = f64::from(tokens) - (max_length - cache_length);
    (-exceeding / cache_length).min(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wave_starts_and_ends_where_it_should() {
        let wave = Cosine {
            min_len_value_wrong: -0.5,
            max_len_value_wrong: 0.0,
            min_len_value_correct: 1.0,
            max_len_value_correct: 0.5,
            max_len: 1000.0,
        };
        for (tokens, correct, reward) in [
            (0, true, 1.0),
            (500, true, 0.75),
            (1000, true, 0.5),
            (0, false, -0.5),
            (500, false, -0.25),
            (1000, false, 0.0),
        ] {
            assert!((wave.reward(tokens, correct) - reward).abs() < 1e-12, "{tokens} {correct}");
        }
    }

    #[test]
    fn the_penalty_starts_where_the_cache_starts() {
        for (tokens, penalty) in [(0, 0.0), (80, 0.0), (90, -0.5), (100, -1.0), (120, -2.0)] {
            assert!((soft_overlong(tokens, 100.0, 20.0) - penalty).abs() < 1e-12, "{tokens}");
        }
    }
}
