//! Outgoing HTTP to the hosts that the user granted (`--allow PLUGIN:net=HOST`). Redirects are not followed: the plugin
//! sees them, and may follow one to a host that was granted too.

use crate::bindings::http::swift::plugin::http;
pub use crate::bindings::http::swift::plugin::http::{Request, Response};
use crate::{Error, Result};

/// Milliseconds until the host gives up, where a request says nothing else.
const TIMEOUT: u32 = 30_000;

/// Sends a request. Any answer is `Ok`, whatever its status.
///
/// # Errors
/// When there was no answer, or the host is not granted.
///
/// ```no_run
/// use swift_sdk::http::{Request, send};
///
/// let answer = send(&Request::post("https://judge.example.com/score", r#"{"text": "..."}"#))?;
/// if answer.status != 200 {
///     return Err(format!("the judge answers {}", answer.status).into());
/// }
/// # Ok::<(), swift_sdk::Error>(())
/// ```
pub fn send(request: &Request) -> Result<Response> {
    http::send(request).map_err(Error::from)
}

impl Request {
    /// `GET` of this URL, with 30 seconds to answer.
    pub fn get(url: &str) -> Self {
        Self { method: "GET".into(), url: url.into(), headers: Vec::new(), body: Vec::new(), timeout: TIMEOUT }
    }

    /// `POST` of this JSON text, with 30 seconds to answer.
    pub fn post(url: &str, json: &str) -> Self {
        Self { method: "POST".into(), body: json.into(), ..Self::get(url) }.header("content-type", "application/json")
    }

    /// With this header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }
}

impl Response {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text; what is not UTF-8 in it is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
