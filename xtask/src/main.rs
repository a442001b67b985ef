//! The project's own chores: `cargo xtask <chore>`. Nothing here is part of the product, and every chore works on a bare
//! machine or says in one line what it needs.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod bench;
mod demo;
mod docs;
mod fuzz;
mod gpu;
mod names;
mod plugins;
mod test;
mod toolchain;
mod tools;
mod wit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <chore>

  plugins build [NAMES]   build the first-party plugins, or these, into plugins/dist
           [--check]      build them and compare with plugins/dist
  wit-check               compare the contracts in wit/ with the released ones in wit/frozen
  wit-freeze              freeze the present version of each contract that was raised
  test [arguments]        run all tests; arguments go to cargo nextest run
  fuzz [TARGETS]          run the fuzz targets of tests/fuzz, each for a short time
           [--seconds N]  20 when not given
  plugin-bench            build the same reward in five languages and measure them [--profile NAME]
  demo                    build swift, fine-tune a small model, and show what it learned
  demo pretrain           make the demo's model again: untrained weights, corpus, `swift pt`
  docs [--check]          write the generated pages of docs/, or compare them
  gpu pack                build the GPU tests and the GPU benchmark for a machine that has a GPU and no Rust
           [--output FOLDER] [--profile NAME] [--only NAME,NAME]
";

/// What a chore ends with; the message says what to do.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    if let Some(code) = plugins::as_compiler().or_else(fuzz::as_compiler) {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["plugins", "build", ref more @ ..] => plugins::build(more),
        ["wit-check"] => wit::check(),
        ["wit-freeze"] => wit::freeze(),
        ["test", ref more @ ..] => test::all(more),
        ["fuzz", ref more @ ..] => fuzz::fuzz(more),
        ["plugin-bench", ref more @ ..] => bench::plugins(more),
        ["demo"] => demo::demo(),
        ["demo", "pretrain"] => demo::pretrain(),
        ["docs"] => docs::write(false),
        ["docs", "--check"] => docs::write(true),
        ["gpu", "pack", ref more @ ..] => gpu::pack(more),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("unknown chore `{}`\n\n{USAGE}", arguments.join(" "));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}
