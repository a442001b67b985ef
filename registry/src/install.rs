//! Installing, updating, removing, checking: what the commands do, on one store, one registry and at most one `swift.lock`.
//!
//! A plugin goes the same way from wherever it comes: chosen, fetched, its digest compared, its edge inspected, its name and
//! version compared, its signature verified, and only then installed and locked.

use std::path::PathBuf;

use semver::{Version, VersionReq};
use swift_plugin::{Contract, Inspection, inspect, served, serves};

use crate::lock::{Entry, Lock};
use crate::name::{Place, Reference, Repository, Wanted, check_name};
use crate::oci::Client;
use crate::resolve::{Choice, Subject, resolve};
use crate::sign::{self, Claim, Signed};
use crate::source::{self, Described, Listed};
use crate::store::{Guard, Installed, Known, Store};
use crate::{Registry, RegistryError, Result};

/// What the user said about signatures.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Only these keys; the ones seen first where there are none.
    pub keys: Vec<String>,
    /// Whether a plugin without a signature is refused.
    pub require_signed: bool,
}

/// What happens meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another process changes the store; this one waits for it.
    Waiting,
    /// Bytes of a plugin came.
    Fetching { name: String, done: u64, total: u64 },
    /// Something that the user should know.
    Note(String),
}

/// What was done to one plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// The version that was installed.
    pub before: Option<Version>,
    /// What is installed now; nothing when it was removed.
    pub after: Option<Entry>,
    /// Whether anything changed.
    pub changed: bool,
}

/// How a plugin stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Its name.
    pub name: String,
    /// What is installed, if it is what was installed.
    pub entry: Option<Entry>,
    /// What is wrong; nothing when all is well.
    pub problems: Vec<String>,
}

/// Everything that a command works with.
pub struct Session<'a> {
    /// The user's plugins.
    pub store: Store,
    /// How registries are asked.
    pub client: Client,
    /// Where plain names are looked up.
    pub registry: Option<Registry>,
    /// Whose plugins are taken.
    pub trust: Trust,
    /// Whether only what was fetched before may be used.
    pub offline: bool,
    /// Where the project's `swift.lock` is or would be.
    pub project: PathBuf,
    /// Whether `swift.lock` must stay as it is.
    pub locked: bool,
    /// Is told what happens.
    pub observer: &'a mut dyn FnMut(Event),
}

/// A plugin on its way into the store.
struct Target {
    name: String,
    described: Described,
    requirement: Option<VersionReq>,
    /// Whose signature it must have, by `swift.lock`.
    signer: Option<String>,
}

impl Session<'_> {
    /// Installs what the references mean.
    ///
    /// # Errors
    /// The first that cannot be installed; those before it are installed whole.
    pub fn add(&mut self, references: &[Reference]) -> Result<Vec<Change>> {
        let store = self.store.clone();
        let guard = self.lock(&store)?;
        let mut changes = Vec::new();
        for reference in references {
            for target in self.targets(&store, reference)? {
                changes.push(self.install(&guard, target)?);
            }
        }
        Ok(changes)
    }

    /// Installs exactly what `swift.lock` says.
    ///
    /// # Errors
    /// When there is none, or something can no longer be had as it was.
    pub fn add_locked(&mut self) -> Result<Vec<Change>> {
        let store = self.store.clone();
        let lock = self.project_lock()?.ok_or_else(|| self.no_lock())?;
        let guard = self.lock(&store)?;
        let mut changes = Vec::new();
        for entry in lock.entries() {
            // What was verified before is enough only while its bytes are still here, or nothing else can be had.
            let here = self.offline || guard.cached(&entry.digest)?.is_some();
            let described = match self.known(&store, entry)?.filter(|_| here) {
                Some(described) => described,
                None => self.describe(&store, &entry.source, &entry.name, &entry.version)?,
            };
            if described.digest != entry.digest {
                return Err(differs(entry, &entry.version, &described.digest));
            }
            let described = Described { version: Some(entry.version.clone()), ..described };
            let (requirement, signer) = (entry.requirement.clone(), entry.signer.clone());
            changes.push(self.install(&guard, Target { name: entry.name.clone(), described, requirement, signer })?);
        }
        Ok(changes)
    }

    /// Moves installed plugins to the newest version that their requirement and this swift allow; all of them when `names`
    /// is empty.
    ///
    /// # Errors
    /// When a name is not installed or a newer version cannot be installed.
    pub fn update(&mut self, names: &[String]) -> Result<Vec<Change>> {
        let store = self.store.clone();
        let guard = self.lock(&store)?;
        let mut changes = Vec::new();
        for plugin in chosen(store.installed()?, names)? {
            let name = plugin.name;
            let Ok(entry) = plugin.entry else {
                (self.observer)(Event::Note(format!(
                    "`{name}` was changed by hand and stays; add it again to replace it"
                )));
                continue;
            };
            let target = match &entry.source {
                Place::Pinned(..) => {
                    (self.observer)(Event::Note(format!("`{name}` was installed by digest and stays")));
                    continue;
                }
                Place::File(path) if !path.exists() => {
                    (self.observer)(Event::Note(format!(
                        "`{name}` came from {}, which is gone, and stays",
                        path.display()
                    )));
                    continue;
                }
                Place::File(_) => {
                    let described = self.describe(&store, &entry.source, &name, &entry.version)?;
                    Target { name: name.clone(), described, requirement: None, signer: None }
                }
                place => {
                    let target = self.newest(&store, place.clone(), &name, entry.requirement.clone())?;
                    if target.described.version.as_ref().is_some_and(|version| *version < entry.version) {
                        (self.observer)(Event::Note(format!(
                            "`{name}` {} is newer than what is published and stays",
                            entry.version
                        )));
                        continue;
                    }
                    target
                }
            };
            changes.push(self.install(&guard, target)?);
        }
        Ok(changes)
    }

    /// Removes installed plugins with what was fetched of them.
    ///
    /// # Errors
    /// When a name is not installed; then nothing is removed.
    pub fn remove(&mut self, names: &[String], forget_key: bool) -> Result<Vec<Change>> {
        let store = self.store.clone();
        let guard = self.lock(&store)?;
        let installed = if names.is_empty() { Vec::new() } else { chosen(store.installed()?, names)? };
        let mut changes = Vec::new();
        for plugin in installed {
            if let Some(mut lock) = self.project_lock()?
                && lock.remove(&plugin.name).is_some()
            {
                self.save_lock(&lock, &format!("without `{}`", plugin.name))?;
            }
            guard.remove(&plugin.name, forget_key)?;
            let before = plugin.entry.ok().map(|entry| entry.version);
            changes.push(Change { name: plugin.name, before, after: None, changed: true });
        }
        Ok(changes)
    }

    /// Writes `swift.lock` from what is installed.
    ///
    /// # Errors
    /// When an installed file is not what was installed, or the lock may not change and would.
    pub fn write_lock(&mut self) -> Result<Lock> {
        let mut lock = Lock::default();
        for plugin in self.store.installed()? {
            match plugin.entry {
                Ok(entry) => lock.set(entry),
                Err(found) => return Err(RegistryError::Tampered { name: plugin.name, path: plugin.path, found }),
            }
        }
        if self.project_lock()?.is_none_or(|before| before != lock) {
            self.save_lock(&lock, "to what is installed")?;
        }
        Ok(lock)
    }

    /// Compares what is installed with what was verified, with its signatures, and with `swift.lock`.
    ///
    /// # Errors
    /// When the store or the lock cannot be read. What is wrong with a plugin is a problem, not an error.
    pub fn verify(&self) -> Result<Vec<Health>> {
        let index = self.store.index()?;
        let lock = self.project_lock()?.unwrap_or_default();
        let mut found = Vec::new();
        for Installed { name, path, entry } in self.store.installed()? {
            let mut problems = Vec::new();
            match &entry {
                Err(digest) => problems.push(format!("its file is not what was installed (sha256:{digest})")),
                Ok(entry) => {
                    let bytes = crate::files::read(&path, crate::LARGEST_COMPONENT)?.unwrap_or_default();
                    if let Err(error) = inspect(&name, &bytes) {
                        problems.push(error.to_string());
                    }
                    let signed = index.find(&name, &entry.digest).and_then(|known| known.signed.as_ref());
                    let trust = self.trusted(index.keys.get(&name).or(entry.signer.as_ref()));
                    let local = matches!(entry.source, Place::File(_));
                    if let Err(error) = check_signature(&self.trust, &bytes, claim(entry), signed, &trust, local) {
                        problems.push(error.to_string());
                    }
                    if let Some(locked) = lock.get(&name).filter(|locked| locked.digest != entry.digest) {
                        problems.push(differs(locked, &entry.version, &entry.digest).to_string());
                    }
                }
            }
            found.push(Health { name, entry: entry.ok(), problems });
        }
        for entry in lock
            .entries()
            .filter(|entry| found.iter().all(|health| health.name != entry.name))
            .cloned()
            .collect::<Vec<_>>()
        {
            let problems = vec!["swift.lock has it, and it is not installed".into()];
            found.push(Health { name: entry.name, entry: None, problems });
        }
        Ok(found)
    }

    /// The plugins of the registry whose name or summary has `query`, and whether all were looked at.
    ///
    /// # Errors
    /// When no registry is set, it cannot be reached, or it does not list what it has.
    pub fn search(&self, query: &str) -> Result<(Vec<Listed>, bool)> {
        let registry = self.registry.as_ref().ok_or(RegistryError::NoRegistry)?;
        if self.offline && matches!(registry, Registry::Oci { .. }) {
            return Err(RegistryError::Offline { what: format!("the list of {registry}") });
        }
        registry.search(query, &self.client)
    }

    /// All versions of what a reference means, newest first, and what would be installed.
    ///
    /// # Errors
    /// When it cannot be found, or nothing of it fits this swift.
    pub fn info(&mut self, reference: &Reference) -> Result<Vec<(String, Vec<Version>, Described)>> {
        let store = self.store.clone();
        let mut found = Vec::new();
        for target in self.targets(&store, reference)? {
            let versions = self.versions(&store, &target.described.source, &target.name)?;
            let mut versions = versions.unwrap_or_default();
            versions.sort_by(|a, b| b.cmp(a));
            found.push((target.name, versions, target.described));
        }
        Ok(found)
    }

    fn lock<'s>(&mut self, store: &'s Store) -> Result<Guard<'s>> {
        store.lock(|| (self.observer)(Event::Waiting))
    }

    fn project_lock(&self) -> Result<Option<Lock>> {
        Lock::load(&self.project)
    }

    fn no_lock(&self) -> RegistryError {
        let folder = self.project.parent().filter(|folder| !folder.as_os_str().is_empty());
        RegistryError::NoLock { folder: folder.map_or_else(|| ".".into(), Into::into) }
    }

    fn save_lock(&self, lock: &Lock, what: &str) -> Result<()> {
        if self.locked { Err(RegistryError::Locked { what: what.into() }) } else { lock.save(&self.project) }
    }

    /// What a reference means, chosen but not fetched.
    fn targets(&mut self, store: &Store, reference: &Reference) -> Result<Vec<Target>> {
        match reference {
            Reference::Name { name, requirement } => {
                let place = self.registry.as_ref().ok_or(RegistryError::NoRegistry)?.place(name)?;
                Ok(vec![self.newest(store, place, name, requirement.clone())?])
            }
            Reference::Oci { repository, wanted } => Ok(vec![self.oci_target(store, repository, wanted)?]),
            Reference::Path(path) => {
                let path = std::path::absolute(path).map_err(RegistryError::io("find", path))?;
                let mut paths = vec![path.clone()];
                if path.is_dir() {
                    let entries = std::fs::read_dir(&path).map_err(RegistryError::io("list", &path))?;
                    paths = entries.flatten().map(|entry| entry.path()).collect();
                    paths
                        .retain(|path| path.extension().is_some_and(|extension| extension == "wasm") && path.is_file());
                    paths.sort();
                    if paths.is_empty() {
                        let (given, what) = (path.display().to_string(), "the folder holds no .wasm file".into());
                        return Err(RegistryError::Reference { given, what });
                    }
                }
                paths.into_iter().map(|path| self.file_target(store, path)).collect()
            }
        }
    }

    fn file_target(&mut self, store: &Store, path: PathBuf) -> Result<Target> {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let bytes = crate::files::read(&path, crate::LARGEST_COMPONENT)?;
        let bytes = bytes.ok_or_else(|| RegistryError::io("read", &path)(std::io::ErrorKind::NotFound.into()))?;
        let Inspection { name, version, .. } = inspect(&stem, &bytes)?;
        check_name(&name)?;
        let described = self.describe(store, &Place::File(path), &name, &version)?;
        let described = Described { version: Some(version), ..described };
        Ok(Target { name, described, requirement: None, signer: None })
    }

    fn oci_target(&mut self, store: &Store, repository: &Repository, wanted: &Wanted) -> Result<Target> {
        let name = repository.name()?.to_owned();
        let reference = match wanted {
            Wanted::Version(requirement) => {
                return self.newest(store, Place::Oci(repository.clone()), &name, requirement.clone());
            }
            Wanted::Tag(tag) => tag.clone(),
            Wanted::Digest(digest) => format!("sha256:{digest}"),
        };
        if self.offline {
            let pinned = Place::Pinned(repository.clone(), reference.trim_start_matches("sha256:").into());
            let index = store.index()?;
            let known = index.known.iter().rev().find(|known| known.entry.source == pinned);
            let known =
                known.ok_or_else(|| RegistryError::Offline { what: format!("oci://{repository} {reference}") })?;
            return Ok(Target { name, described: remembered(known), requirement: None, signer: None });
        }
        let missing = || RegistryError::NoVersion {
            place: repository.to_string(),
            name: name.clone(),
            wanted: reference.clone(),
            versions: Vec::new(),
        };
        let (digest, artifact) = source::artifact(repository, &reference, &self.client)?.ok_or_else(missing)?;
        // A tag that is no version may move: what it is on now is what is installed and locked.
        let version = Version::parse(&reference).ok();
        let place = match version {
            Some(_) => Place::Oci(repository.clone()),
            None => Place::Pinned(repository.clone(), digest),
        };
        let described = source::of_artifact(repository, artifact, version, place, &self.client)?;
        Ok(Target { name, described, requirement: None, signer: None })
    }

    /// The newest version of `name` at a place that may be installed.
    fn newest(&mut self, store: &Store, place: Place, name: &str, requirement: Option<VersionReq>) -> Result<Target> {
        let shown = place.to_string();
        let versions = self.versions(store, &place, name)?;
        let versions = versions.ok_or_else(|| RegistryError::NoPlugin { place: shown.clone(), name: name.into() })?;
        let choice = resolve(
            Subject { name, place: &shown },
            requirement.as_ref(),
            &versions,
            |version| self.describe(store, &place, name, version),
            |described| &described.contracts,
            this_swift_has,
        )?;
        let Choice { version, found, passed_over } = choice;
        if let Some((newer, contract)) = passed_over.first() {
            let text = format!("`{name}` {newer} needs {contract}, which this swift does not have: {version} is used");
            (self.observer)(Event::Note(text));
        }
        Ok(Target { name: name.into(), described: found, requirement, signer: None })
    }

    fn versions(&self, store: &Store, place: &Place, name: &str) -> Result<Option<Vec<Version>>> {
        if !self.asks(place) {
            return place.versions(name, &self.client);
        }
        let index = store.index()?;
        let known = index.known.iter().filter(|known| known.entry.name == name && known.entry.source == *place);
        let versions: Vec<Version> = known.map(|known| known.entry.version.clone()).collect();
        if versions.is_empty() { Err(RegistryError::Offline { what: place.to_string() }) } else { Ok(Some(versions)) }
    }

    fn describe(&self, store: &Store, place: &Place, name: &str, version: &Version) -> Result<Described> {
        if !self.asks(place) {
            return place.describe(name, version, &self.client);
        }
        let index = store.index()?;
        let fits = |known: &&Known| {
            known.entry.name == name && known.entry.source == *place && known.entry.version == *version
        };
        let known = index.known.iter().rev().find(fits);
        known.map(remembered).ok_or_else(|| RegistryError::Offline { what: format!("{place} {version}") })
    }

    /// Whether a place would have to be asked over the network, and must not be.
    fn asks(&self, place: &Place) -> bool {
        self.offline && matches!(place, Place::Oci(_) | Place::Pinned(..))
    }

    /// What is known of a locked plugin without asking anybody.
    fn known(&self, store: &Store, entry: &Entry) -> Result<Option<Described>> {
        let index = store.index()?;
        let mut known = index.known.iter().rev();
        let fits = |known: &&Known| {
            let (a, b) = (&known.entry, entry);
            (&a.name, &a.version, &a.digest, &a.source) == (&b.name, &b.version, &b.digest, &b.source)
        };
        Ok(known.find(fits).map(remembered))
    }

    /// Fetches, verifies and installs.
    fn install(&mut self, guard: &Guard<'_>, target: Target) -> Result<Change> {
        let Target { name, described, requirement, signer } = target;
        let bytes = self.obtain(guard, &name, &described)?;
        let inspection = inspect(&name, &bytes)?;
        let version = agreed(&name, &described, &inspection)?;
        let index = guard.store().index()?;
        let claim = Claim { name: &name, version: &version, digest: &described.digest };
        let keys = self.trusted(index.keys.get(&name).or(signer.as_ref()));
        let local = matches!(described.source, Place::File(_));
        let signer = check_signature(&self.trust, &bytes, claim, described.signed.as_ref(), &keys, local)?;
        let entry = Entry {
            name: name.clone(),
            version,
            digest: described.digest,
            source: described.source,
            requirement,
            contracts: inspection.contracts,
            signer,
        };
        // The lock is asked first: with --locked nothing may happen that it does not have.
        let lock = self.project_lock()?;
        if self.locked && lock.is_none() {
            return Err(self.no_lock());
        }
        let stale = lock.as_ref().is_some_and(|lock| lock.get(&name) != Some(&entry));
        if stale && self.locked {
            return Err(RegistryError::Locked { what: format!("`{name}` {}", entry.version) });
        }
        let before = guard.store().installed()?.into_iter().find(|plugin| plugin.name == name);
        let before = before.and_then(|plugin| plugin.entry.ok());
        guard.install(Known { entry: entry.clone(), signed: described.signed }, &bytes)?;
        if let Some(mut lock) = lock.filter(|_| stale) {
            lock.set(entry.clone());
            self.save_lock(&lock, &format!("`{name}`"))?;
        }
        let changed = before.as_ref().is_none_or(|before| before.digest != entry.digest);
        Ok(Change { name, before: before.map(|entry| entry.version), after: Some(entry), changed })
    }

    fn obtain(&mut self, guard: &Guard<'_>, name: &str, described: &Described) -> Result<Vec<u8>> {
        if let Some(bytes) = guard.cached(&described.digest)? {
            return Ok(bytes);
        }
        if self.asks(&described.source) {
            return Err(RegistryError::Offline { what: described.source.to_string() });
        }
        let total = described.size;
        let mut progress = |done| (self.observer)(Event::Fetching { name: name.into(), done, total });
        described.source.fetch(name, described, &self.client, || guard.partial(&described.digest), &mut progress)
    }

    /// The keys that may have signed: those that the user gave, else the one of before.
    fn trusted(&self, recorded: Option<&String>) -> Vec<String> {
        if self.trust.keys.is_empty() { recorded.cloned().into_iter().collect() } else { self.trust.keys.clone() }
    }
}

/// What this swift has of a contract, if it is not the one asked for.
fn this_swift_has(contract: &Contract) -> std::result::Result<(), Option<Version>> {
    if serves(&contract.package, &contract.version) {
        return Ok(());
    }
    Err(served().iter().find(|(package, _)| *package == contract.package).map(|(_, version)| version.clone()))
}

/// The version of a component whose manifest, if it has one, says what was asked for.
fn agreed(name: &str, described: &Described, inspection: &Inspection) -> Result<Version> {
    let asked = described.version.as_ref();
    let Some(manifest) = &inspection.manifest else {
        return Ok(asked.cloned().unwrap_or_else(|| inspection.version.clone()));
    };
    if manifest.name == name && asked.is_none_or(|asked| *asked == manifest.version) {
        return Ok(manifest.version.clone());
    }
    let asked = asked.map_or_else(|| format!("`{name}`"), |version| format!("`{name}` {version}"));
    Err(RegistryError::Mismatch { asked, found: format!("`{}` {}", manifest.name, manifest.version) })
}

/// The key whose signature holds, or nothing where none is needed and there is none. A `local` file that the user named needs
/// none even where the published plugin has one.
fn check_signature(
    trust: &Trust,
    component: &[u8],
    claim: Claim<'_>,
    signed: Option<&Signed>,
    keys: &[String],
    local: bool,
) -> Result<Option<String>> {
    if let Some(signed) = signed {
        return sign::verify(component, claim, signed, keys).map(Some);
    }
    if trust.require_signed || !trust.keys.is_empty() || (!keys.is_empty() && !local) {
        let recorded = keys.first().filter(|_| trust.keys.is_empty()).cloned();
        return Err(RegistryError::Unsigned { name: claim.name.into(), version: claim.version.clone(), recorded });
    }
    Ok(None)
}

fn claim(entry: &Entry) -> Claim<'_> {
    Claim { name: &entry.name, version: &entry.version, digest: &entry.digest }
}

/// What is known of a component that was verified before.
fn remembered(Known { entry, signed }: &Known) -> Described {
    Described {
        version: Some(entry.version.clone()),
        digest: entry.digest.clone(),
        size: 0,
        contracts: entry.contracts.clone(),
        kinds: Vec::new(),
        summary: String::new(),
        license: None,
        signed: signed.clone(),
        source: entry.source.clone(),
    }
}

pub(crate) fn differs(locked: &Entry, version: &Version, digest: &str) -> RegistryError {
    RegistryError::LockDiffers {
        name: locked.name.clone(),
        locked: format!("{} (sha256:{})", locked.version, locked.digest),
        found: format!("{version} (sha256:{digest})"),
    }
}

/// The installed plugins of these names; all when there are none.
fn chosen(installed: Vec<Installed>, names: &[String]) -> Result<Vec<Installed>> {
    if let Some(missing) = names.iter().find(|name| installed.iter().all(|plugin| plugin.name != **name)) {
        let installed = installed.into_iter().map(|plugin| plugin.name).collect();
        return Err(RegistryError::NotInstalled { name: swift_plugin::clean(missing, 80), installed });
    }
    Ok(installed.into_iter().filter(|plugin| names.is_empty() || names.contains(&plugin.name)).collect())
}
