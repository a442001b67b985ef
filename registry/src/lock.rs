//! `swift.lock`: which plugins a project uses, to the byte. The store's index has entries of the same form.
//!
//! The file comes with a project, so it is read as strictly as anything from outside: bounded, every field checked,
//! nothing unknown accepted. It is written in one way only, so that equal content is equal bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use semver::{Version, VersionReq};
use serde::Deserialize;
use swift_plugin::{Contract, clean};

use crate::name::{Place, check_name, is_digest};
use crate::{RegistryError, Result, files, sign};

/// The name of the file, in the folder of the project.
pub const FILE: &str = "swift.lock";
const LARGEST: u64 = 1 << 20;
const MOST_PLUGINS: usize = 1000;
const MOST_CONTRACTS: usize = 64;
const FORMAT: i64 = 1;

/// One plugin, to the byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// sha256 of the component, in hex.
    pub digest: String,
    /// Where it can be fetched again.
    pub source: Place,
    /// What an update may move to; any release when there is none.
    pub requirement: Option<VersionReq>,
    /// The contracts it was built for.
    pub contracts: Vec<Contract>,
    /// The public key whose signature was verified, if it was signed.
    pub signer: Option<String>,
}

/// A project's `swift.lock`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    entries: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLock {
    version: i64,
    #[serde(default)]
    plugin: Vec<RawEntry>,
}

/// An [`Entry`] as the file has it, before anything is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawEntry {
    name: String,
    version: String,
    digest: String,
    source: String,
    requirement: Option<String>,
    #[serde(default)]
    contracts: Vec<String>,
    signer: Option<String>,
}

impl Lock {
    /// Reads the text of a `swift.lock`.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let raw: RawLock = toml::from_str(text).map_err(|error| clean(&error.to_string(), 300))?;
        if raw.version != FORMAT {
            return Err(format!("it has format {}, this swift reads format {FORMAT}", raw.version));
        }
        if raw.plugin.len() > MOST_PLUGINS {
            return Err(format!("it has {} plugins; at most {MOST_PLUGINS} are read", raw.plugin.len()));
        }
        let mut lock = Self::default();
        for raw in raw.plugin {
            let entry = raw.check()?;
            if let Some(double) = lock.entries.insert(entry.name.clone(), entry) {
                return Err(format!("it has `{}` twice", double.name));
            }
        }
        Ok(lock)
    }

    /// Reads `swift.lock` at `path`, if there is one.
    ///
    /// # Errors
    /// When it cannot be read or is damaged.
    pub fn load(path: &Path) -> Result<Option<Self>> {
        let Some(text) = files::read_text(path, LARGEST)? else { return Ok(None) };
        let hint = "take it from version control again, or delete it and run `swift plugin lock`";
        let damaged = |what| RegistryError::File { path: path.into(), what, hint };
        let lock = Self::parse(&text).map_err(damaged)?;
        let folder = folder_of(path);
        let entries = lock.entries.into_iter().map(|(name, entry)| {
            let source = entry.source.within(&folder);
            (name, Entry { source, ..entry })
        });
        Ok(Some(Self { entries: entries.collect() }))
    }

    /// Writes `swift.lock`; readers see the old or the new one whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let folder = folder_of(path);
        let mut text = String::from(
            "# Written by `swift plugin`. Keep it in version control: a run refuses other bytes than these.\n",
        );
        let _ = writeln!(text, "version = {FORMAT}");
        for entry in self.entries.values() {
            let source = entry.source.relative_to(&folder);
            text.push_str("\n[[plugin]]\n");
            write_entry(&mut text, &Entry { source, ..entry.clone() });
        }
        files::write_atomically(path, text.as_bytes())
    }

    /// All plugins, by name.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The plugin of this name.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// Adds a plugin, or replaces the one of its name.
    pub fn set(&mut self, entry: Entry) {
        self.entries.insert(entry.name.clone(), entry);
    }

    /// Takes a plugin out.
    pub fn remove(&mut self, name: &str) -> Option<Entry> {
        self.entries.remove(name)
    }
}

impl RawEntry {
    pub(crate) fn check(self) -> std::result::Result<Entry, String> {
        check_name(&self.name).map_err(|error| error.to_string())?;
        let name = self.name;
        let wrong = |field: &str, value: &str| format!("`{name}` has a wrong {field}: {}", clean(value, 80));
        let version = Version::parse(&self.version).map_err(|_| wrong("version", &self.version))?;
        let digest = self.digest.strip_prefix("sha256:").filter(|digest| is_digest(digest));
        let digest = digest.ok_or_else(|| wrong("digest", &self.digest))?.to_owned();
        let source = Place::parse(&self.source).map_err(|_| wrong("source", &self.source))?;
        let requirement = match &self.requirement {
            Some(text) => Some(VersionReq::parse(text).map_err(|_| wrong("requirement", text))?),
            None => None,
        };
        if self.contracts.len() > MOST_CONTRACTS {
            return Err(wrong("contracts", "too many"));
        }
        let contract = |text: &String| parse_contract(text).ok_or_else(|| wrong("contract", text));
        let contracts = self.contracts.iter().map(contract).collect::<std::result::Result<_, _>>()?;
        if let Some(signer) = self.signer.as_ref().filter(|signer| sign::check_key(signer).is_err()) {
            return Err(wrong("signer", signer));
        }
        Ok(Entry { name, version, digest, source, requirement, contracts, signer: self.signer })
    }
}

/// `swift:reward@0.1.0`.
pub(crate) fn parse_contract(text: &str) -> Option<Contract> {
    let (package, version) = text.split_once('@')?;
    let (namespace, name) = package.split_once(':')?;
    let word = |word: &str| {
        !word.is_empty()
            && word.len() <= 64
            && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let version = Version::parse(version).ok().filter(|_| text.len() <= 200)?;
    (word(namespace) && word(name)).then(|| Contract { package: package.into(), version })
}

/// A text as TOML writes it: as JSON does, but for one character.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

/// Adds the fields of an entry.
pub(crate) fn write_entry(text: &mut String, entry: &Entry) {
    let _ = writeln!(text, "name = \"{}\"\nversion = \"{}\"", entry.name, entry.version);
    let _ = writeln!(text, "digest = \"sha256:{}\"\nsource = {}", entry.digest, quoted(&entry.source.to_string()));
    if let Some(requirement) = &entry.requirement {
        let _ = writeln!(text, "requirement = \"{requirement}\"");
    }
    let contracts: Vec<String> = entry.contracts.iter().map(|c| format!("\"{}@{}\"", c.package, c.version)).collect();
    let _ = writeln!(text, "contracts = [{}]", contracts.join(", "));
    if let Some(signer) = &entry.signer {
        let _ = writeln!(text, "signer = \"{signer}\"");
    }
}

/// The folder that a file's relative paths start from.
fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::path::absolute(folder).unwrap_or_else(|_| folder.into())
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;

    pub(crate) const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";

    fn text() -> String {
        let digest = "0a".repeat(32);
        format!(
            "version = 1\n\n[[plugin]]\nname = \"polite\"\nversion = \"0.1.0\"\ndigest = \"sha256:{digest}\"\n\
             source = \"oci://localhost:5000/plugins/polite\"\nrequirement = \"^0.1\"\ncontracts = [\"swift:reward@0.1.0\"]\nsigner = \"{KEY}\"\n"
        )
    }

    #[test]
    fn what_is_written_is_read_and_written_alike() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(Lock::load(&path).unwrap(), None);
        let mut lock = Lock::parse(&text()).unwrap();
        let mut local = lock.get("polite").unwrap().clone();
        local.name = "a-local".into();
        local.source = Place::Folder(folder.path().join("plugins \"quoted\" ü"));
        lock.set(local);
        lock.save(&path).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        assert!(first.contains("source = \"folder:plugins \\\"quoted\\\" ü\""), "{first}");
        assert!(first.find("a-local") < first.find("polite"), "{first}");
        let read = Lock::load(&path).unwrap().unwrap();
        assert_eq!(read, lock);
        read.save(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
        // Nothing else is left behind.
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let text = text();
        let twice = format!("{text}{}", text.split_once("\n\n").unwrap().1);
        for (text, part) in [
            (text.replace("version = 1\n", "version = 2\n"), "format 2"),
            (text.replace("version = 1\n", ""), "version"),
            (text.replace("\"polite\"", "\"../polite\""), "names no plugin"),
            (text.replace("\"0.1.0\"", "\"one\""), "wrong version"),
            (text.replace("sha256:0a", "sha256:0A"), "wrong digest"),
            (text.replace("sha256:", "md5:"), "wrong digest"),
            (text.replace("oci://", "https://"), "wrong source"),
            (text.replace("^0.1", "new"), "wrong requirement"),
            (text.replace("swift:reward@", "reward@"), "wrong contract"),
            (text.replace(KEY, "RWx"), "wrong signer"),
            (text.replace("source", "origin"), "origin"),
            (twice, "twice"),
            ("version = 1\nplugin = 3\n".into(), "plugin"),
        ] {
            let what = Lock::parse(&text).expect_err(&text);
            assert!(what.contains(part), "{what}");
        }
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let good = text().into_bytes();
        for _ in 0..3000 {
            let mut bad = good.clone();
            for _ in 0..rand::rng().random_range(1..4) {
                let at = rand::rng().random_range(0..bad.len());
                match rand::rng().random_range(0..3) {
                    0 => bad[at] = rand::random(),
                    1 => bad.truncate(at.max(1)),
                    _ => bad.insert(at, b"\"[]=\n\\{}"[rand::rng().random_range(0..8)]),
                }
            }
            if let Ok(lock) = Lock::parse(&String::from_utf8_lossy(&bad)) {
                assert!(lock.entries().all(|entry| swift_plugin::valid_name(&entry.name)));
            }
        }
    }
}
