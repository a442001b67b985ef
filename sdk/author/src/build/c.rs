//! C: clang makes a core module of the folder's source and the SDK's. `pip install ziglang` holds all that it takes; a WASI
//! SDK of one's own is used when `WASI_SDK_PATH` names it.

use std::path::{Path, PathBuf};
use std::process::Command;

use swift_plugin::Kind;

use super::Build;
use super::componentize::componentize;
use crate::{AuthorError, Result, tools};

/// The Python package with a C compiler and a C library for WebAssembly.
const ZIG: (&str, &str) = ("ziglang", "0.17.1");

/// Mistakes that C forgives and that a plugin would pay for with a trap.
const ERRORS: [&str; 7] = [
    "implicit-function-declaration",
    "incompatible-pointer-types",
    "int-conversion",
    "return-type",
    "format",
    "uninitialized",
    "sometimes-uninitialized",
];

/// The component of a plugin in C: every `.c` file of the folder that `entry` lies in, or of `src/`.
pub(crate) fn component(build: &Build<'_>) -> Result<Vec<u8>> {
    let folder = &build.project.folder;
    // The SDK comes first: what it has of the C library's own functions then counts.
    let mut sources = Vec::new();
    let manifest = &build.project.manifest;
    let granted = [
        ("files", manifest.capabilities.read),
        ("http", !manifest.capabilities.net.is_empty()),
        ("config", manifest.kinds.contains(&Kind::Model)),
    ];
    let granted = granted.into_iter().filter_map(|(name, asked)| asked.then_some(name));
    let kinds = manifest.kinds.iter().map(|kind| kind.name());
    for name in ["core", "json"].into_iter().chain(granted).chain(kinds) {
        let source = build.sdk.join("runtime").join(name).with_extension("c");
        if !source.is_file() {
            let what = format!("the C SDK lacks runtime/{name}.c");
            return Err(AuthorError::project(build.sdk, what, "copy the SDK of this swift here again"));
        }
        sources.push(source);
    }
    sources.extend(own_sources(build)?);
    let module = build.work.join("module.wasm");
    let mut command = compiler(build)?;
    command.current_dir(folder);
    command.args(["-mexec-model=reactor", "-std=c11", "-Oz", "-Wl,-z,stack-size=1048576"]);
    // `assert` stays in, which zig leaves out of optimised code. With debug information the linker keeps function names; the
    // rest of it goes when the component is made.
    command.arg("-UNDEBUG").arg("-g").arg("-I").arg(build.sdk);
    command.args(ERRORS.map(|name| format!("-Werror={name}")));
    // The same bytes wherever the folder lies; `assert` shows these names.
    command.arg(format!("-ffile-prefix-map={}=sdk", build.sdk.display()));
    command.arg(format!("-ffile-prefix-map={}=.", folder.display()));
    tools::run(command.args(sources).arg("-o").arg(&module))?;
    componentize(&std::fs::read(&module).map_err(AuthorError::io("read", &module))?, Some(build.wit), false)
}

/// The author's source files, relative to the folder, sorted.
fn own_sources(build: &Build<'_>) -> Result<Vec<PathBuf>> {
    let folder = &build.project.folder;
    let entry = build.project.manifest.build.as_ref().and_then(|table| table.entry.as_ref());
    let within = match entry {
        Some(_) => build.project.entry("")?.parent().unwrap_or(folder).to_path_buf(),
        None => folder.join("src"),
    };
    let entries = std::fs::read_dir(&within).map_err(AuthorError::io("read", &within))?;
    let mut sources: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "c"));
    sources.sort();
    if sources.is_empty() {
        return Err(AuthorError::project(&within, "it holds no .c file", "write the plugin in src/"));
    }
    Ok(sources.into_iter().map(|path| path.strip_prefix(folder).map(Path::to_path_buf).unwrap_or(path)).collect())
}

/// A C compiler for WebAssembly.
fn compiler(build: &Build<'_>) -> Result<Command> {
    let clang = std::env::var_os("WASI_SDK_PATH").map(|path| Path::new(&path).join("bin/clang"));
    if let Some(clang) = clang.filter(|path| path.is_file()) {
        let mut command = Command::new(clang);
        // As zig does by itself: a stack that is too deep then traps, and changes no data.
        command.args(["--target=wasm32-wasip1", "-Wl,--stack-first"]);
        return Ok(command);
    }
    let zig = match build.tools.python(ZIG.0, ZIG.1, "python-zig") {
        Ok(zig) => zig,
        Err(error @ AuthorError::ToolMissing { .. }) => build.tools.on_path("zig").ok_or(error)?,
        Err(error) => return Err(error),
    };
    (build.report)("compiling C; the first time, with the C library, takes half a minute");
    let mut command = Command::new(zig);
    command.args(["cc", "-target", "wasm32-wasi"]);
    Ok(command)
}
