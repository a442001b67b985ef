//! The standard form of WebAssembly in OCI registries: an image manifest with one layer `application/wasm` and a config that
//! lists the component's imports and exports. Others' tools read what this writes, and this reads what they write.
//!
//! There is no clock in it: the same component gives the same bytes.

use std::collections::BTreeMap;

use semver::Version;
use serde::{Deserialize, Serialize};
use swift_plugin::{Contract, Inspection, Kind, clean};

use crate::name::is_digest;
use crate::sign::{LARGEST_SIGNATURE, Signed};
use crate::{RegistryError, Result, files};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub(crate) const LAYER: &str = "application/wasm";
/// What is asked for: indexes too, so that they can be refused by name.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                                 application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// The largest component that is fetched. Python with its libraries has 50 MB.
pub const LARGEST_COMPONENT: u64 = 256 << 20;
pub(crate) const LARGEST_MANIFEST: u64 = 1 << 20;
pub(crate) const LARGEST_CONFIG: u64 = 1 << 20;
const MOST_NAMES: usize = 4096;

const SIGNATURE: &str = "dev.swift.signature";
const PUBLIC_KEY: &str = "dev.swift.public-key";
const TITLE: &str = "org.opencontainers.image.title";
const VERSION: &str = "org.opencontainers.image.version";
const DESCRIPTION: &str = "org.opencontainers.image.description";
const LICENSES: &str = "org.opencontainers.image.licenses";

/// Bytes of a registry, by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

/// What every kind of manifest may have: enough to name one that is not ours.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    /// Readers need it; a fixed one keeps the bytes the same.
    created: String,
    architecture: String,
    os: String,
    layer_digests: Vec<String>,
    component: Option<Edge>,
}

#[derive(Serialize, Deserialize, Default)]
struct Edge {
    #[serde(default)]
    exports: Vec<String>,
    #[serde(default)]
    imports: Vec<String>,
}

/// A manifest that holds a component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// sha256 of the component, in hex.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// sha256 of the config, in hex, and its size.
    pub(crate) config: (String, u64),
    /// Its signature, if there is one.
    pub signed: Option<Signed>,
    /// One line about it.
    pub summary: String,
    /// Its license.
    pub license: Option<String>,
}

impl Artifact {
    /// Reads a manifest; `what` names it in messages.
    ///
    /// # Errors
    /// When it is damaged, or holds something else than one component of a size that can be taken.
    pub fn parse(what: &str, manifest: &[u8]) -> Result<Self> {
        let foreign = |found: String| RegistryError::Foreign { what: what.into(), found: clean(&found, 200) };
        let outline: Outline =
            serde_json::from_slice(manifest).map_err(|error| foreign(format!("its manifest is damaged ({error})")))?;
        if outline.manifests.is_some() {
            return Err(foreign("it is a list of images for several machines".into()));
        }
        let raw: Manifest = serde_json::from_slice(manifest).map_err(|error| {
            let form = outline.media_type.unwrap_or_else(|| "unknown form".into());
            foreign(format!("its manifest ({form}) cannot be read: {error}"))
        })?;
        if raw.schema_version != 2 {
            return Err(foreign(format!("its manifest has form {}", raw.schema_version)));
        }
        let [layer] = &raw.layers[..] else {
            return Err(foreign(format!("it has {} layers of {}", raw.layers.len(), raw.config.media_type)));
        };
        if raw.config.media_type != CONFIG || layer.media_type != LAYER {
            return Err(foreign(format!("it holds {} with {}", layer.media_type, raw.config.media_type)));
        }
        let digest_of = |blob: &Descriptor| {
            let digest = blob.digest.strip_prefix("sha256:").filter(|digest| is_digest(digest)).map(ToOwned::to_owned);
            digest.ok_or_else(|| foreign(format!("`{}` is no sha256 digest", blob.digest)))
        };
        let bounded = |what: String, size: u64, limit: u64| {
            if size > limit { Err(RegistryError::TooLarge { what, size, limit }) } else { Ok(size) }
        };
        let size = bounded(what.into(), layer.size, LARGEST_COMPONENT)?;
        let config_size = bounded(format!("the config of {what}"), raw.config.size, LARGEST_CONFIG)?;
        let annotations = raw.annotations.unwrap_or_default();
        let signed = match annotations.get(SIGNATURE) {
            Some(text) if text.len() > LARGEST_SIGNATURE => {
                let (what, size) = (format!("the signature of {what}"), text.len() as u64);
                return Err(RegistryError::TooLarge { what, size, limit: LARGEST_SIGNATURE as u64 });
            }
            Some(text) => Some(Signed { signature: text.clone(), key: annotations.get(PUBLIC_KEY).cloned() }),
            None => None,
        };
        Ok(Self {
            digest: digest_of(layer)?,
            size,
            config: (digest_of(&raw.config)?, config_size),
            signed,
            summary: annotations.get(DESCRIPTION).map(|text| clean(text, 300)).unwrap_or_default(),
            license: annotations.get(LICENSES).map(|text| clean(text, 100)),
        })
    }
}

/// The contracts and kinds that a config says its component has. Nothing is trusted in it but to choose a version: the
/// component itself is inspected before it is installed.
pub(crate) fn parse_config(what: &str, config: &[u8]) -> Result<(Vec<Contract>, Vec<Kind>)> {
    let foreign = |found: String| RegistryError::Foreign { what: what.into(), found: clean(&found, 200) };
    let config: Config =
        serde_json::from_slice(config).map_err(|error| foreign(format!("its config is damaged ({error})")))?;
    let Some(edge) = config.component.filter(|_| config.architecture == "wasm") else {
        return Err(foreign("its config is that of a core module".into()));
    };
    if edge.imports.len() + edge.exports.len() > MOST_NAMES {
        return Err(foreign(format!("its config lists {} names", edge.imports.len() + edge.exports.len())));
    }
    Ok((contracts(edge.imports.iter().chain(&edge.exports)), kinds(&edge.exports)))
}

/// The packages `swift:*` with their versions in names such as `swift:reward/rewards@0.1.0`.
fn contracts<'a>(names: impl Iterator<Item = &'a String>) -> Vec<Contract> {
    let mut found: Vec<Contract> = names
        .filter(|name| name.starts_with("swift:"))
        .filter_map(|name| {
            let (interface, version) = name.split_once('@')?;
            let package = interface.split_once('/')?.0;
            crate::lock::parse_contract(&format!("{package}@{version}"))
        })
        .collect();
    found.sort_by(|a, b| (&a.package, &a.version).cmp(&(&b.package, &b.version)));
    found.dedup();
    found
}

fn kinds(exports: &[String]) -> Vec<Kind> {
    let is = |kind: &Kind| exports.iter().any(|name| name.split('@').next() == Some(kind.interface()));
    Kind::ALL.into_iter().filter(is).collect()
}

/// The config and the manifest of a component, as bytes.
pub(crate) fn describe(component: &Inspection, version: &Version, signed: Option<&Signed>) -> (Vec<u8>, Vec<u8>) {
    let digest = format!("sha256:{}", component.digest);
    let config = Config {
        created: "1970-01-01T00:00:00Z".into(),
        architecture: "wasm".into(),
        os: "wasip2".into(),
        layer_digests: vec![digest.clone()],
        component: Some(Edge { exports: component.exports.clone(), imports: component.imports.clone() }),
    };
    let config = json(&config);
    let mut annotations = BTreeMap::new();
    let mut note = |key: &str, value: &str| {
        if !value.is_empty() {
            annotations.insert(key.to_owned(), value.to_owned());
        }
    };
    note(TITLE, &component.name);
    note(VERSION, &version.to_string());
    if let Some(manifest) = &component.manifest {
        note(DESCRIPTION, &manifest.summary);
        note(LICENSES, manifest.license.as_deref().unwrap_or_default());
    }
    if let Some(signed) = signed {
        note(SIGNATURE, &signed.signature);
        note(PUBLIC_KEY, signed.key.as_deref().unwrap_or_default());
    }
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.into()),
        config: Descriptor {
            media_type: CONFIG.into(),
            digest: format!("sha256:{}", files::sha256(&config)),
            size: config.len() as u64,
        },
        layers: vec![Descriptor { media_type: LAYER.into(), digest, size: component.size as u64 }],
        annotations: Some(annotations),
    };
    (config, json(&manifest))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(config: &str, layers: &str) -> String {
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}],"extra":1}}"#)
    }

    fn blob(media_type: &str, size: u64) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":{size},"annotations":{{}}}}"#,
            "1a".repeat(32)
        )
    }

    #[test]
    fn a_manifest_of_others_without_annotations_is_read() {
        let text = manifest(&blob(CONFIG, 10), &blob(LAYER, 20));
        let artifact = Artifact::parse("x", text.as_bytes()).unwrap();
        assert_eq!((artifact.digest, artifact.size, artifact.signed), ("1a".repeat(32), 20, None));
        // What oci-wasm writes.
        let config = r#"{"created":"2026-01-01T10:00:00.1Z","author":null,"architecture":"wasm","os":"wasip2","layerDigests":["sha256:1"],
            "component":{"exports":["swift:reward/rewards@0.1.0"],"imports":["swift:plugin/log@0.1.2","wasi:cli/exit@0.2.0","swift:plugin/files@0.1.2"],"target":null}}"#;
        let (contracts, kinds) = parse_config("x", config.as_bytes()).unwrap();
        let shown: Vec<String> = contracts.iter().map(|c| format!("{}@{}", c.package, c.version)).collect();
        assert_eq!(
            (shown, kinds),
            (vec!["swift:plugin@0.1.2".into(), "swift:reward@0.1.0".into()], vec![Kind::Reward])
        );
    }

    #[test]
    fn other_things_are_refused_by_name() {
        let long = format!(r#","annotations":{{"{SIGNATURE}":"{}"}}}}"#, "x".repeat(5000));
        let good = manifest(&blob(CONFIG, 10), &blob(LAYER, 20));
        for (text, part) in [
            (r#"{"schemaVersion":2,"manifests":[]}"#.into(), "list of images"),
            ("[".into(), "damaged"),
            (manifest(&blob(CONFIG, 10), ""), "0 layers"),
            (manifest(&blob("application/vnd.oci.image.config.v1+json", 10), &blob(LAYER, 1)), "vnd.oci.image.config"),
            (manifest(&blob(CONFIG, 10), &blob("application/octet-stream", 1)), "octet-stream"),
            (manifest(&blob(CONFIG, 10), &blob(LAYER, 1 << 40)), "at most 268435456"),
            (manifest(&blob(CONFIG, 1 << 40), &blob(LAYER, 1)), "config of x has"),
            (manifest(&blob(CONFIG, 10), &blob(LAYER, 20).replace("sha256:1a", "sha256:zz")), "no sha256 digest"),
            (manifest(&blob(CONFIG, 10), &blob(LAYER, 20).replace("20", "-20")), "cannot be read"),
            (good.replace(r#""schemaVersion":2"#, r#""schemaVersion":1"#), "form 1"),
            (good.replace(r#","extra":1}"#, &long), "signature of x has 5000"),
        ] {
            let error = Artifact::parse("x", text.as_bytes()).expect_err(&text).to_string();
            assert!(error.contains(part), "{error}");
        }
        for text in ["", r#"{"created":"","architecture":"wasm","os":"wasip1","layerDigests":[]}"#] {
            assert!(parse_config("x", text.as_bytes()).is_err());
        }
    }
}
