//! `cargo xtask fuzz`: the fuzz targets of `tests/fuzz`, each for a short time, from their seeds on.
//!
//! cargo-fuzz drives libFuzzer on the stable compiler: instrumentation is a set of ordinary code generation flags, and
//! without a sanitizer none of them needs nightly.

use std::process::{Command, ExitCode};

use crate::test::run;
use crate::{Result, root};

/// The version that the runs in CI were tried with.
const CARGO_FUZZ: &str = "0.13.2";

/// Tells this program to act as cargo's compiler wrapper, see [`as_compiler`].
const AS_COMPILER: &str = "SWIFT_XTASK_AS_FUZZ_COMPILER";

/// Crates whose branches guide the fuzzer: ours, and those that read for them. Instrumenting the WebAssembly compiler as well
/// makes it several times slower and teaches the fuzzer nothing about our code.
const GUIDING: [&str; 7] =
    ["swift_plugin", "swift_registry", "wasmparser", "toml", "toml_parser", "serde_json", "semver"];

/// Runs the targets named in `arguments`, or all; `--seconds N` each.
///
/// # Errors
/// When a target finds something: its input lies in `tests/fuzz/artifacts`.
pub(crate) fn fuzz(arguments: &[&str]) -> Result<()> {
    let (mut seconds, mut wanted) = (20, Vec::new());
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match *argument {
            "--seconds" => seconds = rest.next().and_then(|n| n.parse().ok()).ok_or("--seconds takes a number")?,
            target => wanted.push(target.to_owned()),
        }
    }
    let known = targets()?;
    if let Some(unknown) = wanted.iter().find(|target| !known.contains(target)) {
        return Err(format!("there is no fuzz target `{unknown}`; there are {}", known.join(", ")).into());
    }
    let found = Command::new("cargo").args(["fuzz", "--version"]).output().is_ok_and(|output| output.status.success());
    if !found {
        println!("installing cargo-fuzz, once");
        run(Command::new("cargo").args(["install", "cargo-fuzz", "--locked", "--debug", "--version", CARGO_FUZZ]))?;
    }
    // A copy: cargo may replace this program while it runs.
    let compiler = root().join("target/fuzz/instrumenting-rustc");
    std::fs::create_dir_all(root().join("target/fuzz"))?;
    std::fs::copy(std::env::current_exe()?, &compiler)?;
    for target in if wanted.is_empty() { known } else { wanted } {
        println!("fuzzing {target} for {seconds} s");
        // What was found before in this working tree, then what is committed.
        let corpus = root().join("target/fuzz/corpus").join(&target);
        std::fs::create_dir_all(&corpus)?;
        let mut cargo = Command::new("cargo");
        cargo
            .args(["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--sanitizer", "none", "--codegen-units", "16"])
            .args(["--target-dir", "target/fuzz", &target])
            .arg(&corpus)
            .arg(root().join("tests/fuzz/seeds").join(&target))
            .args(["--", "-timeout=20", "-rss_limit_mb=3000", "-max_len=65536", "-print_final_stats=1", "-verbosity=0"])
            .arg(format!("-max_total_time={seconds}"))
            .env("RUSTC_WRAPPER", &compiler)
            .env(AS_COMPILER, "1");
        run(&mut cargo).map_err(|error| {
            format!(
                "{target}: {error}\n  hint: the input lies in tests/fuzz/artifacts/{target}; run it again with `cargo fuzz run \
                 --fuzz-dir tests/fuzz --sanitizer none {target} FILE`, and keep it in tests/fuzz/seeds/{target} once it is \
                 mended"
            )
        })?;
    }
    Ok(())
}

/// The targets that `tests/fuzz` has.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("tests/fuzz/fuzz_targets"))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        names.extend(file.strip_suffix(".rs").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Runs the compiler for cargo, when cargo was told to call this program instead of it: without instrumentation for the
/// crates that do not guide the fuzzer.
pub(crate) fn as_compiler() -> Option<ExitCode> {
    std::env::var_os(AS_COMPILER)?;
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.windows(2).find(|pair| pair[0] == "--crate-name").map(|pair| pair[1].clone());
    let ours =
        name.is_some_and(|name| GUIDING.contains(&name.as_str()) || targets().is_ok_and(|all| all.contains(&name)));
    if !ours {
        arguments.retain(|argument| !argument.starts_with("-Cpasses=") && !argument.starts_with("passes="));
    }
    let (rustc, rest) = arguments.split_first()?;
    match Command::new(rustc).args(rest).status() {
        Ok(status) => Some(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))),
        Err(error) => {
            eprintln!("error: {rustc}: {error}");
            Some(ExitCode::FAILURE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_binary_and_its_seeds() {
        let manifest = std::fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
        for target in targets().unwrap() {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target}");
            let seeds = std::fs::read_dir(root().join("tests/fuzz/seeds").join(&target)).unwrap();
            assert!(seeds.count() > 0, "{target}");
        }
    }

    #[test]
    fn what_is_no_target_is_named() {
        assert!(fuzz(&["kitchen"]).unwrap_err().to_string().contains("no fuzz target `kitchen`"));
        assert!(fuzz(&["--seconds", "many"]).is_err());
    }
}
