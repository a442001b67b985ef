//! Publishing a component under the name and version of its `plugin.toml`. A published version never changes its bytes.

use std::path::Path;

use semver::Version;
use swift_plugin::inspect;

use crate::name::Place;
use crate::oci::Client;
use crate::sign::{Claim, Signed, Signer};
use crate::source::{artifact, beside};
use crate::wasm::{self, LARGEST_COMPONENT};
use crate::{Registry, RegistryError, Result, files};

/// What was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// The plugin's name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// sha256 of the component, in hex.
    pub digest: String,
    /// Where it is now.
    pub place: Place,
    /// The key that signed it.
    pub signer: Option<String>,
    /// Whether it was there already, to the byte.
    pub already: bool,
}

/// Publishes the component at `path`, signed if there is a signer.
///
/// # Errors
/// When the component cannot be used or names no version, the registry does not take it, or has other bytes under this
/// version.
pub fn publish(path: &Path, signer: Option<&Signer>, registry: &Registry, client: &Client) -> Result<Publication> {
    let bytes = files::read(path, LARGEST_COMPONENT)?;
    let bytes = bytes.ok_or_else(|| RegistryError::io("read", path)(std::io::ErrorKind::NotFound.into()))?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let component = inspect(&stem, &bytes)?;
    let refused = |what: &str, hint| RegistryError::Unpublishable { path: path.into(), what: what.into(), hint };
    let Some(manifest) = &component.manifest else {
        return Err(refused(
            "it carries no plugin.toml",
            "build it with `swift plugin build`, which embeds plugin.toml",
        ));
    };
    let (name, version) = (&manifest.name, &manifest.version);
    if !version.build.is_empty() {
        return Err(refused(
            "a version with `+` cannot be a tag",
            "leave out what follows `+` in plugin.toml's version",
        ));
    }
    let claim = Claim { name, version, digest: &component.digest };
    let signed = signer.map(|signer| signer.sign(&bytes, claim)).transpose()?;
    let place = registry.place(name)?;
    let published =
        || RegistryError::Published { place: registry.to_string(), name: name.clone(), version: version.clone() };
    let already = match &place {
        Place::Oci(repository) => {
            let tag = version.to_string();
            let there = artifact(repository, &tag, client)?.map(|(_, artifact)| artifact);
            if there.as_ref().is_some_and(|there| there.digest != component.digest) {
                return Err(published());
            }
            let enough = there
                .as_ref()
                .is_some_and(|there| signed.is_none() || same_signer(there.signed.as_ref(), signed.as_ref()));
            if !enough {
                let (config, manifest) = wasm::describe(&component, version, signed.as_ref());
                client.put_blob(repository, &bytes)?;
                client.put_blob(repository, &config)?;
                client.put_manifest(repository, &tag, &manifest)?;
            }
            enough
        }
        Place::Folder(root) => {
            let folder = root.join(name);
            std::fs::create_dir_all(&folder).map_err(RegistryError::io("create", &folder))?;
            let target = folder.join(format!("{version}.wasm"));
            let there = files::read(&target, LARGEST_COMPONENT)?;
            if there.as_ref().is_some_and(|there| *there != bytes) {
                return Err(published());
            }
            if let Some(Signed { signature, key }) = &signed {
                let key =
                    format!("untrusted comment: swift plugin public key\n{}\n", key.as_deref().unwrap_or_default());
                files::write_atomically(&beside(&target, "pub"), key.as_bytes())?;
                files::write_atomically(&beside(&target, "minisig"), signature.as_bytes())?;
            }
            if there.is_none() {
                files::write_atomically(&target, &bytes)?;
            }
            there.is_some()
        }
        Place::Pinned(..) | Place::File(_) => false,
    };
    let signer = signer.map(Signer::key);
    Ok(Publication {
        name: name.clone(),
        version: version.clone(),
        digest: component.digest.clone(),
        place,
        signer,
        already,
    })
}

/// A signature is made with fresh randomness; who made it is what counts.
fn same_signer(a: Option<&Signed>, b: Option<&Signed>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a.key.is_some() && a.key == b.key)
}
