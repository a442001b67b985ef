//! `cargo xtask plugin-bench`: the same reward in every language, made from its template, built from source, and measured
//! side by side by `swift plugin bench`.

use std::process::Command;

use crate::test::run;
use crate::{Result, root, toolchain, tools};

const LANGUAGES: [&str; 5] = ["rust", "c", "go", "js", "python"];

/// Builds the rewards and runs the benchmark. `--profile NAME` chooses how swift itself is built, `release` by default; other
/// arguments go to `swift plugin bench`.
///
/// # Errors
/// When swift or a reward cannot be built, or their scores do not agree.
pub(crate) fn plugins(arguments: &[&str]) -> Result<()> {
    let (profile, arguments) = match arguments {
        ["--profile", profile, rest @ ..] => (*profile, rest),
        rest => ("release", rest),
    };
    let prepared = tools::prepare()?;
    toolchain::find(None)?;
    run(Command::new("cargo").args(["build", "--quiet", "-p", "swift-cli", "--profile", profile]))?;
    let built = if profile == "dev" { "debug" } else { profile };
    let swift = root().join("target").join(built).join("swift");
    let folder = root().join("target/plugin-bench");
    let mut components = Vec::new();
    for language in LANGUAGES {
        let project = folder.join(language);
        let _ = std::fs::remove_dir_all(&project);
        let name = format!("overlap-{language}");
        run(Command::new(&swift)
            .args(["plugin", "new", &name, "--kind", "reward", "--lang", language, "--path"])
            .arg(&project))?;
        let component = folder.join(format!("{name}.wasm"));
        run(Command::new(&swift)
            .args(["plugin", "build"])
            .arg(&project)
            .arg("--output")
            .arg(&component)
            .env("CARGO_TARGET_DIR", root().join("target/guests-of-authors"))
            .env(tools::VARIABLE, &prepared))?;
        components.push(format!("{name}.wasm"));
    }
    // In their folder, so that the table is no wider than it has to be.
    run(Command::new(&swift).current_dir(&folder).args(["plugin", "bench"]).args(&components).args(arguments))
}
