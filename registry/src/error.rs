//! Everything that can go wrong between a plugin's name and an installed plugin: what, where, and what to do.
//!
//! Texts that came from outside are cleaned and bounded before they get here.

use std::path::{Path, PathBuf};

use semver::Version;
use swift_plugin::PluginError;

/// What stopped a command of the registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The text names no plugin.
    #[error("`{given}` names no plugin: {what}")]
    Reference { given: String, what: String },

    /// No registry is set.
    #[error("no plugin registry is set, so a name alone says not where to find it")]
    NoRegistry,

    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    /// A file that this crate reads does not have its form.
    #[error("{}: {what}", path.display())]
    File { path: PathBuf, what: String, hint: &'static str },

    /// The registry cannot be reached.
    #[error("cannot reach {host}: {what}")]
    Network { host: String, what: String },

    /// The connection ended within a download.
    #[error("{host} broke off after {done} of {total} bytes of {what}: {reason}")]
    Interrupted { host: String, what: String, done: u64, total: u64, reason: String },

    /// The registry wants to know who asks, or says no.
    #[error("{host} does not let you {action} {what}{said}")]
    Denied { host: String, action: &'static str, what: String, said: String },

    /// The registry answered with a failure.
    #[error("{host} answered {status} to {what}{said}")]
    Answer { host: String, status: u16, what: String, said: String },

    /// The registry's answer is not of the form that the OCI distribution protocol gives.
    #[error("{host} gave a wrong answer: {what}")]
    Malformed { host: String, what: String },

    /// A registry without TLS.
    #[error("{host} can only be reached without encryption")]
    Insecure { host: String },

    /// The registry cannot list what it has.
    #[error("{host} does not list its plugins")]
    NoCatalog { host: String },

    /// Nothing has this name.
    #[error("{place} has no plugin `{name}`")]
    NoPlugin { place: String, name: String },

    /// The plugin is there, the version is not.
    #[error("{place} has no `{name}` {wanted}")]
    NoVersion { place: String, name: String, wanted: String, versions: Vec<Version> },

    /// The plugin was built for another contract.
    #[error("`{name}` {version} needs {needs}, this swift has {has}")]
    Contract { name: String, version: Version, needs: String, has: Box<str>, usable: Option<Box<Version>> },

    /// Something else than a component lies there.
    #[error("{what} is no WebAssembly component: {found}")]
    Foreign { what: String, found: String },

    /// Larger than anything this crate takes.
    #[error("{what} has {size} bytes; at most {limit} are taken")]
    TooLarge { what: String, size: u64, limit: u64 },

    /// The bytes are not those that were promised.
    #[error("{what} was changed or damaged: sha256:{expected} was promised, sha256:{found} came")]
    Digest { what: String, expected: String, found: String },

    /// The component calls itself something else.
    #[error("asked for {asked}, but the component calls itself {found}")]
    Mismatch { asked: String, found: String },

    /// The component cannot be used by this swift.
    #[error(transparent)]
    Component(#[from] PluginError),

    /// No signature where one is needed.
    #[error("`{name}` {version} is not signed{}", recorded.as_ref().map_or_else(String::new, |key| format!("; until now it was, by {key}")))]
    Unsigned { name: String, version: Version, recorded: Option<String> },

    /// A signature that does not hold.
    #[error("the signature of `{name}` {version} is wrong: {what}")]
    Signature { name: String, version: Version, what: String },

    /// A signature by somebody else than before.
    #[error("`{name}` {version} is signed by {offered}; until now it was {recorded}")]
    ChangedSigner { name: String, version: Version, recorded: String, offered: String },

    /// A key that is none.
    #[error("{given} is no minisign key: {what}")]
    Key { given: String, what: String },

    /// `swift.lock` says something else.
    #[error("swift.lock has `{name}` {locked}, this is {found}")]
    LockDiffers { name: String, locked: String, found: String },

    /// `--locked`, and `swift.lock` would change.
    #[error("swift.lock would change ({what}), and --locked forbids it")]
    Locked { what: String },

    /// `swift.lock` is needed and not there.
    #[error("there is no swift.lock in {}", folder.display())]
    NoLock { folder: PathBuf },

    /// An installed file is no longer what was installed.
    #[error("{} is not what was installed as `{name}`: its content is sha256:{found}", path.display())]
    Tampered { name: String, path: PathBuf, found: String },

    /// A file of that name lies there and nobody installed it.
    #[error("{} is there already and was not installed by `swift plugin`", path.display())]
    Occupied { path: PathBuf },

    /// It is not installed.
    #[error("`{name}` is not installed")]
    NotInstalled { name: String, installed: Vec<String> },

    /// `--offline`, and it is not in the store.
    #[error("{what} was never fetched, and --offline forbids to fetch it")]
    Offline { what: String },

    /// A published version never changes.
    #[error("{place} has `{name}` {version} already, with other content")]
    Published { place: String, name: String, version: Version },

    /// It cannot be published as it is.
    #[error("{} cannot be published: {what}", path.display())]
    Unpublishable { path: PathBuf, what: String, hint: &'static str },
}

impl RegistryError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// What the user can do.
    pub fn hint(&self) -> String {
        match self {
            Self::Reference { .. } => {
                "give NAME, NAME@1.2, oci://HOST/PATH@1.2, a component (./polite.wasm) or a folder of components".into()
            }
            Self::NoRegistry => {
                "say which with --registry HOST/PREFIX (or a folder), set SWIFT_PLUGIN_REGISTRY, or write \
                 `registry = \"HOST/PREFIX\"` into swift/config.toml of your configuration folder"
                    .into()
            }
            Self::Io { .. } => "check that the path exists, that you may use it and that the disk is not full".into(),
            Self::File { hint, .. } | Self::Unpublishable { hint, .. } => (*hint).into(),
            Self::Network { .. } => {
                "check the address and the network; with --offline what was fetched before is used".into()
            }
            Self::Interrupted { .. } => "run the same command again: it goes on where this one stopped".into(),
            Self::Denied { host, .. } => format!(
                "log in with `docker login {host}` or set SWIFT_REGISTRY_AUTH={host}=USER:PASSWORD (credential helpers of \
                 docker are not asked)"
            ),
            Self::Answer { .. } => "try again later, or ask whoever runs the registry".into(),
            Self::Malformed { host, .. } => {
                format!("check that {host} is an OCI registry and that nothing stands between")
            }
            Self::Insecure { host } => format!("if you trust the way to it, add --insecure-registry {host}"),
            Self::NoCatalog { .. } => {
                "many registries do not; their web page does. `swift plugin info NAME` works with a name".into()
            }
            Self::NoPlugin { .. } => "check the name; `swift plugin search` lists what there is".into(),
            Self::NoVersion { versions, .. } if versions.is_empty() => {
                "nothing is published under this name yet".into()
            }
            Self::NoVersion { versions, .. } => {
                let newest: Vec<String> = versions.iter().take(8).map(Version::to_string).collect();
                format!("there are {}{}", newest.join(", "), if versions.len() > 8 { " and older ones" } else { "" })
            }
            Self::Contract { name, usable: Some(version), .. } => format!("use {name}@{version} or update swift"),
            Self::Contract { .. } => "no version fits this swift: update swift".into(),
            Self::Foreign { .. } => "check the reference: plugins are published with `swift plugin publish`".into(),
            Self::TooLarge { .. } => "this is no plugin that swift can use".into(),
            Self::Digest { .. } => {
                "nothing was installed. Try again; if it stays so, tell whoever runs the registry".into()
            }
            Self::Mismatch { .. } => "nothing was installed. Ask for it by its own name, or tell its publisher".into(),
            Self::Component(error) => error.hint(),
            Self::Unsigned { recorded: Some(_), name, .. } => format!(
                "nothing was installed. Ask the publisher; `swift plugin remove {name} --forget-key` forgets the old key"
            ),
            Self::Unsigned { .. } => "leave out --require-signed and --key if you trust where it comes from".into(),
            Self::Signature { .. } => "nothing was installed. Tell its publisher".into(),
            Self::ChangedSigner { name, offered, .. } => format!(
                "nothing was installed. If the publisher says that the key changed: swift plugin add {name} --key {offered}"
            ),
            Self::Key { .. } => {
                "a key is a file that `swift plugin key` or minisign made, or its second line (RW..)".into()
            }
            Self::LockDiffers { name, .. } => format!(
                "`swift plugin add` installs what swift.lock says; `swift plugin update {name}` moves both to the newest"
            ),
            Self::Locked { .. } => "leave out --locked to let swift.lock follow".into(),
            Self::NoLock { .. } => "name what to install, or write it with `swift plugin lock`".into(),
            Self::Tampered { name, .. } => format!("install it again with `swift plugin add {name}`"),
            Self::Occupied { .. } => "move it away, or delete it".into(),
            Self::NotInstalled { installed, .. } if installed.is_empty() => "no plugin is installed".into(),
            Self::NotInstalled { installed, .. } => format!("installed are {}", installed.join(", ")),
            Self::Offline { .. } => "leave out --offline once".into(),
            Self::Published { .. } => "a published version never changes: raise `version` in plugin.toml".into(),
        }
    }

    /// What the plugin's author can do, where the fault is the plugin's.
    pub fn author_hint(&self) -> Option<&'static str> {
        match self {
            Self::Component(error) => error.author_hint(),
            Self::Mismatch { .. } => {
                Some("the name and the tag must be `name` and `version` of plugin.toml: `swift plugin publish` does so")
            }
            Self::Foreign { .. } => {
                Some("one layer `application/wasm` with a `application/vnd.wasm.config.v0+json` config is what is read")
            }
            Self::Signature { .. } => Some("sign what you publish: swift plugin publish FILE --sign KEY"),
            _ => None,
        }
    }
}
