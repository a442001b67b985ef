//! The world of a plugin: what its kinds export and import, and the capabilities that `plugin.toml` asks for.

use std::fmt::Write as _;
use std::path::Path;

use swift_plugin::{Kind, Manifest};

use crate::{Result, packed};

/// The text of the world `plugin`.
pub(crate) fn text(manifest: &Manifest) -> String {
    let version = |package: &str| {
        let served = swift_plugin::served().iter().find(|(name, _)| *name == package);
        served.map_or_else(String::new, |(_, version)| version.to_string())
    };
    let mut imports = vec!["swift:plugin/log"];
    if manifest.kinds.contains(&Kind::Model) {
        imports.push("swift:model/graph");
    }
    if manifest.capabilities.read {
        imports.push("swift:plugin/files");
    }
    if !manifest.capabilities.net.is_empty() {
        imports.push("swift:plugin/http");
    }
    let exports = manifest.kinds.iter().map(|kind| kind.interface());
    let items = imports.iter().map(|name| ("import", *name)).chain(exports.map(|name| ("export", name)));
    let mut text = String::from("package local:plugin;\n\nworld plugin {\n");
    for (verb, name) in items {
        let package = name.split('/').next().unwrap_or(name);
        let _ = writeln!(text, "    {verb} {name}@{};", version(package));
    }
    text.push_str("}\n");
    text
}

/// Writes `plugin.wit` and the contracts it needs in `deps/` into `folder`, instead of what is there.
pub(crate) fn write(manifest: &Manifest, folder: &Path) -> Result<()> {
    let _ = std::fs::remove_dir_all(folder);
    packed::write(&folder.join("plugin.wit"), text(manifest).as_bytes())?;
    let kinds = manifest.kinds.iter().map(|kind| kind.interface());
    let packages = kinds.filter_map(|name| name.strip_prefix("swift:")?.split('/').next());
    for package in ["plugin"].into_iter().chain(packages) {
        let contract = packed::contract(package).unwrap_or_default();
        packed::write(&folder.join(format!("deps/swift-{package}/{package}.wit")), contract)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(kinds: &str, capabilities: &str) -> Manifest {
        Manifest::parse(&format!("name = \"x\"\nversion = \"0.1.0\"\nkind = {kinds}\n{capabilities}")).unwrap()
    }

    #[test]
    fn a_world_has_what_the_manifest_says() {
        let text = text(&manifest("[\"reward\", \"dataset\"]", "[capabilities]\nread = true\n"));
        insta::assert_snapshot!(text, @r"
        package local:plugin;

        world plugin {
            import swift:plugin/log@0.1.0;
            import swift:plugin/files@0.1.0;
            export swift:reward/rewards@0.1.0;
            export swift:dataset/loaders@0.1.0;
        }
        ");
    }

    #[test]
    fn the_world_of_every_kind_resolves() {
        for kind in Kind::ALL {
            let folder = tempfile::tempdir().unwrap();
            let all = "[capabilities]\nread = true\nnet = [\"a.b\"]\n";
            write(&manifest(&format!("[\"{kind}\"]"), all), folder.path()).unwrap();
            let mut resolve = wit_parser::Resolve::default();
            let (package, _) = resolve.push_dir(folder.path()).unwrap();
            let world = resolve.select_world(&[package], Some(super::super::WORLD)).unwrap();
            assert!(!resolve.worlds[world].exports.is_empty(), "{kind}");
        }
    }
}
