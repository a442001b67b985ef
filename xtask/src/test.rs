//! `cargo xtask test`: every test of the workspace, with what that needs installed first.

use std::process::Command;

use crate::{Result, root, toolchain, tools};

/// Runs all tests with nextest (installed if missing); without arguments also those of the plugins and
/// their SDK, which live in the guests' workspace and are tested on the host's own target.
pub(crate) fn all(arguments: &[&str]) -> Result<()> {
    let found = Command::new("cargo").args(["nextest", "--version"]).output().is_ok_and(|o| o.status.success());
    if !found {
        println!("installing cargo-nextest, once");
        run(Command::new("cargo").args(["install", "cargo-nextest", "--locked"]))?;
    }
    let tools = tools::prepare()?;
    // Tests that build Rust plugins find it themselves; here it is made where there is none.
    if let Err(error) = toolchain::find(None) {
        println!("{error}");
    }
    run(Command::new("cargo")
        .args(["nextest", "run", "--workspace", "--no-fail-fast"])
        .args(arguments)
        .env(tools::VARIABLE, &tools))?;
    if !arguments.is_empty() {
        return Ok(());
    }
    let guests = ["test", "--locked", "--manifest-path", "plugins/Cargo.toml", "--target-dir", "target/guests"];
    run(Command::new("cargo").args(guests).args(["-p", "swift-sdk", "--all-features"]))?;
    // A component does not link on this machine; the tests of its library do.
    run(Command::new("cargo").args(guests).args(["--workspace", "--exclude", "swift-sdk", "--lib"]))
}

/// Runs a command in the repository's root.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    if command.get_current_dir().is_none() {
        command.current_dir(root());
    }
    let status = command.status().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed", command.get_program().display()).into()) }
}
