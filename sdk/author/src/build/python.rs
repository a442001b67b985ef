//! Python: componentize-py takes an interpreter that has imported the author's file, and makes a component of its memory.
//! What the component exports is in the SDK's `component` package; the entry that ties both together is written here.

use std::fmt::Write as _;
use std::process::Command;

use swift_plugin::Kind;

use super::sources::{self, Entry};
use super::{Build, WORLD};
use crate::{AuthorError, Result, packed, tools};

/// The version that the SDK was tested with.
const COMPONENTIZE: &str = "0.25.1";

/// Name of the module that is written here; the author's files can't have it.
const MODULE: &str = "plugin_entry";

/// The component of a Python plugin.
pub(crate) fn component(build: &Build<'_>) -> Result<Vec<u8>> {
    let folder = &build.project.folder;
    let entry = Entry::of(build.project, "src/{name}.py")?;
    let module = entry.file.strip_suffix(".py").filter(|name| identifier(name)).ok_or_else(|| {
        let what = format!("the entry {} is no Python module", entry.file);
        AuthorError::project(folder, what, "its name needs letters, digits and `_`, and the ending .py")
    })?;
    for name in [MODULE, "swift_sdk", "wit_world"] {
        if entry.folder.join(name).exists() || entry.folder.join(format!("{name}.py")).exists() {
            let what = format!("{}/{name} hides a module of the SDK", entry.shown);
            return Err(AuthorError::project(folder, what, "give it another name; the SDK lies in sdk/"));
        }
    }
    let kinds = &build.project.manifest.kinds;
    let tool = build.tools.python("componentize-py", COMPONENTIZE, "componentize-py")?;

    let (app, source, none) = (build.work.join("app"), build.work.join("source"), build.work.join("none"));
    sources::copy(build.sdk, &app)?;
    packed::write(&app.join(format!("{MODULE}.py")), glue(kinds, module, &entry).as_bytes())?;
    sources::copy(&entry.folder, &source)?;
    std::fs::create_dir_all(none.join("lib/python3/site-packages")).map_err(AuthorError::io("make", &none))?;

    let out = build.work.join("component.wasm");
    let mut command = Command::new(tool);
    command.arg("--quiet").arg("--wit-path").arg(build.wit).args(["--world", WORLD, "componentize", "--stub-wasi"]);
    command.arg("--python-path").arg(&app).arg("--python-path").arg(&source);
    // Packages that the author put there. Those of this machine are kept out by an environment with none.
    let packages = folder.join("deps");
    if packages.is_dir() {
        command.arg("--python-path").arg(&packages);
    }
    command.arg(MODULE).arg("--output").arg(&out).env("VIRTUAL_ENV", &none).env("RUST_BACKTRACE", "0");
    (build.report)("componentize-py: Python starts, imports the plugin, and is kept as it is then");
    match tools::run(&mut command) {
        Ok(_) => std::fs::read(&out).map_err(AuthorError::io("read", &out)),
        Err(AuthorError::ToolFailed { command, output }) => Err(explained(build, &entry, command, &output)),
        Err(other) => Err(other),
    }
}

/// Whether this can stand after `import`.
fn identifier(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(inner)
}

/// The module that componentize-py starts from.
fn glue(kinds: &[Kind], module: &str, entry: &Entry) -> String {
    let mut text = format!("from swift_sdk.component import seal\n\nimport {module}\n");
    for kind in kinds {
        let (file, class) = export(*kind);
        let _ = writeln!(text, "from swift_sdk.component.{file} import {class}");
    }
    let names: Vec<String> = kinds.iter().map(|kind| format!("\"{}\"", kind.name())).collect();
    let _ = writeln!(text, "\nseal([{}], \"{}/{}\")", names.join(", "), entry.shown, entry.file);
    text
}

/// The SDK's module and class that implement a kind's interface.
fn export(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Reward => ("rewards", "Rewards"),
        Kind::Metric => ("metrics", "Metrics"),
        Kind::Preprocessor => ("preprocessors", "Preprocessors"),
        Kind::Dataset => ("loaders", "Loaders"),
        Kind::Template => ("templates", "Templates"),
        Kind::Model => ("adapter", "Adapter"),
    }
}

/// What the interpreter said, without what the tool adds, and with the author's own paths.
fn explained(build: &Build<'_>, entry: &Entry, command: String, output: &str) -> AuthorError {
    let said = output.split_once("AssertionError: ").map_or(output, |(_, said)| said);
    let said = said.split_once("\nCaused by:").map_or(said, |(said, _)| said).trim();
    let said =
        said.replace("\"/1/", &format!("\"{}/", entry.shown)).replace("\"/2/", "\"deps/").replace("\"/0/", "\"sdk/");
    // What the SDK itself says of the file needs no traceback.
    let last = said.lines().last().unwrap_or_default();
    if let Some(what) = last.strip_prefix("swift_sdk.errors.Failed: ") {
        return AuthorError::project(
            &build.project.folder,
            what,
            "put plugin.toml or the source right, and build again",
        );
    }
    AuthorError::ToolFailed { command, output: if said.is_empty() { output.into() } else { said } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_imports_the_authors_file_between_the_sdk_and_the_seal() {
        let entry = Entry { folder: "/p/src".into(), file: "mine.py".into(), shown: "src".into() };
        let text = glue(&[Kind::Reward, Kind::Dataset], "mine", &entry);
        insta::assert_snapshot!(text, @r#"
        from swift_sdk.component import seal

        import mine
        from swift_sdk.component.rewards import Rewards
        from swift_sdk.component.loaders import Loaders

        seal(["reward", "dataset"], "src/mine.py")
        "#);
    }
}
