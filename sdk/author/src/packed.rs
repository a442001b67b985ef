//! What this crate carries: the contracts, and the SDK and templates of each language, by their paths in the repository.

use std::path::Path;

use crate::{AuthorError, Language, Result};

/// Paths and contents, sorted.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/files.rs"));

/// The files below `folder`, by their paths in it.
pub(crate) fn below(folder: &str) -> impl Iterator<Item = (&'static str, &'static [u8])> + use<> {
    let folder = format!("{folder}/");
    FILES.iter().filter_map(move |(path, bytes)| Some((path.strip_prefix(folder.as_str())?, *bytes)))
}

/// The contract in `wit/NAME`.
pub(crate) fn contract(name: &str) -> Option<&'static [u8]> {
    below(&format!("wit/{name}")).next().map(|(_, bytes)| bytes)
}

/// Writes the SDK of a language into `folder`, complete in itself.
pub(crate) fn write_sdk(language: Language, folder: &Path) -> Result<()> {
    for (path, bytes) in below(&format!("sdk/{}", language.folder())) {
        if path.starts_with("template/") {
            continue;
        }
        write(&folder.join(path), &standing_alone(language, path, bytes))?;
    }
    if language == Language::Rust {
        for (path, bytes) in below("wit") {
            write(&folder.join("wit").join(path), bytes)?;
        }
    }
    Ok(())
}

/// In the repository the Rust SDK is a member of a workspace and reads `wit/` at the root; beside a plugin it is a crate of
/// its own with the contracts in it.
fn standing_alone(language: Language, path: &str, bytes: &[u8]) -> Vec<u8> {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|_| language == Language::Rust) else {
        return bytes.to_vec();
    };
    if path == "Cargo.toml" {
        let kept = text.replace("[lints]\nworkspace = true\n\n", "");
        let kept =
            kept.lines().filter(|line| !line.starts_with("workspace = ") && !line.starts_with("# Guests and their"));
        return (kept.collect::<Vec<_>>().join("\n") + "\n").into_bytes();
    }
    text.replace("\"../../wit/", "\"wit/").into_bytes()
}

/// Writes a file, its folder first.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(AuthorError::io("make", folder))?;
    }
    std::fs::write(path, bytes).map_err(AuthorError::io("write", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contract_is_here() {
        for name in ["plugin", "model", "template", "dataset", "reward", "metric"] {
            let text = std::str::from_utf8(contract(name).unwrap()).unwrap();
            assert!(text.contains(&format!("package swift:{name}@")), "{name}");
        }
        assert!(below("wit").all(|(path, _)| !path.starts_with("frozen")));
    }

    #[test]
    fn the_rust_sdk_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        write_sdk(Language::Rust, folder.path()).unwrap();
        let manifest = std::fs::read_to_string(folder.path().join("Cargo.toml")).unwrap();
        assert!(manifest.contains("name = \"swift-sdk\"") && !manifest.contains("workspace"), "{manifest}");
        let bindings = std::fs::read_to_string(folder.path().join("src/bindings.rs")).unwrap();
        assert!(bindings.contains("\"wit/reward\"") && !bindings.contains("../"), "{bindings}");
        assert!(folder.path().join("wit/reward/reward.wit").is_file());
        assert!(!folder.path().join("template").exists());
    }
}
