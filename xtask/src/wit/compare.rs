//! Whether a host with the current contracts can load what was built for a frozen copy.

use std::collections::{BTreeMap, BTreeSet};

use semver::Version;
use wit_parser::{InterfaceId, PackageId, Resolve, Stability, WorldId, WorldItem, WorldKey};

use super::Contracts;
use crate::Result;

/// Raises the major version of frozen packages. One resolve cannot hold a package twice under one version; the
/// comparison ignores versions; and this is above any version that a `@since` may name.
const FROZEN: u64 = 900;

/// A world that is put into both contracts, of what plugins import without any world saying so (`swift:plugin/files`).
const IMPORTS: &str = "all-that-plugins-may-import";

/// Compares the current contract `name` with its frozen `version`.
pub(super) fn serves(contracts: &Contracts, name: &str, version: &Version) -> Result<()> {
    let key = (name.to_owned(), version.clone());
    let imported = imported_interfaces(contracts, &key)?;
    let uses: Vec<String> = imported.iter().map(|interface| format!("import {interface};")).collect();
    let world = format!("\nworld {IMPORTS} {{ {} }}\n", uses.join(" "));

    let mut texts = Vec::new();
    for (other, text) in &contracts.current {
        texts.push(if other == name { format!("{text}{world}") } else { text.clone() });
    }
    for (other, text) in &contracts.frozen {
        let text = raise(text);
        texts.push(if *other == key { format!("{text}{world}") } else { text });
    }
    let resolve = resolve(texts).map_err(|error| explain(name, &imported, contracts, error))?;
    let old = package(&resolve, name, |found| *found == raised(version))?;
    let new = package(&resolve, name, |found| found.major < FROZEN)?;
    for (world, old_world) in &resolve.packages[old].worlds {
        let Some(new_world) = resolve.packages[new].worlds.get(world) else {
            return Err(format!("the world `{world}` is gone").into());
        };
        same_exports(&resolve, *old_world, *new_world)?;
        wit_component::semver_check(resolve.clone(), *old_world, *new_world).map_err(|error| format!("{error:#}"))?;
    }
    marked(&resolve, old, new, version)
}

/// Resolves the current contracts by themselves.
///
/// # Errors
/// When one of them is no WIT, or uses what is not there.
pub(super) fn well_formed(contracts: &Contracts) -> Result<()> {
    resolve(contracts.current.values().cloned().collect()).map(|_| ())
}

/// Interfaces that no world of this frozen copy exports: plugins import them, all or some.
fn imported_interfaces(contracts: &Contracts, key: &(String, Version)) -> Result<BTreeSet<String>> {
    let resolve = resolve(contracts.frozen.values().map(|text| raise(text)).collect())?;
    let package = package(&resolve, &key.0, |found| *found == raised(&key.1))?;
    let package = &resolve.packages[package];
    let mut names: BTreeSet<String> = package.interfaces.keys().cloned().collect();
    for world in package.worlds.values() {
        for interface in exports(&resolve, *world).into_keys() {
            names.remove(&interface);
        }
    }
    Ok(names)
}

/// An interface that is gone shows as a name that the stand-in world cannot find; say it plainly.
fn explain(
    name: &str,
    imported: &BTreeSet<String>,
    contracts: &Contracts,
    error: Box<dyn std::error::Error>,
) -> Box<dyn std::error::Error> {
    let now = contracts.current.get(name).map_or("", String::as_str);
    match imported.iter().find(|interface| !now.contains(&format!("interface {interface} "))) {
        Some(gone) => format!("the interface `{gone}` is gone").into(),
        None => error,
    }
}

/// What a plugin exports is what it was built with: it can have no function more, and none of its own may go unasked.
fn same_exports(resolve: &Resolve, old: WorldId, new: WorldId) -> Result<()> {
    let (old, new) = (exports(resolve, old), exports(resolve, new));
    if let Some(extra) = new.keys().find(|name| !old.contains_key(*name)) {
        return Err(format!("a released world now asks for the export `{extra}`, which no released plugin has").into());
    }
    for (name, id) in &old {
        let Some(now) = new.get(name) else { return Err(format!("the export `{name}` is asked for no more").into()) };
        let (before, now) = (&resolve.interfaces[*id].functions, &resolve.interfaces[*now].functions);
        if let Some(extra) = now.keys().find(|function| !before.contains_key(*function)) {
            return Err(
                format!("the export `{name}` has a new function `{extra}`, which no released plugin has").into()
            );
        }
        if let Some(gone) = before.keys().find(|function| !now.contains_key(*function)) {
            return Err(format!("the function `{gone}` of the export `{name}` is gone").into());
        }
    }
    Ok(())
}

/// What came after a release says so: an older host then refuses a plugin with the version that it needs.
fn marked(resolve: &Resolve, old: PackageId, new: PackageId, released: &Version) -> Result<()> {
    for (name, id) in &resolve.packages[new].interfaces {
        let before = resolve.packages[old].interfaces.get(name).map(|id| &resolve.interfaces[*id].functions);
        for (function, declared) in &resolve.interfaces[*id].functions {
            if before.is_some_and(|functions| functions.contains_key(function)) {
                continue;
            }
            if !matches!(&declared.stability, Stability::Stable { since, .. } if since > released) {
                return Err(format!("`{name}.{function}` came after {released}: mark it `@since` its version").into());
            }
        }
    }
    Ok(())
}

/// Exported interfaces of a world by name.
fn exports(resolve: &Resolve, world: WorldId) -> BTreeMap<String, InterfaceId> {
    let mut found = BTreeMap::new();
    for (key, item) in &resolve.worlds[world].exports {
        if let (WorldItem::Interface { id, .. }, key) = (item, key) {
            let name = match key {
                WorldKey::Name(name) => name.clone(),
                WorldKey::Interface(id) => resolve.interfaces[*id].name.clone().unwrap_or_default(),
            };
            found.insert(name, *id);
        }
    }
    found
}

fn package(resolve: &Resolve, name: &str, fits: impl Fn(&Version) -> bool) -> Result<PackageId> {
    let mut packages = resolve.packages.iter();
    let found =
        packages.find(|(_, package)| package.name.name == name && package.name.version.as_ref().is_some_and(&fits));
    found.map(|(id, _)| id).ok_or_else(|| format!("swift:{name} does not resolve").into())
}

/// All packages in one resolve, each after those that it uses.
fn resolve(texts: Vec<String>) -> Result<Resolve> {
    let mut resolve = Resolve::default();
    let mut waiting: Vec<(Vec<String>, String)> = texts.into_iter().map(|text| (references(&text), text)).collect();
    while !waiting.is_empty() {
        let declared: BTreeSet<String> = waiting.iter().filter_map(|(names, _)| names.first().cloned()).collect();
        let free = waiting.iter().position(|(names, _)| {
            names.iter().skip(1).all(|name| names.first() == Some(name) || !declared.contains(name))
        });
        let (names, text) = waiting.remove(free.ok_or("contracts use each other in a circle")?);
        let name = names.first().map_or("contract", String::as_str);
        resolve.push_source(&format!("{name}.wit"), &text).map_err(|error| format!("{error:#}"))?;
    }
    Ok(resolve)
}

fn raised(version: &Version) -> Version {
    Version::new(version.major + FROZEN, version.minor, version.patch)
}

/// `swift:NAME@VERSION` of each package named in a contract, its own first.
fn references(text: &str) -> Vec<String> {
    spans(text).into_iter().map(|(package, version)| format!("{}@{}", &text[package], &text[version])).collect()
}

/// The same contract with every version of a `swift:` package raised by [`FROZEN`].
fn raise(text: &str) -> String {
    let mut raised = text.to_owned();
    for (_, version) in spans(text).into_iter().rev() {
        let major_end = text[version.clone()].find('.').map_or(version.end, |dot| version.start + dot);
        if let Ok(major) = text[version.start..major_end].parse::<u64>() {
            raised.replace_range(version.start..major_end, &(major + FROZEN).to_string());
        }
    }
    raised
}

/// Where a contract names a package with its version: `swift:NAME@VERSION` and `swift:NAME/INTERFACE@VERSION`.
fn spans(text: &str) -> Vec<(std::ops::Range<usize>, std::ops::Range<usize>)> {
    let mut found = Vec::new();
    for (start, _) in text.match_indices("swift:") {
        let rest = &text[start..];
        let Some(at) = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '/'))) else {
            continue;
        };
        if !rest[at..].starts_with('@') {
            continue;
        }
        let version = &rest[at + 1..];
        let length = version.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(version.len());
        let package = rest[..at].find('/').unwrap_or(at);
        found.push((start..start + package, start + at + 1..start + at + 1 + length));
    }
    found
}
