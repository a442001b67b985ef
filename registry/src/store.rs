//! The user's plugins on disk: `NAME.wasm`, which runs load, and `.store/` beside them with what was fetched and verified.
//!
//! Only one process changes a store at a time. A component is first written down as verified, then moved to its place in one
//! step: whenever it is stopped, what lies there is the old or the new plugin, and either is known.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use swift_plugin::clean;

use crate::lock::{Entry, RawEntry, quoted, write_entry};
use crate::name::check_name;
use crate::sign::{self, LARGEST_SIGNATURE, Signed};
use crate::wasm::LARGEST_COMPONENT;
use crate::{RegistryError, Result, files};

const HIDDEN: &str = ".store";
const FORMAT: i64 = 1;
const LARGEST_INDEX: u64 = 16 << 20;
const REPAIR: &str = "delete this file; then install the plugins again with `swift plugin add`";

/// A folder of installed plugins.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// A store that only this process changes, as long as this value lives.
#[derive(Debug)]
pub(crate) struct Guard<'a> {
    store: &'a Store,
    /// The lock goes with the file.
    _file: File,
}

/// An installed plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its name.
    pub name: String,
    /// The file that runs load.
    pub path: PathBuf,
    /// What was installed, or the sha256 of bytes that nobody installed.
    pub entry: std::result::Result<Entry, String>,
}

/// A component that was fetched and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) entry: Entry,
    pub(crate) signed: Option<Signed>,
}

/// What the store knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// Names whose file this store owns.
    pub(crate) installed: BTreeSet<String>,
    /// The key that signs each name, since it was first seen.
    pub(crate) keys: BTreeMap<String, String>,
    /// Everything verified, the newest last.
    pub(crate) known: Vec<Known>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIndex {
    version: i64,
    #[serde(default)]
    installed: BTreeSet<String>,
    #[serde(default)]
    keys: BTreeMap<String, String>,
    #[serde(default)]
    known: Vec<RawKnown>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKnown {
    signature: Option<String>,
    key: Option<String>,
    plugin: RawEntry,
}

impl Store {
    /// The store in a folder, which need not exist yet.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder of the components.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn hidden(&self, name: &str) -> PathBuf {
        self.folder.join(HIDDEN).join(name)
    }

    /// The file of an installed plugin.
    fn component(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.wasm"))
    }

    /// Where a verified component is kept, by its digest.
    fn blob(&self, digest: &str) -> PathBuf {
        self.hidden("components").join(format!("{digest}.wasm"))
    }

    /// Reads what the store knows; a new store knows nothing.
    pub(crate) fn index(&self) -> Result<Index> {
        let path = self.hidden("index.toml");
        let Some(text) = files::read_text(&path, LARGEST_INDEX)? else { return Ok(Index::default()) };
        Index::parse(&text).map_err(|what| RegistryError::File { path, what, hint: REPAIR })
    }

    /// All installed plugins, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn installed(&self) -> Result<Vec<Installed>> {
        let index = self.index()?;
        let mut found = Vec::new();
        for name in &index.installed {
            let path = self.component(name);
            // Without its file it is not installed: somebody deleted it, or an installation never got so far.
            let Some(bytes) = files::read(&path, LARGEST_COMPONENT)? else { continue };
            let digest = files::sha256(&bytes);
            let entry = index.find(name, &digest).map(|known| known.entry.clone()).ok_or(digest);
            found.push(Installed { name: name.clone(), path, entry });
        }
        Ok(found)
    }

    /// Makes this process the only one that changes the store; `waiting` is called when another one does at the moment.
    pub(crate) fn lock(&self, waiting: impl FnOnce()) -> Result<Guard<'_>> {
        for folder in [self.hidden("components"), self.hidden("partial")] {
            fs::create_dir_all(&folder).map_err(RegistryError::io("create", &folder))?;
        }
        let path = self.hidden("lock");
        let failed = || RegistryError::io("lock", &path);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock().map_err(failed())?;
            }
            Err(TryLockError::Error(error)) => return Err(failed()(error)),
        }
        Ok(Guard { store: self, _file: file })
    }
}

impl Guard<'_> {
    pub(crate) fn store(&self) -> &Store {
        self.store
    }

    /// The component with this digest, if it was fetched before and is still what it was.
    pub(crate) fn cached(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let path = self.store.blob(digest);
        let Some(bytes) = files::read(&path, LARGEST_COMPONENT)? else { return Ok(None) };
        if files::sha256(&bytes) == digest {
            return Ok(Some(bytes));
        }
        fs::remove_file(&path).map_err(RegistryError::io("remove", &path))?;
        Ok(None)
    }

    /// The download of the component with this digest, as far as it got.
    pub(crate) fn partial(&self, digest: &str) -> Result<Partial> {
        Partial::open(self.store.hidden("partial").join(digest))
    }

    /// Installs a verified component under its name. `key` is remembered as the name's signer.
    pub(crate) fn install(&self, known: Known, component: &[u8]) -> Result<PathBuf> {
        let Entry { name, digest, signer, .. } = &known.entry;
        let mut index = self.store.index()?;
        let path = self.store.component(name);
        if !index.installed.contains(name)
            && let Some(there) = files::read(&path, LARGEST_COMPONENT)?
            && files::sha256(&there) != *digest
        {
            return Err(RegistryError::Occupied { path });
        }
        let blob = self.store.blob(digest);
        if self.cached(digest)?.is_none() {
            files::write_atomically(&blob, component)?;
        }
        index.installed.insert(name.clone());
        if let Some(signer) = signer {
            index.keys.insert(name.clone(), signer.clone());
        }
        let same = |other: &Known| {
            let (a, b) = (&other.entry, &known.entry);
            (&a.name, &a.version, &a.digest, &a.source) == (&b.name, &b.version, &b.digest, &b.source)
        };
        index.known.retain(|other| !same(other));
        index.known.push(known.clone());
        self.save(&index)?;
        files::write_atomically(&path, component)?;
        Ok(path)
    }

    /// Removes an installed plugin and what was fetched of it. Its signer stays known unless `forget_key`.
    pub(crate) fn remove(&self, name: &str, forget_key: bool) -> Result<()> {
        let mut index = self.store.index()?;
        let path = self.store.component(name);
        if index.installed.contains(name) {
            remove_file(&path)?;
        }
        let (gone, kept): (Vec<_>, Vec<_>) = index.known.into_iter().partition(|known| known.entry.name == name);
        index.known = kept;
        index.installed.remove(name);
        if forget_key {
            index.keys.remove(name);
        }
        self.save(&index)?;
        for Known { entry, .. } in gone {
            if index.known.iter().all(|other| other.entry.digest != entry.digest) {
                remove_file(&self.store.blob(&entry.digest))?;
            }
        }
        Ok(())
    }

    fn save(&self, index: &Index) -> Result<()> {
        files::write_atomically(&self.store.hidden("index.toml"), index.text().as_bytes())
    }
}

impl Index {
    /// The newest entry of a name with these bytes.
    pub(crate) fn find(&self, name: &str, digest: &str) -> Option<&Known> {
        self.known.iter().rev().find(|known| known.entry.name == name && known.entry.digest == digest)
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let raw: RawIndex = toml::from_str(text).map_err(|error| clean(&error.to_string(), 300))?;
        if raw.version != FORMAT {
            return Err(format!("it has format {}, this swift reads format {FORMAT}", raw.version));
        }
        for name in raw.installed.iter().chain(raw.keys.keys()) {
            check_name(name).map_err(|error| error.to_string())?;
        }
        if let Some((name, _)) = raw.keys.iter().find(|(_, key)| sign::check_key(key).is_err()) {
            return Err(format!("the key of `{name}` is none"));
        }
        let known = raw.known.into_iter().map(|raw| {
            let signed = raw.signature.filter(|text| text.len() <= LARGEST_SIGNATURE);
            let signed = signed.map(|signature| Signed { signature, key: raw.key });
            Ok(Known { entry: raw.plugin.check()?, signed })
        });
        Ok(Self { known: known.collect::<std::result::Result<_, String>>()?, installed: raw.installed, keys: raw.keys })
    }

    fn text(&self) -> String {
        let names: Vec<String> = self.installed.iter().map(|name| format!("\"{name}\"")).collect();
        let mut text = format!("version = {FORMAT}\ninstalled = [{}]\n\n[keys]\n", names.join(", "));
        for (name, key) in &self.keys {
            let _ = writeln!(text, "{name} = \"{key}\"");
        }
        for Known { entry, signed } in &self.known {
            text.push_str("\n[[known]]\n");
            if let Some(signed) = signed {
                let _ = writeln!(text, "signature = {}", quoted(&signed.signature));
                if let Some(key) = &signed.key {
                    let _ = writeln!(text, "key = {}", quoted(key));
                }
            }
            text.push_str("[known.plugin]\n");
            write_entry(&mut text, entry);
        }
        text
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(RegistryError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A download that may have been stopped and goes on.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    have: u64,
}

impl Partial {
    fn open(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
        let mut file = file.map_err(RegistryError::io("write", &path))?;
        let (mut hasher, mut have, mut buffer) = (Sha256::new(), 0, vec![0; 64 << 10]);
        loop {
            let count = file.read(&mut buffer).map_err(RegistryError::io("read", &path))?;
            if count == 0 {
                return Ok(Self { path, file, hasher, have });
            }
            hasher.update(&buffer[..count]);
            have += count as u64;
        }
    }

    /// Bytes that are there.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Forgets everything.
    pub(crate) fn restart(&mut self) -> Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(RegistryError::io("write", &self.path))?;
        (self.hasher, self.have) = (Sha256::new(), 0);
        Ok(())
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(RegistryError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    /// The whole, if it has this digest; else the digest that it has. The file goes either way.
    pub(crate) fn finish(self, digest: &str) -> Result<std::result::Result<Vec<u8>, String>> {
        let found = files::hex(&self.hasher.finalize());
        let bytes = if found == digest { files::read(&self.path, LARGEST_COMPONENT)? } else { None };
        remove_file(&self.path)?;
        // Read back from disk: what is used is what was hashed.
        Ok(bytes.filter(|bytes| files::sha256(bytes) == digest).ok_or(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Place;

    fn known(name: &str, version: &str, component: &[u8]) -> Known {
        let entry = Entry {
            name: name.into(),
            version: version.parse().unwrap(),
            digest: files::sha256(component),
            source: Place::Oci("localhost:5000/p/polite".parse().unwrap()),
            requirement: None,
            contracts: Vec::new(),
            signer: None,
        };
        let signed = Signed { signature: "one\ntwo \"quoted\"\\\n".into(), key: None };
        Known { entry, signed: Some(signed) }
    }

    fn versions(store: &Store) -> Vec<String> {
        let shown = |plugin: Installed| match plugin.entry {
            Ok(entry) => format!("{} {}", plugin.name, entry.version),
            Err(_) => format!("{} changed", plugin.name),
        };
        store.installed().unwrap().into_iter().map(shown).collect()
    }

    #[test]
    fn what_lies_there_is_always_known() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("plugins"));
        assert_eq!(versions(&store), Vec::<String>::new());
        let guard = store.lock(|| panic!("nobody else is here")).unwrap();
        let path = guard.install(known("polite", "0.1.0", b"one"), b"one").unwrap();
        assert_eq!((versions(&store), fs::read(&path).unwrap()), (vec!["polite 0.1.0".into()], b"one".to_vec()));
        assert_eq!(Index::parse(&store.index().unwrap().text()).unwrap(), store.index().unwrap());

        // Stopped between its two steps, an update leaves the old plugin; after them, the new one.
        guard.install(known("polite", "0.2.0", b"two"), b"two").unwrap();
        assert_eq!(versions(&store), ["polite 0.2.0"]);
        files::write_atomically(&path, b"one").unwrap();
        assert_eq!(versions(&store), ["polite 0.1.0"]);
        // Other bytes were installed by nobody.
        files::write_atomically(&path, b"evil").unwrap();
        assert_eq!(versions(&store), ["polite changed"]);

        assert_eq!(guard.cached(&files::sha256(b"one")).unwrap().unwrap(), b"one");
        fs::write(store.blob(&files::sha256(b"one")), b"evil").unwrap();
        assert_eq!(guard.cached(&files::sha256(b"one")).unwrap(), None);

        guard.remove("polite", false).unwrap();
        assert_eq!((versions(&store).len(), path.exists()), (0, false));
        assert_eq!(fs::read_dir(store.hidden("components")).unwrap().count(), 0);
    }

    #[test]
    fn a_file_of_the_user_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        fs::write(folder.path().join("polite.wasm"), b"mine").unwrap();
        let guard = store.lock(|| ()).unwrap();
        let error = guard.install(known("polite", "0.1.0", b"one"), b"one").unwrap_err();
        assert!(matches!(error, RegistryError::Occupied { .. }), "{error}");
        guard.remove("polite", false).unwrap();
        assert_eq!(fs::read(folder.path().join("polite.wasm")).unwrap(), b"mine");
    }

    #[test]
    fn a_stopped_download_goes_on_and_a_wrong_one_goes() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        let guard = store.lock(|| ()).unwrap();
        let digest = files::sha256(b"component");
        guard.partial(&digest).unwrap().append(b"comp").unwrap();
        let mut partial = guard.partial(&digest).unwrap();
        assert_eq!(partial.have(), 4);
        partial.append(b"onent").unwrap();
        assert_eq!(partial.finish(&digest).unwrap().unwrap(), b"component");
        guard.partial(&digest).unwrap().append(b"something else").unwrap();
        let found = guard.partial(&digest).unwrap().finish(&digest).unwrap().unwrap_err();
        assert_eq!(found, files::sha256(b"something else"));
        assert_eq!(guard.partial(&digest).unwrap().have(), 0);
    }

    #[test]
    fn a_damaged_index_is_said_to_be() {
        for text in [
            "",
            "version = 2",
            "version = 1\ninstalled = [\"../x\"]",
            "version = 1\n[keys]\na = \"RW\"",
            "version = 1\n[[known]]\n",
        ] {
            assert!(Index::parse(text).is_err(), "{text}");
        }
    }
}
