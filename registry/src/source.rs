//! Where plugins come from: repositories of OCI registries, folders of versions, single components. All answer the same
//! three questions: which versions are there, what is one of them, and its bytes.

use std::path::{Path, PathBuf};

use semver::Version;
use swift_plugin::{Contract, Inspection, Kind, PluginError, inspect};

use crate::name::{Place, Repository};
use crate::oci::Client;
use crate::sign::{LARGEST_SIGNATURE, Signed};
use crate::store::Partial;
use crate::wasm::{self, Artifact, LARGEST_COMPONENT};
use crate::{Registry, RegistryError, Result, files};

const LARGEST_KEY: u64 = 4 << 10;
/// At most so many plugins of a registry are looked at in a search: each costs three requests.
const MOST_LISTED: usize = 200;

/// A plugin's version, before its bytes were fetched. Nothing of it is trusted but the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its version; a component without a manifest that was not asked for by version has none.
    pub version: Option<Version>,
    /// sha256 of the component, in hex.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// The contracts it was built for.
    pub contracts: Vec<Contract>,
    /// What it can be used as.
    pub kinds: Vec<Kind>,
    /// One line about it.
    pub summary: String,
    /// Its license.
    pub license: Option<String>,
    /// Its signature, not yet verified.
    pub signed: Option<Signed>,
    /// Where it is.
    pub source: Place,
}

/// A plugin of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its newest release.
    pub newest: Option<Described>,
}

impl Place {
    /// The versions of the plugin `name`, or nothing where there is no such plugin.
    pub(crate) fn versions(&self, name: &str, client: &Client) -> Result<Option<Vec<Version>>> {
        match self {
            Self::Oci(repository) => {
                let tags = client.tags(repository)?;
                Ok(tags.map(|tags| tags.iter().filter_map(|tag| Version::parse(tag).ok()).collect()))
            }
            Self::Folder(root) => {
                let folder = root.join(name);
                let entries = match std::fs::read_dir(&folder) {
                    Ok(entries) => entries,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(RegistryError::io("list", &folder)(error)),
                };
                let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
                Ok(Some(names.filter_map(|name| Version::parse(name.strip_suffix(".wasm")?).ok()).collect()))
            }
            Self::Pinned(..) | Self::File(_) => Ok(Some(Vec::new())),
        }
    }

    /// What the version is, or the only one of places that have one. A missing version is an error.
    pub(crate) fn describe(&self, name: &str, version: &Version, client: &Client) -> Result<Described> {
        let missing = || RegistryError::NoVersion {
            place: self.to_string(),
            name: name.into(),
            wanted: version.to_string(),
            versions: Vec::new(),
        };
        match self {
            Self::Oci(repository) => {
                let (_, artifact) = artifact(repository, &version.to_string(), client)?.ok_or_else(missing)?;
                of_artifact(repository, artifact, Some(version.clone()), self.clone(), client)
            }
            Self::Pinned(repository, digest) => {
                let found = artifact(repository, &format!("sha256:{digest}"), client)?;
                of_artifact(repository, found.ok_or_else(missing)?.1, Some(version.clone()), self.clone(), client)
            }
            Self::Folder(_) => {
                let described = of_file(name, &self.file(name, Some(version)), self.clone())?.ok_or_else(missing)?;
                Ok(Described { version: Some(version.clone()), ..described })
            }
            Self::File(path) => of_file(name, path, self.clone())?.ok_or_else(missing),
        }
    }

    /// The bytes of what was described; those from afar come through `partial`.
    pub(crate) fn fetch(
        &self,
        name: &str,
        described: &Described,
        client: &Client,
        partial: impl FnOnce() -> Result<Partial>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Vec<u8>> {
        let Described { version, digest, size, .. } = described;
        let mut what = format!("`{name}` of {self}");
        let fetched = match self {
            Self::Oci(repository) | Self::Pinned(repository, _) => {
                let mut partial = partial()?;
                if partial.have() > 0 {
                    // If it was damaged since, it is gone after this, and the next download starts anew.
                    what += ", partly fetched before,";
                }
                client.download(repository, digest, *size, &mut partial, progress)?;
                partial.finish(digest)?
            }
            Self::Folder(_) | Self::File(_) => {
                let path = self.file(name, version.as_ref());
                let bytes = files::read(&path, LARGEST_COMPONENT)?.unwrap_or_default();
                let found = files::sha256(&bytes);
                if found == *digest { Ok(bytes) } else { Err(found) }
            }
        };
        fetched.map_err(|found| RegistryError::Digest { what, expected: digest.clone(), found })
    }

    /// The component of a place on this machine.
    fn file(&self, name: &str, version: Option<&Version>) -> PathBuf {
        match (self, version) {
            (Self::Folder(root), Some(version)) => root.join(name).join(format!("{version}.wasm")),
            (Self::Folder(path) | Self::File(path), _) => path.clone(),
            (Self::Oci(_) | Self::Pinned(..), _) => PathBuf::new(),
        }
    }
}

/// The artifact of a tag or a digest and the digest of its manifest.
pub(crate) fn artifact(
    repository: &Repository,
    reference: &str,
    client: &Client,
) -> Result<Option<(String, Artifact)>> {
    let Some((digest, manifest)) = client.manifest(repository, reference)? else { return Ok(None) };
    let separator = if reference.starts_with("sha256:") { '@' } else { ':' };
    let artifact = Artifact::parse(&format!("oci://{repository}{separator}{reference}"), &manifest)?;
    Ok(Some((digest, artifact)))
}

pub(crate) fn of_artifact(
    repository: &Repository,
    artifact: Artifact,
    version: Option<Version>,
    source: Place,
    client: &Client,
) -> Result<Described> {
    let config = client.blob(repository, &artifact.config)?;
    let (contracts, kinds) = wasm::parse_config(&source.to_string(), &config)?;
    let Artifact { digest, size, signed, summary, license, .. } = artifact;
    Ok(Described { version, digest, size, contracts, kinds, summary, license, signed, source })
}

/// A component on this machine, with `FILE.minisig` and `FILE.pub` beside it if they are there.
fn of_file(name: &str, path: &Path, source: Place) -> Result<Option<Described>> {
    let Some(bytes) = files::read(path, LARGEST_COMPONENT)? else { return Ok(None) };
    let signature = files::read_text(&beside(path, "minisig"), LARGEST_SIGNATURE as u64)?;
    let signed = match signature {
        Some(signature) => {
            let key = files::read_text(&beside(path, "pub"), LARGEST_KEY)?;
            let key = key.and_then(|text| text.lines().map(str::trim).rfind(|line| !line.is_empty()).map(Into::into));
            Some(Signed { signature, key })
        }
        None => None,
    };
    let (digest, size) = (files::sha256(&bytes), bytes.len() as u64);
    match inspect(name, &bytes) {
        Ok(Inspection { contracts, kinds, manifest, .. }) => Ok(Some(Described {
            version: manifest.as_ref().map(|manifest| manifest.version.clone()),
            digest,
            size,
            contracts,
            kinds,
            summary: manifest.as_ref().map(|manifest| manifest.summary.clone()).unwrap_or_default(),
            license: manifest.and_then(|manifest| manifest.license),
            signed,
            source,
        })),
        // Another contract than this swift's is no damage: an older version may fit.
        Err(PluginError::Contract { needs, since, .. })
            if matches!(source, Place::Folder(_)) && Version::parse(&since).is_ok() =>
        {
            let package = needs.split('/').next().unwrap_or(&needs).into();
            let contracts =
                vec![Contract { package, version: Version::parse(&since).unwrap_or(Version::new(0, 0, 0)) }];
            let (kinds, summary) = (Vec::new(), String::new());
            Ok(Some(Described {
                version: None,
                digest,
                size,
                contracts,
                kinds,
                summary,
                license: None,
                signed,
                source,
            }))
        }
        Err(error) => Err(error.into()),
    }
}

/// `polite.wasm` as `polite.wasm.minisig`.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

impl Registry {
    /// The names of all plugins, or an error where the registry does not tell.
    pub(crate) fn names(&self, client: &Client) -> Result<Vec<String>> {
        let mut names: Vec<String> = match self {
            Self::Oci { host, prefix } => {
                let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
                let repositories =
                    client.catalog(host)?.ok_or_else(|| RegistryError::NoCatalog { host: host.clone() })?;
                let names = repositories.iter().filter_map(|repository| repository.path().strip_prefix(&prefix));
                names.filter(|name| swift_plugin::valid_name(name)).map(ToOwned::to_owned).collect()
            }
            Self::Folder(root) => {
                let entries = std::fs::read_dir(root).map_err(RegistryError::io("list", root))?;
                let folders = entries.flatten().filter(|entry| entry.path().is_dir());
                let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
                names.filter(|name| swift_plugin::valid_name(name)).collect()
            }
        };
        names.sort();
        Ok(names)
    }

    /// The plugins whose name or summary has `query`, and whether all were looked at. One whose newest version cannot be read
    /// is listed without it.
    pub(crate) fn search(&self, query: &str, client: &Client) -> Result<(Vec<Listed>, bool)> {
        let query = query.to_lowercase();
        let mut names = self.names(client)?;
        names.sort_by_key(|name| !name.contains(&query));
        let complete = names.len() <= MOST_LISTED;
        let mut found = Vec::new();
        for name in names.into_iter().take(MOST_LISTED) {
            let place = self.place(&name)?;
            let versions = place.versions(&name, client).ok().flatten().unwrap_or_default();
            let newest = versions.into_iter().filter(|version| version.pre.is_empty()).max();
            let newest = newest.and_then(|version| place.describe(&name, &version, client).ok());
            let summary = newest.as_ref().map(|newest| newest.summary.to_lowercase()).unwrap_or_default();
            if name.contains(&query) || summary.contains(&query) {
                found.push(Listed { name, newest });
            }
        }
        Ok((found, complete))
    }
}
