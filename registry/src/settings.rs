//! Which registry names belong to, and where the user's plugins are.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use swift_plugin::clean;

use crate::name::{Place, Repository, is_host};
use crate::{RegistryError, Result, files};

const LARGEST: u64 = 256 << 10;
const VARIABLE: &str = "SWIFT_PLUGIN_REGISTRY";

/// Where plain names are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registry {
    /// Repositories `HOST/PREFIX/NAME`; the prefix may be empty.
    Oci { host: String, prefix: String },
    /// Files `ROOT/NAME/VERSION.wasm`.
    Folder(PathBuf),
}

#[derive(Deserialize)]
struct ConfigFile {
    registry: Option<String>,
}

impl Registry {
    /// Reads `HOST/PREFIX`, `oci://HOST/PREFIX` or a folder.
    ///
    /// # Errors
    /// When it is none of them.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: &str| RegistryError::Reference { given: clean(text, 120), what: what.into() };
        let (address, sure) = match text.strip_prefix("oci://") {
            Some(address) => (address, true),
            None => (text, false),
        };
        let (host, prefix) = address.split_once('/').unwrap_or((address, ""));
        // A bare word is a folder: hosts have a dot, a port or are this machine.
        let named = sure || (!host.starts_with('.') && (host.contains(['.', ':']) || host == "localhost"));
        if !named {
            if text.is_empty() || text.chars().any(char::is_control) {
                return Err(wrong("a registry is HOST/PREFIX or a folder"));
            }
            let folder = std::path::absolute(text).map_err(RegistryError::io("find", Path::new(text)))?;
            return Ok(Self::Folder(folder));
        }
        let prefix = prefix.trim_end_matches('/');
        if !is_host(host) {
            return Err(wrong("the host must be a name or an IPv4 address, with a port if need be"));
        }
        if !prefix.is_empty() {
            address.trim_end_matches('/').parse::<Repository>()?;
        }
        Ok(Self::Oci { host: host.into(), prefix: prefix.into() })
    }

    /// The registry that the user set: the flag, `SWIFT_PLUGIN_REGISTRY`, or `registry` in `swift/config.toml`.
    ///
    /// # Errors
    /// When what is set names no registry.
    pub fn configured(flag: Option<&str>) -> Result<Option<Self>> {
        if let Some(text) = flag {
            return Self::parse(text).map(Some);
        }
        if let Some(text) = std::env::var(VARIABLE).ok().filter(|text| !text.is_empty()) {
            return Self::parse(&text).map(Some);
        }
        let Some(path) = config_file() else { return Ok(None) };
        let Some(text) = files::read_text(&path, LARGEST)? else { return Ok(None) };
        let damaged =
            |what| RegistryError::File { path: path.clone(), what, hint: "it is TOML: registry = \"HOST/PREFIX\"" };
        let file: ConfigFile = toml::from_str(&text).map_err(|error| damaged(clean(&error.to_string(), 300)))?;
        file.registry.as_deref().map(Self::parse).transpose()
    }

    /// Where the plugin of this name is.
    ///
    /// # Errors
    /// When the registry can have no such name.
    pub(crate) fn place(&self, name: &str) -> Result<Place> {
        crate::name::check_name(name)?;
        Ok(match self {
            Self::Oci { host, prefix } if prefix.is_empty() => Place::Oci(format!("{host}/{name}").parse()?),
            Self::Oci { host, prefix } => Place::Oci(format!("{host}/{prefix}/{name}").parse()?),
            Self::Folder(root) => Place::Folder(root.clone()),
        })
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci { host, prefix } if prefix.is_empty() => write!(f, "{host}"),
            Self::Oci { host, prefix } => write!(f, "{host}/{prefix}"),
            Self::Folder(root) => write!(f, "{}", root.display()),
        }
    }
}

fn config_file() -> Option<PathBuf> {
    let set = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = set.or_else(|| std::env::home_dir().map(|home| home.join(".config")))?;
    Some(folder.join("swift").join("config.toml"))
}

/// The folder of the user's plugins: `SWIFT_PLUGIN_DIR`, or `swift/plugins` in the data folder.
pub fn store_folder() -> Option<PathBuf> {
    let named = std::env::var_os("SWIFT_PLUGIN_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
    named.or_else(|| swift_plugin::plugin_folders().pop())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_folders_are_told_apart() {
        let oci = |host: &str, prefix: &str| Registry::Oci { host: host.into(), prefix: prefix.into() };
        for (text, wanted) in [
            ("ghcr.io/somebody/plugins", oci("ghcr.io", "somebody/plugins")),
            ("ghcr.io/somebody/", oci("ghcr.io", "somebody")),
            ("localhost:5000", oci("localhost:5000", "")),
            ("oci://registry/x", oci("registry", "x")),
        ] {
            assert_eq!(Registry::parse(text).unwrap(), wanted, "{text}");
        }
        for text in ["plugins", "./plugins", "/plugins", "../a.b/c"] {
            assert!(matches!(Registry::parse(text).unwrap(), Registry::Folder(path) if path.is_absolute()), "{text}");
        }
        for text in ["", "ghcr.io/../x", "ghcr.io/Some", "host:x/y", "oci://a b/c", "a\nb"] {
            assert!(Registry::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn names_have_their_place() {
        let registry = Registry::parse("h.io/p").unwrap();
        assert_eq!(registry.place("polite").unwrap().to_string(), "oci://h.io/p/polite");
        assert_eq!(Registry::parse("h.io").unwrap().place("polite").unwrap().to_string(), "oci://h.io/polite");
        for name in ["../polite", "a/b", "A"] {
            assert!(registry.place(name).is_err(), "{name}");
        }
    }
}
