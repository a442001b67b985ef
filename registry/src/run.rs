//! What a run asks before it uses plugins: are they what the project locked, and what was installed?

use std::path::Path;

use semver::Version;

use crate::install::differs;
use crate::lock::Lock;
use crate::store::Store;
use crate::{RegistryError, Result};

/// A plugin that a run is about to use.
#[derive(Debug, Clone, Copy)]
pub struct Used<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a Version,
    /// sha256 of the component, in hex.
    pub digest: &'a str,
    /// The file it was loaded from; the built-in ones have none.
    pub path: Option<&'a Path>,
}

/// Refuses a plugin whose bytes are not those of the project's `swift.lock` (at `lock`), or that was installed and is not what
/// was installed: every folder with an index is a store. A plugin that neither knows is the user's own choice.
///
/// # Errors
/// [`RegistryError::LockDiffers`], [`RegistryError::Tampered`], or that the lock or the store cannot be read.
pub fn check_run(lock: &Path, plugins: &[Used<'_>]) -> Result<()> {
    let lock = Lock::load(lock)?.unwrap_or_default();
    for Used { name, version, digest, .. } in plugins {
        if let Some(locked) = lock.get(name).filter(|locked| locked.digest != *digest) {
            return Err(differs(locked, version, digest));
        }
    }
    for Used { digest, path, .. } in plugins {
        let Some((path, folder)) = path.and_then(|path| Some((path, path.parent()?))) else { continue };
        let index = Store::new(folder).index()?;
        let Some(name) = path.file_stem().and_then(|name| name.to_str()).filter(|name| index.installed.contains(*name))
        else {
            continue;
        };
        if index.find(name, digest).is_none() {
            let (name, path, found) = (name.to_owned(), path.to_owned(), (*digest).to_owned());
            return Err(RegistryError::Tampered { name, path, found });
        }
    }
    Ok(())
}
