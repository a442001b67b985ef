//! `cargo xtask test`: every test of the workspace, with what that needs installed first.

use std::process::Command;

use crate::{Result, root};

/// Runs all tests with nextest (installed if missing), and the examples in doc comments with cargo.
pub(crate) fn all(arguments: &[&str]) -> Result<()> {
    let found = Command::new("cargo").args(["nextest", "--version"]).output().is_ok_and(|o| o.status.success());
    if !found {
        println!("installing cargo-nextest, once");
        run(Command::new("cargo").args(["install", "cargo-nextest", "--locked"]))?;
    }
    run(Command::new("cargo").args(["nextest", "run", "--workspace"]).args(arguments))
}

/// Runs a command in the repository's root.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.current_dir(root()).status().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed", command.get_program().display()).into()) }
}
