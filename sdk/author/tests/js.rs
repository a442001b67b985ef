//! Plugins in JavaScript and TypeScript, from the template to scores: golden tests of every kind, and what becomes of an
//! author's mistakes.

mod languages;

use languages::{
    all_kinds, assert_alone, assert_golden, assert_reasons, built, load, scaffold, score, server, tools_are_here,
};
use swift_author::{Kind, Language};

const TROUBLE: &str = include_str!("languages/trouble.js");

/// The line of `trouble.js` with this text.
fn line(text: &str) -> String {
    let at = TROUBLE.lines().position(|line| line.contains(text)).unwrap();
    format!("(trouble.js:{})", at + 1)
}

#[test]
fn every_kind_in_one_component() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let names = ["dataset", "metric", "preprocessor", "reward", "template", "trouble"];
    let source: String = names.iter().map(|name| format!("import \"./{name}.js\";\n")).collect();
    let all = all_kinds(folder.path(), Language::JavaScript, "all.js", &source, TROUBLE);
    let built = built(&all).unwrap();
    assert_alone(&built);
    let (address, asked) = server();
    let loaded = load(&built, &[format!("all:net={address}")]);
    assert_golden(&loaded.plugin, &built);

    let reward = loaded.plugin.reward("trouble", "{}").unwrap();
    assert_eq!(score(&reward, "asks", &format!("http://{address}/score")), Ok(Some(202.0)));
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /score") && asked.contains("{\"text\":\"é\"}"), "{asked}");
    // What was not granted is an exception like any other.
    let refused = score(&reward, "asks", "http://127.0.0.1:9/").unwrap_err();
    assert!(refused.starts_with("Error: ") && refused.ends_with(&line("http.post")), "{refused}");
    let error = loaded.plugin.loader("tsv").unwrap();
    let error = error.open("/no/such.tsv", None, "{}", None).map(drop).unwrap_err().to_string();
    assert!(error.contains("(dataset.js:"), "{error}");
}

#[test]
fn typescript_is_built_and_passes_its_tests() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for kind in [Kind::Reward, Kind::Metric] {
        let plugin = scaffold(folder.path(), kind.name(), kind, Language::TypeScript);
        let built = built(&plugin).unwrap();
        assert_alone(&built);
        assert_golden(&load(&built, &[]).plugin, &built);
    }
}

#[test]
fn an_exception_keeps_its_words_and_its_line() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plugin = scaffold(folder.path(), "polite", Kind::Reward, Language::JavaScript);
    std::fs::write(plugin.join("src/trouble.js"), TROUBLE).unwrap();
    let source = std::fs::read_to_string(plugin.join("src/reward.js")).unwrap();
    std::fs::write(plugin.join("src/reward.js"), format!("{source}\nimport \"./trouble.js\";\n")).unwrap();
    let built = built(&plugin).unwrap();
    let loaded = load(&built, &[]);

    let reward = loaded.plugin.reward("trouble", "{}").unwrap();
    assert_reasons(
        &reward,
        &[
            ("raises", &format!("RangeError: no number in \"four\" {}", line("throw new RangeError(`"))),
            ("cause", &format!("Error: count {}, caused by SyntaxError: ", line("throw new Error(\"count\""))),
            ("absent", &line("absent.length")),
            (
                "clock",
                &format!("a plugin has no clock: the same input must give the same result {}", line("Date.now()")),
            ),
            ("today", &line("new Date()")),
            ("waits", "a promise (a plugin's functions are not async)"),
            ("fetches", "ReferenceError: fetch is not defined"),
            ("nan", "the score is NaN, not a finite number"),
            ("text", "the score is no number but string"),
            ("asks", "plugin.toml needs `net"),
        ],
    );
    assert_eq!(score(&reward, "says", "four"), Err("the solution is no number".into()));
    assert_eq!(score(&reward, "column", "four"), Ok(Some(5.0)));
    assert_eq!(score(&reward, "prints", "four"), Ok(None));
    let lines = loaded.lines.lock().unwrap().clone();
    assert!(lines.contains(&"seen".to_owned()) && lines.contains(&"odd".to_owned()), "{lines:?}");

    // Chance is the same in every instance, and what never ends is ended.
    assert_eq!(score(&reward, "chance", "four").unwrap(), score(&reward, "chance", "four").unwrap());
    let reason = score(&reward, "loops", "four").unwrap_err();
    assert!(reason.contains("without end"), "{reason}");
    score(&reward, "recursion", "four").unwrap_err();
    score(&reward, "memory", "four").unwrap_err();

    let refused = |name: &str, config: &str| loaded.plugin.reward(name, config).unwrap_err().to_string();
    let message = refused("trouble", "{\"share\": 2}");
    assert!(message.ends_with(&format!("RangeError: more than all {}", line("\"more than all\""))), "{message}");
    let message = refused("overlap", "{\"lowercse\": true}");
    assert!(message.ends_with("overlap has no setting \"lowercse\" (its settings: lowercase)"), "{message}");
    let message = refused("overlap", "{\"lowercase\": 1}");
    assert!(message.ends_with("the setting \"lowercase\" must be true or false, not 1"), "{message}");
}

#[test]
fn types_move_no_line() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plugin = scaffold(folder.path(), "typed", Kind::Reward, Language::TypeScript);
    let source = "import { reward, type Sample } from \"../sdk/swift-sdk.js\";\n\ninterface Wanted {\n  text: string;\n}\n\n\
                  function fail(wanted: Wanted): never {\n  throw new Error(wanted.text);\n}\n\n\
                  reward(\"overlap\", {}, (sample: Sample) => fail({ text: sample.completion }));\n";
    std::fs::write(plugin.join("src/reward.ts"), source).unwrap();
    let built_plugin = built(&plugin).unwrap();
    let loaded = load(&built_plugin, &[]);
    let reward = loaded.plugin.reward("overlap", "{}").unwrap();
    assert_eq!(score(&reward, "boo", "four"), Err("Error: boo (reward.js:8)".into()));

    // The compiler has its say before anything is built.
    std::fs::write(plugin.join("src/reward.ts"), source.replace("wanted.text)", "wanted.txt)")).unwrap();
    let error = built(&plugin).unwrap_err();
    assert!(error.contains("src/reward.ts(8,26): error TS2551"), "{error}");
}

#[test]
fn a_module_that_cannot_be_run_is_an_error_with_its_line() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plugin = scaffold(folder.path(), "polite", Kind::Reward, Language::JavaScript);
    let source = plugin.join("src/reward.js");
    let failed = |text: &str| {
        std::fs::write(&source, text).unwrap();
        built(&plugin).unwrap_err()
    };
    let error = failed("const a = 1;\n\nnull.a;\n");
    assert!(error.contains("cannot read property 'a' of null") && error.contains("src/reward.js:3"), "{error}");
    let error = failed("reward(;\n");
    assert!(error.contains("src/reward.js:1"), "{error}");
    let error = failed("import \"lodash\";\n");
    assert!(error.contains("failed to resolve JavaScript import \"lodash\" from src/reward.js"), "{error}");
    let error = failed("export {};\n");
    assert!(error.contains("plugin.toml says `reward`, and src/reward.js declares none: call reward(...)"), "{error}");
}
