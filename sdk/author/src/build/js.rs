//! JavaScript and TypeScript: componentize-qjs runs the author's modules in QuickJS once, and makes a component of its memory.
//! TypeScript is checked by its compiler, and then its types become spaces, so that lines stay where they are. What the
//! component exports is in the SDK's `component` folder; the module that ties both together is written here.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use swift_plugin::Kind;

use super::sources::{self, Entry};
use super::{Build, WORLD};
use crate::{AuthorError, Result, packed, tools};

/// The versions that the SDK was tested with.
const COMPONENTIZE: &str = "0.4.5";
const TYPESCRIPT: &str = "5.9.3";
const BLANK_SPACE: &str = "0.9.0";

/// How the author's TypeScript is checked. What cannot be erased would move lines, so it is refused.
const CHECKS: [&str; 17] = [
    "--noEmit",
    "--strict",
    "--erasableSyntaxOnly",
    "--verbatimModuleSyntax",
    "--skipLibCheck",
    "--pretty",
    "false",
    "--target",
    "es2023",
    "--module",
    "esnext",
    "--moduleResolution",
    "bundler",
    "--lib",
    "es2024",
    // Types of Node and others that lie in some folder above are not there in a plugin.
    "--typeRoots",
    "none",
];

/// The component of a JavaScript or TypeScript plugin.
pub(crate) fn component(build: &Build<'_>) -> Result<Vec<u8>> {
    let folder = &build.project.folder;
    if build.project.manifest.kinds.contains(&Kind::Model) {
        // The tool never gives back the builder that the host lends, and the call ends in a trap.
        let offered = ["rust", "python", "c", "go"].to_vec();
        return Err(AuthorError::NotOffered { kind: Kind::Model.name(), lang: "js", offered });
    }
    let typed = folder.join("src/main.ts").is_file();
    let entry = Entry::of(build.project, if typed { "src/main.ts" } else { "src/main.js" })?;
    if entry.shown == "sdk" || entry.shown.starts_with("sdk/") {
        return Err(AuthorError::project(folder, "the source lies in sdk/", "keep it in src/; sdk/ is the SDK's"));
    }
    let (stem, typescript) = match (entry.file.strip_suffix(".ts"), entry.file.strip_suffix(".js")) {
        (Some(stem), _) => (stem, true),
        (_, Some(stem)) => (stem, false),
        _ => {
            let what = format!("the entry {} is no JavaScript module", entry.file);
            return Err(AuthorError::project(folder, what, "it needs the ending .js or .ts"));
        }
    };
    let node = build.tools.on_path("node").ok_or_else(|| AuthorError::ToolMissing {
        tool: "node".into(),
        needed_for: "building a JavaScript plugin".into(),
        install: "install Node.js 20 or newer with your system's package manager".into(),
        installable: false,
    })?;
    let tool = build.tools.npm("componentize-qjs", COMPONENTIZE, "componentize-qjs/cli.mjs")?;

    // The source lies beside the SDK as it does in the project, so `../sdk/swift-sdk.js` means the same.
    let app = build.work.join("app");
    sources::copy(build.sdk, &app.join("sdk"))?;
    sources::copy(&entry.folder, &app.join(&entry.shown))?;
    if typescript {
        erase_types(build, &node, &app, &entry)?;
    }
    let start = app.join("entry.js");
    packed::write(&start, glue(build, stem, &entry).as_bytes())?;

    let out = build.work.join("component.wasm");
    let mut command = Command::new(&node);
    command.arg(tool).arg("--wit").arg(build.wit).args(["--world", WORLD]).arg("--js").arg(&start);
    command.arg("--module-root").arg(&app).args(["--stub-wasi", "--sync", "--minify", "--output"]).arg(&out);
    (build.report)("componentize-qjs: QuickJS starts, runs the plugin's modules, and is kept as it is then");
    match tools::run(&mut command) {
        Ok(_) => std::fs::read(&out).map_err(AuthorError::io("read", &out)),
        Err(AuthorError::ToolFailed { command, output }) => {
            Err(AuthorError::ToolFailed { command, output: explained(&output, &app) })
        }
        Err(other) => Err(other),
    }
}

/// Checks the TypeScript files and makes JavaScript of them, in the working folder.
fn erase_types(build: &Build<'_>, node: &Path, app: &Path, entry: &Entry) -> Result<()> {
    let compiler = build.tools.npm("typescript", TYPESCRIPT, "typescript/bin/tsc")?;
    let blank_space = build.tools.npm("ts-blank-space", BLANK_SPACE, "ts-blank-space/out/index.js")?;
    (build.report)("tsc checks the types");
    let mut check = Command::new(node);
    check.current_dir(app).arg(compiler).args(CHECKS);
    tools::run(check.arg(format!("{}/{}", entry.shown, entry.file)))?;
    let mut erase = Command::new(node);
    erase.arg(app.join("sdk/strip-types.mjs")).arg(blank_space).arg(app.join(&entry.shown));
    tools::run(&mut erase).map(drop)
}

/// The module that componentize-qjs starts from.
fn glue(build: &Build<'_>, stem: &str, entry: &Entry) -> String {
    let manifest = &build.project.manifest;
    let capabilities = &manifest.capabilities;
    let given = [
        ("swift:plugin", "log", true),
        ("swift:plugin", "files", capabilities.read),
        ("swift:plugin", "http", !capabilities.net.is_empty()),
    ];
    let given: Vec<_> =
        given.into_iter().filter_map(|(package, name, asked)| asked.then_some((package, name))).collect();
    let mut text = String::new();
    for (package, name) in &given {
        let served = swift_plugin::served().iter().find(|(served, _)| served == package);
        let version = served.map_or_else(String::new, |(_, version)| version.to_string());
        let _ = writeln!(text, "import {name} from \"{package}/{name}@{version}\";");
    }
    let _ = writeln!(text, "import \"./{}/{stem}.js\";", entry.shown);
    let _ = writeln!(text, "import {{ seal }} from \"./sdk/component/common.js\";");
    for name in manifest.kinds.iter().filter_map(|kind| export(*kind)) {
        let _ = writeln!(text, "export {{ {name} }} from \"./sdk/component/{name}.js\";");
    }
    let given: Vec<&str> = given.into_iter().map(|(_, name)| name).collect();
    let kinds: Vec<String> = manifest.kinds.iter().map(|kind| format!("\"{}\"", kind.name())).collect();
    let (kinds, shown, file, given) = (kinds.join(", "), &entry.shown, &entry.file, given.join(", "));
    let _ = writeln!(text, "seal([{kinds}], \"{shown}\", \"{shown}/{file}\", {{ {given} }});");
    text
}

/// The SDK's module that implements a kind's interface; its export has the same name.
fn export(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Reward => Some("rewards"),
        Kind::Metric => Some("metrics"),
        Kind::Preprocessor => Some("preprocessors"),
        Kind::Dataset => Some("loaders"),
        Kind::Template => Some("templates"),
        Kind::Model => None,
    }
}

/// What QuickJS said, without what the tool adds, and with the author's own paths.
fn explained(output: &str, app: &Path) -> String {
    let mut said = output.split_once("module: ").map_or(output, |(_, said)| said);
    while let Some(rest) = said.strip_prefix("Failed to ").and_then(|rest| Some(rest.split_once(": ")?.1)) {
        said = rest;
    }
    // What the tool says of its progress comes after.
    let said = said.split_once("\ncomponentize-qjs\n").map_or(said, |(said, _)| said).trim();
    let app: PathBuf = app.components().collect();
    said.replace(&format!("{}/", app.display()), "").replace("(/", "(").replace(" at /", " at ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_of_the_build_keeps_its_place_and_loses_the_rest() {
        let said = "Error: : Failed to evaluate user JavaScript module: Failed to finish JavaScript module evaluation: \
                    Error: boo\n    at <anonymous> (/src/reward.js:3:1)\ncomponentize-qjs\n  WIT:    wit";
        assert_eq!(explained(said, Path::new("/tmp/app")), "Error: boo\n    at <anonymous> (src/reward.js:3:1)");
    }
}
