//! Finds the programs that the authors' languages need, and gets those that a package registry has into swift's own cache
//! when the user said so. Nothing is ever installed without that.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::{AuthorError, Result};

/// Longest end of a program's output that is kept.
const TAIL: usize = 6000;

/// Where programs are looked for, and whether missing ones are installed.
pub struct Tools {
    install: bool,
    report: Box<dyn Fn(&str) + Send + Sync>,
    /// Folder of `cargo xtask test`: `venv/` and `node/`.
    prepared: Option<PathBuf>,
    cache: Option<PathBuf>,
}

impl std::fmt::Debug for Tools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tools").field("install", &self.install).finish_non_exhaustive()
    }
}

impl Default for Tools {
    /// Finds, installs nothing.
    fn default() -> Self {
        let prepared = std::env::var_os("SWIFT_TEST_TOOLS").map(PathBuf::from).filter(|path| path.is_dir());
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
        Self { install: false, report: Box::new(|_| {}), prepared, cache: cache.map(|path| path.join("swift/tools")) }
    }
}

impl Tools {
    /// Finds, and installs what is missing; `report` hears of it.
    pub fn installing(report: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { install: true, report: Box::new(report), ..Self::default() }
    }

    /// A program on the `PATH`.
    pub fn on_path(&self, binary: &str) -> Option<PathBuf> {
        let paths = std::env::var_os("PATH")?;
        std::env::split_paths(&paths).map(|folder| folder.join(binary)).find(|path| path.is_file())
    }

    /// The program `binary` of the Python package `package` (such as `componentize-py`).
    ///
    /// # Errors
    /// When it is not there and may not, or cannot, be installed.
    pub fn python(&self, package: &str, version: &str, binary: &str) -> Result<PathBuf> {
        let prepared = self.prepared.as_ref().map(|folder| folder.join("venv/bin").join(binary));
        if let Some(path) = prepared.filter(|path| path.is_file()).or_else(|| self.on_path(binary)) {
            return Ok(path);
        }
        let requirement = format!("{package}=={version}");
        let missing = |installable| AuthorError::ToolMissing {
            tool: format!("{package} {version}"),
            needed_for: "building this plugin".into(),
            install: format!("pip install {requirement}"),
            installable,
        };
        let folder = self.cache.as_ref().ok_or_else(|| missing(false))?.join(format!("python/{package}-{version}"));
        self.installed(&folder, &missing, |folder| {
            let python = self.on_path("python3").ok_or_else(|| AuthorError::ToolMissing {
                tool: "python3".into(),
                needed_for: format!("installing {package}"),
                install: "install Python 3.10 or newer with your system's package manager".into(),
                installable: false,
            })?;
            run(Command::new(python).args(["-m", "venv"]).arg(folder))?;
            let pip = folder.join("bin/pip");
            run(Command::new(pip).args(["install", "--quiet", "--disable-pip-version-check"]).arg(&requirement))
                .map(drop)
        })?;
        Ok(folder.join("bin").join(binary))
    }

    /// `node_modules/ENTRY` of the npm package `package`, a file or folder.
    ///
    /// # Errors
    /// When it is not there and may not, or cannot, be installed.
    pub fn npm(&self, package: &str, version: &str, entry: &str) -> Result<PathBuf> {
        let prepared = self.prepared.as_ref().map(|folder| folder.join("node/node_modules").join(entry));
        // What `npm install` made here.
        let here = std::path::absolute(Path::new("node_modules").join(entry)).ok();
        if let Some(path) = prepared.into_iter().chain(here).find(|path| path.exists()) {
            return Ok(path);
        }
        let requirement = format!("{package}@{version}");
        let missing = |installable| AuthorError::ToolMissing {
            tool: format!("{package} {version}"),
            needed_for: "building this plugin".into(),
            install: format!("npm install {requirement}, in this folder"),
            installable,
        };
        let name = package.replace('/', "-");
        let folder = self.cache.as_ref().ok_or_else(|| missing(false))?.join(format!("npm/{name}-{version}"));
        self.installed(&folder, &missing, |folder| {
            let npm = self.on_path("npm").ok_or_else(|| AuthorError::ToolMissing {
                tool: "npm".into(),
                needed_for: format!("installing {package}"),
                install: "install Node.js 20 or newer with your system's package manager".into(),
                installable: false,
            })?;
            let mut command = Command::new(npm);
            command.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(folder);
            run(command.arg(&requirement)).map(drop)
        })?;
        Ok(folder.join("node_modules").join(entry))
    }

    /// Fills `folder` with `install` unless that was done before. Two processes at once: one installs, the other waits.
    fn installed(
        &self,
        folder: &Path,
        missing: &dyn Fn(bool) -> AuthorError,
        install: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let complete = folder.join("complete");
        if complete.is_file() {
            return Ok(());
        }
        if !self.install {
            return Err(missing(true));
        }
        std::fs::create_dir_all(folder).map_err(AuthorError::io("make", folder))?;
        let lock = folder.with_extension("lock");
        let file = std::fs::File::create(&lock).map_err(AuthorError::io("write", &lock))?;
        file.lock().map_err(AuthorError::io("lock", &lock))?;
        if complete.is_file() {
            return Ok(());
        }
        (self.report)(&format!("installing into {}", folder.display()));
        install(folder)?;
        std::fs::write(&complete, "").map_err(AuthorError::io("write", &complete))
    }
}

/// Runs a program to its end and gives what it wrote to standard output.
///
/// # Errors
/// When it cannot be started, or fails: with the end of what it said.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>> {
    run_and_tell(command, |output| [&output.stdout[..], &output.stderr[..]].concat())
}

/// The same for a program whose standard output is for machines.
///
/// # Errors
/// See [`run`]; the message has what it wrote to standard error.
pub(crate) fn run_for_data(command: &mut Command) -> Result<Vec<u8>> {
    run_and_tell(command, |output| output.stderr.clone())
}

fn run_and_tell(command: &mut Command, said: impl Fn(&Output) -> Vec<u8>) -> Result<Vec<u8>> {
    let shown = shown(command);
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| AuthorError::ToolFailed { command: shown.clone(), output: error.to_string() })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = tail(String::from_utf8_lossy(&said(&output)).trim());
    let output = if said.is_empty() { output.status.to_string() } else { said };
    Err(AuthorError::ToolFailed { command: shown, output })
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy());
    words
        .map(|word| if word.contains(' ') { format!("'{word}'") } else { word.into_owned() })
        .collect::<Vec<_>>()
        .join(" ")
}

/// The end of a text, lines kept, each made fit for a terminal.
fn tail(text: &str) -> String {
    let cut = text.char_indices().rev().nth(TAIL).map_or(0, |(at, _)| at);
    let lines = text[cut..].lines().map(|line| swift_plugin::clean(line, 500));
    lines.collect::<Vec<_>>().join("\n")
}
