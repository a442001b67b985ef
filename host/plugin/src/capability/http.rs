//! HTTP to the hosts that were granted, and to no other: not through a redirect, a header or a proxy.

use std::io::Read;
use std::time::Duration;

use ureq::http::{Request, Uri};

/// Bytes of an answer's body at most.
const MAX_BODY: u64 = 64 << 20;
/// Headers that say whom the request is for or where its body ends: the host's own to set.
const OWN_HEADERS: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "proxy-authorization"];

/// The hosts that a plugin may speak to.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    hosts: Vec<String>,
    agent: ureq::Agent,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Http {
    /// A client for these hosts: `HOST`, or `HOST:PORT`.
    pub(crate) fn new(hosts: Vec<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("swift/", env!("CARGO_PKG_VERSION")));
        Self { hosts, agent: config.build().into() }
    }

    /// Whether `uri` leads to a granted host, and at which port.
    fn allowed(&self, uri: &Uri) -> Result<(), String> {
        let usual = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err("only http:// and https:// can be sent to".into()),
        };
        let authority = uri.authority().ok_or("the address names no host")?;
        if authority.as_str().contains('@') {
            return Err("credentials in the address are not sent; use a header".into());
        }
        let host = authority.host().to_ascii_lowercase();
        let port = authority.port_u16().unwrap_or(usual);
        let with_port = format!("{host}:{port}");
        let granted = self.hosts.iter().any(|granted| *granted == with_port || (port == usual && *granted == host));
        let plain = if port == usual { host } else { with_port };
        if granted { Ok(()) } else { Err(format!("the user did not grant this plugin to speak to {plain:?}")) }
    }

    /// Sends a request and waits for the whole answer, at most `limit`.
    pub(crate) fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(String, String)],
        body: &[u8],
        limit: Duration,
    ) -> Result<Answer, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url:?} is no address: {error}"))?;
        self.allowed(&uri)?;
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) {
                return Err(format!("the header {name:?} is the host's to set"));
            }
            request = request.header(name, value);
        }
        let request = request.body(body).map_err(|error| format!("the request cannot be: {error}"))?;
        let request =
            self.agent.configure_request(request).timeout_global(Some(limit)).allow_non_standard_methods(true).build();
        let mut answer = self.agent.run(request).map_err(|error| error.to_string())?;
        let headers = answer
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
        let (status, headers) = (answer.status().as_u16(), headers.collect());
        let mut body = Vec::new();
        let reader = answer.body_mut().as_reader();
        reader.take(MAX_BODY + 1).read_to_end(&mut body).map_err(|error| format!("the answer broke off: {error}"))?;
        if body.len() as u64 > MAX_BODY {
            return Err(format!("the answer has more than {MAX_BODY} bytes"));
        }
        Ok(Answer { status, headers, body })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_granted_hosts_at_their_ports() {
        let http = Http::new(vec!["api.example.com".into(), "localhost:8080".into(), "[::1]:99".into()]);
        let allowed = |url: &str| http.allowed(&url.parse().unwrap()).is_ok();
        for url in [
            "https://api.example.com/x",
            "http://API.example.com",
            "https://api.example.com:443/",
            "http://localhost:8080/",
            "http://[::1]:99/",
        ] {
            assert!(allowed(url), "{url}");
        }
        for url in [
            "https://api.example.com:8443/",
            "http://api.example.com:443/",
            "https://example.com/",
            "https://api.example.com.evil.net/",
            "https://evil.net/api.example.com",
            "http://localhost/",
            "http://user@api.example.com/",
            "http://api.example.com@evil.net/",
            "ftp://api.example.com/",
            "/relative",
        ] {
            assert!(!allowed(url), "{url}");
        }
    }

    #[test]
    fn headers_that_lead_elsewhere_are_refused() {
        let http = Http::new(vec!["localhost:1".into()]);
        let headers = [("Host".to_owned(), "evil.net".to_owned())];
        let error = http.send("GET", "http://localhost:1/", &headers, b"", Duration::from_secs(1)).unwrap_err();
        assert!(error.contains("\"Host\""), "{error}");
    }
}
