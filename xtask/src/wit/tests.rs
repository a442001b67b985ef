//! Each way to break a released contract, tried on each contract.

use super::*;

/// The contracts of this repository.
fn contracts() -> Contracts {
    Contracts::read(&crate::root().join("wit")).unwrap()
}

/// The contracts with `old` replaced in the current `name`, under the next version, which is frozen too: what a release
/// with this change would be.
fn released_with(name: &str, old: &str, new: &str) -> Contracts {
    let mut contracts = contracts();
    let text = &contracts.current[name];
    // A function goes together with its mark.
    let marked = format!("@since(version = 0.1.0)\n{}{old}", indentation(text, old));
    let old = if new.is_empty() && text.contains(&marked) { &marked } else { old };
    assert!(text.contains(old), "`{old}` does not stand in {name}.wit");
    let before = declared_version(name, text).unwrap();
    let after = Version::new(before.major, before.minor, before.patch + 1);
    contracts.current.insert(name.to_owned(), text.replace(old, new));
    for (other, text) in &mut contracts.current {
        // Who imports from the package goes along, with a new version of its own.
        let uses = format!("swift:{name}/");
        if other == name || text.contains(&uses) {
            let raise = |line: &str| {
                let concerned = line.starts_with("package ") || line.contains(&uses);
                if concerned { line.replace(&format!("@{before};"), &format!("@{after};")) } else { line.to_owned() }
            };
            *text = text.lines().map(raise).collect::<Vec<_>>().join("\n");
        }
    }
    contracts.sums = contracts.checksums();
    contracts
}

/// The spaces before the line that holds `part`.
fn indentation(text: &str, part: &str) -> String {
    let line = text.lines().find(|line| line.contains(part)).unwrap_or_default();
    line.chars().take_while(|c| *c == ' ').collect()
}

/// [`released_with`], frozen, as `wit-freeze` leaves it.
fn frozen_with(name: &str, old: &str, new: &str) -> Contracts {
    let mut contracts = released_with(name, old, new);
    for (name, text) in contracts.current.clone() {
        let version = declared_version(&name, &text).unwrap();
        contracts.frozen.insert((name, version), text);
    }
    contracts.sums = contracts.checksums();
    contracts
}

fn refusal(contracts: &Contracts) -> String {
    contracts.check().expect_err("this must be refused").to_string()
}

#[test]
fn all_contracts_are_frozen_and_served() {
    let contracts = contracts();
    let names: Vec<&str> = contracts.current.keys().map(String::as_str).collect();
    assert_eq!(names, ["dataset", "metric", "model", "plugin", "reward", "template"]);
    assert_eq!(contracts.check().unwrap().len(), contracts.frozen.len());
}

#[test]
fn a_new_function_in_what_plugins_import_is_compatible() {
    for (name, old, new) in [
        (
            "model",
            "scalar: func(x: f64) -> value;",
            "scalar: func(x: f64) -> value; @since(version = 0.1.1) new-op: func(x: value) -> value;",
        ),
        (
            "plugin",
            "abort: func(message: string);",
            "abort: func(message: string); @since(version = 0.1.1) progress: func(part: f32);",
        ),
        (
            "plugin",
            "interface http {",
            "interface chance { @since(version = 0.1.1) next: func() -> u64; } @since(version = 0.1.0) interface http {",
        ),
        ("reward", "world reward {", "world judge { import swift:plugin/http@0.1.0; export rewards; } world reward {"),
    ] {
        let checked = frozen_with(name, old, new).check();
        assert!(checked.is_ok(), "{name}: {new}: {}", checked.unwrap_err());
    }
}

#[test]
fn a_new_function_says_since_when() {
    let error = refusal(&frozen_with(
        "plugin",
        "abort: func(message: string);",
        "abort: func(message: string); progress: func(part: f32);",
    ));
    assert!(error.contains("`log.progress` came after 0.1.0"), "{error}");
    let error = refusal(&frozen_with(
        "plugin",
        "abort: func(message: string);",
        "abort: func(message: string); @since(version = 0.1.0) progress: func(part: f32);",
    ));
    assert!(error.contains("`log.progress` came after 0.1.0"), "{error}");
}

/// Package, what stands there, what it becomes.
const BREAKING: &[(&str, &str, &str)] = &[
    // Types.
    ("model", "record value { id: u32 }", "record value { id: u32, rows: u32 }"),
    (
        "model",
        "enum dtype { compute, float32, int32, boolean }",
        "enum dtype { compute, float32, int32, boolean, int64 }",
    ),
    ("model", "flag(bool), value(value)", "flag(bool), bytes(list<u8>), value(value)"),
    ("plugin", "enum level { debug, info, warn, error }", "enum level { trace, debug, info, warn, error }"),
    ("plugin", "is-folder: bool,", ""),
    ("plugin", "timeout: u32,", "timeout: u64,"),
    ("template", "loss-scale: option<f32>,", "loss-scale: option<f32>, date: option<string>,"),
    ("template", "audio(string), video(string) }", "audio(string), video(string), file(string) }"),
    ("template", "weight: f32,", "weight: f64,"),
    ("dataset", "dropped(string),", "dropped(string), failed(string),"),
    ("dataset", "endings: list<string>,", "endings: list<string>, streams: bool,"),
    ("reward", "completion-tokens: u32,", "completion-tokens: u64,"),
    ("reward", "no-score,", ""),
    ("metric", "numbers(list<f64>),", "numbers(list<f64>), flag(bool),"),
    ("metric", "higher-is-better: bool,", ""),
    // Functions that plugins import.
    ("model", "softmax: func(x: value) -> value;", "softmax: func(x: value, axis: u32) -> value;"),
    ("model", "softmax: func(x: value) -> value;", ""),
    ("plugin", "abort: func(message: string);", "abort: func(message: string, line: u32);"),
    ("plugin", "size: func(path: string) -> result<u64, string>;", "size: func(path: string) -> u64;"),
    (
        "plugin",
        "send: func(request: request) -> result<response, string>;",
        "post: func(request: request) -> result<response, string>;",
    ),
    // Functions that plugins export: none may come, go or change.
    ("model", "claims: func(config: string) -> option<string>;", "claims: func(config: string) -> string;"),
    (
        "template",
        "stops: func() -> list<string>;",
        "stops: func() -> list<string>; @since(version = 0.1.1) reset: func();",
    ),
    ("template", "stops: func() -> list<string>;", ""),
    (
        "template",
        "finish: func() -> list<event>;",
        "finish: func() -> list<event>; @since(version = 0.1.1) cut: func();",
    ),
    ("template", "push: func(text: string) -> list<event>;", "push: func(text: string, last: bool) -> list<event>;"),
    ("dataset", "length: func() -> option<u64>;", ""),
    ("dataset", "next: func(limit: u32) -> result<batch, string>;", "next: func(limit: u64) -> result<batch, string>;"),
    (
        "dataset",
        "loaders: func() -> list<info>;",
        "loaders: func() -> list<info>; @since(version = 0.1.1) close: func();",
    ),
    ("dataset", "preprocessors: func() -> list<info>;", "preprocessors: func() -> list<string>;"),
    (
        "reward",
        "rewards: func() -> list<info>;",
        "rewards: func() -> list<info>; @since(version = 0.1.1) reset: func();",
    ),
    ("reward", "score: func(samples: list<sample>, state: state)", "score: func(samples: list<sample>)"),
    ("reward", "rewards: func() -> list<info>;", ""),
    ("metric", "compute: func()", "compute: func(digits: u32)"),
    (
        "metric",
        "merge: func(state: list<u8>) -> result<_, string>;",
        "merge: func(states: list<list<u8>>) -> result<_, string>;",
    ),
    (
        "metric",
        "metrics: func() -> list<info>;",
        "metrics: func() -> list<info>; @since(version = 0.1.1) clear: func();",
    ),
    // Worlds and interfaces.
    ("model", "export adapter;", ""),
    ("model", "world model-adapter {", "world family {"),
    ("template", "export templates;", "export templates; export swift:plugin/log@0.1.0;"),
    ("dataset", "export preprocessors;", "export preprocessors; export loaders;"),
    ("reward", "world reward {", "world rewards-of-a-run {"),
    ("metric", "export metrics;", ""),
    ("plugin", "interface files {", "interface folders {"),
];

#[test]
fn what_breaks_released_plugins_is_refused() {
    for (name, old, new) in BREAKING {
        let error = refusal(&frozen_with(name, old, new));
        // A change of `swift:plugin` already breaks the worlds that import from it.
        let expected = if *name == "plugin" { "wit/" } else { &format!("wit/{name} ") };
        assert!(error.starts_with(expected), "{name}: `{new}`: {error}");
        assert!(error.contains(" breaks plugins built for 0.1.0: "), "{name}: `{new}`: {error}");
        assert!(error.contains("hint: grow by"), "{error}");
    }
    for name in contracts().current.keys() {
        assert!(BREAKING.iter().any(|(tried, ..)| tried == name), "no change was tried on {name}");
    }
}

#[test]
fn an_export_that_no_plugin_has_is_named() {
    let error = refusal(&frozen_with(
        "reward",
        "rewards: func() -> list<info>;",
        "rewards: func() -> list<info>; reset: func();",
    ));
    assert!(error.contains("the export `rewards` has a new function `reset`, which no released plugin has"), "{error}");
    let error = refusal(&frozen_with("plugin", "interface files {", "interface folders {"));
    assert!(error.contains("the interface `files` is gone"), "{error}");
}

#[test]
fn a_change_raises_the_version() {
    let mut changed = contracts();
    for text in changed.current.values_mut() {
        *text = format!("{text}\n@since(version = 0.1.0)\ninterface more {{ @since(version = 0.1.0) ask: func(); }}\n");
    }
    let error = refusal(&changed);
    assert!(error.contains("wit/dataset differs from the released 0.1.0"), "{error}");
    // Comments are no change.
    let mut explained = contracts();
    for text in explained.current.values_mut() {
        *text = format!("// Explained better.\n\n{text}");
    }
    explained.check().unwrap();
}

#[test]
fn a_version_without_its_frozen_copy_is_refused() {
    for name in contracts().current.keys() {
        // The version was raised.
        let error = refusal(&released_with(name, "interface", "interface"));
        assert!(error.starts_with("wit/frozen has no swift:") && error.contains("@0.1.1"), "{error}");
        // The copy of the present version was taken away, with its line in the list.
        let mut thawed = contracts();
        thawed.frozen.retain(|(other, _), _| other != name);
        thawed.sums = thawed.checksums();
        assert!(refusal(&thawed).contains(&format!("wit/frozen has no swift:{name}@0.1.0")));
        // And back again: a released version cannot be followed by an older one.
        let mut lowered = frozen_with(name, "interface", "interface");
        lowered.current = contracts().current;
        assert!(refusal(&lowered).contains(" is at 0.1.0, and 0.1.1 was released already"));
    }
}

#[test]
fn frozen_copies_stay_as_they_are() {
    for key in contracts().frozen.into_keys() {
        let mut edited = contracts();
        edited.frozen.get_mut(&key).unwrap().push('\n');
        let error = refusal(&edited);
        assert!(
            error.contains(&format!("wit/frozen/{0}-{1}/{0}.wit was edited after its release", key.0, key.1)),
            "{error}"
        );

        let mut removed = contracts();
        removed.frozen.remove(&key);
        assert!(refusal(&removed).contains("lists what is not there"));

        let mut unlisted = contracts();
        unlisted.sums = unlisted
            .sums
            .lines()
            .filter(|line| !line.ends_with(&format!("{}.wit", key.0)))
            .map(|line| format!("{line}\n"))
            .collect();
        assert!(refusal(&unlisted).contains("does not list"), "{key:?}");
    }
    let mut gone = contracts();
    gone.current.remove("metric");
    assert!(refusal(&gone).contains("wit/metric is gone"));
}

#[test]
fn a_contract_is_one_file_of_its_own_name() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(place.path().join("frozen")).unwrap();
    std::fs::create_dir_all(place.path().join("reward")).unwrap();
    std::fs::write(place.path().join("reward/reward.wit"), "package swift:reward@0.1.0;").unwrap();
    std::fs::write(place.path().join("reward/more.wit"), "package swift:reward@0.1.0;").unwrap();
    assert!(Contracts::read(place.path()).unwrap_err().to_string().contains("a contract is one file, reward.wit"));
    assert!(declared_version("metric", "package swift:reward@0.1.0;").is_err());
}
