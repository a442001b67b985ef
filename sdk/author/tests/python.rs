//! Plugins in Python, from the template to scores and graphs: golden tests of every kind, and what becomes of an author's
//! mistakes.

mod languages;

use std::path::Path;

use languages::{
    all_kinds, assert_alone, assert_golden, assert_reasons, built, load, scaffold, score, server, tools_are_here,
};
use swift_author::{Kind, Language, oracle};
use swift_graph::{StorageType, TableCheckpoint, TensorInfo};

/// Families beside the template's: one that is held against references, and one that goes wrong as its config says.
const FAMILIES: &str = r#"

@model("llama", architectures=["LlamaForCausalLM"])
class Llama(Tiny):
    pass


@model("trouble", architectures=["TroubleForCausalLM"])
def trouble(g: Graph, config: Config) -> None:
    config.refuse_all_but("sliding_window")
    tokens, positions = g.text()
    x, table = g.embed("embed", tokens, 8, 4)
    heads = x.reshape(1, 4)
    what = config.optional_text("what")
    if what == "size":
        config.size("hidden_size")
    elif what == "raises":
        raise ValueError("no such network")
    elif what == "half":
        x.reshape(4 / 2, 2)
    elif what == "none":
        g.linear("up", None, 4)
    elif what == "mask":
        g.attention(heads, heads, heads, table, 1.0)
    elif what == "activation":
        x.glu(x, None)
    elif what == "surrogate":
        x.unary("\ud800")
    elif what == "operand":
        x * "two"
    elif what == "misfit":
        with g.scope("inner"), g.block("layers", 3):
            x.reshape(3)
    elif what == "option":
        heads.rope(positions, Rope(4, 1e4, {"odd": 1.0}))
    elif what == "loops":
        while True:
            pass
"#;

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

/// Tensors from lines such as `model.norm.weight [64]`.
fn checkpoint(parameters: &str) -> TableCheckpoint {
    let mut checkpoint = TableCheckpoint::default();
    for line in parameters.lines() {
        let (name, shape) = line.split_once(' ').unwrap();
        let shape = shape.trim_matches(['[', ']']).split(", ").map(|size| size.parse().unwrap()).collect();
        checkpoint.0.insert(name.to_owned(), TensorInfo { shape, dtype: StorageType::F32 });
    }
    checkpoint
}

#[test]
fn a_model_family_equals_the_reference_and_its_mistakes_have_words() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let plugin = scaffold(folder.path(), "family", Kind::Model, Language::Python);
    let template = std::fs::read_to_string(plugin.join("src/model.py")).unwrap();
    // What the tutorial shows of it.
    let page = include_str!("../../../docs/plugins/model-family.md");
    let shown: Vec<&str> = page.split("```python\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(shown.len() > 1 && shown.iter().all(|code| template.contains(code)), "{shown:?}");
    let source = template + FAMILIES;
    std::fs::write(plugin.join("src/model.py"), &source).unwrap();
    let built = built(&plugin).unwrap();
    assert_alone(&built);
    let loaded = load(&built, &[]);
    assert_golden(&loaded.plugin, &built);
    let model = loaded.plugin.model().unwrap();

    // What it computes, and that what it traces is what the family in Rust does, for every form of a rotary embedding.
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    oracle::check(&model, &repository.join("tests/oracles/llama3"), &swift_engine::Placement::Cpu).unwrap();
    for case in ["llama2", "llama3", "tied-dynamic", "yarn"] {
        let case = repository.join("sdk/plugin-test/families/llama").join(case);
        let text = |name: &str| std::fs::read_to_string(case.join(name)).unwrap();
        let trace = model.trace(&text("config.json"), "causal-lm", &checkpoint(&text("parameters.txt"))).unwrap();
        assert_eq!(swift_graph::text::print(&trace.graph), text("graph.txt"), "{}", case.display());
    }

    let claims = |config: &str| model.claims(config).unwrap();
    assert_eq!(claims(r#"{"model_type": "llama", "architectures": ["Other"]}"#).as_deref(), Some("llama"));
    assert_eq!(claims(r#"{"architectures": ["TroubleForCausalLM"]}"#).as_deref(), Some("trouble"));
    for config in ["no json", "[]", "{}", r#"{"model_type": "other"}"#, r#"{"model_type": 3}"#] {
        assert_eq!(claims(config), None, "{config}");
    }

    let table = checkpoint("embed.weight [8, 4]");
    let refused = |config: &str, task: &str| model.trace(config, task, &table).map(drop).unwrap_err().to_string();
    let line = |text: &str| {
        let at = source.lines().position(|line| line.contains(text)).unwrap();
        format!(" (model.py:{})", at + 1)
    };
    for (what, wanted) in [
        ("size", "config.json: `hidden_size` is missing, a positive whole number is needed".to_owned()),
        ("raises", format!("ValueError: no such network{}", line("raise ValueError"))),
        ("half", format!("TypeError: reshape: 2.0 is no whole number; divide with //{}", line("4 / 2"))),
        ("none", format!("TypeError: up: a tensor is needed, not NoneType{}", line("\"up\""))),
        ("mask", format!("TypeError: attention: a Mask is needed, not Param{}", line("table, 1.0"))),
        ("activation", format!("TypeError: glu: a text is needed, not NoneType{}", line("x.glu"))),
        ("surrogate", line("x.unary")),
        ("operand", format!("TypeError: a tensor or a number is needed, not str{}", line("x * "))),
        ("misfit", "`reshape` in `inner.layers.3`: [rows, 4] does not have the elements of [rows, 3]".to_owned()),
        ("option", "`rope`: unknown option `odd`".to_owned()),
        ("loops", "without end".to_owned()),
    ] {
        let error = refused(&format!(r#"{{"model_type": "trouble", "what": "{what}"}}"#), "causal-lm");
        assert!(error.contains(&wanted), "{what}: {error}");
    }
    let error = refused(r#"{"model_type": "trouble", "sliding_window": 8, "attention_bias": true}"#, "causal-lm");
    assert!(error.contains("`attention_bias` is true, which changes the model in a way"), "{error}");
    let error = refused(r#"{"model_type": "trouble"}"#, "ranking");
    assert!(error.contains("the task `ranking` is not built; this family builds causal-lm"), "{error}");
}

/// The texts of a list in a source file, one a line.
fn texts<'a>(source: &'a str, start: &str, end: &str) -> Vec<&'a str> {
    let list = source.split_once(start).and_then(|(_, rest)| rest.split_once(end)).unwrap().0;
    list.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect()
}

#[test]
fn configs_are_refused_for_the_same_keys_as_in_rust() {
    let rust = include_str!("../../rust/src/config.rs");
    let python = include_str!("../../python/swift_sdk/config.py");
    let keys = texts(rust, "CHANGES_THE_MODEL: &[&str] = &[", "\n];");
    assert!(keys.contains(&"sliding_window"), "{keys:?}");
    assert_eq!(texts(python, "CHANGES_THE_MODEL = (", "\n)"), keys);

    let rust = include_str!("../../rust/src/rope.rs");
    let python = include_str!("../../python/swift_sdk/rope.py");
    let keys = texts(rust, "KNOWN: &[&str] = &[", "\n];");
    assert!(keys.contains(&"rope_theta"), "{keys:?}");
    assert_eq!(texts(python, "_KNOWN = (", "\n)"), keys);
}
