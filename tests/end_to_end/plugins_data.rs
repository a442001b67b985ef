//! From files to tokens through plugins, as a user would ask for it: a loader, a preprocessor and a chat template.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::fixture::Place;

fn component(name: &str) -> String {
    let dist = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist");
    dist.join(format!("{name}.wasm")).canonicalize().expect("a component").display().to_string()
}

/// A place with rows in alpaca's form, as parquet, and the same in the canonical form.
fn place() -> Place {
    let place = Place::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/end_to_end/data/alpaca.parquet");
    std::fs::create_dir(place.path("shards")).expect("a folder");
    std::fs::copy(data, place.path("shards/train-00000-of-00001.parquet")).expect("a file");
    let row = |i: usize| {
        let (question, answer) = (format!("say\n{}", "abc".repeat(i % 5 + 1)), "xy".repeat(i % 3 + 1));
        json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
            .to_string()
    };
    place.write("rows.jsonl", &((0..24).map(row).collect::<Vec<_>>().join("\n") + "\n"));
    place
}

fn plugins(names: &[&str]) -> String {
    names.iter().map(|name| format!("--plugin {} ", component(name))).collect()
}

#[test]
fn training_through_three_plugins_is_training_without_them() {
    let place = place();
    place.swift(&place.train("plain", "")).good();
    let given = plugins(&["parquet", "preprocessors", "chatml"]);
    let through = place.train("through", &format!("{given} --preprocessor alpaca --template chatml"));
    let said = place.swift(&through.replace("--dataset rows.jsonl", "--dataset shards:train")).good();
    assert!(said.err.contains("26 read, 24 kept, 0 truncated, 2 dropped"), "{}", said.err);
    assert!(said.err.contains("plugin `preprocessors`: no output"), "{}", said.err);
    assert!(said.err.contains("shards (item 25)"), "{}", said.err);
    assert_eq!(place.logged("through", "loss"), place.logged("plain", "loss"));
    let adapter = "checkpoint-6/adapter_model.safetensors";
    assert_eq!(place.bytes(&format!("through/{adapter}")), place.bytes(&format!("plain/{adapter}")));

    // They are built in too.
    let built_in = place.train("built_in", "--preprocessor alpaca --template chatml");
    place.swift(&built_in.replace("--dataset rows.jsonl", "--dataset shards:train")).good();
    assert_eq!(place.bytes(&format!("built_in/{adapter}")), place.bytes(&format!("plain/{adapter}")));

    // The manifest names what had a part in it, and the adapter remembers its template.
    let manifest: Value = serde_json::from_str(&place.read("through/run.json")).expect("JSON");
    let named: Vec<&str> =
        manifest["plugins"].as_array().expect("a list").iter().filter_map(|p| p["name"].as_str()).collect();
    for wanted in ["qwen3 ", "parquet ", "preprocessors ", "chatml "] {
        assert!(named.iter().any(|name| name.starts_with(wanted)), "{named:?} lacks {wanted}");
    }
    let infer = "--temperature 0 --max_new_tokens 8 --stream false --result_path";
    let dataset = "--val_dataset parquet::shards:train#4 --preprocessor alpaca";
    place
        .swift(&format!("infer --model model --adapters through/checkpoint-6 {given} {dataset} {infer} a.jsonl"))
        .good();
    place
        .swift(&format!("infer --model model --adapters plain/checkpoint-6 --val_dataset rows.jsonl {infer} b.jsonl"))
        .good();
    let responses = |name: &str| -> Vec<(Value, Value)> {
        let lines = place.read(name);
        let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        rows.map(|row| (row["messages"][0]["content"].clone(), row["response"].clone())).collect()
    };
    let plain = responses("b.jsonl");
    assert_eq!(responses("a.jsonl").len(), 4);
    for answer in responses("a.jsonl") {
        assert!(plain.contains(&answer), "{answer:?} is none of {plain:?}");
    }
}

#[test]
fn a_given_template_that_claims_the_checkpoint_is_used_and_another_is_refused() {
    let place = place();
    let given = plugins(&["chatml"]);
    place.swift(&place.train("claimed", &given)).good();
    let manifest: Value = serde_json::from_str(&place.read("claimed/run.json")).expect("JSON");
    assert!(manifest["plugins"].to_string().contains("chatml "), "{}", manifest["plugins"]);

    let refused = place.complaint(&place.train("refused", &format!("{given} --template smollm2")), 1);
    assert!(refused.contains("the template `smollm2` of a plugin is not the checkpoint's"), "{refused}");
    assert!(refused.contains("a prompt with one question differs, first at byte 12:"), "{refused}");
    assert!(refused.contains("checkpoint: ") && refused.contains("plugin:     "), "{refused}");
    assert!(refused.contains("--allow_template_difference smollm2"), "{refused}");
    let allowed = format!("{given} --template smollm2 --allow_template_difference smollm2");
    place.swift(&place.train("allowed", &allowed)).good();

    let other = format!("{given} --template chatml --allow_template_difference smollm2");
    let refused = place.complaint(&place.train("other", &other), 1);
    assert!(refused.contains("`smollm2` is not the template in use"), "{refused}");
    let unknown = place.complaint(&place.train("unknown", &format!("{given} --template chatmal")), 1);
    assert!(unknown.contains("chatmal") && unknown.contains("chatml"), "{unknown}");
    let setting = format!(r#"{given} --template chatml --template_config {{"defaultsystem":"x"}}"#);
    let refused = place.complaint(&place.train("setting", &setting), 1);
    assert!(refused.contains("there is no setting `defaultsystem`"), "{refused}");
}

#[test]
fn the_preprocessor_gets_its_settings_or_says_what_is_missing() {
    let place = place();
    let row = json!({"query": "Who are you?", "response": "I am {{NAME}} of {{AUTHOR}}.", "tag": "en"});
    place.write("self.jsonl", &format!("{row}\n{row}\n"));
    let given = format!("{} --preprocessor self-cognition", plugins(&["preprocessors"]));
    let train =
        |output: &str, more: &str| place.train(output, &format!("{given} {more}")).replace("rows.jsonl", "self.jsonl");
    place.swift(&train("run", "--model_name Biene Bee --model_author Honig")).good();
    let refused = place.complaint(&train("refused", "--model_name Bee"), 1);
    assert!(refused.contains("the setting `model_author` is not set"), "{refused}");
    let refused = place.complaint(&place.train("none", "--model_name Bee"), 2);
    assert!(refused.contains("`model_name` is given for a preprocessor, but there is none"), "{refused}");
    let refused = place.complaint(&train("json", "--preprocessor_config [1]"), 2);
    assert!(refused.contains("--preprocessor_config is not a JSON object"), "{refused}");
    let other = place.complaint(&place.train("other", &given.replace("self-cognition", "alpaca")), 1);
    assert!(other.contains("the rows have no column `instruction`"), "{other}");
}

#[test]
fn a_damaged_source_is_one_clear_error() {
    let place = place();
    let file = place.path("shards/train-00000-of-00001.parquet");
    let mut bytes = std::fs::read(&file).expect("a file");
    bytes.truncate(bytes.len() - 3);
    std::fs::write(&file, bytes).expect("a file");
    let train = |dataset: &str| place.train("run", &plugins(&["parquet"])).replace("rows.jsonl", dataset);
    let damaged = place.complaint(&train("shards"), 1);
    assert!(damaged.contains("does not end with PAR1; is it cut off?"), "{damaged}");
    assert!(damaged.contains("hint: "), "{damaged}");
    let subset = place.complaint(&train("shards:valid"), 1);
    assert!(subset.contains("there is no subset `valid`"), "{subset}");
    let unknown = place.complaint(&train("parquett::shards"), 1);
    assert!(unknown.contains("parquett"), "{unknown}");
}

/// One that is built in and does not load is named: it is not as if it were not there.
#[test]
fn a_grant_that_a_built_in_plugin_cannot_have_is_named() {
    let place = place();
    let refused = place.complaint("plugin run parquet --input shards --allow parquet:read=absent", 1);
    assert!(refused.contains("parquet") && refused.contains("absent"), "{refused}");
    let refused = place.complaint(&place.train("run", "--allow qwen3:read=."), 1);
    assert!(refused.contains("qwen3") && refused.contains("read"), "{refused}");
}
