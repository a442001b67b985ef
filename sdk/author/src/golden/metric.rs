//! Cases of metrics, each also cut into batches whose states are put together.

use serde_json::{Map, Value, json};
use swift_plugin::{Example, Metric, Plugin};

use super::{Answer as Case, Answers, Test, columns, expected, failed, list};

pub(super) fn answers(plugin: &Plugin, test: &Test, case: &Map<String, Value>) -> Answers {
    let examples = list(case, "examples")?;
    let one = |(index, row): (usize, &Value)| {
        let row = row.as_object().ok_or_else(|| "it is no object".to_owned());
        row.and_then(example).map_err(|what| format!("example {}: {what}", index + 1))
    };
    let examples = examples.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?;
    let metric = plugin.metric(&test.name, &test.config).map_err(failed)?;
    let numbers = numbers(metric.evaluate(&examples).map_err(failed)?);
    let expected = expected(case)?;
    let mut answers = vec![Case::new(numbers, expected.clone())];
    let mut sizes = vec![1, examples.len().div_ceil(2)];
    sizes.dedup();
    for size in sizes.into_iter().filter(|size| *size > 0 && *size < examples.len()) {
        let merged = in_batches(&metric, &examples, size).map_err(failed)?;
        answers.push(Case::part(format!("merged from batches of {size}"), merged, expected.clone()));
    }
    Ok(answers)
}

/// The numbers of an evaluation that stops after each batch and goes on from its state.
fn in_batches(metric: &Metric, examples: &[Example], size: usize) -> swift_plugin::Result<Value> {
    let mut whole = metric.begin();
    for batch in examples.chunks(size) {
        let mut part = metric.begin();
        part.update(batch)?;
        whole.resume(part.state()?)?;
    }
    Ok(numbers(whole.compute()?))
}

/// Named numbers as golden tests write them.
pub(crate) fn numbers(numbers: Vec<(String, f64)>) -> Value {
    Value::Object(numbers.into_iter().map(|(name, number)| (name, json!(number))).collect())
}

/// An example of a JSON row: `prediction`, `references`, and every other key as a column.
pub(crate) fn example(row: &Map<String, Value>) -> Result<Example, String> {
    let prediction = answer(row.get("prediction").ok_or("`prediction` is missing")?)?;
    let references = match row.get("references") {
        None => Vec::new(),
        Some(Value::Array(references)) => references.iter().map(answer).collect::<Result<_, _>>()?,
        Some(_) => return Err("`references` is no list".into()),
    };
    Ok(Example { prediction, references, columns: columns(row, &["prediction", "references"]) })
}

/// Text, a list of token ids, or `{"numbers": [...]}`.
fn answer(value: &Value) -> Result<swift_plugin::Answer, String> {
    let wrong = || "an answer is a text, a list of token ids, or {\"numbers\": [...]}".to_owned();
    match value {
        Value::String(text) => Ok(swift_plugin::Answer::Text(text.clone())),
        Value::Array(tokens) => {
            let token = |token: &Value| token.as_i64().and_then(|token| i32::try_from(token).ok());
            let tokens = tokens.iter().map(token).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
            Ok(swift_plugin::Answer::Tokens(tokens))
        }
        Value::Object(map) if map.len() == 1 => {
            let numbers = map.get("numbers").and_then(Value::as_array).ok_or_else(wrong)?;
            let numbers = numbers.iter().map(Value::as_f64).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
            Ok(swift_plugin::Answer::Numbers(numbers))
        }
        _ => Err(wrong()),
    }
}
