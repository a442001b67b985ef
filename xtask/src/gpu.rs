//! `cargo xtask gpu pack`: everything that a machine with a GPU needs to run the GPU tests and the GPU benchmark without
//! Rust and without a network, in one folder and one archive.
//!
//! The folder holds the test binaries, `swift` and `gpu_benchmark` in `bin/`, the repository's files that are not Rust
//! source in `tree/` (tests find their data by the path of the source, which `run.sh` makes there as a link), oracles
//! that lie beside the repository in `beside/`, `manifest.txt`, and `run.sh`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{Result, root};

const RUN: &str = include_str!("gpu/run.sh");

/// Packages with tests for a GPU, and the names (or patterns) of these.
const PACKAGES: [&str; 4] = ["swift-kernels", "swift-engine", "swift-tests", "swift-cli"];
const TESTS: [&str; 4] = ["cuda_*", "conformance", "invariants", "oracles"];

/// Oracles beside the repository that the tests look for: these families, with their adapters.
const FAMILIES: [&str; 4] = ["qwen2", "qwen3", "llama2", "llama3"];

/// A binary that was built.
struct Built {
    name: String,
    test: bool,
    file: PathBuf,
    /// Its package's folder below the root: a test's working directory.
    folder: String,
}

/// What to pack.
struct Options {
    output: PathBuf,
    profile: String,
    /// Names of binaries; empty: all.
    only: Vec<String>,
}

impl Options {
    fn parse(arguments: &[&str]) -> Result<Self> {
        let mut options = Self { output: root().join("target/gpu"), profile: "release".into(), only: Vec::new() };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().map(|v| (*v).to_owned()).ok_or(format!("{word} needs a value"));
            match *word {
                "--output" => options.output = std::path::absolute(value()?)?,
                "--profile" => options.profile = value()?,
                "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
                _ => {
                    return Err(format!(
                        "unknown argument `{word}`: pack takes --output FOLDER, --profile NAME and --only NAME,NAME"
                    )
                    .into());
                }
            }
        }
        Ok(options)
    }
}

/// Builds, strips and packs.
///
/// # Errors
/// When something does not compile, or the output cannot be written.
pub(crate) fn pack(arguments: &[&str]) -> Result<()> {
    let options = Options::parse(arguments)?;
    let built = build(&options)?;
    // A folder that is not a pack is nobody's to delete.
    if options.output.exists() {
        if !options.output.join("manifest.txt").is_file() {
            return Err(format!("{} is not a pack: name another --output", options.output.display()).into());
        }
        std::fs::remove_dir_all(&options.output)?;
    }
    let binaries = options.output.join("bin");
    std::fs::create_dir_all(&binaries)?;
    let mut manifest = format!("root\t{}\ncommit\t{}\n", root().display(), commit()?);
    println!("{:>9}  {:<9} name", "KiB", "kind");
    for binary in &built {
        let target = binaries.join(&binary.name);
        strip(&binary.file, &target)?;
        let bytes = std::fs::read(&target)?;
        let kind = if binary.test { "test" } else { "program" };
        let digest = Sha256::digest(&bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        writeln!(manifest, "{kind}\t{}\t{}\t{digest}", binary.name, binary.folder)?;
        println!("{:>9}  {kind:<9} {}", bytes.len() / 1024, binary.name);
    }
    // End-to-end tests start `swift` where cargo built it.
    let swift = built.iter().find(|binary| binary.name == "swift").map(|binary| &binary.file);
    if let Some(path) = swift.and_then(|file| file.strip_prefix(root()).ok()) {
        writeln!(manifest, "swift\t{}", path.display())?;
    }
    let files = copy_tree(&options.output)?;
    std::fs::write(options.output.join("manifest.txt"), manifest)?;
    let script = options.output.join("run.sh");
    std::fs::write(&script, RUN)?;
    executable(&script)?;
    let archive = archive(&options.output)?;
    let size = std::fs::metadata(&archive)?.len();
    println!("{} binaries and {files} files in {}", built.len(), options.output.display());
    println!("{} ({:.1} MiB)", archive.display(), size as f64 / f64::from(1 << 20));
    println!("there: tar xf {} && ./run.sh test, then ./run.sh bench", name_of(&archive));
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// Compiles everything in one go and reads from cargo's messages where it is.
fn build(options: &Options) -> Result<Vec<Built>> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root()).args([
        "build",
        "--message-format=json-render-diagnostics",
        "--profile",
        &options.profile,
    ]);
    for package in PACKAGES {
        cargo.args(["--package", package]);
    }
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    for name in TESTS.iter().copied().filter(|_| options.only.is_empty()) {
        cargo.args(["--test", name]);
    }
    for name in options.only.iter().filter(|name| !["swift", "gpu_benchmark"].contains(&name.as_str())) {
        cargo.args(["--test", name]);
    }
    if wanted("swift") {
        cargo.args(["--bin", "swift"]);
    }
    if wanted("gpu_benchmark") {
        cargo.args(["--example", "gpu_benchmark"]);
    }
    let output = cargo.stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err("the GPU tests and programs do not compile, see above".into());
    }
    let mut built = Vec::new();
    for line in String::from_utf8(output.stdout)?.lines().filter(|line| line.starts_with('{')) {
        let message: Value = serde_json::from_str(line)?;
        let Some(file) = message["executable"].as_str() else { continue };
        let name = message["target"]["name"].as_str().ok_or("cargo names no target")?.to_owned();
        let manifest = Path::new(message["manifest_path"].as_str().ok_or("cargo names no manifest")?);
        let folder = manifest.parent().and_then(|folder| folder.strip_prefix(root()).ok());
        let folder = folder.ok_or_else(|| format!("{} lies outside the repository", manifest.display()))?;
        let test = message["profile"]["test"] == true;
        if wanted(&name) {
            built.push(Built { name, test, file: file.into(), folder: folder.display().to_string() });
        }
    }
    built.sort_by(|a, b| (a.test, &a.folder, &a.name).cmp(&(b.test, &b.folder, &b.name)));
    if let Some(pair) = built.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(format!("two test files are called {}: rename one", pair[0].name).into());
    }
    if built.is_empty() {
        return Err("nothing was built".into());
    }
    Ok(built)
}

/// A copy without symbols, which are most of a binary; where there is no `strip`, a plain copy.
fn strip(from: &Path, to: &Path) -> Result<()> {
    let stripped = Command::new("strip").arg("-s").arg("-o").arg(to).arg(from).status();
    if !stripped.is_ok_and(|status| status.success()) {
        std::fs::copy(from, to)?;
    }
    executable(to)
}

#[cfg(unix)]
fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
fn executable(_: &Path) -> Result<()> {
    Err("packs are for Linux: make them there".into())
}

/// The commit, with a mark where the tree differs from it.
fn commit() -> Result<String> {
    let git = |words: &[&str]| -> Result<String> {
        let output = Command::new("git").current_dir(root()).args(words).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let changed = git(&["status", "--porcelain"])?;
    let mark = if changed.is_empty() { "" } else { " with changes" };
    Ok(format!("{}{mark}", git(&["rev-parse", "--short=12", "HEAD"])?))
}

/// Copies what tests and the benchmark read at run time; gives the number of files.
fn copy_tree(output: &Path) -> Result<usize> {
    let list = Command::new("git")
        .current_dir(root())
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()?;
    let compiled = ["rs", "cu", "cuh"];
    let mut files = 0;
    for name in String::from_utf8(list.stdout)?.split('\0').filter(|name| !name.is_empty()) {
        let path = Path::new(name);
        let source = path.extension().is_some_and(|extension| compiled.iter().any(|one| extension == *one));
        if !source && !path.starts_with("examples") && root().join(path).is_file() {
            copy(&root().join(path), &output.join("tree").join(path))?;
            files += 1;
        }
    }
    let beside = root().join("../shared/oracles");
    for entry in std::fs::read_dir(&beside).into_iter().flatten() {
        let folder = entry?.path();
        let name = name_of(&folder);
        if !FAMILIES.contains(&name.split('-').next().unwrap_or_default()) || !folder.is_dir() {
            continue;
        }
        for file in std::fs::read_dir(&folder)? {
            let file = file?.path();
            copy(&file, &output.join("beside/shared/oracles").join(&name).join(name_of(&file)))?;
            files += 1;
        }
    }
    Ok(files)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to.parent().ok_or("a file has a folder")?)?;
    // Not `fs::copy`, which would copy a read-only mark.
    Ok(std::fs::write(to, std::fs::read(from).map_err(|error| format!("{}: {error}", from.display()))?)?)
}

/// The folder's content as `FOLDER.tar.xz`.
fn archive(folder: &Path) -> Result<PathBuf> {
    let archive = PathBuf::from(format!("{}.tar.xz", folder.display()));
    let status = Command::new("tar")
        .args(["--create", "--xz", "--sort=name", "--owner=0", "--group=0", "--file"])
        .arg(&archive)
        .arg("--directory")
        .arg(folder)
        .arg(".")
        .env("XZ_OPT", "-6 -T0")
        .status()
        .map_err(|error| format!("tar: {error}"))?;
    if status.success() { Ok(archive) } else { Err("tar could not pack the folder (is xz installed?)".into()) }
}
