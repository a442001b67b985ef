//! Packs what `swift plugin new` and `swift plugin build` need into the crate: the contracts, and the SDK and templates of
//! each language.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Folders that are made, not written.
const MADE: [&str; 6] = ["target", "build", "node_modules", "__pycache__", ".venv", "tests"];

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../..");
    let mut list = String::from("&[\n");
    for folder in ["wit", "sdk/rust", "sdk/python", "sdk/js", "sdk/c", "sdk/go"] {
        pack(&root, folder, &mut list);
    }
    list.push(']');
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    std::fs::write(out.join("files.rs"), list).expect("a file can be written");
}

/// Adds the files below `folder` by their paths in the repository, sorted.
fn pack(root: &Path, folder: &str, list: &mut String) {
    let path = root.join(folder);
    println!("cargo::rerun-if-changed={}", path.display());
    let Ok(entries) = std::fs::read_dir(&path) else { return };
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    for name in names {
        let (inner, below) = (format!("{folder}/{name}"), path.join(&name));
        // Golden tests of a template are its own; tests of an SDK are not an author's.
        let made = MADE.contains(&name.as_str()) && !(name == "tests" && folder.contains("/template/"));
        if below.is_dir() && !made && inner != "wit/frozen" {
            pack(root, &inner, list);
        } else if below.is_file() && !name.ends_with(".wasm") && !name.ends_with(".pyc") {
            let below = below.canonicalize().expect("it is there");
            let _ = writeln!(list, "({inner:?}, include_bytes!({below:?})),");
        }
    }
}
