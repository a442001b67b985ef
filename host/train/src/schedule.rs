//! Learning-rate schedules: the formulas of Hugging Face transformers' `optimization.py`, and when to do things.

/// How the learning rate moves, as a factor of its base value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    Constant,
    ConstantWithWarmup,
    Linear,
    Cosine,
}

impl Schedule {
    /// All of them with the names of `--lr_scheduler_type`.
    pub const ALL: &'static [(&'static str, Self)] = &[
        ("cosine", Self::Cosine),
        ("linear", Self::Linear),
        ("constant", Self::Constant),
        ("constant_with_warmup", Self::ConstantWithWarmup),
    ];

    /// The factor of optimizer step `step` (from 0) of `total`, after `warmup` steps of linear warm-up.
    ///
    /// `get_constant_schedule`, `get_constant_schedule_with_warmup`, `get_linear_schedule_with_warmup` and
    /// `get_cosine_schedule_with_warmup` (half a cosine wave) of transformers.
    pub fn factor(self, step: u64, warmup: u64, total: u64) -> f64 {
        if self == Self::Constant {
            return 1.0;
        }
        if step < warmup {
            return step as f64 / warmup.max(1) as f64;
        }
        let decay_steps = total.saturating_sub(warmup).max(1) as f64;
        match self {
            Self::Constant | Self::ConstantWithWarmup => 1.0,
            Self::Linear => (total.saturating_sub(step) as f64 / decay_steps).max(0.0),
            Self::Cosine => {
                let progress = (step - warmup) as f64 / decay_steps;
                (0.5 * (1.0 + (std::f64::consts::PI * 0.5 * 2.0 * progress).cos())).max(0.0)
            }
        }
    }
}

/// Steps of warm-up: `steps` where given, else `ceil(total * ratio)`.
pub fn warmup_steps(total: u64, steps: u64, ratio: f64) -> u64 {
    if steps > 0 { steps } else { (total as f64 * ratio).ceil() as u64 }
}

/// When evaluation or saving happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    Never,
    Steps(u64),
    Epoch,
}

impl Every {
    /// Whether it is due after `step` steps. Except for `Never` the last step of the run is always due.
    pub fn is_due(self, step: u64, steps_per_epoch: u64, max_steps: u64) -> bool {
        match self {
            Self::Never => false,
            _ if step == max_steps => true,
            Self::Steps(n) => step.is_multiple_of(n.max(1)),
            Self::Epoch => step.is_multiple_of(steps_per_epoch.max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by transformers 5: base 1.0, 10 steps, 3 of warm-up.
    #[test]
    fn factors_are_those_of_transformers() {
        let cases: &[(Schedule, u64, [f64; 11])] = &[
            (
                Schedule::Cosine,
                3,
                [
                    0.0,
                    0.3333333333333333,
                    0.6666666666666666,
                    1.0,
                    0.9504844339512095,
                    0.8117449009293668,
                    0.6112604669781572,
                    0.38873953302184283,
                    0.18825509907063326,
                    0.04951556604879048,
                    0.0,
                ],
            ),
            (
                Schedule::Linear,
                3,
                [
                    0.0,
                    0.3333333333333333,
                    0.6666666666666666,
                    1.0,
                    0.8571428571428571,
                    0.7142857142857143,
                    0.5714285714285714,
                    0.42857142857142855,
                    0.2857142857142857,
                    0.14285714285714285,
                    0.0,
                ],
            ),
            (
                Schedule::ConstantWithWarmup,
                3,
                [0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
            ),
            (Schedule::Constant, 3, [1.0; 11]),
            (
                Schedule::Cosine,
                0,
                [
                    1.0,
                    0.9755282581475768,
                    0.9045084971874737,
                    0.7938926261462366,
                    0.6545084971874737,
                    0.5,
                    0.34549150281252633,
                    0.2061073738537635,
                    0.09549150281252633,
                    0.024471741852423234,
                    0.0,
                ],
            ),
        ];
        for (schedule, warmup, expected) in cases {
            for (step, &want) in expected.iter().enumerate() {
                let got = schedule.factor(step as u64, *warmup, 10);
                assert!((got - want).abs() < 1e-15, "{schedule:?} warmup {warmup} step {step}: {got} != {want}");
            }
        }
    }

    #[test]
    fn warmup_ratio_rounds_up_and_steps_win() {
        assert_eq!(warmup_steps(93, 0, 0.05), 5);
        assert_eq!(warmup_steps(93, 7, 0.05), 7);
        assert_eq!(warmup_steps(93, 0, 0.0), 0);
    }

    #[test]
    fn the_last_step_is_always_due_unless_never() {
        assert!(Every::Steps(500).is_due(93, 31, 93));
        assert!(Every::Steps(10).is_due(20, 31, 93));
        assert!(!Every::Steps(10).is_due(21, 31, 93));
        assert!(Every::Epoch.is_due(62, 31, 93));
        assert!(!Every::Never.is_due(93, 31, 93));
    }
}
