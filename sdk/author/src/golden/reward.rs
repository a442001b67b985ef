//! Cases of reward functions.

use serde_json::{Map, Value, json};
use swift_plugin::{Outcome, Plugin, Sample, TrainerState, sample_of_row};

use super::{Answer, Answers, Test, expected, failed, list};

pub(super) fn answers(plugin: &Plugin, test: &Test, case: &Map<String, Value>) -> Answers {
    let samples = samples(list(case, "samples")?)?;
    let state = match case.get("state") {
        None => state(&Map::new())?,
        Some(Value::Object(map)) => state(map)?,
        Some(_) => return Err("`state` is no object".into()),
    };
    let reward = plugin.reward(&test.name, &test.config).map_err(failed)?;
    let (outcomes, fuel) = reward.outcomes(&samples, &state);
    let actual = Value::Array(outcomes.iter().map(outcome).collect());
    let mut answers = vec![Answer { fuel: Some(fuel), ..Answer::new(actual, expected(case)?.clone()) }];
    // What a sample gets does not depend on the samples around it, unless the function says so.
    if !reward.info().whole_batch && samples.len() > 1 {
        let turned: Vec<Sample> = samples.iter().rev().cloned().collect();
        let (outcomes, _) = reward.outcomes(&turned, &state);
        let actual = Value::Array(outcomes.iter().rev().map(outcome).collect());
        answers.push(Answer::part("in another order", actual, expected(case)?.clone()));
    }
    Ok(answers)
}

fn samples(rows: &[Value]) -> Result<Vec<Sample>, String> {
    let one = |(index, row): (usize, &Value)| {
        let row = row.as_object().ok_or_else(|| "it is no object".to_owned());
        row.and_then(sample_of_row).map_err(|what| format!("sample {}: {what}", index + 1))
    };
    rows.iter().enumerate().map(one).collect()
}

/// The trainer's state of a JSON object; what is not named is zero.
pub(crate) fn state(map: &Map<String, Value>) -> Result<TrainerState, String> {
    let mut rest = map.clone();
    let mut whole = |key: &str| match rest.remove(key) {
        None => Ok(0),
        Some(value) => value.as_u64().ok_or_else(|| format!("state: `{key}` is no whole number")),
    };
    let (step, max_steps, seed) = (whole("step")?, whole("max_steps")?, whole("seed")?);
    let epoch = rest.remove("epoch").map_or(Some(0.0), |value| value.as_f64()).ok_or("state: `epoch` is no number")?;
    let extra = match rest.remove("extra") {
        None => "{}".into(),
        Some(extra) if extra.is_object() => extra.to_string(),
        Some(_) => return Err("state: `extra` is no object".into()),
    };
    match rest.keys().next() {
        Some(key) => Err(format!("state: nobody knows `{}`", swift_plugin::clean(key, 60))),
        None => Ok(TrainerState { step, max_steps, epoch, seed, extra }),
    }
}

/// An outcome as golden tests write it.
pub(crate) fn outcome(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Score(score) => json!(score),
        Outcome::NoScore => Value::Null,
        Outcome::Failed(reason) => json!({ "failed": reason }),
    }
}
