//! Builds the first-party plugins: Rust to core module to component, the same bytes on every machine with the same
//! compiler. Their built form is committed, so that building and testing the host needs no WebAssembly toolchain.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use sha2::{Digest, Sha256};
use wasmparser::{Parser, Payload};

use crate::Result;
use crate::toolchain::{TARGET, Toolchain, find};

/// Guest crates and where their components go below `plugins/dist`.
const PLUGINS: &[(&str, &str)] =
    &[("llama", "llama.wasm"), ("qwen2", "qwen2.wasm"), ("qwen3", "qwen3.wasm"), ("faults", "test/faults.wasm")];

/// Tells this program to act as cargo's compiler wrapper, see [`as_compiler`].
const AS_COMPILER: &str = "SWIFT_XTASK_AS_COMPILER";

/// Builds every plugin; writes `plugins/dist`, or with `check` compares with it.
///
/// # Errors
/// When there is no toolchain, a guest does not compile, a component asks for something that is not the contract's,
/// or (with `check`) the committed components are not those of the source.
pub(crate) fn build(check: bool) -> Result<()> {
    let dist = crate::root().join("plugins/dist");
    let recorded = std::fs::read_to_string(dist.join("toolchain.txt")).unwrap_or_default();
    let toolchain = find(Some(recorded.trim_end()))?;
    let same_compiler = toolchain.identity == recorded.trim_end();
    let components = compile(&toolchain)?;
    let sums = checksums(&components);
    if !check {
        for (file, component) in &components {
            let path = dist.join(file);
            std::fs::create_dir_all(path.parent().expect("a file in dist"))?;
            std::fs::write(path, component)?;
            println!("{file}: {} KB", component.len().div_ceil(1024));
        }
        std::fs::write(dist.join("SHA256SUMS"), sums)?;
        std::fs::write(dist.join("toolchain.txt"), format!("{}\n", toolchain.identity))?;
        return Ok(());
    }

    verify_committed(&dist)?;
    if same_compiler {
        if std::fs::read_to_string(dist.join("SHA256SUMS"))? != sums {
            let built = crate::root().join("target/guests/dist");
            write_all(&built, &components)?;
            return Err(format!(
                "plugins/dist is not what the source builds (compare with {}): run `cargo xtask plugins build` and commit the result",
                built.display()
            )
            .into());
        }
        println!("plugins/dist is byte for byte what the source builds");
        return Ok(());
    }
    println!(
        "plugins/dist was built by {}; here is {}: comparing what the plugins trace instead of their bytes",
        recorded.lines().next().unwrap_or("an unknown compiler"),
        toolchain.identity.lines().next().unwrap_or("another")
    );
    let built = crate::root().join("target/guests/dist");
    write_all(&built, &components)?;
    let status = Command::new("cargo")
        .current_dir(crate::root())
        .args(["run", "--quiet", "-p", "swift-plugin-test", "--bin", "compare-traces", "--"])
        .args([&dist, &built])
        .status()?;
    if !status.success() {
        return Err(
            "plugins/dist does not trace what the source traces: run `cargo xtask plugins build` and commit the result"
                .into(),
        );
    }
    Ok(())
}

fn write_all(folder: &Path, components: &BTreeMap<&str, Vec<u8>>) -> Result<()> {
    for (file, component) in components {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().expect("a file in a folder"))?;
        std::fs::write(path, component)?;
    }
    Ok(())
}

/// The committed files are those that the committed list names.
fn verify_committed(dist: &Path) -> Result<()> {
    let mut committed = BTreeMap::new();
    for (_, file) in PLUGINS {
        committed
            .insert(*file, std::fs::read(dist.join(file)).map_err(|error| format!("plugins/dist/{file}: {error}"))?);
    }
    if std::fs::read_to_string(dist.join("SHA256SUMS"))? != checksums(&committed) {
        return Err(
            "plugins/dist/SHA256SUMS does not fit the components beside it: run `cargo xtask plugins build`".into()
        );
    }
    Ok(())
}

/// The text that `sha256sum` reads.
fn checksums(components: &BTreeMap<&str, Vec<u8>>) -> String {
    let mut text = String::new();
    for (file, component) in components {
        for byte in Sha256::digest(component) {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = writeln!(text, "  {file}");
    }
    text
}

/// Compiles the guests and wraps each as a component.
fn compile(toolchain: &Toolchain) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    let root = crate::root();
    let target = root.join("target/guests");
    let home = std::env::home_dir().ok_or("no home folder is set")?;
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let source_of_std = toolchain.sysroot.join("lib/rustlib/src/rust");
    let remaps = [(&root, "/swift"), (&cargo_home, "/cargo"), (&source_of_std, "/rustc")];
    let flags: Vec<String> =
        remaps.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect();
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(root.join("plugins"))
        .args(["build", "--quiet", "--locked", "--release", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_WRAPPER", std::env::current_exe()?)
        .env(AS_COMPILER, "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env_remove("RUSTFLAGS");
    for (package, _) in PLUGINS {
        cargo.args(["-p", package]);
    }
    if !cargo.status()?.success() {
        return Err("the plugins do not compile, see above".into());
    }
    let mut components = BTreeMap::new();
    for (package, file) in PLUGINS {
        let module = std::fs::read(target.join(TARGET).join("release").join(format!("{package}.wasm")))?;
        let module = crate::names::without_remarks(&crate::names::shorten(&module)?)?;
        let component = wit_component::ComponentEncoder::default().validate(true).module(&module)?.encode()?;
        let component = crate::names::without_remarks(&component)?;
        wasmparser::validate(&component)?;
        for import in imports(&component)? {
            if !import.starts_with("swift:") {
                return Err(format!("plugins/{package} imports `{import}`: a plugin may import only `swift:*`").into());
            }
        }
        components.insert(*file, component);
    }
    Ok(components)
}

/// Names of what a component imports.
fn imports(component: &[u8]) -> Result<Vec<String>> {
    let (mut depth, mut names) = (0, Vec::new());
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ComponentSection { .. } | Payload::ModuleSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

/// Runs the compiler for cargo, when cargo was told to call this program instead of it.
///
/// cargo derives a crate's symbol hash from the absolute path of a crate that lies outside its workspace, as the SDK
/// does; the hash is part of every function name and decides their order. Here it comes from name and version alone, so
/// the bytes do not depend on where the repository lies.
pub(crate) fn as_compiler() -> Option<ExitCode> {
    std::env::var_os(AS_COMPILER)?;
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let crate_name =
        arguments.iter().position(|argument| argument == "--crate-name").and_then(|at| arguments.get(at + 1)).cloned();
    let for_guest = arguments.windows(2).any(|pair| pair[0] == "--target" && pair[1] == TARGET);
    if let Some(name) = crate_name.filter(|_| for_guest) {
        let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
        for argument in &mut arguments {
            if argument.starts_with("metadata=") {
                *argument = format!("metadata={name}-{version}");
            }
        }
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
