//! `swift plugin bench`: what a reward function costs, and whether several of them score alike.

use std::time::{Duration, Instant};

use swift_plugin::{Message, Outcome, Plugin, Sample, TrainerState};

use crate::Result;
use crate::golden::difference::close;

/// How often each thing is measured.
const RUNS: usize = 15;
/// For this long it runs unmeasured first: threads wake up, pages and caches fill.
const WARM: Duration = Duration::from_millis(100);
/// After this long no further run is begun.
const ENOUGH: Duration = Duration::from_secs(3);
/// Words that completions and solutions are made of.
const WORDS: [&str; 24] = [
    "the",
    "answer",
    "is",
    "four",
    "apples",
    "because",
    "two",
    "and",
    "make",
    "sum",
    "therefore",
    "we",
    "have",
    "Find",
    "number",
    "of",
    "pears",
    "x",
    "equals",
    "seven",
    "minus",
    "three",
    "größe",
    "次",
];

/// What one function costs.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Of an instance, with the shortest call into it.
    pub start: Duration,
    /// Of a call with all samples: the least, and the middle one.
    pub call: Duration,
    pub middle: Duration,
    /// Fuel of a call.
    pub fuel: u64,
    /// What the samples got.
    pub scores: Vec<Option<f64>>,
    /// Why a sample has no score, where one failed.
    pub failed: Option<String>,
}

/// `count` samples with completions of `bytes` bytes or a little more; the same seed makes the same ones.
pub fn samples(count: usize, bytes: usize, seed: u64) -> Vec<Sample> {
    let mut random = crate::random::Random::new(seed);
    let mut text = |bytes: usize| {
        let mut text = String::new();
        while text.len() < bytes {
            text.push_str(random.pick(&WORDS));
            text.push(' ');
        }
        text.trim_end().to_owned()
    };
    let one = |_| Sample {
        prompt: vec![Message { role: "user".into(), content: text(80) }],
        completion: text(bytes),
        completion_tokens: u32::try_from(bytes / 4).unwrap_or(u32::MAX),
        solution: Some(text(40)),
        columns: vec![("id".into(), "1".into())],
    };
    (0..count).map(one).collect()
}

/// Measures the reward function `name` with `config` on these samples.
///
/// # Errors
/// When the plugin has no such function, or cannot be set up.
pub fn measure(plugin: &Plugin, name: &str, config: &str, samples: &[Sample]) -> Result<Measured> {
    let reward = plugin.reward(name, config)?;
    let state = TrainerState { step: 0, max_steps: 0, epoch: 0.0, seed: 0, extra: "{}".into() };
    let (outcomes, fuel) = reward.outcomes(samples, &state);
    let (start, _) = timed(|| plugin.rewards().map(drop).map_err(crate::AuthorError::from))?;
    let (call, middle) = timed(|| {
        reward.outcomes(samples, &state);
        Ok(())
    })?;
    let failed = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::Failed(reason) => Some(reason.clone()),
        _ => None,
    });
    let score = |outcome: &Outcome| match outcome {
        Outcome::Score(score) => Some(*score),
        _ => None,
    };
    Ok(Measured { start, call, middle, fuel, scores: outcomes.iter().map(score).collect(), failed })
}

/// The first sample that two functions score differently.
pub fn disagreement(one: &[Option<f64>], other: &[Option<f64>]) -> Option<usize> {
    let same = |(a, b): (&Option<f64>, &Option<f64>)| match (a, b) {
        (Some(a), Some(b)) => close(*a, *b),
        (None, None) => true,
        _ => false,
    };
    let differ = one.iter().zip(other).position(|pair| !same(pair));
    differ.or_else(|| (one.len() != other.len()).then(|| one.len().min(other.len())))
}

/// The least and the middle time of a few runs.
fn timed(mut run: impl FnMut() -> Result<()>) -> Result<(Duration, Duration)> {
    let began = Instant::now();
    while began.elapsed() < WARM {
        run()?;
    }
    let (began, mut times) = (Instant::now(), Vec::new());
    while times.len() < RUNS && (times.is_empty() || began.elapsed() < ENOUGH) {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok((times[0], times[times.len() / 2]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_as_long_as_asked_and_the_same_each_time() {
        let made = samples(64, 1024, 7);
        assert!(made.iter().all(|sample| (1000..1100).contains(&sample.completion.len())));
        let again = samples(64, 1024, 7);
        assert!(made.iter().zip(&again).all(|(a, b)| a.completion == b.completion && a.solution == b.solution));
        assert_ne!(made[0].completion, made[1].completion);
        assert_ne!(made[0].completion, samples(1, 1024, 8)[0].completion);
    }

    #[test]
    fn scores_agree_or_the_first_that_does_not_is_named() {
        let scores = [Some(0.5), None, Some(1.0)];
        assert_eq!(disagreement(&scores, &[Some(0.5 + 1e-12), None, Some(1.0)]), None);
        assert_eq!(disagreement(&scores, &[Some(0.5), Some(0.0), Some(1.0)]), Some(1));
        assert_eq!(disagreement(&scores, &[Some(0.5), None, Some(0.9)]), Some(2));
        assert_eq!(disagreement(&scores, &scores[..2]), Some(2));
    }
}
