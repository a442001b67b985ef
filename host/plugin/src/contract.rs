//! The contracts of this host, and what a component asks for and offers: read before any of it is compiled.

use std::sync::LazyLock;

use semver::Version;
use sha2::{Digest, Sha256};
use wasmparser::component_types::ComponentEntityType;
use wasmparser::{Encoding, Parser, Payload, ValidPayload, Validator};

use crate::clean::clean;
use crate::host::hex;
use crate::{Kind, Manifest, PluginError, Result, sections};

/// Largest component that is read, in bytes: Python with a library or two takes 50 MB.
pub(crate) const MAX_COMPONENT: u64 = 512 << 20;

/// A contract by package and version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contract {
    /// `swift:reward`.
    pub package: String,
    pub version: Version,
}

impl std::fmt::Display for Contract {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.package, self.version)
    }
}

/// A package as its text in `wit/` has it.
struct Package {
    name: String,
    version: Version,
    /// Interfaces and the functions that each has, as a component names them.
    interfaces: Vec<(String, Vec<String>)>,
}

const TEXTS: [&str; 6] = [
    include_str!("../../../wit/plugin/plugin.wit"),
    include_str!("../../../wit/model/model.wit"),
    include_str!("../../../wit/template/template.wit"),
    include_str!("../../../wit/dataset/dataset.wit"),
    include_str!("../../../wit/reward/reward.wit"),
    include_str!("../../../wit/metric/metric.wit"),
];

static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| TEXTS.iter().filter_map(|text| package(text)).collect());

/// Reads what this module needs of a contract's text; the texts are this repository's own.
fn package(text: &str) -> Option<Package> {
    let line = text.lines().find_map(|line| line.strip_prefix("package "))?;
    let (name, version) = line.trim_end_matches(';').split_once('@')?;
    let mut interfaces: Vec<(String, Vec<String>)> = Vec::new();
    for line in text.lines() {
        if let Some(interface) = line.strip_prefix("interface ") {
            interfaces.push((format!("{name}/{}", interface.trim_end_matches(" {")), Vec::new()));
        } else if let (Some((function, _)), Some((_, functions))) = (line.split_once(": func("), interfaces.last_mut())
        {
            functions.push(function.trim().to_owned());
        }
    }
    Some(Package { name: name.into(), version: Version::parse(version).ok()?, interfaces })
}

/// The contracts that this host serves: `swift:reward` and its version, ...
pub fn served() -> &'static [(&'static str, Version)] {
    static SERVED: LazyLock<Vec<(&str, Version)>> =
        LazyLock::new(|| PACKAGES.iter().map(|package| (package.name.as_str(), package.version.clone())).collect());
    &SERVED
}

/// Whether a plugin built for this version of `package` can be linked: under 1.0 every minor version is a contract of its
/// own; within it a plugin may need a function that is newer than this host, which is looked for when it is loaded.
pub fn serves(package: &str, version: &Version) -> bool {
    let here = served().iter().find(|(name, _)| *name == package);
    here.is_some_and(|(_, here)| {
        let same_track = if here.major == 0 { here.minor == version.minor } else { true };
        here.major == version.major && same_track && version.pre.is_empty()
    })
}

/// The functions that this host offers in an interface, `swift:model/graph`, as the contract spells them.
pub fn offered_functions(interface: &str) -> &'static [String] {
    let mut interfaces = PACKAGES.iter().flat_map(|package| &package.interfaces);
    interfaces.find(|(name, _)| name == interface).map_or(&[], |(_, functions)| functions)
}

/// The interfaces that a plugin may import.
const IMPORTS: [&str; 6] = [
    "swift:model/types",
    "swift:model/graph",
    "swift:template/types",
    "swift:dataset/types",
    "swift:plugin/log",
    FILES,
];
pub(crate) const FILES: &str = "swift:plugin/files";
pub(crate) const HTTP: &str = "swift:plugin/http";

/// What a component is, read from its edge and its sections; nothing of it is compiled or run.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The manifest's name, or the one it was inspected under.
    pub name: String,
    /// The manifest's version, or 0.0.0.
    pub version: Version,
    /// By its exports.
    pub kinds: Vec<Kind>,
    /// What it was built for, the kinds' contracts first.
    pub contracts: Vec<Contract>,
    /// Interfaces, with versions.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    pub manifest: Option<Manifest>,
    /// SHA-256 of the bytes, in hexadecimal.
    pub digest: String,
    /// Bytes.
    pub size: usize,
}

impl Inspection {
    /// Whether it imports this interface, in any version.
    pub fn wants(&self, interface: &str) -> bool {
        self.imports.iter().any(|import| interface_of(import) == interface)
    }
}

/// Reads what `component` is. `name` is used where it carries no manifest.
///
/// # Errors
/// When the bytes are no component, it needs what this host lacks, offers nothing that this host knows, or its manifest is
/// damaged or does not agree with its exports.
pub fn inspect(name: &str, component: &[u8]) -> Result<Inspection> {
    let edge = read(name, component)?;
    let manifest = match sections::read(component, sections::MANIFEST) {
        None => None,
        Some(text) => {
            let wrong = |what: String| PluginError::Manifest { plugin: name.into(), what };
            let text = std::str::from_utf8(text).map_err(|_| wrong("plugin.toml: it is not UTF-8".into()))?;
            Some(Manifest::parse(text).map_err(|error| wrong(error.to_string()))?)
        }
    };
    let name = manifest.as_ref().map_or(name, |manifest| manifest.name.as_str());
    let wasi: Vec<String> =
        edge.imports.iter().filter(|(name, _)| name.starts_with("wasi:")).map(|(name, _)| clean(name, 100)).collect();
    if !wasi.is_empty() {
        return Err(PluginError::Wasi { plugin: name.into(), interfaces: wasi });
    }
    let mut contracts = Vec::new();
    for (import, functions) in &edge.imports {
        check_import(name, import, functions)?;
    }
    let mut kinds = Vec::new();
    for kind in Kind::ALL {
        let Some(export) = edge.exports.iter().find(|export| interface_of(export) == kind.interface()) else {
            continue;
        };
        kinds.push(kind);
        add(&mut contracts, checked_contract(name, export, kind.interface())?);
    }
    if kinds.is_empty() {
        let exports = edge.exports.iter().map(|name| clean(name, 100)).collect();
        return Err(PluginError::NoKind { plugin: name.into(), exports });
    }
    for (import, _) in &edge.imports {
        add(&mut contracts, checked_contract(name, import, interface_of(import))?);
    }
    if let Some(manifest) = &manifest {
        let mut said = manifest.kinds.clone();
        said.sort_unstable();
        if said != kinds {
            return Err(PluginError::Kinds { plugin: name.into(), said, exported: kinds });
        }
    }
    let asked = manifest.as_ref().map(|manifest| manifest.capabilities.clone()).unwrap_or_default();
    for (interface, key, asked) in [(FILES, "read", asked.read), (HTTP, "net", !asked.net.is_empty())] {
        if !asked && edge.imports.iter().any(|(import, _)| interface_of(import) == interface) {
            return Err(PluginError::NotAsked { plugin: name.into(), interface: interface.into(), key });
        }
    }
    Ok(Inspection {
        name: name.into(),
        version: manifest.as_ref().map_or_else(|| Version::new(0, 0, 0), |manifest| manifest.version.clone()),
        kinds,
        contracts,
        imports: edge.imports.into_iter().map(|(name, _)| name).collect(),
        exports: edge.exports,
        manifest,
        digest: hex(&Sha256::digest(component)),
        size: component.len(),
    })
}

fn add(contracts: &mut Vec<Contract>, contract: Contract) {
    if !contracts.contains(&contract) {
        contracts.push(contract);
    }
}

fn check_import(plugin: &str, name: &str, functions: &[String]) -> Result<()> {
    let interface = interface_of(name);
    if !interface.starts_with("swift:") {
        return Err(PluginError::Import { plugin: plugin.into(), import: clean(name, 100) });
    }
    if !IMPORTS.contains(&interface) && interface != HTTP {
        return Err(too_new(plugin, interface, name));
    }
    let offered = offered_functions(interface);
    if let Some(missing) = functions.iter().find(|function| !offered.contains(function)) {
        return Err(too_new(plugin, &format!("{interface}.{missing}"), name));
    }
    checked_contract(plugin, name, interface).map(|_| ())
}

/// The contract of an imported or exported interface, if it is one that this host serves.
fn checked_contract(plugin: &str, name: &str, interface: &str) -> Result<Contract> {
    let package = package_of(name);
    match version_of(name) {
        Some(version) if serves(package, &version) => Ok(Contract { package: package.into(), version }),
        _ => Err(too_new(plugin, interface, name)),
    }
}

fn too_new(plugin: &str, needs: &str, name: &str) -> PluginError {
    let here = served().iter().find(|(package, _)| *package == package_of(name));
    PluginError::Contract {
        plugin: plugin.into(),
        needs: clean(needs, 100),
        since: version_of(name).map_or_else(|| "an unknown version".into(), |version| version.to_string()),
        offered: here.map_or_else(|| "no such contract".into(), |(_, version)| version.to_string()),
    }
}

fn interface_of(name: &str) -> &str {
    name.split('@').next().unwrap_or(name)
}

fn package_of(name: &str) -> &str {
    name.split(['/', '@']).next().unwrap_or(name)
}

fn version_of(name: &str) -> Option<Version> {
    Version::parse(name.split_once('@')?.1).ok()
}

/// What stands at a component's edge.
#[derive(Debug, Default)]
struct Edge {
    /// Name of each import and the functions that it takes from it.
    imports: Vec<(String, Vec<String>)>,
    exports: Vec<String>,
}

fn read(plugin: &str, component: &[u8]) -> Result<Edge> {
    let broken = |what: String| PluginError::NotAComponent { plugin: plugin.into(), what: clean(&what, 300) };
    match Parser::new(0).parse_all(component).next() {
        Some(Ok(Payload::Version { encoding: Encoding::Component, .. })) => {}
        Some(Ok(Payload::Version { encoding: Encoding::Module, .. })) => {
            return Err(broken("it is a core WebAssembly module, not a component".into()));
        }
        _ => return Err(broken("it is not WebAssembly".into())),
    }
    // Bodies of functions are the compiler's to check: here only the edge counts, and a cached plugin is not compiled.
    let (mut validator, mut types) = (Validator::new(), None);
    let (mut depth, mut imports, mut exports) = (0, Vec::new(), Vec::new());
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(|error| broken(error.to_string()))?;
        if let ValidPayload::End(outermost) = validator.payload(&payload).map_err(|error| broken(error.to_string()))? {
            types = Some(outermost);
        }
        match payload {
            Payload::ComponentSection { .. } | Payload::ModuleSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                imports.extend(section.into_iter().flatten().map(|import| import.name.name.to_owned()));
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                exports.extend(section.into_iter().flatten().map(|export| export.name.name.to_owned()));
            }
            _ => {}
        }
    }
    let types = types.ok_or_else(|| broken("it has no end".into()))?;
    let types = types.as_ref();
    let functions_of = |name: &str| match types.component_item_for_import(name).map(|item| item.ty) {
        Some(ComponentEntityType::Instance(instance)) => types[instance]
            .exports
            .iter()
            .filter(|(_, item)| matches!(item.ty, ComponentEntityType::Func(_)))
            .map(|(name, _)| function_name(name))
            .collect(),
        _ => Vec::new(),
    };
    let imports =
        imports.into_iter().map(|name| (functions_of(&name), name)).map(|(functions, name)| (name, functions));
    Ok(Edge { imports: imports.collect(), exports })
}

/// `[method]builder.rms-norm` as the contract's text has it: `rms-norm`.
fn function_name(name: &str) -> String {
    let name = name.rsplit_once(']').map_or(name, |(_, name)| name);
    name.rsplit_once('.').map_or(name, |(_, name)| name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offered_functions_are_those_of_the_contract() {
        let graph = offered_functions("swift:model/graph");
        for name in ["abort", "rms-norm", "attention", "supports"] {
            assert!(graph.iter().any(|function| function == name), "{name}");
        }
        for package in PACKAGES.iter() {
            let functions: usize = package.interfaces.iter().map(|(_, functions)| functions.len()).sum();
            let text = TEXTS.iter().find(|text| text.contains(&format!("\npackage {}@", package.name))).unwrap();
            assert_eq!(functions, text.matches(": func(").count(), "{}", package.name);
        }
        assert_eq!(PACKAGES.len(), TEXTS.len());
        let known =
            |name: &str| PACKAGES.iter().flat_map(|package| &package.interfaces).any(|(known, _)| known == name);
        assert!(IMPORTS.iter().chain(&[FILES, HTTP]).all(|name| known(name)));
        assert!(Kind::ALL.iter().all(|kind| known(kind.interface())));
    }

    #[test]
    fn under_one_a_minor_version_is_a_contract() {
        for (version, served) in
            [("0.1.0", true), ("0.1.9", true), ("0.2.0", false), ("1.1.0", false), ("0.1.1-rc.1", false)]
        {
            assert_eq!(serves("swift:model", &Version::parse(version).unwrap()), served, "{version}");
        }
        assert!(!serves("swift:kitchen", &Version::new(0, 1, 0)));
    }
}
