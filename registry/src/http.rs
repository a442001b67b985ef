//! Requests to registries: encryption, logging in, redirects, bounds. What is asked and answered is somebody else's concern.
//!
//! A password is sent to the registry it was given for, or to the server that this registry names for tokens, and never
//! along a redirect. Without encryption nothing is sent but to this machine or to hosts that the user named.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use serde::Deserialize;
use swift_plugin::clean;
use ureq::http::header::{AUTHORIZATION, LOCATION, WWW_AUTHENTICATE};
use ureq::http::{Response, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use crate::{RegistryError, Result, files};

const MOST_REDIRECTS: usize = 5;
const LARGEST_TOKEN: usize = 64 << 10;
const LARGEST_SAID: u64 = 8 << 10;
const LARGEST_FILE: u64 = 1 << 20;
const LARGEST_CERTIFICATES: u64 = 16 << 20;
const CONNECT: Duration = Duration::from_secs(15);

/// How registries may be reached.
#[derive(Debug, Clone)]
pub struct Network {
    /// Hosts that may be spoken to without encryption; this machine always may.
    pub insecure: Vec<String>,
    /// How long to wait for the next bytes.
    pub patience: Duration,
    /// `HOST=USER:PASSWORD`.
    pub login: Option<String>,
    /// Where `docker login` wrote other passwords.
    pub docker_config: Option<PathBuf>,
    /// A PEM file of certificates to believe instead of those that browsers believe.
    pub certificates: Option<PathBuf>,
}

impl Default for Network {
    fn default() -> Self {
        let patience = Duration::from_secs(30);
        Self { insecure: Vec::new(), patience, login: None, docker_config: None, certificates: None }
    }
}

impl Network {
    /// What the environment says: `SWIFT_REGISTRY_AUTH`, `DOCKER_CONFIG` or the home folder, `SSL_CERT_FILE`.
    pub fn of_environment() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker = path("DOCKER_CONFIG").or_else(|| std::env::home_dir().map(|home| home.join(".docker")));
        Self {
            login: std::env::var("SWIFT_REGISTRY_AUTH").ok(),
            docker_config: docker.map(|folder| folder.join("config.json")),
            certificates: path("SSL_CERT_FILE"),
            ..Self::default()
        }
    }
}

/// One request to a registry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) host: &'a str,
    /// Path and query, from the first slash.
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) body: Option<&'a [u8]>,
    /// What it is about: a token is good for one repository and one way of using it.
    pub(crate) subject: &'a str,
    /// `read`, `publish`: for messages and tokens.
    pub(crate) action: &'static str,
}

#[derive(Debug)]
pub(crate) struct Http {
    /// Through the proxy of the environment, and to this machine without one.
    agent: Agent,
    direct: Agent,
    network: Network,
    schemes: Mutex<HashMap<String, &'static str>>,
    /// `Authorization` by host, subject and action.
    authorizations: Mutex<HashMap<String, String>>,
}

impl Http {
    pub(crate) fn new(network: &Network) -> Result<Self> {
        let tls = TlsConfig::builder().root_certs(roots(network.certificates.as_ref())?).build();
        let config = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .user_agent(concat!("swift/", env!("CARGO_PKG_VERSION")))
                .timeout_connect(Some(CONNECT))
                .timeout_recv_response(Some(network.patience))
                .timeout_per_read(Some(network.patience))
                .timeout_per_write(Some(network.patience))
                .tls_config(tls.clone())
        };
        Ok(Self {
            agent: config().build().into(),
            direct: config().proxy(None).build().into(),
            network: network.clone(),
            schemes: Mutex::default(),
            authorizations: Mutex::default(),
        })
    }

    /// Sends a request, logs in when the registry asks for it, and follows redirects of reading ones. Whatever status comes
    /// is the caller's, but for those that mean "not you".
    pub(crate) fn send(&self, request: Request<'_>) -> Result<Response<Body>> {
        let url = format!("{}://{}{}", self.scheme(request.host)?, request.host, request.path);
        let key = format!("{} {} {}", request.host, request.subject, request.action);
        let known = lock(&self.authorizations).get(&key).cloned();
        let mut response = self.once(&request, &url, known.as_deref())?;
        if response.status() == 401
            && let Some(authorization) = self.log_in(&request, &response)?
        {
            response = self.once(&request, &url, Some(&authorization))?;
            lock(&self.authorizations).insert(key, authorization);
        }
        if matches!(response.status().as_u16(), 401 | 403) {
            return Err(RegistryError::Denied {
                host: request.host.into(),
                action: request.action,
                what: clean(if request.subject.is_empty() { "the list of plugins" } else { request.subject }, 200),
                said: said(response),
            });
        }
        if request.method == "GET" { self.follow(&request, url, response) } else { Ok(response) }
    }

    fn once(&self, request: &Request<'_>, url: &str, authorization: Option<&str>) -> Result<Response<Body>> {
        let host = authority(url).unwrap_or(request.host);
        let mut built = ureq::http::Request::builder().method(request.method).uri(url);
        for (name, value) in request.headers {
            built = built.header(*name, *value);
        }
        if let Some(authorization) = authorization {
            built = built.header(AUTHORIZATION, authorization);
        }
        let agent = if is_loopback(host) { &self.direct } else { &self.agent };
        let failed = |error: ureq::Error| self.unreachable(host, &error);
        let broken = |error: ureq::http::Error| RegistryError::Malformed { host: host.into(), what: error.to_string() };
        match request.body {
            Some(body) => agent.run(built.body(body).map_err(broken)?).map_err(failed),
            None => agent.run(built.body(()).map_err(broken)?).map_err(failed),
        }
    }

    /// Follows redirects of a reading request. What lies elsewhere gets neither the password nor the token.
    fn follow(&self, request: &Request<'_>, mut url: String, mut response: Response<Body>) -> Result<Response<Body>> {
        let malformed = |what: &str| RegistryError::Malformed { host: request.host.into(), what: what.into() };
        for _ in 0..MOST_REDIRECTS {
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = location.and_then(|location| resolve(&url, location));
            let next = next.ok_or_else(|| malformed("it redirects to nowhere"))?;
            let host = authority(&next).ok_or_else(|| malformed("it redirects to nowhere"))?;
            if leads_here(request.host, host) {
                return Err(malformed("it redirects to this machine"));
            }
            if next.starts_with("http://") && !self.may_be_plain(host) {
                return Err(RegistryError::Insecure { host: clean(host, 100) });
            }
            let key = format!("{} {} {}", request.host, request.subject, request.action);
            let same = next.starts_with("https://") == url.starts_with("https://") && host == request.host;
            let authorization = if same { lock(&self.authorizations).get(&key).cloned() } else { None };
            response = self.once(request, &next, authorization.as_deref())?;
            url = next;
        }
        if response.status().is_redirection() { Err(malformed("it redirects in a circle")) } else { Ok(response) }
    }

    /// `https`, or what a host speaks that may be spoken to without encryption.
    pub(crate) fn scheme(&self, host: &str) -> Result<&'static str> {
        if !self.may_be_plain(host) {
            return Ok("https");
        }
        if let Some(scheme) = lock(&self.schemes).get(host) {
            return Ok(scheme);
        }
        let request = ureq::http::Request::builder().uri(format!("https://{host}/v2/"));
        let request = request.body(()).map_err(|error| self.unreachable(host, &error.into()))?;
        let agent = if is_loopback(host) { &self.direct } else { &self.agent };
        let scheme = match agent.run(request) {
            Ok(_) => "https",
            Err(error) if is_no_tls(&error) => "http",
            Err(error) => return Err(self.unreachable(host, &error)),
        };
        lock(&self.schemes).insert(host.into(), scheme);
        Ok(scheme)
    }

    fn may_be_plain(&self, host: &str) -> bool {
        is_loopback(host) || self.network.insecure.iter().any(|named| named == host)
    }

    fn unreachable(&self, host: &str, error: &ureq::Error) -> RegistryError {
        let host = clean(host, 100);
        if is_no_tls(error) && !self.may_be_plain(&host) {
            return RegistryError::Insecure { host };
        }
        RegistryError::Network { what: clean(&error.to_string(), 200), host }
    }

    /// Answers the challenge of a registry: an `Authorization` to try, or nothing when there is none.
    fn log_in(&self, request: &Request<'_>, response: &Response<Body>) -> Result<Option<String>> {
        let header = response.headers().get(WWW_AUTHENTICATE).and_then(|header| header.to_str().ok());
        let Some(challenge) = header.and_then(Challenge::parse) else { return Ok(None) };
        let basic = self.credentials(request.host)?.map(|encoded| format!("Basic {encoded}"));
        let Challenge::Bearer { realm, service, scope } = challenge else { return Ok(basic) };
        let malformed = |what: &str| RegistryError::Malformed { host: request.host.into(), what: what.into() };
        let host = authority(&realm).ok_or_else(|| malformed("it sends to nowhere for a token"))?;
        if leads_here(request.host, host) {
            return Err(malformed("it sends to this machine for a token"));
        }
        if realm.starts_with("http://") && !self.may_be_plain(host) {
            return Err(RegistryError::Insecure { host: clean(host, 100) });
        }
        let mut url = format!("{realm}{}", if realm.contains('?') { '&' } else { '?' });
        for (name, value) in [("service", service), ("scope", scope)] {
            if let Some(value) = value {
                url.push_str(&format!("{name}={}&", encoded(&value)));
            }
        }
        let asking = Request { method: "GET", host, path: "", headers: &[], body: None, ..*request };
        let mut response = self.once(&asking, url.trim_end_matches(['&', '?']), basic.as_deref())?;
        if !response.status().is_success() {
            return Ok(None);
        }
        let text = read(response.body_mut(), LARGEST_TOKEN as u64);
        let text = text.map_err(|_| malformed("its token is too large"))?;
        let answer: Token = serde_json::from_slice(&text).map_err(|_| malformed("its token cannot be read"))?;
        let token = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
        token.map(|token| Some(format!("Bearer {token}"))).ok_or_else(|| malformed("its token is none"))
    }

    /// `user:password` for a host in base64: what the user gave for it, else what docker has.
    fn credentials(&self, host: &str) -> Result<Option<String>> {
        let given = self.network.login.as_ref().and_then(|login| login.strip_prefix(host)?.strip_prefix('='));
        if let Some(given) = given {
            return Ok(Some(base64::engine::general_purpose::STANDARD.encode(given)));
        }
        let Some(path) = &self.network.docker_config else { return Ok(None) };
        let Some(text) = files::read_text(path, LARGEST_FILE)? else { return Ok(None) };
        let file: serde_json::Value = serde_json::from_str(&text).map_err(|error| RegistryError::File {
            path: path.clone(),
            what: error.to_string(),
            hint: "docker and podman write it with `login`",
        })?;
        let hub = if host == "registry-1.docker.io" { "https://index.docker.io/v1/" } else { host };
        let names = [host.to_owned(), format!("https://{host}"), format!("https://{host}/v1/"), hub.to_owned()];
        let mut auths = names.iter().filter_map(|name| file.get("auths")?.get(name)?.get("auth")?.as_str());
        let valid =
            |auth: &&str| !auth.is_empty() && auth.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
        Ok(auths.find(valid).map(ToOwned::to_owned))
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// What a registry wants to see.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header (RFC 9110, 11.6.1).
    fn parse(header: &str) -> Option<Self> {
        let (scheme, mut rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        while let Some((name, after)) = rest.split_once('=') {
            let name = name.trim_matches([' ', ',']);
            let (value, after) = match after.strip_prefix('"') {
                Some(quoted) => quoted.split_once('"')?,
                None => after.split_once(',').unwrap_or((after, "")),
            };
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value.to_owned()),
                "service" => service = Some(value.to_owned()),
                "scope" => scope = Some(value.to_owned()),
                _ => {}
            }
            rest = after;
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// Whose certificates are believed: those of the file, else those that browsers believe.
fn roots(path: Option<&PathBuf>) -> Result<RootCerts> {
    let Some(path) = path else { return Ok(RootCerts::WebPki) };
    let pem = files::read(path, LARGEST_CERTIFICATES)?.unwrap_or_default();
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        let what = "it holds no certificate".into();
        return Err(RegistryError::File {
            path: path.clone(),
            what,
            hint: "SSL_CERT_FILE names a PEM file of certificates to believe",
        });
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// What the registry said about a failure, for a message.
pub(crate) fn said(response: Response<Body>) -> String {
    #[derive(Deserialize)]
    struct Said {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut body = response.into_body();
    let said = read(&mut body, LARGEST_SAID).ok().and_then(|text| serde_json::from_slice::<Said>(&text).ok());
    let first = said.and_then(|said| said.errors.into_iter().next());
    first.map_or_else(String::new, |one| format!(": {}", clean(&format!("{} {}", one.code, one.message), 200)))
}

/// The whole body, of at most `limit` bytes.
pub(crate) fn read(body: &mut Body, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    body.as_reader().take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}

/// The address that a `Location` leads to.
pub(crate) fn resolve(url: &str, location: &str) -> Option<String> {
    if location.starts_with("https://") || location.starts_with("http://") {
        authority(location)?;
        return Some(location.into());
    }
    let uri: Uri = url.parse().ok()?;
    let path = location.starts_with('/') && !location.starts_with("//");
    path.then(|| Some(format!("{}://{}{location}", uri.scheme_str()?, uri.authority()?)))?
}

/// Host and port of an address. One with a user in it has none: nobody may put a password there.
pub(crate) fn authority(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let host = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    crate::name::is_host(host).then_some(host)
}

/// Whether a host is this machine.
/// A registry elsewhere has no say in what is asked of this machine's own services.
fn leads_here(registry: &str, host: &str) -> bool {
    is_loopback(host) && !is_loopback(registry)
}

fn is_loopback(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or(host);
    name == "localhost" || name.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the other side answered a greeting of TLS with something else.
fn is_no_tls(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => !error.to_string().contains("certificate"),
        ureq::Error::Io(error) => {
            matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData
                    | std::io::ErrorKind::UnexpectedEof
                    | std::io::ErrorKind::ConnectionReset
            ) && !error.to_string().contains("certificate")
        }
        _ => false,
    }
}

/// A text as part of a query.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}

/// A poisoned lock still holds a whole map.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        let text = "Bearer realm=\"https://auth.io/token\",service=\"a b\",scope=\"repository:a/b:pull,push\"";
        let wanted = Challenge::Bearer {
            realm: "https://auth.io/token".into(),
            service: Some("a b".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(Challenge::parse(text), Some(wanted));
        let bare = Challenge::Bearer { realm: "https://a.io".into(), service: None, scope: None };
        assert_eq!(Challenge::parse("bearer realm=https://a.io, error=\"x\""), Some(bare));
        for text in ["", "Bearer", "Bearer service=\"x\"", "Bearer realm=\"x", "Digest realm=\"x\"", "Bearer =\"\""] {
            assert_eq!(Challenge::parse(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_are_taken_apart_strictly() {
        assert_eq!(authority("https://a.io:5/x?y"), Some("a.io:5"));
        for url in ["ftp://a.io", "https://user:password@a.io/x", "https://", "https://a b/", "a.io", "https:///x"] {
            assert_eq!(authority(url), None, "{url}");
        }
        assert_eq!(resolve("http://a.io/x/y", "/z?q").as_deref(), Some("http://a.io/z?q"));
        assert_eq!(resolve("http://a.io/x", "https://b.io/z").as_deref(), Some("https://b.io/z"));
        for location in ["z", "//b.io/z", "file:///etc/passwd", "https://u@b.io/"] {
            assert_eq!(resolve("http://a.io/x", location), None, "{location}");
        }
        assert!(is_loopback("localhost:5000") && is_loopback("127.0.0.1") && !is_loopback("localhost.evil.io"));
        assert!(leads_here("ghcr.io", "127.0.0.1:22") && !leads_here("localhost:5000", "localhost:5001"));
        assert!(!is_loopback("10.0.0.1:5000") && !is_loopback("127.0.0.1.nip.io"));
        assert_eq!(encoded("a b:c/d"), "a%20b%3Ac%2Fd");
    }
}
