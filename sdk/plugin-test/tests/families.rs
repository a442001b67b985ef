//! The first-party families on their stored cases, and what their configs must not get past them.

use std::path::{Path, PathBuf};

use swift_plugin::{ModelPlugin, PluginError};
use swift_plugin_test::{Case, cases, load_family};

fn plugin(name: &str) -> ModelPlugin {
    load_family(&Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../plugins/dist/{name}.wasm")))
}

fn family(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("families").join(name)
}

#[test]
fn qwen3_traces_its_cases() {
    let plugin = plugin("qwen3");
    cases(&family("qwen3")).iter().for_each(|case| case.check(&plugin));
}

#[test]
fn qwen2_traces_its_cases() {
    let plugin = plugin("qwen2");
    cases(&family("qwen2")).iter().for_each(|case| case.check(&plugin));
}

#[test]
fn llama_traces_its_cases() {
    let plugin = plugin("llama");
    cases(&family("llama")).iter().for_each(|case| case.check(&plugin));
}

#[test]
fn a_trace_is_cheap_and_always_the_same() {
    let case = Case::read(family("qwen3").join("plain"));
    let plugin = plugin("qwen3");
    let (one, two) = (case.trace(&plugin), case.trace(&plugin));
    assert_eq!((one.calls, one.fuel), (two.calls, two.fuel));
    assert_eq!(one.graph, two.graph);
    assert_eq!(one.graph.blocks, ["model.layers.0", "model.layers.1"]);
    assert!(one.fuel < 2_000_000, "fuel {}", one.fuel);
}

/// What the plugin says of the case's config with `key` set to `value`.
fn declined(plugin: &ModelPlugin, case: &Case, key: &str, value: &str) -> String {
    let mut config: serde_json::Value = serde_json::from_str(&case.config).unwrap();
    config[key] = serde_json::from_str(value).unwrap();
    let config = config.to_string();
    match plugin.trace(&config, "causal-lm", &case.checkpoint()) {
        Err(PluginError::Declined { message, .. }) => message,
        other => panic!("`{key}` = {value} was not declined: {other:?}"),
    }
}

#[test]
fn nothing_that_changes_the_model_is_ignored() {
    for (name, case, changes) in [
        (
            "qwen3",
            "plain",
            &[("quantization_config", "{\"bits\": 4}"), ("hidden_act", "\"quick_gelu\""), ("attention_dropout", "0.1")]
                [..],
        ),
        ("qwen2", "plain", &[("layer_types", "[\"linear_attention\", \"full_attention\"]"), ("num_experts", "8")]),
        (
            "llama",
            "llama2",
            &[
                ("sliding_window", "8"),
                ("rope_scaling", "{\"rope_type\": \"longrope\", \"factor\": 2.0}"),
                ("logits_scaling", "8.0"),
            ],
        ),
        ("llama", "mistral", &[("attention_bias", "true"), ("attn_logit_softcapping", "30.0")]),
    ] {
        let (plugin, case) = (plugin(name), Case::read(family(name).join(case)));
        for (key, value) in changes {
            let message = declined(&plugin, &case, key, value);
            let word = if *key == "rope_scaling" { "longrope" } else { key };
            assert!(message.contains(word), "{name}, {key}: {message}");
        }
    }
}

#[test]
fn errors_name_what_the_config_lacks() {
    let (plugin, case) = (plugin("llama"), Case::read(family("llama").join("llama2")));
    assert_eq!(
        declined(&plugin, &case, "hidden_size", "\"wide\""),
        "config.json: `hidden_size` is \"wide\", a positive whole number is needed"
    );
    assert_eq!(
        declined(&plugin, &case, "num_attention_heads", "null"),
        "config.json: `num_attention_heads` is missing, a positive whole number is needed"
    );
    match plugin.trace(&case.config, "embedding", &case.checkpoint()) {
        Err(PluginError::Declined { message, .. }) => {
            assert_eq!(message, "the task `embedding` is not built; this family builds causal-lm")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_absent_head_is_tied_only_where_the_config_leaves_it_open() {
    let (plugin, mut case) = (plugin("llama"), Case::read(family("llama").join("llama2")));
    case.parameters.remove("lm_head.weight");
    match plugin.trace(&case.config, "causal-lm", &case.checkpoint()) {
        Err(PluginError::Build { error, .. }) => assert!(error.message.contains("`lm_head.weight`"), "{error}"),
        other => panic!("{other:?}"),
    }
    let open = case.config.replace("\"tie_word_embeddings\": false,", "");
    assert_ne!(open, case.config);
    plugin.trace(&open, "causal-lm", &case.checkpoint()).unwrap();
}

#[test]
fn a_config_is_claimed_by_type_or_else_by_architecture() {
    let llama = plugin("llama");
    let claims = |config: &str| llama.claims(config).unwrap();
    assert_eq!(claims(r#"{"model_type": "llama"}"#).as_deref(), Some("llama"));
    assert_eq!(claims(r#"{"model_type": "mistral"}"#).as_deref(), Some("mistral"));
    assert_eq!(claims(r#"{"architectures": ["LlamaForCausalLM"]}"#).as_deref(), Some("llama"));
    assert_eq!(claims(r#"{"model_type": "qwen3", "architectures": ["LlamaForCausalLM"]}"#), None);
    assert_eq!(claims("not JSON"), None);
}

#[test]
fn manifests_say_what_the_components_are() {
    for name in ["llama", "qwen2", "qwen3"] {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../plugins/{name}/plugin.toml"));
        let manifest = std::fs::read_to_string(manifest).unwrap();
        let manifest = swift_plugin::Manifest::parse(&manifest).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.kinds.as_slice()), (name, &[swift_plugin::Kind::Model][..]));
    }
}
