//! Rust: cargo makes a core module for wasm32-unknown-unknown, which becomes a component here.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Build;
use super::componentize::componentize;
use crate::{AuthorError, Result, tools};

const TARGET: &str = "wasm32-unknown-unknown";

/// The component of a Rust plugin.
pub(crate) fn component(build: &Build<'_>) -> Result<Vec<u8>> {
    let folder = &build.project.folder;
    let manifest = folder.join("Cargo.toml");
    if !manifest.is_file() {
        return Err(AuthorError::project(
            folder,
            "it holds no Cargo.toml",
            "a Rust plugin is a crate with `crate-type = [\"cdylib\"]`",
        ));
    }
    let cargo = std::env::var_os("CARGO").map(PathBuf::from).or_else(|| build.tools.on_path("cargo"));
    let cargo = cargo.ok_or_else(|| missing("cargo", "install Rust from https://rustup.rs"))?;
    let (rustc, sysroot) = compiler()?;

    let mut command = Command::new(cargo);
    command.current_dir(folder).args(["build", "--release", "--target", TARGET]);
    command.args(["--message-format", "json-render-diagnostics", "--quiet"]).env("RUSTC", &rustc);
    // An author's own settings of the folder and of flags would change the bytes.
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        command.arg("--target-dir").arg(build.work.join("target"));
    }
    command.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags(folder, &sysroot).join("\u{1f}"));
    (build.report)("cargo build");
    let output = tools::run_for_data(&mut command)?;
    let module = module(&output).ok_or_else(|| {
        let hint = "Cargo.toml needs `[lib]` with `crate-type = [\"cdylib\"]`";
        AuthorError::project(&manifest, "the crate makes no WebAssembly module", hint)
    })?;
    let module = std::fs::read(&module).map_err(AuthorError::io("read", &module))?;
    componentize(&module, None, false)
}

/// No path of this machine gets into the module: the same source gives the same bytes elsewhere.
fn flags(folder: &Path, sysroot: &Path) -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let std = sysroot.join("lib/rustlib/src/rust");
    let remaps = [(Some(folder.to_path_buf()), "/plugin"), (home, "/cargo"), (Some(std), "/rustc")];
    let remap = |(from, to): (Option<PathBuf>, &str)| Some(format!("--remap-path-prefix={}={to}", from?.display()));
    remaps.into_iter().filter_map(remap).collect()
}

/// The last module that cargo said it made: dependencies come first.
fn module(messages: &[u8]) -> Option<PathBuf> {
    let messages = messages.split(|byte| *byte == b'\n').rev();
    messages.filter_map(|line| serde_json::from_slice::<serde_json::Value>(line).ok()).find_map(|message| {
        let files = message.get("filenames")?.as_array()?;
        files.iter().filter_map(|file| file.as_str()).find(|file| file.ends_with(".wasm")).map(PathBuf::from)
    })
}

fn missing(tool: &str, install: &str) -> AuthorError {
    AuthorError::ToolMissing {
        tool: tool.into(),
        needed_for: "building a Rust plugin".into(),
        install: install.into(),
        installable: false,
    }
}

/// A compiler with a standard library for the target, and its sysroot: `$RUSTC`, the one on the path, or a private one.
fn compiler() -> Result<(PathBuf, PathBuf)> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    // The private one counts only when the last step of making it was reached.
    let private = cache.map(|cache| cache.join("swift-wasm-toolchain")).filter(|path| path.join("complete").is_file());
    let candidates = [
        std::env::var_os("RUSTC").map(PathBuf::from),
        Some("rustc".into()),
        private.map(|private| private.join("bin/rustc")),
    ];
    let usable = |rustc: PathBuf| {
        let output = Command::new(&rustc).args(["--print", "sysroot"]).stderr(Stdio::null()).output().ok()?;
        let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let library = sysroot.join("lib/rustlib").join(TARGET).join("lib").read_dir().ok()?;
        let mut names = library.flatten().map(|file| file.file_name().to_string_lossy().into_owned());
        names.any(|name| name.starts_with("libstd-")).then_some((rustc, sysroot))
    };
    let install = format!("rustup target add {TARGET}");
    candidates
        .into_iter()
        .flatten()
        .find_map(usable)
        .ok_or_else(|| missing(&format!("a compiler for {TARGET}"), &install))
}
