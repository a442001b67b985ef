//! How long a run has taken and will take.

use std::time::{Duration, Instant};

/// Time spent: all of it, and the part that trained.
pub(crate) struct Clock {
    started: Instant,
    /// Seconds of the sessions before this one.
    before: f64,
    step_started: Instant,
    training: Duration,
    steps: u64,
    row_training: Duration,
    row_tokens: u64,
}

impl Clock {
    pub(crate) fn new(before: f64) -> Self {
        let now = Instant::now();
        let zero = Duration::ZERO;
        Self { started: now, before, step_started: now, training: zero, steps: 0, row_training: zero, row_tokens: 0 }
    }

    pub(crate) fn begin(&mut self) {
        self.step_started = Instant::now();
    }

    pub(crate) fn end(&mut self, tokens: u64) {
        let took = self.step_started.elapsed();
        self.training += took;
        self.row_training += took;
        self.row_tokens += tokens;
        self.steps += 1;
    }

    pub(crate) fn new_row(&mut self) {
        (self.row_training, self.row_tokens) = (Duration::ZERO, 0);
    }

    pub(crate) fn elapsed(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    pub(crate) fn seconds_per_step(&self) -> f64 {
        self.training.as_secs_f64() / self.steps.max(1) as f64
    }

    pub(crate) fn remaining(&self, steps: u64) -> f64 {
        self.started.elapsed().as_secs_f64() / self.steps.max(1) as f64 * steps as f64
    }

    pub(crate) fn tokens_per_second(&self) -> f64 {
        self.row_tokens as f64 / self.row_training.as_secs_f64().max(1e-9)
    }
}
