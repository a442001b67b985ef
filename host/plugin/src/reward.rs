//! Reward functions: a batch of completions to a score or none for each, with a failure of one kept from the others.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value};

pub use crate::binding::reward::exports::swift::reward::rewards::{
    Info as RewardInfo, Message, Outcome, Sample, State as TrainerState,
};
use crate::binding::reward::{Reward as Exports, RewardPre};
use crate::binding::{Level, LogLine, State};
use crate::call::{Budget, Live, MESSAGE, in_pieces};
use crate::clean::clean;
use crate::{Kind, Plugin, PluginError, Result};

/// Samples that one instance scores.
const PIECE: usize = 16;
/// Bytes of an answer for one sample: a number, or a reason.
const EACH: usize = 16 << 10;
/// Reasons that are kept apart.
const REASONS: usize = 20;
/// Samples before a share of failures says something.
const ENOUGH: u64 = 50;

/// What happens when a sample has no score although it should have one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FailurePolicy {
    /// The run stops at the first.
    Stop,
    /// The run stops when more than this share of all samples so far failed: from 50 samples on, or earlier when all did.
    Share(f64),
    /// The run goes on, whatever fails.
    Skip,
}

impl Default for FailurePolicy {
    /// A tenth.
    fn default() -> Self {
        Self::Share(0.1)
    }
}

/// What failed so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failures {
    /// Samples that were scored, those that failed included.
    pub samples: u64,
    /// Samples that failed.
    pub failed: u64,
    /// How often for which reason; the rarest beyond 20 are counted as "other reasons".
    pub reasons: BTreeMap<String, u64>,
}

impl Failures {
    /// Counts one failure; whether its reason is new.
    fn count(&mut self, reason: &str) -> bool {
        self.failed += 1;
        let new = !self.reasons.contains_key(reason);
        let kept = if new && self.reasons.len() >= REASONS { "other reasons" } else { reason };
        *self.reasons.entry(kept.to_owned()).or_default() += 1;
        new && kept == reason
    }
}

/// A reward function, set up.
pub struct Reward {
    plugin: Plugin,
    prepared: RewardPre<State>,
    info: RewardInfo,
    config: String,
    policy: FailurePolicy,
    failures: Mutex<Failures>,
}

impl std::fmt::Debug for Reward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reward").field("plugin", &self.plugin).field("name", &self.info.name).finish_non_exhaustive()
    }
}

impl Plugin {
    fn reward_exports(&self) -> Result<RewardPre<State>> {
        self.expect(Kind::Reward)?;
        RewardPre::new(self.0.prepared.clone()).map_err(|error| self.wrong_types(Kind::Reward, &error))
    }

    /// The reward functions in this component.
    ///
    /// # Errors
    /// When it holds none, or fails at saying which.
    pub fn rewards(&self) -> Result<Vec<RewardInfo>> {
        let prepared = self.reward_exports()?;
        let budget = Budget::of(Kind::Reward, 64, EACH);
        let live = self.start("rewards", self.state(), budget, |_, store| prepared.instantiate(store))?;
        let (_, mut infos) =
            live.call("rewards", budget, |exports, store| exports.swift_reward_rewards().call_rewards(store))?;
        for info in &mut infos {
            self.check_function(Kind::Reward, &info.name, &mut info.summary)?;
        }
        Ok(infos)
    }

    /// The reward function of this name, set up with `config`, a JSON object.
    ///
    /// # Errors
    /// When the component has no such function, or it refuses the settings.
    pub fn reward(&self, name: &str, config: &str) -> Result<Reward> {
        let infos = self.rewards()?;
        let names = infos.iter().map(|info| info.name.clone()).collect();
        let info = infos.into_iter().find(|info| info.name == name);
        let info = info.ok_or_else(|| self.no_function(Kind::Reward, name, names))?;
        let reward = Reward {
            plugin: self.clone(),
            prepared: self.reward_exports()?,
            info,
            config: config.into(),
            policy: FailurePolicy::default(),
            failures: Mutex::default(),
        };
        // Wrong settings are found now, not in the middle of a run.
        reward.start(0)?;
        Ok(reward)
    }
}

impl Reward {
    /// The same with another policy for failures.
    #[must_use]
    pub fn with_policy(mut self, policy: FailurePolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The component.
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// What the plugin says about it.
    pub fn info(&self) -> &RewardInfo {
        &self.info
    }

    /// What failed so far.
    pub fn failures(&self) -> Failures {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An instance that is set up.
    fn start(&self, samples: usize) -> Result<Live<Exports>> {
        let budget = Budget::of(Kind::Reward, samples, EACH);
        let live =
            self.plugin.start("configure", self.plugin.state(), budget, |_, store| self.prepared.instantiate(store))?;
        let (live, answer) = live.call("configure", budget, |exports, store| {
            exports.swift_reward_rewards().call_configure(store, &self.info.name, &self.config)
        })?;
        answer.map_err(|message| self.plugin.refused_settings(&self.info.name, &message))?;
        Ok(live)
    }

    /// Scores samples in one instance; fails as a whole. Also the fuel it took.
    fn piece(&self, samples: &[Sample], state: &TrainerState) -> Result<(Vec<Outcome>, u64)> {
        let live = self.start(samples.len())?;
        let (live, answer) = live.call("score", Budget::of(Kind::Reward, samples.len(), EACH), |exports, store| {
            exports.swift_reward_rewards().call_score(store, samples, state)
        })?;
        let failed =
            |what: String| PluginError::Answer { plugin: self.plugin.name().into(), call: "score".into(), what };
        let outcomes = answer.map_err(|message| failed(clean(&message, MESSAGE)))?;
        if outcomes.len() != samples.len() {
            return Err(failed(format!("it gave {} scores for {} samples", outcomes.len(), samples.len())));
        }
        let checked = |outcome| match outcome {
            Outcome::Score(score) if !score.is_finite() => Outcome::Failed(format!("the score is {score}")),
            Outcome::Failed(reason) => Outcome::Failed(clean(&reason, MESSAGE)),
            other => other,
        };
        Ok((outcomes.into_iter().map(checked).collect(), live.fuel()))
    }

    /// Scores a piece; when it fails as a whole, each sample alone, so that only the guilty one is without a score.
    fn isolated(&self, samples: &[Sample], state: &TrainerState) -> (Vec<Outcome>, u64) {
        let failed = |error: &PluginError| Outcome::Failed(error.reason());
        match self.piece(samples, state) {
            Ok(done) => done,
            Err(_) if samples.len() > 1 && !self.info.whole_batch => {
                let mut fuel = 0;
                let alone = |sample| match self.piece(std::slice::from_ref(sample), state) {
                    Ok((outcomes, used)) => {
                        fuel += used;
                        outcomes
                    }
                    Err(error) => vec![failed(&error)],
                };
                (samples.iter().flat_map(alone).collect(), fuel)
            }
            Err(error) => (samples.iter().map(|_| failed(&error)).collect(), 0),
        }
    }

    /// What the function says of each sample, in their order: failures as they are, uncounted. Also the fuel it took.
    pub fn outcomes(&self, samples: &[Sample], state: &TrainerState) -> (Vec<Outcome>, u64) {
        // What waits is best asked for one by one, many at a time.
        let piece = match (self.info.whole_batch, self.plugin.0.waits) {
            (true, _) => samples.len().max(1),
            (false, true) => 1,
            (false, false) => PIECE,
        };
        let done = in_pieces(samples, piece, self.plugin.0.waits, |samples| self.isolated(samples, state));
        let fuel = done.iter().map(|(_, fuel)| fuel).sum();
        (done.into_iter().flat_map(|(outcomes, _)| outcomes).collect(), fuel)
    }

    /// The score of each sample, in their order: `None` where the function has none, or failed and the policy lets the run
    /// go on.
    ///
    /// # Errors
    /// When more failed than the policy allows.
    pub fn score(&self, samples: &[Sample], state: &TrainerState) -> Result<Vec<Option<f64>>> {
        let (outcomes, _) = self.outcomes(samples, state);
        self.count(&outcomes)?;
        let score = |outcome| match outcome {
            Outcome::Score(score) => Some(score),
            Outcome::NoScore | Outcome::Failed(_) => None,
        };
        Ok(outcomes.into_iter().map(score).collect())
    }

    /// Counts what failed of these outcomes and applies the policy: what [`Reward::score`] does with those it gets.
    ///
    /// # Errors
    /// When more failed so far than the policy allows.
    pub fn count(&self, outcomes: &[Outcome]) -> Result<()> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.samples += outcomes.len() as u64;
        let mut first = None;
        for outcome in outcomes {
            let Outcome::Failed(reason) = outcome else { continue };
            if failures.count(reason)
                && let Some(listener) = &self.plugin.0.host.options.log
            {
                let message = format!("`{}` gave no score: {reason}", self.info.name);
                listener(self.plugin.name(), LogLine { level: Level::Warn, message });
            }
            first.get_or_insert_with(|| reason.clone());
        }
        let stops = match self.policy {
            FailurePolicy::Stop => failures.failed > 0,
            FailurePolicy::Skip => false,
            FailurePolicy::Share(share) => {
                let enough = failures.samples >= ENOUGH || failures.failed == failures.samples;
                enough && failures.failed as f64 > share * failures.samples as f64
            }
        };
        if let Some(reason) = first.filter(|_| stops) {
            return Err(PluginError::TooManyFailures {
                plugin: self.plugin.name().into(),
                function: self.info.name.clone(),
                failed: failures.failed,
                samples: failures.samples,
                reason,
            });
        }
        Ok(())
    }
}

impl std::str::FromStr for FailurePolicy {
    type Err = String;

    /// `stop`, `skip`, or a share between 0 and 1.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "stop" => Ok(Self::Stop),
            "skip" => Ok(Self::Skip),
            share => match share.parse() {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(Self::Share(share)),
                _ => Err(format!("`{}` is none of stop, skip, and a share such as 0.1", clean(share, 60))),
            },
        }
    }
}

/// A sample of a JSON row: `messages` (the prompt), `completion`, `completion_tokens` (its words where it is missing),
/// `solution`, and every other key as a column.
///
/// # Errors
/// When `completion` is missing or one of them has another type; the message names the key.
pub fn sample_of_row(row: &Map<String, Value>) -> std::result::Result<Sample, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let completion =
        row.get("completion").and_then(Value::as_str).ok_or("`completion` is missing or no text")?.to_owned();
    let mut prompt = Vec::new();
    for message in
        row.get("messages").map_or(Ok(&[][..]), |m| m.as_array().map(Vec::as_slice).ok_or("`messages` is no list"))?
    {
        let part = |key: &str| message.get(key).map(text);
        let role = part("role").ok_or("a message has no `role`")?;
        prompt.push(Message { role, content: part("content").unwrap_or_default() });
    }
    let completion_tokens = match row.get("completion_tokens") {
        None => completion.split_whitespace().count() as u32,
        Some(count) => {
            let count = count.as_u64().and_then(|count| u32::try_from(count).ok());
            count.ok_or("`completion_tokens` is no count")?
        }
    };
    let own = ["messages", "completion", "completion_tokens", "solution"];
    let columns = row.iter().filter(|(key, _)| !own.contains(&key.as_str()));
    let columns = columns.map(|(key, value)| (key.clone(), value.to_string())).collect();
    let solution = row.get("solution").filter(|value| !value.is_null()).map(text);
    Ok(Sample { prompt, completion, completion_tokens, solution, columns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_becomes_a_sample() {
        let row: Value = serde_json::from_str(
            r#"{"messages":[{"role":"user","content":"2+2?"}],"completion":"It is 4","solution":4,"level":{"a":1},"tag":"x"}"#,
        )
        .unwrap();
        let sample = sample_of_row(row.as_object().unwrap()).unwrap();
        assert_eq!(sample.prompt[0].content, "2+2?");
        assert_eq!((sample.completion_tokens, sample.solution.as_deref()), (3, Some("4")));
        assert_eq!(sample.columns, [("level".into(), "{\"a\":1}".into()), ("tag".into(), "\"x\"".into())]);
        assert!(sample_of_row(&Map::new()).unwrap_err().contains("completion"));
    }

    #[test]
    fn reasons_are_counted_up_to_a_limit() {
        let mut failures = Failures::default();
        for at in 0..30 {
            failures.count(&format!("reason {at}"));
        }
        assert!(!failures.count("reason 3"));
        assert_eq!((failures.failed, failures.reasons.len()), (31, REASONS + 1));
        assert_eq!(failures.reasons["other reasons"], 10);
    }
}
