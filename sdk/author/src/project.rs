//! An author's folder: `plugin.toml`, the source, golden tests in `tests/`, and the SDK of its language in `sdk/`.

use std::path::{Path, PathBuf};

use swift_plugin::Manifest;

use crate::{AuthorError, Result};

/// Largest file that is read from `tests/`, in bytes.
const MAX_TEST: u64 = 16 << 20;

/// A folder that holds a plugin's source.
#[derive(Debug, Clone)]
pub struct Project {
    /// Absolute.
    pub folder: PathBuf,
    /// Its `plugin.toml`.
    pub manifest: Manifest,
    /// The text of `plugin.toml`, as it is embedded.
    pub manifest_text: String,
}

impl Project {
    /// Opens the plugin in `folder`.
    ///
    /// # Errors
    /// When there is no `plugin.toml`, or it is wrong.
    pub fn open(folder: &Path) -> Result<Self> {
        let folder = std::path::absolute(folder).map_err(AuthorError::io("find", folder))?;
        let path = folder.join("plugin.toml");
        let manifest_text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(AuthorError::project(
                    &folder,
                    "it holds no plugin.toml",
                    "name a plugin's folder, or make one: `swift plugin new NAME --kind KIND --lang LANGUAGE`",
                ));
            }
            Err(error) => return Err(AuthorError::io("read", &path)(error)),
        };
        let manifest = Manifest::parse(&manifest_text).map_err(|error| {
            let text = error.to_string();
            let what = text.strip_prefix("plugin.toml: ").unwrap_or(&text);
            AuthorError::project(&path, what, "put plugin.toml right")
        })?;
        Ok(Self { folder, manifest, manifest_text })
    }

    /// The file to start from: `entry` of `plugin.toml`, or else `default`, which may have `{name}` in it for the plugin's
    /// name as an identifier (`-` becomes `_`).
    ///
    /// # Errors
    /// When it lies outside of the folder or is not there.
    pub fn entry(&self, default: &str) -> Result<PathBuf> {
        let given = self.manifest.build.as_ref().and_then(|build| build.entry.as_deref());
        let name = given.map_or_else(|| default.replace("{name}", &self.identifier()), Into::into);
        let toml = self.folder.join("plugin.toml");
        let inside = Path::new(&name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside {
            let what = format!("entry = \"{name}\" leaves the plugin's folder");
            return Err(AuthorError::project(&toml, what, "name a file of the folder, such as src/plugin.py"));
        }
        let path = self.folder.join(&name);
        if !path.is_file() {
            let what = format!("there is no file {name} to start from");
            return Err(AuthorError::project(&toml, what, "set `entry` in [build] to the source file to start from"));
        }
        Ok(path)
    }

    /// The plugin's name as an identifier of a programming language.
    pub fn identifier(&self) -> String {
        self.manifest.name.replace('-', "_")
    }

    /// The files of the golden tests, sorted.
    pub fn test_files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.join("tests"));
        let mut paths: Vec<PathBuf> = entries.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json") && path.is_file());
        paths.sort();
        paths
    }

    /// Golden tests: the objects of `tests/*.json`, sorted by file name, as one JSON array; what is embedded.
    ///
    /// # Errors
    /// When a file cannot be read or holds no JSON object.
    pub fn tests(&self) -> Result<String> {
        let mut tests = Vec::new();
        for path in self.test_files() {
            let size = path.metadata().map_err(AuthorError::io("read", &path))?.len();
            if size > MAX_TEST {
                let what = format!("a golden test of {size} bytes; {MAX_TEST} are allowed");
                return Err(AuthorError::project(&path, what, "test with less data"));
            }
            let bytes = std::fs::read(&path).map_err(AuthorError::io("read", &path))?;
            let test: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes).map_err(|error| {
                AuthorError::project(
                    &path,
                    error.to_string(),
                    "a golden test is one JSON object with `kind` and `cases`",
                )
            })?;
            tests.push(serde_json::Value::Object(test));
        }
        Ok(serde_json::Value::Array(tests).to_string())
    }
}
