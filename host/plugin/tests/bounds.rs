//! What costs the host and not the plugin: work and memory that a few cheap instructions would make it spend. Each has a bound.

mod guest;

use std::sync::Arc;
use std::time::{Duration, Instant};

use guest::{Guest, zeros_list};
use swift_graph::TableCheckpoint;
use swift_plugin::{Kind, PluginError, PluginHost, PluginOptions, PluginSet, Sample, TrainerState};

/// The usual budgets: these are what a user has.
fn host() -> Arc<PluginHost> {
    Arc::new(PluginHost::new(PluginOptions { cache: None, ..PluginOptions::default() }).unwrap())
}

/// Loads a component in text form; what it ends with, and that it ends soon.
fn refusal(text: &str) -> PluginError {
    let component = wat::parse_str(text).unwrap();
    let start = Instant::now();
    let error = host().load_bytes("bomb", None, &component).expect_err("a bomb is refused");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}: {error}", start.elapsed());
    error
}

/// A model family without functions, so that the component is of a kind.
const ADAPTER: &str = "(instance $adapter) (export \"swift:model/adapter@0.1.0\" (instance $adapter))";

#[test]
fn components_that_double_are_refused() {
    // Each holds the one before twice: two kilobytes of text, 2^40 instances.
    let mut text = String::from("(component (component $c0 (core module $m) (core instance (instantiate $m)))\n");
    for depth in 1..=40 {
        let inner = depth - 1;
        text.push_str(&format!(
            "(component $c{depth} (alias outer 1 $c{inner} (component $x)) (instance (instantiate $x)) (instance (instantiate $x)))\n"
        ));
    }
    text.push_str(&format!("(instance (instantiate $c40)) {ADAPTER})"));
    insta::assert_snapshot!(refusal(&text).report());
}

#[test]
fn deep_nesting_is_refused() {
    // 70 KB that take the compiler half a minute, ten times as much an hour.
    let depth = 10_000;
    let text = format!(
        "(component (core module (func (param i32) {} {})) {ADAPTER})",
        "loop local.get 0 br_if 0 ".repeat(depth),
        "end ".repeat(depth)
    );
    insta::assert_snapshot!(refusal(&text).report());
}

#[test]
fn too_many_functions_are_refused() {
    let text = format!("(component (core module {}) {ADAPTER})", "(func)".repeat(300_000));
    insta::assert_snapshot!(refusal(&text).report());
}

#[test]
fn a_giant_function_is_refused() {
    let text = format!(
        "(component (core module (memory 1) (func (param i32) (result i32) local.get 0 {})) {ADAPTER})",
        "i32.load local.get 0 i32.add ".repeat(1_000_000)
    );
    insta::assert_snapshot!(refusal(&text).report());
}

#[test]
fn a_compiler_that_takes_too_long_is_left_behind() {
    let text = format!(
        "(component (core module (memory 1) (func (param i32) (result i32) local.get 0 {})) {ADAPTER})",
        "i32.load local.get 0 i32.add ".repeat(20_000)
    );
    let component = wat::parse_str(&text).unwrap();
    let options = PluginOptions { compile: Duration::from_millis(5), cache: None, ..PluginOptions::default() };
    let host = Arc::new(PluginHost::new(options).unwrap());
    insta::assert_snapshot!(host.load_bytes("bomb", None, &component).unwrap_err().report());
    // The next plugins are not kept waiting; on a busy machine one of them may take as long.
    let good = wat::parse_str(format!("(component {ADAPTER})")).unwrap();
    assert!((0..1000).any(|_| host.load_bytes("good", None, &good).is_ok()));
}

#[test]
fn text_that_a_plugin_hands_over_is_bounded_in_all() {
    // A million lines of log with a megabyte each would keep the host busy for minutes and cost the plugin nothing.
    let body = format!(
        "(drop (memory.grow (i32.const 20))) (loop $more (call $log (i32.const 0) (i32.const 65536) (i32.const 1000000)) (br $more)) {}",
        zeros_list("(local.get $n)", 16, 4)
    );
    let flood = Guest::new(&[Kind::Reward]).body("score", body).import("log", "log", "(param i32 i32 i32)");
    let plugin = host().load_bytes("flood", None, &flood.build()).unwrap();
    let sample = Sample {
        prompt: Vec::new(),
        completion: "a".into(),
        completion_tokens: 1,
        solution: None,
        columns: Vec::new(),
    };
    let state = TrainerState { step: 0, max_steps: 1, epoch: 0.0, seed: 0, extra: "{}".into() };
    let start = Instant::now();
    let error = plugin.reward("test", "{}").unwrap().score(&[sample], &state).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    insta::assert_snapshot!(error.report());
}

#[test]
fn a_graph_that_a_plugin_builds_is_bounded_in_all() {
    // Long names in deep scopes: each scope keeps its whole path.
    let path = "a".repeat(500);
    let body = "(local $depth i32) \
        (loop $down (call $enter (local.get $g) (i32.const 5000) (i32.const 500) (i32.const 0) (i32.const 0)) \
        (local.set $depth (i32.add (local.get $depth) (i32.const 1))) (br_if $down (i32.lt_u (local.get $depth) (i32.const 60)))) \
        (loop $again (call $enter (local.get $g) (i32.const 5000) (i32.const 500) (i32.const 0) (i32.const 0)) \
        (call $exit (local.get $g)) (br $again)) unreachable";
    let bomb = Guest::new(&[Kind::Model])
        .body("build", body)
        .import_from("swift:model/graph@0.1.0", "[method]builder.enter", "enter", "(param i32 i32 i32 i32 i32)")
        .import_from("swift:model/graph@0.1.0", "[method]builder.exit", "exit", "(param i32)")
        .fields(&format!("(data (i32.const 5000) \"{path}\")"));
    let plugin = host().load_bytes("bomb", None, &bomb.build()).unwrap();
    let start = Instant::now();
    let error = plugin.model().unwrap().trace("{}", "causal-lm", &TableCheckpoint(Default::default())).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    insta::assert_snapshot!(error.report());
}

#[test]
fn an_installed_plugin_that_fails_stops_no_other() {
    let place = tempfile::tempdir().unwrap();
    let install =
        |name: &str, guest: &Guest| std::fs::write(place.path().join(format!("{name}.wasm")), guest.build()).unwrap();
    for (kind, list) in [
        (Kind::Reward, "rewards"),
        (Kind::Metric, "metrics"),
        (Kind::Template, "templates"),
        (Kind::Preprocessor, "preprocessors"),
        (Kind::Dataset, "loaders"),
    ] {
        install(&format!("a-hostile-{kind}"), &Guest::new(&[kind]).body(list, "unreachable"));
        install(&format!("good-{kind}"), &Guest::new(&[kind]));
        let set = PluginSet::new(host(), &[], &[place.path().into()]).unwrap();
        let (found, function) = set.find(kind, "test").unwrap_or_else(|error| panic!("{}", error.report()));
        assert_eq!((found.name(), function.as_str()), (format!("good-{kind}").as_str(), "test"));
        // Asked for by name, it says what is wrong with it.
        let error = set.find(kind, &format!("a-hostile-{kind}/test")).unwrap_err();
        assert!(error.to_string().contains(&format!("`a-hostile-{kind}` trapped in `{list}`")), "{error}");
    }
    // A model family whose export has other types than the contract's.
    std::fs::write(place.path().join("a-bare.wasm"), wat::parse_str(format!("(component {ADAPTER})")).unwrap())
        .unwrap();
    let set = PluginSet::new(host(), &[], &[place.path().into()]).unwrap();
    assert_eq!(set.select("{\"model_type\": \"qwen3\"}").unwrap().name(), "qwen3");
}
