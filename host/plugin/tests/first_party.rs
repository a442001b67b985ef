//! The plugins that come with swift, as they are delivered: every golden test they carry, run in the real host, in
//! parallel pieces and one by one, which must make no difference.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use swift_plugin::{
    Answer, Example, Outcome, Plugin, PluginHost, PluginOptions, Sample, TrainerState, sample_of_row, sections,
};

fn load(name: &str) -> (Plugin, Vec<Value>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist").join(name).with_extension("wasm");
    let bytes = std::fs::read(&path).unwrap();
    let tests = serde_json::from_slice(sections::read(&bytes, sections::TESTS).unwrap()).unwrap();
    let host = Arc::new(PluginHost::new(PluginOptions { cache: None, ..PluginOptions::default() }).unwrap());
    (host.load(&path).unwrap(), tests)
}

/// Numbers agree to a relative 1e-9.
fn agree(one: &Value, two: &Value) -> bool {
    match (one, two) {
        (Value::Number(one), Value::Number(two)) => {
            let (one, two) = (one.as_f64().unwrap(), two.as_f64().unwrap());
            (one - two).abs() <= 1e-9 * one.abs().max(two.abs()).max(1e-3)
        }
        (Value::Array(one), Value::Array(two)) => {
            one.len() == two.len() && one.iter().zip(two).all(|(one, two)| agree(one, two))
        }
        (Value::Object(one), Value::Object(two)) => {
            one.len() == two.len()
                && one.iter().all(|(key, value)| two.get(key).is_some_and(|other| agree(value, other)))
        }
        _ => one == two,
    }
}

fn cases(test: &Value) -> &[Value] {
    test["cases"].as_array().unwrap()
}

/// The functions that have golden tests.
fn tested(tests: &[Value]) -> Vec<&str> {
    let mut names: Vec<&str> = tests.iter().map(|test| test["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn in_json(outcome: &Outcome) -> Value {
    match outcome {
        Outcome::Score(score) => json!(score),
        Outcome::NoScore => Value::Null,
        Outcome::Failed(reason) => json!({ "failed": reason }),
    }
}

fn state() -> TrainerState {
    TrainerState { step: 0, max_steps: 0, epoch: 0.0, seed: 0, extra: "{}".into() }
}

#[test]
fn rewards_give_what_ms_swift_gives() {
    let (plugin, tests) = load("rewards");
    let functions: Vec<String> = plugin.rewards().unwrap().into_iter().map(|info| info.name).collect();
    let mut sorted: Vec<&str> = functions.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, tested(&tests));

    let (mut compared, mut wrong) = (0, Vec::new());
    for test in &tests {
        let name = test["name"].as_str().unwrap();
        let reward = plugin.reward(name, &test["config"].to_string()).unwrap();
        let rows: Vec<&Value> = cases(test).iter().flat_map(|case| case["samples"].as_array().unwrap()).collect();
        let expected: Vec<&Value> = cases(test).iter().flat_map(|case| case["expect"].as_array().unwrap()).collect();
        let samples: Vec<Sample> = rows.iter().map(|row| sample_of_row(row.as_object().unwrap()).unwrap()).collect();
        assert_eq!(samples.len(), expected.len(), "{name}");
        // All at once, which the host cuts into pieces for all cores; and each by itself.
        let (together, _) = reward.outcomes(&samples, &state());
        for (index, sample) in samples.iter().enumerate() {
            let (alone, _) = reward.outcomes(std::slice::from_ref(sample), &state());
            assert_eq!(in_json(&alone[0]), in_json(&together[index]), "{name} {}", rows[index]);
            compared += 1;
            if !agree(&in_json(&together[index]), expected[index]) {
                wrong.push(format!("{name} {}: {} for {}", in_json(&together[index]), expected[index], rows[index]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared} differ\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 1500, "{compared}");
}

fn answer(value: &Value) -> Answer {
    let numbers = |list: &Value| list.as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
    match value {
        Value::String(text) => Answer::Text(text.clone()),
        Value::Array(tokens) => Answer::Tokens(tokens.iter().map(|one| one.as_i64().unwrap() as i32).collect()),
        _ => Answer::Numbers(numbers(&value["numbers"])),
    }
}

fn example(row: &Value) -> Example {
    let row: &Map<String, Value> = row.as_object().unwrap();
    let columns = row.iter().filter(|(key, _)| !matches!(key.as_str(), "prediction" | "references"));
    Example {
        prediction: answer(&row["prediction"]),
        references: row["references"].as_array().unwrap().iter().map(answer).collect(),
        columns: columns.map(|(key, value)| (key.clone(), value.to_string())).collect(),
    }
}

#[test]
fn metrics_give_what_their_references_give_however_the_data_is_cut() {
    let (plugin, tests) = load("metrics");
    let functions: Vec<String> = plugin.metrics().unwrap().into_iter().map(|info| info.name).collect();
    let mut sorted: Vec<&str> = functions.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, tested(&tests));

    let (mut compared, mut wrong) = (0, Vec::new());
    for test in &tests {
        let name = test["name"].as_str().unwrap();
        let metric = plugin.metric(name, &test["config"].to_string()).unwrap();
        for case in cases(test) {
            let examples: Vec<Example> = case["examples"].as_array().unwrap().iter().map(example).collect();
            let whole = metric.evaluate(&examples).unwrap();
            // In batches of one, each of another evaluation: the same numbers to the last bit.
            let mut merged = metric.begin();
            for one in &examples {
                let mut part = metric.begin();
                part.update(std::slice::from_ref(one)).unwrap();
                merged.resume(part.state().unwrap()).unwrap();
            }
            let bits = |numbers: &[(String, f64)]| -> Vec<(String, u64)> {
                numbers.iter().map(|(name, number)| (name.clone(), number.to_bits())).collect()
            };
            assert_eq!(bits(&merged.compute().unwrap()), bits(&whole), "{name} {case}");
            compared += 1;
            let numbers = Value::Object(whole.into_iter().map(|(name, number)| (name, json!(number))).collect());
            if !agree(&numbers, &case["expect"]) {
                wrong.push(format!("{name} {numbers} for {case}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {compared} differ\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > 400, "{compared}");
}

#[test]
fn wrong_settings_and_rows_are_named() {
    let (rewards, _) = load("rewards");
    let refused = |name: &str, config: &str| rewards.reward(name, config).unwrap_err().report();
    for (name, config, said) in [
        ("cosine", "{}", "the setting `cosine_max_len` is not set, a number of tokens is needed"),
        ("soft_overlong", r#"{"soft_max_length": 100}"#, "the setting `soft_cache_length` is not set"),
        (
            "soft_overlong",
            r#"{"soft_max_length": 100, "soft_cache_length": 100}"#,
            "less than `soft_max_length` is needed",
        ),
        ("repetition", r#"{"repetition_n_grams": 0}"#, "1 or more is needed"),
        ("accuracy", r#"{"strict": true}"#, "there is no setting `strict`"),
        ("acuracy", "{}", "accuracy"),
    ] {
        let report = refused(name, config);
        assert!(report.contains(said), "{report}");
    }
    let sample = Sample {
        prompt: Vec::new(),
        completion: "5".into(),
        completion_tokens: 1,
        solution: None,
        columns: Vec::new(),
    };
    for name in ["accuracy", "math", "toolbench"] {
        let (outcomes, _) = rewards.reward(name, "{}").unwrap().outcomes(std::slice::from_ref(&sample), &state());
        assert_eq!(in_json(&outcomes[0]), json!({"failed": "the row has no column `solution`"}));
    }

    let (metrics, _) = load("metrics");
    let refused = |name: &str, config: &str, row: Value| {
        let metric = metrics.metric(name, config).map_err(|error| error.report());
        metric.and_then(|metric| metric.evaluate(&[example(&row)]).map_err(|error| error.report())).unwrap_err()
    };
    let text = json!({"prediction": "5", "references": ["5"]});
    for (name, config, row, said) in [
        ("acc", r#"{"acc_strategy": "row"}"#, &text, "`token` or `seq` is needed"),
        ("acc", "{}", &text, "as tokens"),
        ("acc", "{}", &json!({"prediction": [1], "references": [[1, 2]]}), "1 and 2"),
        ("acc", "{}", &json!({"prediction": [1], "references": []}), "no reference"),
        ("mrr", "{}", &json!({"prediction": {"numbers": [1.0]}, "references": [{"numbers": []}]}), "1 and 0"),
        ("ndcg", r#"{"query": "all"}"#, &text, "`positive` or `row` is needed"),
        ("pass_at_k", "{}", &text, "no column `id`"),
        ("pass_at_k", r#"{"k": [0]}"#, &text, "a number from 1 on"),
        ("pass_at_k", r#"{"correct": "ok"}"#, &text, "`ok` is missing"),
    ] {
        let report = refused(name, config, row.clone());
        assert!(report.contains(said), "{name} {config}: {report}");
    }
}
