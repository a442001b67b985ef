//! `cargo xtask demo`: the whole product in one command, on a model of a few megabytes that this project pre-trained
//! itself. Nothing is downloaded.

mod make;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::{Result, root, test::run};

pub(crate) use make::pretrain;

/// Files of the demo in the repository.
fn folder() -> PathBuf {
    root().join("examples/demo")
}

/// What the demo writes.
fn work() -> PathBuf {
    root().join("target/demo")
}

/// Builds `swift` with all optimisations and gives its path, or that of the binary named by `SWIFT`.
fn build() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("SWIFT") {
        return Ok(std::path::absolute(given)?);
    }
    println!("building swift, optimised (minutes the first time)");
    run(Command::new("cargo").args(["build", "--release", "--package", "swift-cli"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release/swift"))
}

fn plugin() -> PathBuf {
    root().join("plugins/dist/qwen3.wasm")
}

/// Prints a command as a user would type it, and runs it.
fn shown(swift: &Path, arguments: &[&str], input: Option<&str>) -> Result<()> {
    let short = |a: &&str| a.replace(&format!("{}/", root().display()), "");
    println!("\n$ swift {}", arguments.iter().map(short).collect::<Vec<_>>().join(" "));
    let mut command = Command::new(swift);
    command.args(arguments).current_dir(root());
    let Some(input) = input else { return run(&mut command) };
    print!("> {input}");
    let mut child = command.stdin(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        std::io::Write::write_all(&mut stdin, input.as_bytes())?;
    }
    if child.wait()?.success() { Ok(()) } else { Err("swift failed".into()) }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Share of rows whose response is the label.
fn accuracy(results: &Path) -> Result<(usize, usize)> {
    let (mut right, mut rows) = (0, 0);
    for line in std::fs::read_to_string(results)?.lines() {
        let row: Value = serde_json::from_str(line)?;
        let wanted = row["labels"].as_str().ok_or("a result without `labels`")?;
        right += usize::from(row["response"].as_str().map(str::trim) == Some(wanted.trim()));
        rows += 1;
    }
    Ok((right, rows))
}

/// Fine-tunes the demo's model, measures it on held-out rows before and after, and chats one turn.
pub(crate) fn demo() -> Result<()> {
    let swift = build()?;
    let start = Instant::now();
    let (model, plugin, out) = (text(&folder().join("model")), text(&plugin()), work());
    let _ = std::fs::remove_dir_all(&out);
    std::fs::create_dir_all(&out)?;
    let (train, held_out) = (text(&folder().join("train.jsonl")), text(&folder().join("held-out.jsonl")));
    let (before, after, trained) = (out.join("before.jsonl"), out.join("after.jsonl"), out.join("run"));
    let infer = |result: &Path, more: &[&str]| -> Result<()> {
        let result = text(result);
        let mut arguments = vec!["--plugin", &plugin, "infer", "--model", &model];
        arguments.extend_from_slice(more);
        arguments.extend([
            "--val_dataset",
            &held_out,
            "--result_path",
            &result,
            "--temperature",
            "0",
            "--max_new_tokens",
            "16",
        ]);
        arguments.extend(["--max_batch_size", "16"]);
        shown(&swift, &arguments, None)
    };
    println!(
        "\nThe task: answer with the date of a sentence as year-month-day. Held-out dates are in no training row."
    );
    infer(&before, &[])?;
    let run_folder = text(&trained);
    let arguments = [
        "--plugin",
        &plugin,
        "sft",
        "--model",
        &model,
        "--dataset",
        &train,
        "--val_dataset",
        &held_out,
        "--tuner_type",
        "lora",
        "--lora_rank",
        "16",
        "--lora_dropout",
        "0",
        "--learning_rate",
        "2e-3",
        "--num_train_epochs",
        "3",
        "--packing",
        "true",
        "--max_length",
        "512",
        "--gradient_accumulation_steps",
        "4",
        "--warmup_ratio",
        "0.05",
        "--eval_steps",
        "20",
        "--save_steps",
        "40",
        "--output_dir",
        &run_folder,
        "--add_version",
        "false",
    ];
    shown(&swift, &arguments, None)?;
    let adapter = text(&make::newest_checkpoint(&trained)?);
    infer(&after, &["--adapters", &adapter])?;
    shown(
        &swift,
        &[
            "--plugin",
            &plugin,
            "infer",
            "--model",
            &model,
            "--adapters",
            &adapter,
            "--temperature",
            "0",
            "--max_new_tokens",
            "16",
        ],
        Some("Which date? The old bridge in Bergen opened on the 3rd of March 1987.\n"),
    )?;
    let (b, a) = (accuracy(&before)?, accuracy(&after)?);
    let percent = |(right, rows): (usize, usize)| 100.0 * right as f64 / rows as f64;
    println!("\nright answers on {} held-out rows: before {:.0} %, after {:.0} %", b.1, percent(b), percent(a));
    println!("loss picture: {}", pictures(&trained).join(", "));
    println!("demo ran in {:.0} s after the build", start.elapsed().as_secs_f64());
    if a.0 <= b.0 {
        return Err("the fine-tuned model is not better than before: this is a defect".into());
    }
    Ok(())
}

fn pictures(run: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(run.join("images")) else { return Vec::new() };
    let mut found: Vec<String> = entries.filter_map(|e| Some(text(&e.ok()?.path()))).collect();
    found.sort();
    found
}
