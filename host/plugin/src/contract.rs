//! What a component asks for and offers, read before any of it is compiled, and compared with this host's contract.

use std::sync::LazyLock;

use semver::Version;
use wasmparser::component_types::ComponentEntityType;
use wasmparser::{Encoding, Parser, Payload, ValidPayload, Validator};

use crate::clean::clean;
use crate::{PluginError, Result};

/// The contract this host serves.
pub const CONTRACT: &str = "swift:model@0.1.0";

const PACKAGE: &str = "swift:model";
const VERSION: Version = Version::new(0, 1, 0);
const TEXT: &str = include_str!("../../../wit/model/model.wit");

/// The functions of `swift:model/graph` that this host offers, as the contract spells them.
pub fn offered_functions() -> &'static [&'static str] {
    static NAMES: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let start = TEXT.find("interface graph {").unwrap_or(0);
        let end = TEXT.find("interface adapter {").unwrap_or(TEXT.len());
        let functions = TEXT[start..end].lines().filter_map(|line| line.trim().split_once(": func("));
        functions.map(|(name, _)| name).collect()
    });
    &NAMES
}

/// What stands at a component's edge.
#[derive(Debug, Default)]
struct Edge {
    /// Name of each import and the functions that it takes from it.
    imports: Vec<(String, Vec<String>)>,
    exports: Vec<String>,
}

/// Checks that `component` can run on this host; returns the contract that it was built for.
///
/// # Errors
/// When the bytes are no component, import what this host lacks, or export no model family.
pub(crate) fn check(plugin: &str, component: &[u8]) -> Result<String> {
    let edge = read(plugin, component)?;
    let outside: Vec<String> = edge.imports.iter().map(|(name, _)| name.clone()).collect();
    let wasi: Vec<String> =
        outside.iter().filter(|name| name.starts_with("wasi:")).map(|name| clean(name, 100)).collect();
    if !wasi.is_empty() {
        return Err(PluginError::Wasi { plugin: plugin.into(), interfaces: wasi });
    }
    for (name, functions) in &edge.imports {
        check_import(plugin, name, functions)?;
    }
    let Some(adapter) = edge.exports.iter().find(|name| name.starts_with("swift:model/adapter@")) else {
        let exports = edge.exports.iter().map(|name| clean(name, 100)).collect();
        return Err(PluginError::NoModelFamily { plugin: plugin.into(), exports });
    };
    let version = version_of(adapter);
    match version {
        Some(version) if serves(&version) => Ok(format!("{PACKAGE}@{version}")),
        version => Err(PluginError::Contract {
            plugin: plugin.into(),
            needs: "swift:model/adapter".into(),
            since: version.map_or_else(|| "unknown".into(), |version| version.to_string()),
            offered: VERSION.to_string(),
        }),
    }
}

fn check_import(plugin: &str, name: &str, functions: &[String]) -> Result<()> {
    let interface = name.split('@').next().unwrap_or(name);
    let contract = |needs: String| PluginError::Contract {
        plugin: plugin.into(),
        needs: clean(&needs, 100),
        since: version_of(name).map_or_else(|| "an unknown version".into(), |version| version.to_string()),
        offered: VERSION.to_string(),
    };
    match interface {
        "swift:model/types" | "swift:model/graph" => {
            if let Some(missing) = functions.iter().find(|function| !offered_functions().contains(&function.as_str())) {
                return Err(contract(format!("{interface}.{missing}")));
            }
            if version_of(name).is_some_and(|version| serves(&version)) {
                Ok(())
            } else {
                Err(contract(interface.into()))
            }
        }
        _ if interface.starts_with("swift:") => Err(contract(interface.into())),
        _ => Err(PluginError::Import { plugin: plugin.into(), import: clean(name, 100) }),
    }
}

fn version_of(name: &str) -> Option<Version> {
    Version::parse(name.split_once('@')?.1).ok()
}

/// Whether a plugin built for `version` can be linked: under 1.0 every minor version is a contract of its own, and
/// within it a missing function was looked for already.
fn serves(version: &Version) -> bool {
    (version.major, version.minor) == (VERSION.major, VERSION.minor) && version.pre.is_empty()
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
        assert!(TEXT.contains(&format!("\npackage {CONTRACT};\n")));
        let adapter = 2;
        assert_eq!(offered_functions().len() + adapter, TEXT.matches(": func(").count());
        for name in ["abort", "rms-norm", "attention", "supports"] {
            assert!(offered_functions().contains(&name), "{name}");
        }
    }

    #[test]
    fn under_one_a_minor_version_is_a_contract() {
        for (version, served) in
            [("0.1.0", true), ("0.1.9", true), ("0.2.0", false), ("1.1.0", false), ("0.1.1-rc.1", false)]
        {
            assert_eq!(serves(&Version::parse(version).unwrap()), served, "{version}");
        }
    }
}
