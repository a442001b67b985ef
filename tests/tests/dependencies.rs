//! Dependencies point downward only: which crate of the workspace may know which.

use std::collections::BTreeMap;
use std::path::Path;

/// `crate: what it may depend on` (normal dependencies; tests may use more).
const ALLOWED: &[(&str, &str, &[&str])] = &[
    ("kernels", "swift-kernels", &[]),
    ("host/graph", "swift-graph", &[]),
    ("host/plugin", "swift-plugin", &["graph"]),
    ("host/engine", "swift-engine", &["graph", "kernels"]),
    ("host/hub", "swift-hub", &["graph"]),
    ("host/data", "swift-data", &["hub", "plugin"]),
    ("host/train", "swift-train", &["engine", "hub", "graph"]),
    ("host/infer", "swift-infer", &["data", "engine", "hub"]),
    ("host/export", "swift-export", &["engine", "hub", "graph"]),
    ("registry", "swift-registry", &["plugin"]),
    (
        "host/cli",
        "swift-cli",
        &["train", "infer", "export", "data", "engine", "hub", "graph", "plugin", "author", "registry"],
    ),
];

/// The `swift-*` names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]";
        } else if inside && line.starts_with("swift-") {
            names.push(line.split(['.', ' ', '=']).next().unwrap_or(line).to_owned());
        }
    }
    names
}

#[test]
fn dependencies_point_downward() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut seen = BTreeMap::new();
    for (folder, name, allowed) in ALLOWED {
        let path = root.join(folder).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{folder} holds {name}");
        for dependency in dependencies(&manifest) {
            let short = dependency.trim_start_matches("swift-");
            assert!(allowed.contains(&short), "{name} may not depend on {dependency}; see docs/architecture.md");
        }
        seen.insert(*folder, ());
    }
    // A new crate under host/ must say here what it may know.
    for entry in std::fs::read_dir(root.join("host")).expect("host/") {
        let folder = format!("host/{}", entry.expect("an entry").file_name().to_string_lossy());
        assert!(seen.contains_key(folder.as_str()), "{folder} is not in this table");
    }
}

#[test]
fn the_check_sees_dependencies() {
    let manifest = "[dependencies]\nswift-hub.workspace = true\nserde.workspace = true\n[dev-dependencies]\nswift-cli = { path = \"x\" }\n";
    assert_eq!(dependencies(manifest), ["swift-hub"]);
}
