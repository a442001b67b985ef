//! How plugins are named: `polite`, `polite@1.2`, `oci://host/path@1.2`, a component, a folder of components.
//!
//! Names become file names, addresses and lines of a terminal, so only plain small letters, digits and a few marks get
//! through. Nothing here opens a file or a connection.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use semver::{Version, VersionReq};
use swift_plugin::clean;

use crate::{RegistryError, Result};

const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;

/// What the user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// A name of the registry, with what its version must be.
    Name { name: String, requirement: Option<VersionReq> },
    /// A repository of an OCI registry.
    Oci { repository: Repository, wanted: Wanted },
    /// A component on this machine, or a folder whose components are all meant.
    Path(PathBuf),
}

/// Which artifact of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// The newest version that fits.
    Version(Option<VersionReq>),
    /// Whatever the tag is on now.
    Tag(String),
    /// The manifest with this sha256, in hex.
    Digest(String),
}

/// A repository of an OCI registry: `ghcr.io/somebody/plugins/polite`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repository {
    host: String,
    path: String,
}

impl Reference {
    /// Reads a reference as a user types it.
    ///
    /// # Errors
    /// [`RegistryError::Reference`] when the text is none of the forms.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("oci://") {
            return Self::parse_oci(text, rest);
        }
        if text.starts_with('.') || text.contains(['/', '\\']) || text.ends_with(".wasm") {
            return Ok(Self::Path(PathBuf::from(text)));
        }
        let (name, requirement) = match text.split_once('@') {
            Some((name, requirement)) => (name, Some(parse_requirement(text, requirement)?)),
            None => (text, None),
        };
        check_name(name)?;
        Ok(Self::Name { name: name.into(), requirement })
    }

    fn parse_oci(text: &str, rest: &str) -> Result<Self> {
        if let Some((repository, digest)) = rest.split_once("@sha256:") {
            if !is_digest(digest) {
                return Err(wrong(text, "a digest has 64 hexadecimal digits"));
            }
            return Ok(Self::Oci { repository: repository.parse()?, wanted: Wanted::Digest(digest.into()) });
        }
        if let Some((repository, requirement)) = rest.split_once('@') {
            let wanted = Wanted::Version(Some(parse_requirement(text, requirement)?));
            return Ok(Self::Oci { repository: repository.parse()?, wanted });
        }
        // A colon before the first slash belongs to the port.
        let slash = rest.find('/').unwrap_or(rest.len());
        if let Some((repository, tag)) = rest[slash..].rsplit_once(':') {
            if !is_tag(tag) {
                return Err(wrong(text, "a tag has letters, digits and `_ . -`, at most 128"));
            }
            let repository = rest[..slash + repository.len()].parse()?;
            return Ok(Self::Oci { repository, wanted: Wanted::Tag(tag.into()) });
        }
        Ok(Self::Oci { repository: rest.parse()?, wanted: Wanted::Version(None) })
    }
}

impl Repository {
    /// The host, with its port where one is given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The path below the host, without a slash at either end.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The last part of the path, which is the plugin's name.
    ///
    /// # Errors
    /// When no plugin can be called so.
    pub fn name(&self) -> Result<&str> {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        check_name(name)?;
        Ok(name)
    }
}

impl FromStr for Repository {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self> {
        let Some((host, path)) = text.split_once('/') else {
            return Err(wrong(text, "a repository is HOST/PATH"));
        };
        if !is_host(host) {
            return Err(wrong(text, "the host must be a name or an IPv4 address, with a port if need be"));
        }
        let parts = path.split('/').all(is_path_part);
        if !parts || path.len() > LONGEST_REPOSITORY {
            return Err(wrong(text, "a path has small letters and digits, with single `. _ - /` between them"));
        }
        Ok(Self { host: host.into(), path: path.into() })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// Refuses everything that [`swift_plugin::valid_name`] does not allow.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if swift_plugin::valid_name(name) {
        return Ok(());
    }
    Err(wrong(name, "a name has small letters, digits, `_` and `-`, begins with a letter or digit, and has at most 64"))
}

/// `=1.2.3` for a whole version, else what semver says: somebody who types three numbers means that version.
pub(crate) fn parse_requirement(given: &str, text: &str) -> Result<VersionReq> {
    let exact = Version::parse(text).ok().map(|version| format!("={version}"));
    VersionReq::parse(exact.as_deref().unwrap_or(text))
        .map_err(|error| wrong(given, &format!("`{}` is no version requirement ({error})", clean(text, 60))))
}

/// 64 hexadecimal digits, as sha256 has them.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

pub(crate) fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && text.len() <= LONGEST_TAG && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

pub(crate) fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let port = port
        .is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0));
    port && name.len() <= 253 && name.split('.').all(label)
}

/// Letters and digits, and between them one of `.` `_` `__` or any number of `-`: so no part is `..` or empty.
fn is_path_part(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = |at: Option<&u8>| at.is_some_and(|&b| alphanumeric(b));
    let between = part.split(|c: char| alphanumeric(u8::try_from(c).unwrap_or(0)));
    let known = |mark: &str| matches!(mark, "" | "." | "_" | "__") || mark.bytes().all(|b| b == b'-');
    ends(bytes.first()) && ends(bytes.last()) && between.into_iter().all(known)
}

fn wrong(given: &str, what: &str) -> RegistryError {
    RegistryError::Reference { given: clean(given, 120), what: what.into() }
}

/// Where one plugin comes from, as `swift.lock` writes it: enough to fetch it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Versions are tags of a repository.
    Oci(Repository),
    /// One manifest of a repository, by its sha256.
    Pinned(Repository, String),
    /// `ROOT/NAME/VERSION.wasm`.
    Folder(PathBuf),
    /// One component.
    File(PathBuf),
}

impl Place {
    /// Reads what [`Place`]'s `Display` wrote.
    ///
    /// # Errors
    /// [`RegistryError::Reference`] for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        if text.chars().any(char::is_control) {
            return Err(wrong(text, "a source has no control characters"));
        }
        if let Some(folder) = text.strip_prefix("folder:") {
            return Ok(Self::Folder(folder.into()));
        }
        if let Some(file) = text.strip_prefix("file:") {
            return Ok(Self::File(file.into()));
        }
        match Reference::parse(text)? {
            Reference::Oci { repository, wanted: Wanted::Version(None) } => Ok(Self::Oci(repository)),
            Reference::Oci { repository, wanted: Wanted::Digest(digest) } => Ok(Self::Pinned(repository, digest)),
            _ => Err(wrong(text, "a source is oci://HOST/PATH, oci://HOST/PATH@sha256:.., folder:PATH or file:PATH")),
        }
    }

    /// The same place with paths below `folder` made relative to it, so that a project can move.
    pub(crate) fn relative_to(&self, folder: &Path) -> Self {
        let relative = |path: &Path| path.strip_prefix(folder).map_or_else(|_| path.into(), Path::to_owned);
        match self {
            Self::Folder(path) => Self::Folder(relative(path)),
            Self::File(path) => Self::File(relative(path)),
            other => other.clone(),
        }
    }

    /// The same place with relative paths taken from `folder`.
    pub(crate) fn within(&self, folder: &Path) -> Self {
        match self {
            Self::Folder(path) => Self::Folder(folder.join(path)),
            Self::File(path) => Self::File(folder.join(path)),
            other => other.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Oci(repository) => write!(f, "oci://{repository}"),
            Self::Pinned(repository, digest) => write!(f, "oci://{repository}@sha256:{digest}"),
            Self::Folder(path) => write!(f, "folder:{}", path.display()),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::RngExt as _;

    use super::*;

    fn name(text: &str, requirement: Option<&str>) -> Reference {
        Reference::Name { name: text.into(), requirement: requirement.map(|text| VersionReq::parse(text).unwrap()) }
    }

    #[test]
    fn every_form_is_read() {
        assert_eq!(Reference::parse("polite").unwrap(), name("polite", None));
        assert_eq!(Reference::parse("polite@0.3").unwrap(), name("polite", Some("0.3")));
        assert_eq!(Reference::parse("polite@0.3.1").unwrap(), name("polite", Some("=0.3.1")));
        assert_eq!(Reference::parse("polite@>=1, <3").unwrap(), name("polite", Some(">=1, <3")));
        assert_eq!(Reference::parse("polite@1.0.0-rc.1").unwrap(), name("polite", Some("=1.0.0-rc.1")));
        for path in ["./x.wasm", "x.wasm", "a/b", "/x", "..", "."] {
            assert_eq!(Reference::parse(path).unwrap(), Reference::Path(path.into()));
        }
        let oci = |repository: &str, wanted| Reference::Oci { repository: repository.parse().unwrap(), wanted };
        assert_eq!(Reference::parse("oci://ghcr.io/a/b").unwrap(), oci("ghcr.io/a/b", Wanted::Version(None)));
        let tagged = oci("localhost:5000/p", Wanted::Tag("latest".into()));
        assert_eq!(Reference::parse("oci://localhost:5000/p:latest").unwrap(), tagged);
        let digest = "0f".repeat(32);
        assert_eq!(
            Reference::parse(&format!("oci://h.io/p@sha256:{digest}")).unwrap(),
            oci("h.io/p", Wanted::Digest(digest))
        );
        let version = Wanted::Version(Some(VersionReq::parse("^1.2").unwrap()));
        assert_eq!(Reference::parse("oci://h:1/p@^1.2").unwrap(), oci("h:1/p", version));
    }

    #[test]
    fn nothing_leaves_its_folder_or_looks_like_something_else() {
        let long = "a".repeat(65);
        for bad in [
            "",
            "Polite",
            "pоlite",
            "-polite",
            "po lite",
            "polite\u{202e}",
            "polite@",
            "polite@latest",
            "polite@1.2.3.4",
            &long,
            "oci://",
            "oci://host",
            "oci://host/",
            "oci:///x",
            "oci://ho_st/x",
            "oci://host/../x",
            "oci://host/a/../b",
            "oci://host/a//b",
            "oci://host/A",
            "oci://host:0/a",
            "oci://host:70000/a",
            "oci://user@host/a",
            "oci://host/a:",
            "oci://host/a:..",
            "oci://host/a@sha256:12",
            "oci://-host/a",
            "oci://host/a?x=1",
            "oci://host/a#b",
            "oci://host/a%2e",
            "oci://host/a.-b",
            "oci://host/a-",
            "oci://host/.a",
        ] {
            let error = Reference::parse(bad).expect_err(bad);
            assert!(!error.to_string().contains('\u{202e}') && !error.hint().is_empty(), "{bad}");
        }
        for bad in ["polite", "oci://h/p:latest", "oci://h/p@1", "folder:a\nb", "file:\u{1b}[2J"] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let digest = "ab".repeat(32);
        for text in
            ["oci://h.io/a/b", &format!("oci://h.io/a@sha256:{digest}"), "folder:plugins here", "file:/x/y.wasm"]
        {
            let place = Place::parse(text).unwrap();
            assert_eq!(place.to_string(), text);
        }
        let below = Place::parse("folder:/home/me/project/plugins").unwrap();
        let moved = below.relative_to(Path::new("/home/me/project"));
        assert_eq!(moved.to_string(), "folder:plugins");
        assert_eq!(moved.within(Path::new("/home/me/project")), below);
    }

    #[test]
    fn no_text_makes_it_panic() {
        let pieces =
            ["oci://", "@", ":", "/", "..", "sha256:", "a", "Z", "ä", "0", "1.2", "-", "_", ".", "\u{0}", "💥", "*"];
        for _ in 0..20_000 {
            let text: String = (0..rand::rng().random_range(0..8))
                .map(|_| pieces[rand::rng().random_range(0..pieces.len())])
                .collect();
            if let Ok(Reference::Oci { repository, .. }) = Reference::parse(&text) {
                assert!(
                    !repository.path().split('/').any(|part| part.is_empty() || part == ".." || part == "."),
                    "{text}"
                );
                assert_eq!(repository.to_string().parse::<Repository>().unwrap(), repository);
            }
            let _ = Place::parse(&text);
        }
    }
}
