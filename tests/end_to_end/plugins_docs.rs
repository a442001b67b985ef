//! The tutorials of `docs/plugins` and other pages, followed by the letter: files are written as the page shows them, commands run as it
//! has them, and what it says they print is looked for in what they print.
//!
//! ```` ```LANG file=PATH ```` writes a file. ```` ```console ```` runs each line that starts with `$ ` in a shell, and the lines
//! after it must come in its output, in their order; `...` stands for anything. ```` ```console fails ```` must fail.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fixture::{Place, SWIFT, Said};

/// What a page needs to be followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    /// Nothing but this binary.
    Nothing,
    /// Rust's compiler for WebAssembly.
    Rust,
    /// The builder of JavaScript and TypeScript.
    JavaScript,
    /// The builder of Python.
    Python,
}

/// One fenced block.
struct Block<'a> {
    /// What stands behind the fence.
    words: Vec<&'a str>,
    text: String,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository")
}

/// The fenced blocks of a page, in their order.
fn blocks(page: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut open = false;
    for line in page.lines() {
        if let Some(words) = line.strip_prefix("```") {
            if !open {
                blocks.push(Block { words: words.split_whitespace().collect(), text: String::new() });
            }
            open = !open;
        } else if open {
            let block = blocks.last_mut().expect("it is open");
            block.text.push_str(line);
            block.text.push('\n');
        }
    }
    assert!(!open, "a block is not closed");
    blocks
}

/// Whether `line` is `pattern`, where `...` stands for anything.
fn matches(line: &str, pattern: &str) -> bool {
    let (line, pattern) = (line.trim_end(), pattern.trim_end());
    let Some((first, rest)) = pattern.split_once("...") else { return line == pattern };
    let Some(mut line) = line.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = rest.split("...").collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some(at) = line.find(piece) else { return false };
        line = &line[at + piece.len()..];
    }
    line.ends_with(last)
}

/// Whether this machine has what a page needs; `cargo xtask test` sees to it.
#[expect(clippy::print_stderr, reason = "a test that skips says so")]
fn has(needs: Needs) -> bool {
    let tools = std::env::var_os("SWIFT_TEST_TOOLS").map(PathBuf::from);
    let tool = |path: &str| tools.as_ref().is_some_and(|tools| tools.join(path).exists());
    let (there, what) = match needs {
        Needs::Nothing => (true, "nothing"),
        Needs::Rust => (crate::plugins_author::can_build(), "a Rust compiler for WebAssembly"),
        Needs::JavaScript => (tool("node/node_modules"), "the builder of JavaScript"),
        Needs::Python => (tool("venv/bin/componentize-py"), "the builder of Python"),
    };
    if !there {
        assert!(std::env::var_os("CI").is_none(), "{what} is missing: run cargo xtask test");
        eprintln!("skipped: {what} is missing, run cargo xtask test");
    }
    there
}

/// Runs a line of the page in a shell, in the page's folder. Plugins and settings of the machine's user are out of reach;
/// the compilers of the user and what they fetched are not.
fn shell(place: &Place, line: &str) -> Said {
    let folder = Path::new(SWIFT).parent().expect("a folder").to_path_buf();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path))).expect("a path");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec 2>&1\n{line}")])
        .current_dir(place.path(""))
        .env("PATH", path)
        .env("SWIFT_PLUGIN_DIR", place.path("plugins"))
        .env("XDG_CONFIG_HOME", place.path("config"))
        .env("SWIFT_REPOSITORY", repository())
        // Every page's SDK is the same: compiled once.
        .env("CARGO_TARGET_DIR", repository().join("target/tutorials"))
        .env("CUDA_VISIBLE_DEVICES", "")
        .env_remove("SWIFT_PLUGIN_REGISTRY")
        .stdin(std::process::Stdio::null());
    Said::of(&command.output().expect("a shell"))
}

/// Runs the commands of a console block and compares what they print.
fn console(place: &Place, block: &Block<'_>) {
    let fails = block.words.contains(&"fails");
    let mut lines = block.text.lines().peekable();
    while let Some(line) = lines.next() {
        let mut command = line.strip_prefix("$ ").unwrap_or_else(|| panic!("`{line}` is behind no command")).to_owned();
        // A long command goes on behind a backslash.
        while command.ends_with('\\') {
            command.push('\n');
            command.push_str(lines.next().expect("the command goes on"));
        }
        let said = shell(place, &command);
        assert_eq!(said.code != Some(0), fails, "$ {command}\n{}", said.out);
        let mut printed = said.out.lines();
        while let Some(wanted) = lines.next_if(|line| !line.starts_with("$ ")) {
            let there = wanted == "..." || printed.any(|line| matches(line, wanted));
            assert!(there, "$ {command}\nprints no (further) line `{wanted}`:\n{}", said.out);
        }
    }
}

/// Follows a page from its first block to its last, in a folder with a checkpoint `model` and `rows.jsonl`.
fn follow(page: &str, needs: Needs) {
    let text = std::fs::read_to_string(repository().join("docs/plugins").join(page)).expect("the page");
    let blocks = blocks(&text);
    assert!(blocks.iter().any(|block| block.words.first() == Some(&"console")), "{page} has no command");
    if !has(needs) {
        return;
    }
    let place = Place::new();
    for block in blocks {
        if let Some(path) = block.words.iter().find_map(|word| word.strip_prefix("file=")) {
            if let Some(folder) = place.path(path).parent() {
                std::fs::create_dir_all(folder).expect("a folder");
            }
            place.write(path, &block.text);
        } else if block.words.first() == Some(&"console") {
            console(&place, &block);
        }
    }
}

#[test]
fn a_model_family() {
    follow("model-family.md", Needs::Rust);
}

#[test]
fn a_chat_template() {
    follow("chat-template.md", Needs::JavaScript);
}

#[test]
fn a_dataset_loader() {
    follow("dataset-loader.md", Needs::JavaScript);
}

#[test]
fn a_metric() {
    follow("metric.md", Needs::JavaScript);
}

#[test]
fn the_first_reward_in_python() {
    follow("first-reward-in-python.md", Needs::Python);
}

/// The runner itself: a page that lies is noticed.
#[test]
fn a_page_that_does_not_hold_is_noticed() {
    for (pattern, line, same) in [
        ("a ... c", "a b c", true),
        ("a ... c", "a b d", false),
        ("...", "", true),
        ("a...b...c", "a1b2c", true),
        ("a...b...c", "a1c", false),
        ("all", "all of it", false),
    ] {
        assert_eq!(matches(line, pattern), same, "{pattern} {line}");
    }
    let place = Place::new();
    let lies = |fence: &str, text: &str| {
        let page = format!("```{fence}\n{text}\n```\n");
        let run = || blocks(&page).iter().for_each(|block| console(&place, block));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err()
    };
    assert!(!lies("console", "$ echo a; echo b >&2\na\nb\n$ swift --version"));
    assert!(lies("console", "$ echo a; echo b\nb\na"));
    assert!(lies("console", "$ false"));
    assert!(lies("console fails", "$ true"));
    assert!(!lies("console fails", "$ swift plugin nothing\n...unknown command...\n..."));
}

#[test]
fn data() {
    follow("../data.md", Needs::Nothing);
}
