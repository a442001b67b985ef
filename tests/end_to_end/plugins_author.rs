//! `swift plugin new`, `build`, `test`, `check`, `inspect`, `run` and `bench`, as an author uses them. Built is in Rust, where a
//! compiler for WebAssembly is; everything that needs no build is tried with components made before.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::fixture::{Place, Said};

/// The user's folders, where a private compiler may lie and crates were fetched.
const OF_THE_USER: [&str; 2] = ["HOME", "XDG_CACHE_HOME"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A component of `plugins/dist`.
fn built_in(name: &str) -> String {
    repository().join(format!("plugins/dist/{name}.wasm")).canonicalize().expect("it is built").display().to_string()
}

/// The command with the user's own folders: building needs the compiler and the crates that lie there.
fn building(place: &Place, arguments: &str) -> Said {
    let mut command = place.command(arguments);
    for name in OF_THE_USER {
        match std::env::var_os(name) {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // Every test's SDK is the same: compiled once.
    command.env("CARGO_TARGET_DIR", repository().join("target/guests-of-authors"));
    Said::of(&command.output().expect("the binary starts"))
}

/// Whether this machine can build a Rust plugin; `cargo xtask test` sees to it.
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
pub(crate) fn can_build() -> bool {
    let target = "lib/rustlib/wasm32-unknown-unknown/lib";
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().ok();
    let sysroot = sysroot.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache"))).expect("a home folder");
    let private = cache.join("swift-wasm-toolchain/complete").is_file();
    let can = private || sysroot.is_some_and(|sysroot| sysroot.join(target).is_dir());
    if !can {
        assert!(std::env::var_os("CI").is_none(), "there is no Rust compiler for WebAssembly: run cargo xtask test");
        eprintln!("skipped: no Rust compiler for WebAssembly, run cargo xtask test");
    }
    can
}

#[test]
fn from_nothing_to_scores_in_rust() {
    if !can_build() {
        return;
    }
    let place = Place::new();
    let said = place.swift("plugin new polite --kind reward --lang rust").good();
    assert!(said.err.contains("next: swift plugin build polite"), "{}", said.err);
    let said = building(&place, "plugin test polite").good();
    assert!(said.err.contains("all as they must be"), "{}", said.err);

    // The same bytes again, from another folder too.
    let first = place.bytes("polite/polite.wasm");
    building(&place, "plugin build polite --output again.wasm").good();
    assert!(place.bytes("again.wasm") == first, "the same source gives the same bytes");
    place.swift("plugin new polite --kind reward --lang rust --path elsewhere").good();
    building(&place, "plugin build elsewhere --output elsewhere.wasm").good();
    assert!(place.bytes("elsewhere.wasm") == first, "wherever the folder lies");

    let said = place.swift("plugin inspect polite/polite.wasm --format json").good();
    let value: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!((&value["name"], &value["kinds"][0]), (&"polite".into(), &"reward".into()));
    assert_eq!(value["functions"]["reward"][0]["name"], "overlap");
    assert_eq!(value["imports"], serde_json::json!(["swift:plugin/log@0.1.0"]));

    let said = place.swift("plugin check polite/polite.wasm").good();
    assert!(said.out.contains("plugin.toml has no `license`"), "{}", said.out);
    assert_eq!(place.swift("plugin check polite/polite.wasm --strict").code, Some(1));

    let rows = "{\"completion\": \"It is four apples\", \"solution\": \"four apples\", \"id\": 7}\n\n{\"completion\": \"x\"}\n";
    place.write("samples.jsonl", rows);
    let said = place.swift("plugin run polite/polite.wasm --input samples.jsonl").good();
    let rows: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&rows[0]["score"], &rows[0]["id"], &rows[1]["score"]), (&1.0.into(), &7.into(), &Value::Null));
    let said = place.swift("plugin bench polite/polite.wasm again.wasm --samples 8 --bytes 100").good();
    assert_eq!(said.out.matches("agree").count(), 2, "{}", said.out);

    // A golden test that is wrong is shown with its place.
    let test = place.read("polite/tests/overlap.json").replace("1.0", "0.25");
    place.write("polite/tests/overlap.json", &test);
    let said = building(&place, "plugin test polite");
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("FAILED tests/overlap.json: reward `overlap`, case 1"), "{}", said.err);
    assert!(said.err.contains("expected 0.25, got 1.0"), "{}", said.err);

    // A compiler's error comes through with file and line.
    let source = place.read("polite/src/lib.rs") + "\nfn broken( {}\n";
    place.write("polite/src/lib.rs", &source);
    let said = building(&place, "plugin build polite");
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("src/lib.rs:") && said.err.contains("cargo build"), "{}", said.err);
}

#[test]
fn mistakes_are_named_with_what_to_do() {
    let place = Place::new();
    place.write("llama.wasm", "not WebAssembly");
    std::fs::create_dir(place.path("empty")).expect("a folder");
    for (arguments, code, parts) in [
        ("plugin new polite --kind reward --lang cobol", 2, &["'cobol'", "python"][..]),
        ("plugin new polite --kind rewrd --lang rust", 2, &["'rewrd'", "'reward'"]),
        ("plugin new polite --kind reward", 2, &["--lang"]),
        ("plugin new a --kind model --lang js", 1, &["no model plugin in js", "it can be had in rust"]),
        ("plugin new Polite! --kind reward --lang rust", 1, &["`Polite!` is no name", "such as `polite`"]),
        ("plugin new ../polite --kind reward --lang rust", 1, &["is no name for a plugin"]),
        ("plugin new a --kind reward --lang rust --path empty", 1, &["nothing is overwritten"]),
        ("plugin build empty", 1, &["it holds no plugin.toml", "swift plugin new"]),
        ("plugin build nowhere", 1, &["it holds no plugin.toml"]),
        ("plugin test llama.wasm", 1, &["is not a plugin", "not WebAssembly"]),
        ("plugin check nothing.wasm", 1, &["cannot read nothing.wasm"]),
        ("plugin inspcet llama.wasm", 2, &["unknown command `plugin inspcet`", "did you mean `swift plugin inspect`?"]),
        ("--seed 1 plugin inspect x", 2, &["--seed"]),
        ("plugin run llama.wasm", 2, &["--input"]),
    ] {
        let said = place.swift(arguments);
        assert_eq!(said.code, Some(code), "{arguments}: {}", said.err);
        for part in parts {
            assert!(said.err.contains(part), "{arguments} lacks {part:?}:\n{}", said.err);
        }
    }
    assert!(!place.path("polite").exists(), "nothing was made");
}

#[test]
fn a_model_is_inspected_with_the_graph_of_a_config() {
    let place = Place::new();
    let file = built_in("qwen3");
    let said = place.swift(&format!("plugin inspect {file} --config model/config.json --format json")).good();
    let value: Value = serde_json::from_str(&said.out).expect("JSON");
    assert_eq!(value["kinds"], serde_json::json!(["model"]));
    let model = &value["model"];
    assert_eq!(model["family"], "qwen3");
    assert_eq!(model["blocks"][0]["first"], "model.layers.0");
    assert!(model["parameters"].as_u64().expect("a count") > 10_000, "{model}");
    let said = place.swift(&format!("plugin inspect {file} --config model/config.json")).good();
    assert!(said.out.contains("asks for    nothing"), "{}", said.out);
}

#[test]
fn a_family_is_held_against_an_oracle() {
    let place = Place::new();
    let oracle = repository().join("tests/oracles/qwen3").canonicalize().expect("a folder").display().to_string();
    let said = place.swift(&format!("plugin test {} --oracle {oracle}", built_in("qwen3"))).good();
    for part in ["tensors of the checkpoint are used", "through the cache equals the forward", "gradients equal"] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
    let said = place.swift(&format!("plugin test {} --oracle {oracle}", built_in("llama")));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("does not claim this model"), "{}", said.err);
}
