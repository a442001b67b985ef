//! First-party chat templates against checkpoints' own Jinja, on made-up conversations.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use swift_author::against_checkpoint;
use swift_plugin::{Plugin, PluginHost, PluginOptions};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn chatml() -> Plugin {
    let host = Arc::new(PluginHost::new(PluginOptions { cache: None, ..PluginOptions::default() }).unwrap());
    host.load(&repository().join("plugins/dist/chatml.wasm")).unwrap()
}

/// A checkpoint's folder, with what a template needs of it.
fn checkpoint(template: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = json!({ "eos_token": { "content": "<|im_end|>" }, "bos_token": null, "chat_template": template });
    std::fs::write(folder.path().join("tokenizer_config.json"), tokenizer.to_string()).unwrap();
    folder
}

fn fixture(name: &str) -> String {
    std::fs::read_to_string(repository().join(format!("host/data/tests/fixtures/{name}.jinja"))).unwrap()
}

/// Qwen3's template: the fixture, whose text around the tools is shortened, with Qwen2.5's, which is the same.
fn qwen3() -> String {
    let (short, long) = (fixture("qwen3"), fixture("qwen2_5"));
    let between = |text: &str, from: &str, to: &str| {
        let start = text.find(from).unwrap();
        text[start..start + text[start..].find(to).unwrap()].to_owned()
    };
    let (before, after) = ("# Tools", "</tools><|im_end|>");
    let opening = between(&long, before, "\" }}");
    let closing = between(&long, "</tools>\\n\\nFor", "\" }}");
    short.replace(&between(&short, before, "\" }}"), &opening).replace(&format!("{after}\\n"), &closing)
}

#[test]
fn chatml_renders_as_the_checkpoints_that_it_claims() {
    for (name, template) in [("qwen2_5", fixture("qwen2_5")), ("qwen3", qwen3())] {
        let folder = checkpoint(&template);
        let compared = against_checkpoint(&chatml(), folder.path(), None, 400, 1).unwrap();
        assert_eq!(compared.difference, None, "{name}");
        assert!(compared.same > 200, "{name}: {compared:?}");
    }
}

#[test]
fn a_difference_is_shown_in_a_small_conversation() {
    // What this checkpoint does otherwise: nothing stands between a question and what follows.
    let changed = qwen3().replace("content + '<|im_end|>' + '\\n' }}", "content + '<|im_end|>' }}");
    assert!(changed != qwen3());
    let folder = checkpoint(&changed);
    let name = chatml().templates().unwrap().first().unwrap().name.clone();
    let compared = against_checkpoint(&chatml(), folder.path(), Some(&name), 50, 1).unwrap();
    let difference = compared.difference.expect("they differ");
    assert!(difference.contains("the texts part at character"), "{difference}");
    assert_eq!(difference.matches("\"role\"").count(), 1, "one message is left: {difference}");
}

#[test]
fn a_checkpoint_without_a_template_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = against_checkpoint(&chatml(), folder.path(), None, 1, 1).unwrap_err();
    assert!(error.to_string().contains("it holds no chat template"), "{error}");
}
