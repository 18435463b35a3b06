//! Where a redirected request is told to go.

use http::HeaderValue;
use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, Scheme};

use super::{HttpMatch, Redirect};

impl Redirect {
    /// The `Location` for a request that came to `port` by `http` and was matched by `condition`; `None` where the
    /// request names no host, and the filter neither.
    ///
    /// What the filter leaves open is the request's: its host without the port, its path, its query. A port is named only
    /// where it is not its scheme's own.
    #[must_use]
    pub fn location(&self, condition: &HttpMatch, request: &Parts, port: u16) -> Option<HeaderValue> {
        let scheme = self.scheme.as_ref().unwrap_or(&Scheme::HTTP);
        let own = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => port,
            (None, Some(_)) => own,
            (None, None) => port,
        };
        let asked = host(request);
        let host = self.host.as_deref().or(asked.as_deref())?;
        let path = match &self.path {
            Some(path) => path.of(condition, request.uri.path()),
            None => request.uri.path().to_owned(),
        };
        let mut location = format!("{scheme}://{host}");
        if port != own {
            location.push_str(&format!(":{port}"));
        }
        location.push_str(&path);
        if let Some(query) = request.uri.query() {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::try_from(location).ok()
    }
}

/// The host a request names, without the port.
fn host(request: &Parts) -> Option<String> {
    if let Some(authority) = request.uri.authority() {
        return Some(authority.host().to_owned());
    }
    let text = request.headers.get(HOST)?.to_str().ok()?;
    let authority: Authority = text.parse().ok()?;
    Some(authority.host().to_owned())
}
