//! What a call of each kind of plugin may use. What a plugin is given besides, such as files and hosts, is in `grants`.

use std::time::Duration;

use crate::Kind;

/// What one call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Units of fuel, about one for each instruction.
    pub fuel: u64,
    /// Fuel on top of it for each sample, row, example or conversation of the call.
    pub fuel_each: u64,
    /// How long it may take where a plugin may wait: for files or an answer over HTTP. Such a plugin has no fuel.
    pub deadline: Duration,
    /// Bytes of memory for the instance.
    pub memory: usize,
    /// Calls to the host.
    pub calls: u64,
}

impl Limits {
    /// The limits of a kind, unless others are set.
    pub const fn of(kind: Kind) -> Self {
        let common = Self {
            fuel: 2_000_000_000,
            fuel_each: 200_000_000,
            deadline: Duration::from_secs(60),
            memory: 512 << 20,
            calls: 10_000,
        };
        match kind {
            // Each op of the graph is a call; the trace of a large model takes a few million units of fuel.
            Kind::Model => Self { fuel_each: 0, calls: 1_000_000, ..common },
            // Between a user and an answer.
            Kind::Template => Self { fuel_each: 100_000_000, deadline: Duration::from_secs(10), ..common },
            // A row group of a columnar file is in memory at once, and is read in many small calls.
            Kind::Dataset => Self { memory: 1 << 30, calls: 1_000_000, ..common },
            Kind::Preprocessor => Self { fuel_each: 50_000_000, ..common },
            // A judge that is asked over HTTP takes seconds for each sample of a call.
            Kind::Reward => Self { deadline: Duration::from_secs(300), ..common },
            // It holds the states of the whole evaluation.
            Kind::Metric => Self { memory: 1 << 30, ..common },
        }
    }
}

/// Limits for each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindLimits([Limits; Kind::ALL.len()]);

impl KindLimits {
    /// Those of one kind.
    pub fn of(&self, kind: Kind) -> Limits {
        self.0[kind as usize]
    }

    /// Changes those of every kind.
    #[must_use]
    pub fn with(mut self, change: impl FnMut(&mut Limits)) -> Self {
        self.0.iter_mut().for_each(change);
        self
    }
}

impl Default for KindLimits {
    fn default() -> Self {
        Self(Kind::ALL.map(Limits::of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_limits() {
        let limits = KindLimits::default();
        for kind in Kind::ALL {
            assert_eq!(limits.of(kind), Limits::of(kind), "{kind}");
        }
        assert!(limits.of(Kind::Model).calls > limits.of(Kind::Reward).calls);
        assert!(limits.of(Kind::Reward).deadline > limits.of(Kind::Template).deadline);
        let changed = limits.with(|limits| limits.memory = 1 << 20);
        assert!(Kind::ALL.iter().all(|&kind| changed.of(kind).memory == 1 << 20));
        assert_eq!(changed.of(Kind::Model).calls, Limits::of(Kind::Model).calls);
    }
}
