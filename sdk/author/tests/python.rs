//! Plugins in Python, from the template to scores: golden tests of every kind, and what becomes of an author's mistakes.

mod languages;

use languages::{
    all_kinds, assert_alone, assert_golden, assert_reasons, built, load, scaffold, score, server, tools_are_here,
};
use swift_author::{Kind, Language};

const TROUBLE: &str = include_str!("languages/trouble.py");

/// The line of `trouble.py` with this text.
fn line(text: &str) -> String {
    let at = TROUBLE.lines().position(|line| line.contains(text)).unwrap();
    format!("(trouble.py:{})", at + 1)
}

#[test]
fn every_kind_in_one_component() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let source = "import dataset, metric, preprocessor, reward, template, trouble\n";
    let all = all_kinds(folder.path(), Language::Python, "all.py", source, TROUBLE);
    let built = built(&all).unwrap();
    assert_alone(&built);
    let (address, asked) = server();
    let loaded = load(&built, &[format!("all:net={address}")]);
    assert_golden(&loaded.plugin, &built);

    let reward = loaded.plugin.reward("trouble", "{}").unwrap();
    assert_eq!(score(&reward, "asks", &format!("http://{address}/score")), Ok(Some(202.0)));
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /score") && asked.contains("{\"text\": \"é\"}"), "{asked}");
    // What was not granted is an exception like any other.
    let refused = score(&reward, "asks", "http://127.0.0.1:9/").unwrap_err();
    assert!(refused.starts_with("ConnectionError: ") && refused.ends_with(&line("http.post")), "{refused}");
    let error = loaded.plugin.loader("tsv").unwrap();
    let error = error.open("/no/such.tsv", None, "{}", None).map(drop).unwrap_err().to_string();
    assert!(error.contains("OSError: ") && error.contains("(dataset.py:"), "{error}");
}

#[test]
fn an_exception_keeps_its_words_and_its_line() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plugin = scaffold(folder.path(), "polite", Kind::Reward, Language::Python);
    std::fs::write(plugin.join("src/trouble.py"), TROUBLE).unwrap();
    let source = std::fs::read_to_string(plugin.join("src/reward.py")).unwrap();
    std::fs::write(plugin.join("src/reward.py"), format!("{source}\nimport trouble\n")).unwrap();
    let built = built(&plugin).unwrap();
    assert_alone(&built);
    let loaded = load(&built, &[]);
    assert_golden(&loaded.plugin, &built);

    let reward = loaded.plugin.reward("trouble", "{}").unwrap();
    assert_reasons(
        &reward,
        &[
            ("raises", &format!("ValueError: no number in 'four' {}", line("raise ValueError(f"))),
            ("cause", &format!("KeyError: 'count' {}, caused by ValueError: ", line("raise KeyError"))),
            ("imports", "\"colorsys\" was not imported when the plugin was built"),
            ("imports", &line("import colorsys")),
            (
                "opens",
                &format!(
                    "open: a plugin has no files of its own: use swift_sdk.files, or read while the file is imported, at build time {}",
                    line("open(\"/etc")
                ),
            ),
            ("lists", "os.listdir: a plugin has no files"),
            (
                "clock",
                &format!(
                    "time.time: a plugin has no clock: the same input must give the same result {}",
                    line("time.time()")
                ),
            ),
            ("today", &line("now().year")),
            ("entropy", "random.Random(state.seed)"),
            ("connects", "a plugin has no sockets"),
            ("spawns", "a plugin starts no processes"),
            ("recursion", "RecursionError: "),
            ("exits", "SystemExit: 3"),
            ("nan", "the score is nan, not a finite number"),
            ("text", "the score is no number but str"),
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
    score(&reward, "memory", "four").unwrap_err();

    let refused = |name: &str, config: &str| loaded.plugin.reward(name, config).unwrap_err().to_string();
    let message = refused("trouble", "{\"share\": 2}");
    assert!(message.ends_with(&format!("ValueError: more than all {}", line("raise ValueError(\"more"))), "{message}");
    let message = refused("overlap", "{\"lowercse\": true}");
    assert!(
        message.ends_with("overlap has no setting \"lowercse\"; did you mean \"lowercase\"? (its settings: lowercase)")
    );
    let message = refused("overlap", "{\"lowercase\": 1}");
    assert!(message.ends_with("the setting \"lowercase\" must be true or false, not 1"), "{message}");
}

#[test]
fn a_file_that_cannot_be_imported_is_an_error_with_its_line() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plugin = scaffold(folder.path(), "polite", Kind::Reward, Language::Python);
    let source = plugin.join("src/reward.py");
    let failed = |text: &str| {
        std::fs::write(&source, text).unwrap();
        built(&plugin).unwrap_err()
    };
    let error = failed("import swift_sdk\n\nswift_sdk.rewards\n");
    assert!(error.contains("File \"src/reward.py\", line 3") && error.contains("AttributeError: "), "{error}");
    assert!(!error.contains("anyhow") && !error.contains("Caused by"), "{error}");
    let error = failed("import swift_sdk\n");
    assert!(error.ends_with("plugin.toml says `reward`, and src/reward.py declares none: write @reward"), "{error}");
}
