//! C and Go from source to scores: the templates as an author gets them, a probe that says back all that crosses the contract,
//! and what is left of an author's mistake by the time the user reads it.

#[allow(dead_code, reason = "what only other languages need")]
mod languages;

use std::path::Path;
use std::sync::{Arc, Mutex};

use languages::{assert_alone, assert_golden, built, scaffold, tools_are_here};
use swift_author::{Built, Kind, Language};
use swift_plugin::{
    Answer, ChatMessage, Content, Context, Conversation, Event, Example, Form, KindLimits, LogLine, Message, Outcome,
    Part, Plugin, PluginHost, PluginOptions, RowOutcome, Sample, ToolCall, TrainerState,
};

/// A plugin of all kinds that the SDKs have.
fn probe(folder: &Path, language: Language) -> Built {
    let path = scaffold(folder, "probe", Kind::Reward, language);
    let (file, source) = match language {
        Language::C => ("src/reward.c", include_str!("native/probe.c")),
        _ => ("src/reward.go", include_str!("native/probe.go")),
    };
    std::fs::write(path.join(file), source).unwrap();
    let manifest = std::fs::read_to_string(path.join("plugin.toml")).unwrap();
    let kinds = "kind = [\"reward\", \"metric\", \"preprocessor\"]";
    std::fs::write(path.join("plugin.toml"), manifest.replace("kind = [\"reward\"]", kinds)).unwrap();
    std::fs::remove_dir_all(path.join("tests")).unwrap();
    built(&path).unwrap()
}

/// The line of the probe that holds this text, from 1 on.
fn line(source: &str, text: &str) -> usize {
    source.lines().position(|line| line.contains(text)).unwrap() + 1
}

fn holds(built: &Built, text: &str) -> bool {
    built.bytes.windows(text.len()).any(|bytes| bytes == text.as_bytes())
}

/// Loads a component, compiled once for all tests and runs.
fn load(built: &Built) -> (Plugin, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&lines);
    let options = PluginOptions {
        cache: Some(Path::new(env!("CARGO_TARGET_TMPDIR")).join("compiled-plugins")),
        limits: KindLimits::default().with(|limits| limits.memory = 256 << 20),
        log: Some(Arc::new(move |_, line: LogLine| heard.lock().unwrap().push(line.message))),
        ..PluginOptions::default()
    };
    let host = Arc::new(PluginHost::new(options).unwrap());
    (host.load_bytes("plugin", None, &built.bytes).unwrap(), lines)
}

fn state() -> TrainerState {
    TrainerState { step: u64::MAX, max_steps: 7, epoch: 0.25, seed: 1 << 40, extra: "{\"a\":1}".into() }
}

fn sample(completion: &str, columns: &[(&str, &str)]) -> Sample {
    Sample {
        prompt: Vec::new(),
        completion: completion.into(),
        completion_tokens: 3,
        solution: None,
        columns: columns.iter().map(|(name, json)| ((*name).into(), (*json).into())).collect(),
    }
}

fn outcome(plugin: &Plugin, config: &str, sample: Sample) -> Result<Option<f64>, String> {
    let outcomes = plugin.reward("probe", config).unwrap().outcomes(&[sample], &state()).0;
    match &outcomes[..] {
        [Outcome::Score(score)] => Ok(Some(*score)),
        [Outcome::NoScore] => Ok(None),
        [Outcome::Failed(reason)] => Err(reason.clone()),
        other => panic!("{other:?}"),
    }
}

/// The template of a kind builds, is alone, passes its own tests, and comes out the same in another folder.
fn template(kind: Kind, language: Language) {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let built_here = built(&scaffold(folder.path(), "my-plugin", kind, language)).unwrap();
    assert_alone(&built_here);
    assert_golden(&load(&built_here).0, &built_here);
    let there = scaffold(&folder.path().join("some where/else"), "my-plugin", kind, language);
    assert!(built(&there).unwrap().bytes == built_here.bytes, "the same source gave other bytes in another folder");
    // Without its own SDK the one of this swift serves.
    std::fs::remove_dir_all(there.join("sdk")).unwrap();
    assert_alone(&built(&there).unwrap());
}

#[test]
fn c_reward() {
    template(Kind::Reward, Language::C);
}

#[test]
fn c_metric() {
    template(Kind::Metric, Language::C);
}

#[test]
fn c_preprocessor() {
    template(Kind::Preprocessor, Language::C);
}

#[test]
fn c_template() {
    template(Kind::Template, Language::C);
}

#[test]
fn c_dataset() {
    template(Kind::Dataset, Language::C);
}

#[test]
fn c_model() {
    template(Kind::Model, Language::C);
}

#[test]
fn go_reward() {
    template(Kind::Reward, Language::Go);
}

#[test]
fn go_metric() {
    template(Kind::Metric, Language::Go);
}

#[test]
fn go_preprocessor() {
    template(Kind::Preprocessor, Language::Go);
}

#[test]
fn go_template() {
    template(Kind::Template, Language::Go);
}

#[test]
fn go_dataset() {
    template(Kind::Dataset, Language::Go);
}

#[test]
fn go_model() {
    template(Kind::Model, Language::Go);
}

/// All fields of all kinds, in both directions.
fn everything_crosses(plugin: &Plugin, lines: &Mutex<Vec<String>>) {
    let infos = plugin.rewards().unwrap();
    let infos: Vec<_> =
        infos.iter().map(|info| (info.name.as_str(), info.summary.as_str(), info.whole_batch)).collect();
    assert_eq!(infos, [("probe", "Says back what it gets", false), ("rank", "The size of the batch", true)]);
    let infos = plugin.metrics().unwrap();
    assert_eq!((infos.len(), infos[0].higher_is_better), (1, false));
    assert_eq!(plugin.preprocessors().unwrap()[0].datasets, ["a/b", "c/d"]);

    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let mut full = sample("né", &[("x", "[1, 2]"), ("ÿ", "null")]);
    full.prompt = vec![message("system", ""), message("user", "hi")];
    full.solution = Some("42".into());
    assert_eq!(
        outcome(plugin, "{}", full),
        Err("system: user:hi / né / 3 / 42 / x=[1, 2] ÿ=null / 18446744073709551615 7 0.25 1099511627776 {\"a\":1}"
            .into())
    );
    let bare = outcome(plugin, "{}", sample("", &[])).unwrap_err();
    assert_eq!(bare, "/  / 3 / none / / 18446744073709551615 7 0.25 1099511627776 {\"a\":1}");
    let column = |json: &str| outcome(plugin, r#"{"mode": "column"}"#, sample("x", &[("list", json)]));
    assert_eq!(column("[ -12.5e-1 , {}]"), Ok(Some(-1.25)));
    assert_eq!(column("[1e999]"), Err("\"\"".into()), "not a finite number");
    assert_eq!(column(r#"["a\"\u00e9\ud83d\ude00\ud800\n"]"#), Err("\"a\\\"é😀\u{fffd}\\n\"".into()));
    for broken in ["[", "[1,]", "[01]", "[\"\u{1}\"]", "[\"\\x\"]", "{\"a\" 1}", "[1] 2", "", &"[".repeat(1000), "[\"a"]
    {
        assert_eq!(column(broken), Ok(None), "{broken}");
    }
    assert_eq!(outcome(plugin, r#"{"mode": "column"}"#, sample("x", &[])), Ok(None));
    let rank = plugin.reward("rank", "{}").unwrap();
    let outcomes = rank.outcomes(&[sample("a", &[]), sample("", &[]), sample("b", &[])], &state()).0;
    assert!(matches!(&outcomes[..], [Outcome::Score(3.0), Outcome::Failed(_), Outcome::Score(3.0)]), "{outcomes:?}");

    let numbers = |numbers: &[f64]| Answer::Numbers(numbers.into());
    let example = |prediction, references| Example { prediction, references, columns: vec![("c".into(), "1".into())] };
    let metric = plugin.metric("probe", "{}").unwrap();
    let examples = [
        example(Answer::Text("a".into()), vec![Answer::Text("b".into()), Answer::Tokens(vec![-100, 7])]),
        example(numbers(&[0.1, -1e300]), vec![]),
        example(Answer::Tokens(vec![]), vec![numbers(&[])]),
    ];
    let error = metric.evaluate(&examples).unwrap_err().to_string();
    assert!(error.contains("[a|b|-100,7, c=1][0.1,-1e+300, c=1][| c=1]"), "{error}");
    let none = metric.evaluate(&[]).unwrap();
    assert_eq!(none.len(), 20);
    assert_eq!(none[19], ("n19".into(), 19.0));

    let rows = [r#"{"do": "drop"}"#, r#"{"do": "two"}"#, r#"{"a": [1.50]}"#].map(String::from);
    let outcomes = plugin.preprocessor("probe", "{}").unwrap().process(&rows).unwrap();
    let rows = |rows: &[&str]| RowOutcome::Rows(rows.iter().map(|row| (*row).into()).collect());
    assert_eq!(
        outcomes,
        [RowOutcome::Dropped("no use".into()), rows(&["{\"n\":1}", "{\"n\":2}"]), rows(&[r#"{"a": [1.50]}"#])]
    );

    let refused = |config: &str| {
        let error = plugin.reward("probe", config).unwrap_err().to_string();
        error.rsplit_once("settings of `probe`: ").unwrap().1.to_owned()
    };
    assert_eq!(
        refused(r#"{"colour": 1}"#),
        "there is no setting `colour`; there are `mode`, `whole`, `number` and `flag`"
    );
    assert_eq!(refused(r#"{"whole": 0.5}"#), "the setting `whole` is 0.5, a whole number is needed");
    assert_eq!(refused(r#"{"mode": []}"#), "the setting `mode` is a list of 0, a text is needed");
    assert_eq!(refused(r#"{"flag": "yes"}"#), "the setting `flag` is \"yes\", true or false is needed");
    assert_eq!(refused(r#"{"whole": -3}"#), "`whole` is negative");
    let error = plugin.reward("rank", r#"{"x": 1}"#).unwrap_err().to_string();
    assert!(error.ends_with("there is no setting `x`; there are none"), "{error}");
    plugin.reward("probe", r#"{"mode": null, "whole": 8.0, "number": 1.5}"#).unwrap();
    assert!(lines.lock().unwrap().iter().any(|line| line == "number is 1.5"), "{lines:?}");
}

/// A mistake costs its own sample, and says what and where it was.
fn mistakes_are_named(plugin: &Plugin, modes: &[(&str, &[&str])]) {
    for (mode, parts) in modes {
        let reward = plugin.reward("probe", &format!("{{\"mode\": \"{mode}\"}}")).unwrap();
        let outcomes = reward.outcomes(&[sample("a", &[]), sample("bad", &[])], &state()).0;
        if *mode != "nan" {
            assert!(matches!(outcomes[0], Outcome::Score(1.0)), "{mode}: {outcomes:?}");
        }
        let Outcome::Failed(reason) = &outcomes[1] else { panic!("{mode}: {outcomes:?}") };
        for part in *parts {
            assert!(reason.contains(part), "{mode}: {reason}");
        }
    }
}

/// A large batch, twice: no row is lost, none is scored differently.
fn large_batches_are_scored(plugin: &Plugin) {
    let long = "word ".repeat(200);
    let samples: Vec<Sample> =
        (0..1000).map(|i| sample(&long, &[("list", &format!("[{i}]")), ("text", &format!("{long:?}"))])).collect();
    let reward = plugin.reward("probe", r#"{"mode": "column"}"#).unwrap();
    let scores = reward.score(&samples, &state()).unwrap();
    let expected: Vec<_> = (0..1000).map(|i| Some(f64::from(i))).collect();
    assert_eq!(scores, expected);
    assert_eq!(reward.score(&samples, &state()).unwrap(), expected);
    // One call with everything: the collector runs while the host writes the arguments.
    let rank = plugin.reward("rank", "{}").unwrap().score(&samples, &state()).unwrap();
    assert_eq!(rank, vec![Some(1000.0); 1000]);
}

#[test]
fn c_probe() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let built = probe(folder.path(), Language::C);
    assert_alone(&built);
    assert!(holds(&built, "render_answer"), "names of functions are there for stacks of traps");
    assert!(!holds(&built, &folder.path().display().to_string()), "a path of this machine is in the component");
    let (plugin, lines) = load(&built);
    everything_crosses(&plugin, &lines);
    let place = format!("src/reward.c:{}: ", line(include_str!("native/probe.c"), "assert(swift_equal"));
    mistakes_are_named(
        &plugin,
        &[
            ("panic", &[&place, "assertion failed in score: swift_equal(self->mode"]),
            ("abort", &["src/reward.c:", "abort() was called"]),
            ("deep", &["out of bounds memory access"]),
            ("nan", &["finite number"]),
            ("loop", &["it ran without end"]),
        ],
    );
    large_batches_are_scored(&plugin);
}

#[test]
fn go_probe() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let built = probe(folder.path(), Language::Go);
    assert_alone(&built);
    assert!(holds(&built, "renderAnswer"), "names of functions are there for stacks of traps");
    assert!(!holds(&built, &folder.path().display().to_string()), "a path of this machine is in the component");
    let (plugin, lines) = load(&built);
    everything_crosses(&plugin, &lines);
    let source = include_str!("native/probe.go");
    let place = format!("src/reward.go:{}: ", line(source, "Role[0]"));
    mistakes_are_named(
        &plugin,
        &[
            ("panic", &[&place, "index out of range [3] with length 0"]),
            ("deadlock", &["deadlock", &format!("src/reward.go:{}", line(source, "<-make"))]),
            ("deep", &["call stack exhausted"]),
            ("nan", &["finite number"]),
            ("loop", &["it ran without end"]),
        ],
    );
    large_batches_are_scored(&plugin);
}

/// Templates, loaders, configs, files and hosts in Go: all that crosses the contracts, in both directions.
#[test]
fn go_kinds() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = scaffold(folder.path(), "probe", Kind::Reward, Language::Go);
    std::fs::write(path.join("src/reward.go"), include_str!("native/kinds.go")).unwrap();
    let manifest = std::fs::read_to_string(path.join("plugin.toml")).unwrap();
    let kinds = "[\"reward\", \"dataset\", \"template\", \"model\"]";
    let manifest = manifest.replace("[\"reward\"]", kinds) + "\n[capabilities]\nread = true\nnet = [\"*\"]\n";
    std::fs::write(path.join("plugin.toml"), manifest).unwrap();
    std::fs::remove_dir_all(path.join("tests")).unwrap();
    let built = built(&path).unwrap();
    assert_alone(&built);

    let granted = folder.path().join("granted");
    std::fs::create_dir_all(granted.join("sub")).unwrap();
    std::fs::write(granted.join("five"), "12345").unwrap();
    let granted = granted.display().to_string();
    let (address, asked) = languages::server();
    let grants = [format!("probe:net={address}"), format!("probe:read={granted}")];
    let loaded = languages::load(&built, &grants);

    let reward = loaded.plugin.reward("probe", "{}").unwrap();
    let score = |what: &str, solution: &str| languages::score(&reward, what, solution);
    assert_eq!(score("asks", &format!("http://{address}/score")), Ok(Some(214.0)));
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /score") && asked.ends_with("{\"text\":\"é\"}"), "{asked}");
    assert!(score("asks", "http://127.0.0.1:9/").unwrap_err().contains("did not grant"));
    assert_eq!(score("reads", &format!("{granted}/five")), Ok(Some(5.0)));
    assert!(score("reads", "/etc/passwd").unwrap_err().contains("is not in what the user granted"));
    assert_eq!(score("entries", &granted), Err("five false 5;sub true 0;".into()));

    templates_cross(&loaded.plugin);
    assert!(loaded.lines.lock().unwrap().iter().any(|line| line.contains("probe claims nothing: src/reward.go:")));
    sources_cross(&loaded.plugin);
    configs_are_read(&loaded.plugin);
}

fn templates_cross(plugin: &Plugin) {
    let claimed = plugin.claims_template(r#"{"model_type": "probe", "eps": NaN}"#, "{}").unwrap();
    assert_eq!(claimed.as_deref(), Some("probe"));
    assert_eq!(plugin.claims_template("{}", "{}").unwrap(), None);
    let error = plugin.template("probe", r#"{"style": 1}"#).unwrap_err().to_string();
    assert!(error.contains("there is no setting `style`"), "{error}");
    // The host gives special tokens to all.
    let template = plugin.template("probe", r#"{"bos_token": "<s>", "eos_token": "x"}"#).unwrap();
    assert_eq!(template.stops().unwrap(), ["<end>", "é"]);

    let text = |text: &str| Some(text.to_owned());
    let bare = ChatMessage {
        role: "assistant".into(),
        content: Vec::new(),
        reasoning: None,
        tool_calls: Vec::new(),
        tool_call_id: None,
        name: None,
        loss: Some(false),
        loss_scale: Some(0.5),
    };
    let call = |id, name: &str| ToolCall { id, name: name.into(), arguments: "{}".into() };
    let full = ChatMessage {
        role: "tool".into(),
        content: vec![
            Part::Text("t".into()),
            Part::Image("i".into()),
            Part::Audio("a".into()),
            Part::Video("v".into()),
        ],
        reasoning: text("so"),
        tool_calls: vec![call(text("7"), "f"), call(None, "g")],
        tool_call_id: text("9"),
        name: text("n"),
        loss: None,
        loss_scale: Some(0.25),
    };
    let nothing = Conversation { messages: Vec::new(), tools: Vec::new(), arguments: Vec::new(), date: None };
    let whole = Conversation {
        messages: vec![full, bare],
        tools: vec!["{}".into()],
        arguments: vec![("x".into(), "true".into())],
        date: text("2026-01-02"),
    };
    let conversations = [nothing, whole];
    let rendered = template.render(&conversations, Form::Training).unwrap();
    let said = "{} x=true 2026-01-02 / tool 0:t 2:i 3:a 4:v so 7 f {} none g {} 9 n 0.25 / assistant none none none 0";
    assert_eq!(rendered[1].as_ref().unwrap_err(), said);
    let rendered = template.render(&conversations, Form::Prompt).unwrap();
    let error = rendered[0].as_ref().unwrap_err();
    assert!(error.contains("src/reward.go:") && error.contains("index out of range"), "{error}");
    let segments = rendered[1].as_ref().unwrap().iter().map(|segment| {
        let (kind, text) = match &segment.content {
            Content::Text(text) => ("text", text),
            Content::Special(text) => ("special", text),
            Content::Image(text) => ("image", text),
            Content::Audio(text) => ("audio", text),
            Content::Video(text) => ("video", text),
        };
        format!("{kind} {text} {} {:?}", segment.weight, segment.message)
    });
    let expected =
        ["text é 0.5 Some(1)", "special <s> 0 None", "image i 0 Some(0)", "audio a 0 Some(0)", "video v 0 Some(0)"];
    assert_eq!(segments.collect::<Vec<_>>(), expected);

    let context = Context { tools: vec!["{}".into()], arguments: vec![("x".into(), "1".into())], prefix: "<t>".into() };
    let parsed = template.parse(&["né".to_owned()], &context).unwrap().remove(0);
    assert_eq!((parsed.content.as_str(), parsed.reasoning.as_deref()), ("né", Some("<t>")));
    assert_eq!(parsed.problems, ["one", "two"]);
    assert_eq!((parsed.tool_calls[0].id.as_deref(), parsed.tool_calls[0].arguments.as_str()), (Some("7"), "{}"));
    assert_eq!((parsed.tool_calls[1].id.as_deref(), parsed.tool_calls[1].name.as_str()), (None, "{} x=1"));

    let mut parser = template.parser(&context).unwrap();
    let mut events = parser.push("né").unwrap();
    events.extend(parser.finish().unwrap());
    let events = events.iter().map(|event| match event {
        Event::Reasoning(text) => format!("reasoning {text}"),
        Event::Text(text) => format!("text {text}"),
        Event::ToolCall(start) => format!("call {:?} {}", start.id, start.name),
        Event::Arguments(text) => format!("arguments {text}"),
        Event::Problem(text) => format!("problem {text}"),
    });
    let expected =
        ["reasoning né", "text t", "call Some(\"7\") f", "call None ", "arguments {}", "problem p", "text <t>"];
    assert_eq!(events.collect::<Vec<_>>(), expected);
}

fn sources_cross(plugin: &Plugin) {
    let loader = plugin.loader("probe").unwrap();
    assert_eq!(loader.info().endings, [".a", ".b"]);
    let refused =
        |config: &str| loader.open("there", Some("sub"), config, Some("c")).map(drop).unwrap_err().to_string();
    let error = refused(r#"{"refuse": true}"#);
    assert!(error.contains("no there sub c"), "{error}");
    let error = refused(r#"{"style": 1}"#);
    assert!(error.contains("there is no setting `style`"), "{error}");

    let mut reader = loader.open("there", Some("last"), "{}", None).unwrap();
    assert_eq!(reader.length().unwrap(), Some(1 << 40));
    let batch = reader.next(3).unwrap().unwrap();
    let rows = |rows: &[&str]| RowOutcome::Rows(rows.iter().map(|row| (*row).into()).collect());
    assert_eq!(
        batch.outcomes,
        [rows(&["{\"n\":3}"]), rows(&["{\"a\":1}", "{\"b\":2}"]), RowOutcome::Dropped("no use".into())]
    );
    assert_eq!((batch.cursor.as_str(), batch.last), ("né", true));
    let error = loader.open("there", None, "{}", Some("c")).unwrap().next(1).unwrap_err().to_string();
    assert!(error.contains("no more after c"), "{error}");
}

fn configs_are_read(plugin: &Plugin) {
    let model = plugin.model().unwrap();
    for (config, name) in [
        (r#"{"model_type": "probe", "eps": NaN}"#, Some("probe")),
        (r#"{"architectures": ["Other", "ProbeModel"]}"#, Some("probe")),
        (r#"{"model_type": "other", "architectures": ["ProbeModel"]}"#, None),
        ("{", None),
    ] {
        assert_eq!(model.claims(config).unwrap().as_deref(), name, "{config}");
    }
    let yarn = "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"mscale\": 1, \"truncate\": false}";
    for (keys, part) in [
        ("\"width\": 8.0, \"sliding_window\": 4", "`width` is 8.0, 8 10000 0"),
        (&*format!("\"width\": 8, \"rope_theta\": 1e6, \"max_position_embeddings\": 64, {yarn}"), "8 1e+06 4"),
        ("\"width\": null", "`width` is missing, a positive whole number is needed"),
        ("\"width\": true", "`width` is true, a positive whole number is needed"),
        ("\"attention_bias\": true", "`attention_bias` is true, which changes the model"),
        ("\"logits_scaling\": 8.0", "`logits_scaling` is 8.0, which changes the model"),
        ("\"layer_types\": [\"full_attention\", \"other\"]", "`layer_types` is a list of 2, which changes"),
        ("\"width\": 8, \"logit_scale\": 1, \"layer_types\": [\"full_attention\"]", "8 10000 0"),
        ("\"width\": 8, \"rope_scaling\": {\"type\": \"longrope\"}", "longrope"),
        ("\"width\": 8, \"rope_scaling\": {\"type\": \"linear\"}", "`rope_scaling.factor` is missing"),
        ("\"width\": 8, \"rope_parameters\": {\"mrope_section\": [1]}", "`rope_parameters.mrope_section`"),
    ] {
        let config = format!("{{\"model_type\": \"probe\", {keys}}}");
        let checkpoint = swift_graph::TableCheckpoint::default();
        let error = model.trace(&config, "causal-lm", &checkpoint).unwrap_err().to_string();
        assert!(error.contains(part), "{config}: {error}");
    }
    let checkpoint = swift_graph::TableCheckpoint::default();
    let error = model.trace(r#"{"model_type": "probe"}"#, "other", &checkpoint).unwrap_err().to_string();
    assert!(error.contains("the task `other` is not built; this family builds causal-lm"), "{error}");
}

/// What a compiler or the folder says reaches the author.
#[test]
fn what_does_not_build_is_explained() {
    if !tools_are_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (c, go) = ("src/reward.c", "src/reward.go");
    let system = "#include <stdio.h>\n#define swift_no_score() (printf(\"%d\", 1), swift_no_score())\ntypedef";
    for (language, file, from, to, part) in [
        (Language::C, c, "swift_no_score()", "swift_no_skore()", "src/reward.c:"),
        (Language::C, c, "swift_no_score()", "(nowhere(), swift_no_score())", "nowhere"),
        (Language::C, c, "typedef", system, "it calls the system (fd_"),
        (Language::C, "plugin.toml", "[\"reward\"]", "[\"template\"]", "swift_add_reward"),
        (Language::Go, go, "swift.NoScore()", "swift.NoSkore()", "undefined: swift.NoSkore"),
        (Language::Go, "go.mod", "replace swift", "// replace swift", "swift"),
    ] {
        let path = scaffold(folder.path(), "broken", Kind::Reward, language);
        let text = std::fs::read_to_string(path.join(file)).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path.join(file), text.replacen(from, to, 1)).unwrap();
        let error = built(&path).unwrap_err();
        std::fs::remove_dir_all(path).unwrap();
        assert!(error.contains(part), "{error}");
    }
}
