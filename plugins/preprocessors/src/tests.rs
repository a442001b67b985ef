//! The golden files, run on the host's own target: what ms-swift makes of the same rows, and what is left out.

use crate::{Alpaca, Math, Preference, SelfCognition, ShareGpt};
use swift_sdk::dataset::{Outcome, Preprocessor};
use swift_sdk::{Json, Result, Settings};

fn process<P: Preprocessor>(config: &str, row: &Json) -> Result<Outcome> {
    P::configure(&Settings::parse(config)?)?.process(row.clone())
}

fn process_by(name: &str, config: &str, row: &Json) -> Result<Outcome> {
    match name {
        Alpaca::NAME => process::<Alpaca>(config, row),
        Math::NAME => process::<Math>(config, row),
        Preference::NAME => process::<Preference>(config, row),
        SelfCognition::NAME => process::<SelfCognition>(config, row),
        ShareGpt::NAME => process::<ShareGpt>(config, row),
        other => panic!("no preprocessor {other}"),
    }
}

#[test]
fn rows_equal_those_of_ms_swift() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut rows_seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let golden = Json::parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let name = golden.get("name").and_then(Json::as_text).unwrap();
        let config = golden.get("config").unwrap().write();
        for case in golden.get("cases").and_then(Json::as_list).unwrap() {
            let list = |key| case.get(key).and_then(Json::as_list).unwrap();
            assert_eq!(list("rows").len(), list("expect").len());
            for (row, expected) in list("rows").iter().zip(list("expect")) {
                let outcome = process_by(name, &config, row).unwrap();
                let expected = match expected.get("dropped") {
                    Some(reason) => Outcome::dropped(reason.as_text().unwrap()),
                    None => Outcome::Row(expected.clone()),
                };
                assert_eq!(outcome, expected, "{name}: {}", row.write());
                rows_seen += 1;
            }
        }
    }
    assert!(rows_seen >= 30, "{rows_seen}");
}

#[test]
fn rows_of_another_dataset_stop_it() {
    let row = Json::parse(r#"{"foo": 1}"#).unwrap();
    let names = r#"{"model_name": "a", "model_author": "b"}"#;
    for (name, config, expected) in [
        ("alpaca", "{}", "the rows have no column `instruction`"),
        ("self-cognition", names, "the rows have no columns `query` and `response`"),
        ("preference", "{}", "the rows have no columns `chosen` and `rejected`"),
        ("sharegpt", "{}", "the rows have no column `conversations`"),
    ] {
        let error = process_by(name, config, &row).unwrap_err().message();
        assert!(error.starts_with(expected), "{error}");
    }
    let list = Json::parse("[]").unwrap();
    assert_eq!(process_by("math", "{}", &list).unwrap_err().message(), "a row is not an object");
}

#[test]
fn a_model_without_a_name_is_refused() {
    let configure = |config: &str| SelfCognition::configure(&Settings::parse(config).unwrap()).err().unwrap().message();
    assert!(configure("{}").starts_with("the setting `model_name` is not set: without it the model would learn"));
    assert!(configure(r#"{"model_name": "x"}"#).starts_with("the setting `model_author` is not set"));
    let three = configure(r#"{"model_name": ["a", "b", "c"], "model_author": "x"}"#);
    assert!(three.contains("one text is needed, or two"), "{three}");
    let subset = configure(r#"{"subset": "qwen", "model_name": "a", "model_author": "x"}"#);
    assert!(subset.contains("there are default, qwen3 and empty_think"), "{subset}");
}
