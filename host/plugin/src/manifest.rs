//! `plugin.toml`: what a plugin says about itself and what it asks for. It is embedded in the component, so that one file is
//! the whole plugin. What it asks for is not what it gets: see [`crate::Grants`].

use semver::Version;
use serde::Deserialize;

use crate::Kind;
use crate::clean::clean;

/// Longest `plugin.toml`, in bytes.
const MAX_BYTES: usize = 64 << 10;
/// Longest text in it, in characters.
const MAX_TEXT: usize = 500;

/// A `plugin.toml`, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Lower case, digits, `-` and `_`.
    pub name: String,
    pub version: Version,
    /// What it holds; the host compares with the exports.
    pub kinds: Vec<Kind>,
    /// One line.
    pub summary: String,
    pub license: Option<String>,
    pub authors: Vec<String>,
    pub homepage: Option<String>,
    pub capabilities: Capabilities,
    /// How it is built from source; nothing to the host.
    pub build: Option<BuildTable>,
}

/// What a plugin asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capabilities {
    /// Reading folders that the user grants.
    #[serde(default)]
    pub read: bool,
    /// Hosts to speak HTTP to: names, or `*` for any host that the user grants.
    #[serde(default)]
    pub net: Vec<String>,
}

/// How a plugin is built.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuildTable {
    /// `rust`, `python`, `js`, `c` or `go`.
    pub lang: String,
    /// The source file to start from, relative to the folder.
    #[serde(default)]
    pub entry: Option<String>,
}

/// Why a text is no `plugin.toml`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plugin.toml: {0}")]
pub struct ManifestError(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    version: String,
    kind: Vec<String>,
    #[serde(default)]
    summary: String,
    license: Option<String>,
    #[serde(default)]
    authors: Vec<String>,
    homepage: Option<String>,
    #[serde(default)]
    capabilities: Capabilities,
    build: Option<BuildTable>,
}

/// Whether this may be a plugin's name: it becomes a file name and part of an address, so it is short, plain ASCII.
pub fn valid_name(name: &str) -> bool {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    name.len() <= 64
        && name.bytes().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
}

impl Manifest {
    /// Reads the text of a `plugin.toml`.
    ///
    /// # Errors
    /// When it is no TOML, lacks or has a key too many, or a value cannot be; the message names the key.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        let wrong = |what: String| ManifestError(clean(&what, MAX_TEXT));
        if text.len() > MAX_BYTES {
            return Err(wrong(format!("it is larger than {} KiB", MAX_BYTES >> 10)));
        }
        let raw: Raw = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if !valid_name(&raw.name) {
            let rule = "at most 64 lower case letters, digits, `-` and `_`, starting with a letter or digit";
            return Err(wrong(format!("`{}` is no name for a plugin: {rule}", clean(&raw.name, 80))));
        }
        let version = Version::parse(&raw.version)
            .map_err(|error| wrong(format!("version = \"{}\": {error}; write it as 0.1.0", clean(&raw.version, 80))))?;
        let mut kinds = Vec::new();
        for kind in &raw.kind {
            let kind: Kind = kind.parse().map_err(wrong)?;
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        if kinds.is_empty() {
            return Err(wrong("`kind` names no kind".into()));
        }
        if let Some(host) = raw.capabilities.net.iter().find(|host| *host != "*" && !valid_host(host)) {
            return Err(wrong(format!("net: `{}` is no host name (api.example.com, or with :PORT)", clean(host, 80))));
        }
        let text = |text: String| clean(&text, MAX_TEXT);
        Ok(Self {
            name: raw.name,
            version,
            kinds,
            summary: text(raw.summary),
            license: raw.license.map(text),
            authors: raw.authors.into_iter().take(32).map(text).collect(),
            homepage: raw.homepage.map(text),
            capabilities: raw.capabilities,
            build: raw.build,
        })
    }
}

/// Whether this is `HOST` or `HOST:PORT` with a name or an address as URLs have them, in lower case.
pub(crate) fn valid_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(':') && !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let name_fits = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'.' | b'_');
            !name.is_empty() && name.len() <= 253 && name.bytes().all(allowed) && !name.starts_with('.')
        }
    };
    name_fits && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "name = \"polite\"\nversion = \"0.1.0\"\nkind = [\"reward\", \"metric\"]\n";

    fn error(text: &str) -> String {
        Manifest::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_manifest_is_read_whole() {
        let text = format!(
            "{GOOD}summary = \"a\\nb\"\nlicense = \"MIT\"\nauthors = [\"A\"]\n[capabilities]\nread = true\nnet = [\"api.example.com\", \"*\"]\n[build]\nlang = \"python\"\nentry = \"src/a.py\"\n"
        );
        let manifest = Manifest::parse(&text).unwrap();
        assert_eq!((manifest.name.as_str(), manifest.version), ("polite", Version::new(0, 1, 0)));
        assert_eq!(manifest.kinds, [Kind::Reward, Kind::Metric]);
        assert_eq!(manifest.summary, "a b");
        assert_eq!(manifest.capabilities.net, ["api.example.com", "*"]);
        assert_eq!(manifest.build.unwrap().entry.as_deref(), Some("src/a.py"));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, part) in [
            (GOOD.replace("polite", "../evil"), "`../evil` is no name"),
            (GOOD.replace("polite", "Polite"), "`Polite` is no name"),
            (GOOD.replace("0.1.0", "1"), "version = \"1\""),
            (GOOD.replace("metric", "model-family"), "`model-family` is no kind"),
            (GOOD.replace("[\"reward\", \"metric\"]", "[]"), "names no kind"),
            (format!("{GOOD}colour = 1\n"), "unknown field `colour`"),
            (format!("{GOOD}[capabilities]\nwrite = true\n"), "unknown field `write`"),
            (format!("{GOOD}[capabilities]\nnet = [\"http://a\"]\n"), "`http://a` is no host name"),
            (String::new(), "missing field `name`"),
            ("name = ".into(), "plugin.toml: "),
            (" ".repeat(MAX_BYTES + 1), "larger than 64 KiB"),
        ] {
            assert!(error(&text).contains(part), "{}", error(&text));
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_with_or_without_a_port() {
        for host in ["a.b", "localhost:8080", "127.0.0.1", "[::1]:80", "[::1]"] {
            assert!(valid_host(host), "{host}");
        }
        for host in ["", "A.b", "a b", "a:0", "a:99999", "a/b", "::1", ".a", "a:b:c", "u@h", "a:", "*"] {
            assert!(!valid_host(host), "{host}");
        }
    }
}
