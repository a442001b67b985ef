//! Finds a Rust compiler that can make WebAssembly: rustup's, or the private one that `wasm-toolchain.sh` makes.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;

/// The target of every guest: no WASI, no imports but the contract's.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// A compiler with a standard library for [`TARGET`].
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    pub(crate) rustc: PathBuf,
    /// Release, commit and LLVM: equal text, equal code.
    pub(crate) identity: String,
    pub(crate) sysroot: PathBuf,
}

/// The compiler to build with; `wanted` is the identity to prefer where more than one is here.
///
/// # Errors
/// When there is none and none can be made, with the one command that helps.
pub(crate) fn find(wanted: Option<&str>) -> Result<Toolchain> {
    let mut found: Vec<Toolchain> = Vec::new();
    let private = private_folder()?;
    for rustc in [PathBuf::from("rustc"), private.join("bin/rustc")] {
        // The private one counts only when its last step was reached.
        if rustc.is_absolute() && !private.join("complete").is_file() {
            continue;
        }
        found.extend(inspect(&rustc));
    }
    if let Some(same) = found.iter().find(|toolchain| Some(toolchain.identity.as_str()) == wanted) {
        return Ok(same.clone());
    }
    if let Some(first) = found.into_iter().next() {
        return Ok(first);
    }
    if rustup_can_add() {
        println!("added the target {TARGET} with rustup");
        if let Some(toolchain) = inspect(Path::new("rustc")) {
            return Ok(toolchain);
        }
    }
    make_private(&private)?;
    inspect(&private.join("bin/rustc")).ok_or_else(|| missing("the toolchain that was made does not run").into())
}

fn missing(why: &str) -> String {
    format!("no Rust compiler for {TARGET} ({why}): run `rustup target add {TARGET}` where the network allows it")
}

fn private_folder() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    Ok(cache.ok_or("neither XDG_CACHE_HOME nor a home folder is set")?.join("swift-wasm-toolchain"))
}

/// A compiler that runs and has the target's standard library.
fn inspect(rustc: &Path) -> Option<Toolchain> {
    let output = |arguments: &[&str]| {
        let output = Command::new(rustc).args(arguments).stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let sysroot = PathBuf::from(output(&["--print", "sysroot"])?.trim());
    let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let has_std =
        library.read_dir().ok()?.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libstd-"));
    let version = output(&["-vV"])?;
    let kept = version.lines().filter(|line| line.starts_with("rustc ") || line.starts_with("LLVM version"));
    let identity = kept.collect::<Vec<_>>().join("\n");
    has_std.then(|| Toolchain { rustc: rustc.to_path_buf(), identity, sysroot })
}

fn rustup_can_add() -> bool {
    let status =
        Command::new("rustup").args(["target", "add", TARGET]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Makes the private toolchain: two to three minutes, about 550 MB.
fn make_private(folder: &Path) -> Result<()> {
    let debian = ["apt-get", "dpkg-deb", "bash"].iter().all(|tool| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|path| path.join(tool).is_file())
    });
    if !debian {
        return Err(missing("and without Debian's packages none can be made here").into());
    }
    println!("making a private toolchain for {TARGET} in {} (minutes, once)", folder.display());
    let status = Command::new("bash").arg(crate::root().join("xtask/wasm-toolchain.sh")).arg(folder).status()?;
    if !status.success() {
        return Err(missing("and wasm-toolchain.sh failed, see above").into());
    }
    Ok(())
}
