//! Holds the contracts to their word: whatever was released under `wit/frozen` is still served by the current `wit/`,
//! and nothing that was released changes afterwards.
//!
//! It must not know what a contract is about: it compares any package in `wit/` with its frozen copies.

mod compare;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use semver::Version;
use sha2::{Digest, Sha256};

use crate::Result;

/// Names and checksums of all frozen copies, as `sha256sum` reads them.
const SUMS: &str = "SHA256SUMS";

/// All contracts: the current ones, and the released ones by name and version.
#[derive(Debug, Clone, Default)]
struct Contracts {
    current: BTreeMap<String, String>,
    frozen: BTreeMap<(String, Version), String>,
    sums: String,
}

/// Compares each `wit/NAME` with every `wit/frozen/NAME-VERSION`.
///
/// # Errors
/// When a plugin built against a frozen copy would no longer load, when a frozen copy was edited, or when a contract's
/// present version has no frozen copy.
pub(crate) fn check() -> Result<()> {
    for line in Contracts::read(&crate::root().join("wit"))?.check()? {
        println!("{line}");
    }
    Ok(())
}

/// Freezes the present version of every contract that was not frozen yet. A frozen copy is never written again.
///
/// # Errors
/// When what is there already is not in order.
pub(crate) fn freeze() -> Result<()> {
    let wit = crate::root().join("wit");
    let mut contracts = Contracts::read(&wit)?;
    // Only what is new may be missing from the list.
    contracts.check_sums()?;
    for (name, text) in contracts.current.clone() {
        let version = declared_version(&name, &text)?;
        if contracts.frozen.contains_key(&(name.clone(), version.clone())) {
            continue;
        }
        let folder = wit.join("frozen").join(format!("{name}-{version}"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(format!("{name}.wit")), &text)?;
        println!("froze swift:{name}@{version}");
        contracts.frozen.insert((name, version), text);
    }
    contracts.sums = contracts.checksums();
    contracts.check()?;
    std::fs::write(wit.join("frozen").join(SUMS), &contracts.sums)?;
    Ok(())
}

impl Contracts {
    fn read(wit: &Path) -> Result<Self> {
        let mut contracts = Self::default();
        for folder in folders(wit)?.into_iter().filter(|folder| folder != "frozen") {
            let text = only_file(wit, &folder, &folder)?;
            contracts.current.insert(folder, text);
        }
        for folder in folders(&wit.join("frozen"))? {
            let (name, version) = folder
                .split_once('-')
                .and_then(|(name, version)| Some((name, Version::parse(version).ok()?)))
                .ok_or_else(|| format!("wit/frozen/{folder}: these folders are called NAME-VERSION"))?;
            let text = only_file(&wit.join("frozen"), &folder, name)?;
            contracts.frozen.insert((name.to_owned(), version), text);
        }
        contracts.sums = std::fs::read_to_string(wit.join("frozen").join(SUMS)).unwrap_or_default();
        Ok(contracts)
    }

    /// One line for each frozen copy that is served.
    fn check(&self) -> Result<Vec<String>> {
        self.check_sums()?;
        if self.frozen.is_empty() {
            return Err("wit/frozen holds no released contract".into());
        }
        for (name, text) in &self.current {
            self.check_version(name, text)?;
        }
        compare::well_formed(self)?;
        let mut served = Vec::new();
        for (name, version) in self.frozen.keys() {
            if !self.current.contains_key(name) {
                return Err(format!("wit/{name} is gone, and plugins were built for its {version}").into());
            }
            compare::serves(self, name, version).map_err(|error| {
                format!(
                    "wit/{name} breaks plugins built for {version}: {error}\n  \
                     hint: grow by a new function in what plugins import, or by a new interface in a new world; records, \
                     enums, parameters and exports are frozen"
                )
            })?;
            served.push(format!("wit/{name} serves plugins built for {version}"));
        }
        Ok(served)
    }

    /// The present version is frozen, with these very words, and is the newest.
    fn check_version(&self, name: &str, text: &str) -> Result<()> {
        let version = declared_version(name, text)?;
        if let Some((_, newer)) = self.frozen.keys().find(|(other, released)| other == name && *released > version) {
            return Err(format!("wit/{name} is at {version}, and {newer} was released already").into());
        }
        let Some(frozen) = self.frozen.get(&(name.to_owned(), version.clone())) else {
            return Err(format!(
                "wit/frozen has no swift:{name}@{version}\n  hint: freeze it with `cargo xtask wit-freeze`; the copy is \
                 what later changes are compared with"
            )
            .into());
        };
        if code(frozen) != code(text) {
            return Err(format!(
                "wit/{name} differs from the released {version}\n  hint: what changes a contract raises its version: write \
                 the next one in `package swift:{name}@...;`, then `cargo xtask wit-freeze`"
            )
            .into());
        }
        Ok(())
    }

    /// The list names exactly the frozen copies, as they are.
    fn check_sums(&self) -> Result<()> {
        let listed: Vec<&str> = self.sums.lines().collect();
        let found = self.checksums();
        for line in found.lines() {
            let file = &line[line.len().min(66)..];
            match listed.iter().find(|listed| listed.ends_with(file)) {
                Some(same) if *same == line => {}
                Some(_) => {
                    return Err(format!(
                        "wit/frozen/{file} was edited after its release\n  hint: restore it; plugins were built against it"
                    )
                    .into());
                }
                None => {
                    return Err(format!(
                        "wit/frozen/{SUMS} does not list {file}\n  hint: remove the copy, then `cargo xtask wit-freeze`"
                    )
                    .into());
                }
            }
        }
        match listed.iter().find(|line| !found.lines().any(|found| found == **line)) {
            None => Ok(()),
            Some(line) => Err(format!("wit/frozen/{SUMS} lists what is not there: {line}").into()),
        }
    }

    fn checksums(&self) -> String {
        let mut text = String::new();
        for ((name, version), content) in &self.frozen {
            for byte in Sha256::digest(content) {
                let _ = write!(text, "{byte:02x}");
            }
            let _ = writeln!(text, "  {name}-{version}/{name}.wit");
        }
        text
    }
}

/// The version in `package swift:NAME@VERSION;`.
fn declared_version(name: &str, text: &str) -> Result<Version> {
    let declared = text.lines().find_map(|line| line.trim().strip_prefix(&format!("package swift:{name}@")));
    let version = declared.and_then(|rest| Version::parse(rest.trim().strip_suffix(';')?).ok());
    Ok(version.ok_or_else(|| format!("{name}.wit does not say `package swift:{name}@VERSION;`"))?)
}

/// A contract without its comments and spaces: what plugins are built from.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

fn folders(path: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The text of `NAME.wit`, which must be the one file of its folder: a second one would not be compared.
fn only_file(parent: &Path, folder: &str, name: &str) -> Result<String> {
    let path = parent.join(folder);
    for entry in std::fs::read_dir(&path)? {
        let file = entry?.file_name();
        if file.to_str() != Some(&format!("{name}.wit")) {
            return Err(format!("{}: a contract is one file, {name}.wit", path.join(file).display()).into());
        }
    }
    let file = path.join(format!("{name}.wit"));
    Ok(std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?)
}
