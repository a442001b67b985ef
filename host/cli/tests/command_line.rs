//! The binary as a user meets it: exit codes, messages, help. No model is needed.

use std::{
    path::Path,
    process::{Command, Output},
    time::Instant,
};

fn swift(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_swift"));
    command.args(arguments).env("NO_COLOR", "1").env("CUDA_VISIBLE_DEVICES", "").output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn help_and_version_succeed() {
    for arguments in [&["--help"][..], &[], &["-h"]] {
        let output = swift(arguments);
        assert_eq!(code(&output), 0);
        assert!(text(&output).contains("merge-lora"), "{}", text(&output));
    }
    assert_eq!(text(&swift(&["--version"])), format!("swift {}\n", env!("CARGO_PKG_VERSION")));
    let help = text(&swift(&["sft", "--help"]));
    for line in [
        "--lora_rank <N>",
        "[default: 8]",
        "Optimizer and schedule:",
        "--truncation_strategy <delete|left|right|split>",
    ] {
        assert!(help.contains(line), "{line} is not in\n{help}");
    }
    assert!(!help.contains("deepspeed") && !help.contains("--temperature"));
    assert!(text(&swift(&["sft", "--help_all"])).contains("deepspeed"));
}

/// The budget is 30 ms for a release build; this bound only catches that something heavy is started.
#[test]
fn help_starts_nothing_heavy() {
    swift(&["--help"]);
    let fastest = (0..5)
        .map(|_| {
            let started = Instant::now();
            swift(&["sft", "--help"]);
            started.elapsed().as_millis()
        })
        .min();
    assert!(fastest.unwrap() < 150, "{fastest:?} ms");
}

#[test]
fn a_wrong_command_line_exits_with_2_and_a_hint() {
    for (arguments, message, hint) in [
        (&["sfft"][..], "error: unknown command `sfft`", "hint: did you mean `swift sft`?"),
        (&["sft", "--lora_rnk", "8"], "error: unknown argument --lora_rnk", "hint: did you mean `--lora_rank`?"),
        (&["rlhf"], "error: `swift rlhf` is not built yet", "hint: `swift sft`"),
        (&["web_ui"], "error: `swift web-ui` is not built yet", "hint: "),
        (&["sft", "--deepspeed", "zero2"], "error: --deepspeed is known but not built yet", "hint: one process"),
        (&["sft", "--model", "m"], "error: no --dataset was given", "hint: add `--dataset FILE.jsonl`"),
        (&["sft", "--dataset", "d.jsonl"], "error: no --model was given", "hint: add `--model FOLDER`"),
        (
            &["sft", "--model", "m", "--dataset", "d", "--seed", "x"],
            "error: --seed: `x` is not a whole number",
            "hint: ",
        ),
        (&["--lora_rank", "8", "sft"], "error: argument --lora_rank stands before the command", "hint: "),
    ] {
        let output = swift(arguments);
        let shown = error(&output);
        assert_eq!(code(&output), 2, "{arguments:?}: {shown}");
        assert!(shown.contains(message) && shown.contains(hint), "{arguments:?}: {shown}");
        assert!(text(&output).is_empty());
    }
}

#[test]
fn a_missing_model_exits_with_1_and_a_hint() {
    let output = swift(&["sft", "--model", "/nowhere", "--dataset", "d.jsonl", "--output_dir", &scratch("missing")]);
    assert_eq!(code(&output), 1, "{}", error(&output));
    assert!(error(&output).contains("/nowhere") && error(&output).contains("hint: "), "{}", error(&output));
}

#[test]
fn a_configuration_file_gives_values_and_flags_win() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let root = folder.path().join("out").display().to_string();
    let good =
        write("good.yaml", "model: /from-file\ndataset: [d.jsonl]\nlora-rank: 4\nmodel_type: null\nuse_hf: false\n");
    let output = swift(&["sft", &good, "--output_dir", &root]);
    assert!(error(&output).contains("/from-file"), "{}", error(&output));
    let output = swift(&["sft", "--config", &good, "--model", "/from-flag", "--output_dir", &root]);
    assert!(error(&output).contains("/from-flag"), "{}", error(&output));
    for (name, content, message) in [
        ("typo.yaml", "lerning_rate: 1\n", "unknown argument `lerning_rate` in"),
        ("unbuilt.json", "{\"deepspeed\": \"zero2\"}", "deepspeed is known but not built yet"),
        ("type.yaml", "model: m\ndataset: d\nlora_rank: many\n", "type.yaml: lora_rank: `many` is not a whole number"),
        ("env.yaml", "ENV:\n  A: b\n", "ENV is known but not built yet"),
        ("list.yaml", "lora_rank: [1, 2]\n", "lora_rank takes one value"),
        ("broken.yaml", "a: [", "is not valid YAML"),
    ] {
        let output = swift(&["sft", &write(name, content)]);
        assert_eq!(code(&output), 2, "{name}: {}", error(&output));
        assert!(error(&output).contains(message), "{name}: {}", error(&output));
    }
    assert_eq!(code(&swift(&["sft", "none.yaml"])), 2);
}

fn scratch(name: &str) -> String {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).display().to_string()
}
