//! `cargo xtask test`: every test of the workspace, with what that needs installed first.

use std::process::Command;

use crate::{Result, root};

/// Runs all tests with nextest (installed if missing); without arguments also those of the plugins' SDK, which lives in
/// the guests' workspace and is tested on the host's own target.
pub(crate) fn all(arguments: &[&str]) -> Result<()> {
    let found = Command::new("cargo").args(["nextest", "--version"]).output().is_ok_and(|o| o.status.success());
    if !found {
        println!("installing cargo-nextest, once");
        run(Command::new("cargo").args(["install", "cargo-nextest", "--locked"]))?;
    }
    run(Command::new("cargo").args(["nextest", "run", "--workspace"]).args(arguments))?;
    if !arguments.is_empty() {
        return Ok(());
    }
    run(Command::new("cargo")
        .args(["test", "--locked", "--manifest-path", "plugins/Cargo.toml", "-p", "swift-sdk"])
        .args(["--target-dir", "target/guests"]))
}

/// Runs a command in the repository's root.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status =
        command.current_dir(root()).status().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed", command.get_program().display()).into()) }
}
