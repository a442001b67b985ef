//! The second key: what the user grants. A plugin gets a capability only when its `plugin.toml` asks for it and the user
//! granted it to that plugin by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::clean::clean;
use crate::manifest::{valid_host, valid_name};

/// What was granted, for each plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants(BTreeMap<String, Granted>);

/// What one plugin was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Granted {
    /// Folders (or files) that it may read.
    pub read: Vec<PathBuf>,
    /// Hosts that it may speak HTTP to: `HOST` for the usual ports, or `HOST:PORT`.
    pub net: Vec<String>,
}

/// A grant that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{grant}` grants nothing: {what}")]
pub struct GrantError {
    grant: String,
    what: String,
}

impl GrantError {
    /// How a grant is written.
    pub fn hint(&self) -> &'static str {
        "write PLUGIN:read=FOLDER or PLUGIN:net=HOST"
    }
}

impl Grants {
    /// Adds one grant: `PLUGIN:read=FOLDER` or `PLUGIN:net=HOST[:PORT]`. A relative folder is taken from the current one.
    ///
    /// # Errors
    /// When the text is neither, or names a host that cannot be.
    pub fn add(&mut self, grant: &str) -> Result<(), GrantError> {
        let wrong = |what: &str| GrantError { grant: clean(grant, 200), what: what.into() };
        let (plugin, rest) = grant.split_once(':').ok_or_else(|| wrong("no plugin is named"))?;
        let (what, value) = rest.split_once('=').ok_or_else(|| wrong("it has no `=`"))?;
        if !valid_name(plugin) {
            return Err(wrong("this is no plugin's name"));
        }
        if value.is_empty() {
            return Err(wrong("nothing stands after `=`"));
        }
        match what {
            "read" => {
                let path = std::path::absolute(value).map_err(|error| wrong(&error.to_string()))?;
                self.0.entry(plugin.into()).or_default().read.push(path);
            }
            "net" => {
                let host = value.to_ascii_lowercase();
                if !valid_host(&host) {
                    return Err(wrong("this is no host name; a grant names each host, without `http://`"));
                }
                self.0.entry(plugin.into()).or_default().net.push(host);
            }
            _ => return Err(wrong("a plugin can be granted `read` and `net`, nothing else")),
        }
        Ok(())
    }

    /// Lets `plugin` read `path` as well: what naming a file as a loader's dataset does.
    #[must_use]
    pub fn and_read(mut self, plugin: &str, path: &Path) -> Self {
        self.0.entry(plugin.into()).or_default().read.push(path.into());
        self
    }

    /// What this plugin was granted.
    pub fn of(&self, plugin: &str) -> Granted {
        self.0.get(plugin).cloned().unwrap_or_default()
    }

    /// The plugins that were granted something.
    pub fn plugins(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_names_plugin_and_thing() {
        let mut grants = Grants::default();
        grants.add("judge:net=API.example.com").unwrap();
        grants.add("judge:net=localhost:8080").unwrap();
        grants.add("tsv:read=/data").unwrap();
        assert_eq!(grants.of("judge").net, ["api.example.com", "localhost:8080"]);
        assert_eq!(grants.of("tsv").read, [PathBuf::from("/data")]);
        assert_eq!(grants.of("other"), Granted::default());
        grants.add("tsv:read=here").unwrap();
        assert!(grants.of("tsv").read[1].is_absolute());
    }

    #[test]
    fn anything_else_is_refused() {
        for grant in [
            "",
            "read=/data",
            "p:read",
            "p:write=/data",
            "P:read=/data",
            "p:net=*",
            "p:net=http://a",
            "p:read=",
            "p:net=a b",
        ] {
            assert!(Grants::default().add(grant).is_err(), "{grant}");
        }
    }
}
