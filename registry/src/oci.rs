//! The OCI distribution protocol, as much of it as plugins need: tags, manifests and blobs, read and written.
//!
//! Every answer is bounded, and bytes that have a digest are checked against it. What a manifest means is not known here.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use swift_plugin::clean;
use ureq::Body;
use ureq::http::Response;
use ureq::http::header::{CONTENT_RANGE, LINK, LOCATION};

use crate::http::{self, Http, Request};
use crate::name::{Repository, is_tag};
use crate::store::Partial;
use crate::{RegistryError, Result, files, wasm};

pub use crate::http::Network;

const PAGE: usize = 1000;
const MOST_PAGES: usize = 100;
const MOST_NAMES: usize = 20_000;
const LARGEST_PAGE: u64 = 4 << 20;
/// Connections in a row that may bring nothing.
const MOST_IDLE: u32 = 3;
const MOST_CONNECTIONS: u32 = 100;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A client of OCI registries.
#[derive(Debug)]
pub struct Client {
    http: Http,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Catalog {
    repositories: Vec<String>,
}

impl Client {
    /// A client; nothing is asked yet.
    ///
    /// # Errors
    /// When `SSL_CERT_FILE` names a file without certificates.
    pub fn new(network: &Network) -> Result<Self> {
        Ok(Self { http: Http::new(network)? })
    }

    /// All tags of a repository, or nothing where there is no such repository.
    pub(crate) fn tags(&self, repository: &Repository) -> Result<Option<Vec<String>>> {
        let mut tags = Vec::new();
        let path = format!("/v2/{}/tags/list?n={PAGE}", repository.path());
        let found = self.pages(repository.host(), repository.path(), path, |page| {
            let page: Tags = serde_json::from_slice(page)?;
            tags.extend(page.tags.unwrap_or_default().into_iter().filter(|tag| is_tag(tag)));
            Ok(tags.len())
        })?;
        Ok(found.then_some(tags))
    }

    /// The repositories of a registry, or nothing where it does not tell.
    pub(crate) fn catalog(&self, host: &str) -> Result<Option<Vec<Repository>>> {
        let mut found = Vec::new();
        let listed = self.pages(host, "", format!("/v2/_catalog?n={PAGE}"), |page| {
            let page: Catalog = serde_json::from_slice(page)?;
            found.extend(page.repositories.iter().filter_map(|path| format!("{host}/{path}").parse().ok()));
            Ok(found.len())
        });
        match listed {
            Ok(listed) => Ok(listed.then_some(found)),
            Err(RegistryError::Denied { .. } | RegistryError::Answer { .. } | RegistryError::Malformed { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads page after page; false where there is nothing to read. `take` returns how much it has by now.
    fn pages(
        &self,
        host: &str,
        subject: &str,
        mut path: String,
        mut take: impl FnMut(&[u8]) -> serde_json::Result<usize>,
    ) -> Result<bool> {
        let malformed = |what: String| RegistryError::Malformed { host: host.into(), what: clean(&what, 200) };
        for _ in 0..MOST_PAGES {
            let mut response = self.get(host, subject, &path, &[])?;
            if response.status() == 404 {
                return Ok(false);
            }
            let next = response.headers().get(LINK).and_then(|link| link.to_str().ok()).and_then(next_page);
            let page = self.body(host, "its list", &mut response, LARGEST_PAGE)?;
            let have = take(&page).map_err(|error| malformed(format!("its list cannot be read: {error}")))?;
            match next {
                Some(next) if have <= MOST_NAMES => path = next,
                _ => return Ok(true),
            }
        }
        Err(malformed("its list has no end".into()))
    }

    /// The manifest of a tag or a digest (`sha256:..`) with its sha256 in hex, or nothing where there is none.
    pub(crate) fn manifest(&self, repository: &Repository, reference: &str) -> Result<Option<(String, Vec<u8>)>> {
        let host = repository.host();
        let path = format!("/v2/{}/manifests/{reference}", repository.path());
        let mut response = self.get(host, repository.path(), &path, &[("accept", wasm::ACCEPT)])?;
        if response.status() == 404 {
            return Ok(None);
        }
        let promised = response.headers().get("docker-content-digest").and_then(|digest| digest.to_str().ok());
        let promised = promised.and_then(|digest| digest.strip_prefix("sha256:")).map(ToOwned::to_owned);
        let promised = reference.strip_prefix("sha256:").map(ToOwned::to_owned).or(promised);
        let what = format!("the manifest of {repository}");
        let bytes = self.body(host, &what, &mut response, wasm::LARGEST_MANIFEST)?;
        let found = files::sha256(&bytes);
        if let Some(expected) = promised.filter(|promised| *promised != found) {
            return Err(RegistryError::Digest { what, expected: clean(&expected, 64), found });
        }
        Ok(Some((found, bytes)))
    }

    /// A small blob, whole.
    pub(crate) fn blob(&self, repository: &Repository, (digest, size): &(String, u64)) -> Result<Vec<u8>> {
        let what = format!("the config of {repository}");
        let mut response = self.get_blob(repository, digest, 0)?;
        let bytes = self.body(repository.host(), &what, &mut response, *size)?;
        let found = files::sha256(&bytes);
        if found == *digest { Ok(bytes) } else { Err(RegistryError::Digest { what, expected: digest.clone(), found }) }
    }

    /// Fetches a blob of `size` bytes behind what `partial` has. A connection that ends early is made again; what came
    /// stays in `partial`, whatever happens.
    pub(crate) fn download(
        &self,
        repository: &Repository,
        digest: &str,
        size: u64,
        partial: &mut Partial,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        if partial.have() > size {
            partial.restart()?;
        }
        progress(partial.have());
        let (mut idle, mut connections) = (0, 0);
        while partial.have() < size {
            let before = partial.have();
            let reason = match self.continue_download(repository, digest, size, partial, progress) {
                Ok(()) => "the connection ended early".into(),
                Err(Broken::Connection(reason)) => reason,
                Err(Broken::Other(error)) => return Err(*error),
            };
            if partial.have() == size {
                break;
            }
            idle = if partial.have() > before { 0 } else { idle + 1 };
            connections += 1;
            if idle == MOST_IDLE || connections == MOST_CONNECTIONS {
                return Err(RegistryError::Interrupted {
                    host: repository.host().into(),
                    what: repository.path().into(),
                    done: partial.have(),
                    total: size,
                    reason: clean(&reason, 200),
                });
            }
            std::thread::sleep(FIRST_PAUSE * 2_u32.pow(idle));
        }
        Ok(())
    }

    fn continue_download(
        &self,
        repository: &Repository,
        digest: &str,
        size: u64,
        partial: &mut Partial,
        progress: &mut dyn FnMut(u64),
    ) -> std::result::Result<(), Broken> {
        let mut response = self.get_blob(repository, digest, partial.have()).map_err(|error| match error {
            RegistryError::Network { what, .. } => Broken::Connection(what),
            RegistryError::Answer { status: 416, .. } => Broken::Connection("it has fewer bytes".into()),
            error => error.into(),
        })?;
        let start = match response.status().as_u16() {
            206 => response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok()).and_then(range_start),
            _ => Some(0),
        };
        match start {
            Some(start) if start == partial.have() => {}
            // A registry that does not know ranges sends the whole.
            Some(0) => partial.restart()?,
            _ => return Err(Broken::Connection("it sent another part".into())),
        }
        let mut reader = response.body_mut().as_reader();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = reader.read(&mut buffer).map_err(|error| Broken::Connection(error.to_string()))?;
            if count == 0 {
                return Ok(());
            }
            if partial.have() + count as u64 > size {
                partial.restart()?;
                let what = format!("{repository} sent more than the {size} bytes that its manifest has");
                return Err(RegistryError::Malformed { host: repository.host().into(), what }.into());
            }
            partial.append(&buffer[..count])?;
            progress(partial.have());
        }
    }

    fn get_blob(&self, repository: &Repository, digest: &str, from: u64) -> Result<Response<Body>> {
        let path = format!("/v2/{}/blobs/sha256:{digest}", repository.path());
        let range = format!("bytes={from}-");
        let headers: &[(&'static str, &str)] = if from > 0 { &[("range", &range)] } else { &[] };
        let response = self.get(repository.host(), repository.path(), &path, headers)?;
        if response.status() == 404 {
            let what = format!("{repository} names a blob that is not there (sha256:{digest})");
            return Err(RegistryError::Malformed { host: repository.host().into(), what });
        }
        Ok(response)
    }

    /// Puts a blob into a repository unless it is there.
    pub(crate) fn put_blob(&self, repository: &Repository, bytes: &[u8]) -> Result<()> {
        let (host, subject, action) = (repository.host(), repository.path(), "publish");
        let digest = format!("sha256:{}", files::sha256(bytes));
        let base = Request { method: "HEAD", host, path: "", headers: &[], body: None, subject, action };
        let path = format!("/v2/{subject}/blobs/{digest}");
        if self.http.send(Request { path: &path, ..base })?.status() == 200 {
            return Ok(());
        }
        let path = format!("/v2/{subject}/blobs/uploads/");
        let response = self.http.send(Request { method: "POST", path: &path, body: Some(b""), ..base })?;
        let response = self.expect(host, "the start of an upload", response, &[202])?;
        let malformed =
            || RegistryError::Malformed { host: host.into(), what: "it names no place to upload to".into() };
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        let url = location.and_then(|location| http::resolve(&format!("https://{host}/"), location));
        let url = url.ok_or_else(malformed)?;
        // An upload elsewhere would need the password elsewhere.
        if http::authority(&url) != Some(host) {
            return Err(malformed());
        }
        let path = url.split_once("://").and_then(|(_, rest)| rest.strip_prefix(host)).ok_or_else(malformed)?;
        let separator = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{separator}digest={}", digest.replace(':', "%3A"));
        let headers = &[("content-type", "application/octet-stream")];
        let response = self.http.send(Request { method: "PUT", path: &path, headers, body: Some(bytes), ..base })?;
        self.expect(host, "an upload", response, &[201]).map(drop)
    }

    /// Puts a manifest under a tag.
    pub(crate) fn put_manifest(&self, repository: &Repository, tag: &str, bytes: &[u8]) -> Result<()> {
        let path = format!("/v2/{}/manifests/{tag}", repository.path());
        let response = self.http.send(Request {
            method: "PUT",
            host: repository.host(),
            path: &path,
            headers: &[("content-type", wasm::MANIFEST)],
            body: Some(bytes),
            subject: repository.path(),
            action: "publish",
        })?;
        self.expect(repository.host(), "a manifest", response, &[201]).map(drop)
    }

    fn get(&self, host: &str, subject: &str, path: &str, headers: &[(&'static str, &str)]) -> Result<Response<Body>> {
        let request = Request { method: "GET", host, path, headers, body: None, subject, action: "read" };
        let response = self.http.send(request)?;
        let what = if subject.is_empty() { "the list of plugins" } else { subject };
        self.expect(host, what, response, &[200, 206, 404])
    }

    fn expect(&self, host: &str, what: &str, response: Response<Body>, good: &[u16]) -> Result<Response<Body>> {
        let status = response.status().as_u16();
        if good.contains(&status) {
            return Ok(response);
        }
        let (host, what) = (host.into(), clean(what, 200));
        Err(RegistryError::Answer { host, status, what, said: http::said(response) })
    }

    fn body(&self, host: &str, what: &str, response: &mut Response<Body>, limit: u64) -> Result<Vec<u8>> {
        http::read(response.body_mut(), limit).map_err(|error| RegistryError::Malformed {
            host: host.into(),
            what: clean(&format!("{what}: {error}"), 300),
        })
    }
}

/// Why a connection brought no more.
enum Broken {
    Connection(String),
    Other(Box<RegistryError>),
}

impl From<RegistryError> for Broken {
    fn from(error: RegistryError) -> Self {
        Self::Other(error.into())
    }
}

/// The path of `</v2/..>; rel="next"`. Pages lie on the same host.
fn next_page(link: &str) -> Option<String> {
    let (target, relation) = link.strip_prefix('<')?.split_once('>')?;
    let relation = relation.replace([' ', '"'], "");
    let target = match http::authority(target) {
        Some(host) => target.split_once(host)?.1,
        None => target,
    };
    (relation.contains("rel=next") && target.starts_with("/v2/")).then(|| target.to_owned())
}

/// The first byte of `bytes 100-199/200`.
fn range_start(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read() {
        assert_eq!(
            next_page("</v2/a/tags/list?last=x&n=5>; rel=\"next\"").as_deref(),
            Some("/v2/a/tags/list?last=x&n=5")
        );
        assert_eq!(next_page("<https://a.io/v2/x>; rel=next").as_deref(), Some("/v2/x"));
        for link in ["", "<", "</v2/x>", "</etc>; rel=next", "<https://u@a.io/v2/x>; rel=next", "</v2/x>; rel=\"prev\""]
        {
            assert_eq!(next_page(link), None, "{link}");
        }
        assert_eq!(range_start("bytes 100-199/200"), Some(100));
        assert_eq!(range_start("bytes x-199/200"), None);
    }
}
