//! Builds the first-party plugins: Rust to core module to component, the same bytes on every machine with the same
//! compiler. Their built form is committed, so that building and testing the host needs no WebAssembly toolchain.
//!
//! A folder of `plugins/` with a `plugin.toml` is one component, `plugins/dist/NAME.wasm`; one of `plugins/test/` is a
//! component of the host's tests, `plugins/dist/test/NAME.wasm`. What a plugin does is not known here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::Value;
use sha2::{Digest, Sha256};
use wasmparser::{Parser, Payload};

use crate::Result;
use crate::toolchain::{TARGET, Toolchain, find};

/// Tells this program to act as cargo's compiler wrapper, see [`as_compiler`].
const AS_COMPILER: &str = "SWIFT_XTASK_AS_COMPILER";

/// Largest component in KB, without its golden tests: all of them are part of the binary, and compiled on first use.
const LARGEST: usize = 100;
/// Plugins that may be larger, how large, and why.
const LARGER: &[(&str, usize, &str)] = &[
    ("chatml", 160, "it prints numbers as Python does"),
    ("metrics", 120, "seven functions"),
    ("parquet", 1024, "it decompresses six codecs"),
    ("rewards", 180, "eight functions, one of which reads mathematics"),
];

/// The source of one component.
struct Guest {
    name: String,
    folder: PathBuf,
    /// Where it goes, below `plugins/dist`.
    file: String,
    /// What cargo calls the module.
    module: String,
    manifest: String,
    /// Its golden tests: a JSON array, or nothing.
    tests: Option<String>,
}

/// Built components by where they go.
type Components = BTreeMap<String, Vec<u8>>;

/// Builds the plugins with these names, or all of them; writes `plugins/dist`, or with `--check` compares with it.
///
/// # Errors
/// When there is no toolchain, a guest does not compile, a component asks for something that is not the contract's or is
/// too large, or (with `--check`) the committed components are not those of the source.
pub(crate) fn build(arguments: &[&str]) -> Result<()> {
    let (options, names): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|argument| argument.starts_with('-'));
    if let Some(option) = options.iter().find(|&&option| option != "--check") {
        return Err(format!("unknown option `{option}`; there is --check").into());
    }
    let all = guests(&crate::root().join("plugins"))?;
    if let Some(name) = names.iter().find(|&&name| all.iter().all(|guest| guest.name != name)) {
        let known: Vec<&str> = all.iter().map(|guest| guest.name.as_str()).collect();
        return Err(format!("there is no plugin `{name}`; there are {}", known.join(", ")).into());
    }
    let chosen: Vec<&Guest> =
        all.iter().filter(|guest| names.is_empty() || names.contains(&guest.name.as_str())).collect();
    let dist = crate::root().join("plugins/dist");
    let recorded = std::fs::read_to_string(dist.join("toolchain.txt")).unwrap_or_default();
    let toolchain = find(Some(recorded.trim_end()))?;
    let same_compiler = toolchain.identity == recorded.trim_end();
    if options.is_empty() {
        if !names.is_empty() && !same_compiler {
            return Err("plugins/dist was built by another compiler: build all plugins, without names".into());
        }
        write(&dist, &all, &compile(&toolchain, &chosen)?)?;
        return Ok(std::fs::write(dist.join("toolchain.txt"), format!("{}\n", toolchain.identity))?);
    }
    let components = compile(&toolchain, &chosen)?;
    if names.is_empty() {
        verify_committed(&dist, &all)?;
    }
    compare(&dist, &components, &toolchain, recorded.trim_end())
}

/// The plugins in the folder `plugins`, sorted by name, those of `test/` last.
fn guests(plugins: &Path) -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for (folder, prefix) in [(plugins.to_path_buf(), ""), (plugins.join("test"), "test/")] {
        let mut folders: Vec<PathBuf> = folder.read_dir()?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        folders.sort();
        for folder in folders.iter().filter(|folder| folder.join("plugin.toml").is_file()) {
            guests.push(Guest::read(folder, prefix).map_err(|error| format!("{}: {error}", folder.display()))?);
        }
    }
    Ok(guests)
}

impl Guest {
    fn read(folder: &Path, prefix: &str) -> Result<Self> {
        let table = |file: &str| -> Result<(String, toml::Table)> {
            let text = std::fs::read_to_string(folder.join(file)).map_err(|error| format!("{file}: {error}"))?;
            let table = text.parse().map_err(|error| format!("{file}: {error}"))?;
            Ok((text, table))
        };
        let (manifest, plugin) = table("plugin.toml")?;
        let (_, cargo) = table("Cargo.toml")?;
        let text = |table: &toml::Table, section: &str, key: &str| {
            table.get(section).and_then(|section| section.get(key)).and_then(|value| value.as_str()).map(str::to_owned)
        };
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if plugin.get("name").and_then(|value| value.as_str()) != Some(&name) {
            return Err("`name` in plugin.toml has to be the folder's".into());
        }
        if text(&plugin, "build", "lang").as_deref() != Some("rust") {
            return Err("first-party plugins are in Rust: `lang = \"rust\"` under [build] in plugin.toml".into());
        }
        let module = text(&cargo, "lib", "name").or_else(|| text(&cargo, "package", "name"));
        Ok(Self {
            file: format!("{prefix}{name}.wasm"),
            module: module.ok_or("Cargo.toml names no package")?.replace('-', "_"),
            manifest,
            tests: golden_tests(&folder.join("tests"))?,
            folder: folder.to_path_buf(),
            name,
        })
    }
}

/// The objects in the files `*.json` of a folder, sorted by file name, as one JSON array.
fn golden_tests(folder: &Path) -> Result<Option<String>> {
    let Ok(entries) = folder.read_dir() else {
        return Ok(None);
    };
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    let mut tests = Vec::new();
    for file in files {
        let test: Value = serde_json::from_slice(&std::fs::read(&file)?)
            .map_err(|error| format!("{}: {error}", file.file_name().unwrap_or_default().display()))?;
        tests.push(test);
    }
    Ok((!tests.is_empty()).then(|| Value::Array(tests).to_string()))
}

/// Writes what was built, and takes away what no source builds any more.
fn write(dist: &Path, all: &[Guest], components: &Components) -> Result<()> {
    write_all(dist, components)?;
    for (file, component) in components {
        println!("{file}: {} KB", component.len().div_ceil(1024));
    }
    for (folder, prefix) in [(dist.to_path_buf(), ""), (dist.join("test"), "test/")] {
        for entry in folder.read_dir()? {
            let name = format!("{prefix}{}", entry?.file_name().to_string_lossy());
            if name.ends_with(".wasm") && all.iter().all(|guest| guest.file != name) {
                println!("{name}: no plugin any more, removed");
                std::fs::remove_file(dist.join(name))?;
            }
        }
    }
    let mut committed = Components::new();
    for guest in all {
        // One that was never built is missed by `--check`.
        if let Ok(component) = std::fs::read(dist.join(&guest.file)) {
            committed.insert(guest.file.clone(), component);
        }
    }
    Ok(std::fs::write(dist.join("SHA256SUMS"), checksums(&committed))?)
}

/// Compares what was built with what is committed: bytes where the compiler is the same, else what models trace.
fn compare(dist: &Path, components: &Components, toolchain: &Toolchain, recorded: &str) -> Result<()> {
    let built = crate::root().join("target/guests/dist");
    write_all(&built, components)?;
    if toolchain.identity == recorded {
        for (file, component) in components {
            if std::fs::read(dist.join(file))? != *component {
                return Err(format!(
                    "plugins/dist/{file} is not what the source builds (compare with {}): run `cargo xtask plugins build` and commit the result",
                    built.display()
                )
                .into());
            }
        }
        println!("plugins/dist is byte for byte what the source builds");
        return Ok(());
    }
    println!(
        "plugins/dist was built by {}; here is {}: comparing what the plugins trace instead of their bytes",
        recorded.lines().next().unwrap_or("an unknown compiler"),
        toolchain.identity.lines().next().unwrap_or("another")
    );
    let status = Command::new("cargo")
        .current_dir(crate::root())
        .args(["run", "--quiet", "-p", "swift-plugin-test", "--bin", "compare-traces", "--"])
        .args([dist, &built])
        .status()?;
    if !status.success() {
        return Err(
            "plugins/dist does not trace what the source traces: run `cargo xtask plugins build` and commit the result"
                .into(),
        );
    }
    Ok(())
}

fn write_all(folder: &Path, components: &Components) -> Result<()> {
    for (file, component) in components {
        let path = folder.join(file);
        std::fs::create_dir_all(path.parent().expect("a file in a folder"))?;
        std::fs::write(path, component)?;
    }
    Ok(())
}

/// The committed files are those that the committed list names.
fn verify_committed(dist: &Path, all: &[Guest]) -> Result<()> {
    let mut committed = Components::new();
    for Guest { file, .. } in all {
        let component = std::fs::read(dist.join(file)).map_err(|error| format!("plugins/dist/{file}: {error}"))?;
        committed.insert(file.clone(), component);
    }
    if std::fs::read_to_string(dist.join("SHA256SUMS"))? != checksums(&committed) {
        return Err(
            "plugins/dist/SHA256SUMS does not fit the components beside it: run `cargo xtask plugins build`".into()
        );
    }
    Ok(())
}

/// The text that `sha256sum` reads.
fn checksums(components: &Components) -> String {
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
fn compile(toolchain: &Toolchain, guests: &[&Guest]) -> Result<Components> {
    let root = crate::root();
    let target = root.join("target/guests");
    let home = std::env::home_dir().ok_or("no home folder is set")?;
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let source_of_std = toolchain.sysroot.join("lib/rustlib/src/rust");
    let remaps = [(&root, "/swift"), (&cargo_home, "/cargo"), (&source_of_std, "/rustc")];
    let flags: Vec<String> =
        remaps.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).collect();
    let mut components = Components::new();
    for guest in guests {
        // One at a time: in one build all guests would share the SDK's features, which say what a component exports.
        let mut cargo = Command::new(env!("CARGO"));
        // Settings of one machine's cargo that would be part of the bytes.
        for (setting, _) in std::env::vars_os() {
            let name = setting.to_string_lossy();
            if ["CARGO_PROFILE_", "CARGO_RESOLVER_", "CARGO_UNSTABLE_"].iter().any(|start| name.starts_with(start)) {
                cargo.env_remove(&setting);
            }
        }
        let built = cargo
            .current_dir(&guest.folder)
            .args(["build", "--quiet", "--locked", "--release", "--target", TARGET, "--target-dir"])
            .arg(&target)
            .env("RUSTC", &toolchain.rustc)
            .env("RUSTC_WRAPPER", std::env::current_exe()?)
            .env(AS_COMPILER, "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env_remove("RUSTFLAGS")
            .status()?;
        if !built.success() {
            return Err(format!("the plugin `{}` does not compile, see above", guest.name).into());
        }
        let module = std::fs::read(target.join(TARGET).join("release").join(format!("{}.wasm", guest.module)))?;
        let component = wrap(guest, &module).map_err(|error| format!("the plugin `{}`: {error}", guest.name))?;
        components.insert(guest.file.clone(), component);
    }
    Ok(components)
}

/// The component of a guest's core module, with its manifest and golden tests in it.
fn wrap(guest: &Guest, module: &[u8]) -> Result<Vec<u8>> {
    let module = crate::names::without_remarks(&crate::names::shorten(module)?)?;
    let component = wit_component::ComponentEncoder::default().validate(true).module(&module)?.encode()?;
    let mut component = crate::names::without_remarks(&component)?;
    for import in imports(&component)? {
        if !import.starts_with("swift:") {
            return Err(format!("it imports `{import}`: a plugin may import only `swift:*`").into());
        }
    }
    let larger = LARGER.iter().find(|(name, ..)| *name == guest.name);
    let largest = larger.map_or(LARGEST, |(_, largest, _)| *largest);
    if component.len() > largest << 10 {
        let size = component.len() >> 10;
        let but = larger.map(|(_, _, why)| format!(", though {why}")).unwrap_or_default();
        return Err(
            format!("{size} KB are more than {largest}{but}: make it smaller, or say in xtask why it is").into()
        );
    }
    crate::names::append(&mut component, "swift:manifest", guest.manifest.as_bytes());
    if let Some(tests) = &guest.tests {
        crate::names::append(&mut component, "swift:tests", tests.as_bytes());
    }
    wasmparser::validate(&component)?;
    Ok(component)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(folder: &Path, manifest: &str) -> std::result::Result<Guest, String> {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("plugin.toml"), manifest).unwrap();
        std::fs::write(folder.join("Cargo.toml"), "[package]\nname = \"a-crate\"\n").unwrap();
        Guest::read(folder, "test/").map_err(|error| error.to_string())
    }

    #[test]
    fn a_folder_is_a_guest() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("polite");
        let guest = plugin(&folder, "name = \"polite\"\n[build]\nlang = \"rust\"\n").unwrap();
        assert_eq!((guest.file.as_str(), guest.module.as_str(), guest.tests), ("test/polite.wasm", "a_crate", None));
        assert!(plugin(&folder, "name = \"rude\"\n").err().unwrap().contains("has to be the folder's"));
        assert!(plugin(&folder, "name = \"polite\"\n").err().unwrap().contains("first-party plugins are in Rust"));
    }

    #[test]
    fn golden_tests_are_one_array_in_the_order_of_their_names() {
        let root = tempfile::tempdir().unwrap();
        for (file, text) in [("b.json", "{\"n\": 0.10}"), ("a.json", "{\"z\": 1, \"a\": []}"), ("c.txt", "no")] {
            std::fs::write(root.path().join(file), text).unwrap();
        }
        assert_eq!(golden_tests(root.path()).unwrap().unwrap(), r#"[{"z":1,"a":[]},{"n":0.1}]"#);
        std::fs::write(root.path().join("a.json"), "{").unwrap();
        assert!(golden_tests(root.path()).unwrap_err().to_string().starts_with("a.json: "));
        assert!(golden_tests(&root.path().join("absent")).unwrap().is_none());
    }

    #[test]
    fn every_first_party_plugin_is_found_and_built() {
        let all = guests(&crate::root().join("plugins")).unwrap();
        let files: Vec<&str> = all.iter().map(|guest| guest.file.as_str()).collect();
        assert!(files.contains(&"llama.wasm") && files.contains(&"test/faults.wasm"), "{files:?}");
        assert!(LARGER.iter().all(|(name, ..)| all.iter().any(|guest| guest.name == *name)));
        verify_committed(&crate::root().join("plugins/dist"), &all).unwrap();
    }
}
