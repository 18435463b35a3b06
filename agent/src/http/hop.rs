//! What concerns one hop and goes no further (RFC 9110, 7.6), and what a request must have to be carried at all.
//!
//! A function of the head alone. It removes, and never guesses: a head that can be read in two ways is refused.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use http::{Method, Request, StatusCode, Version, request, response};

use super::framing::{self, Unreadable};

/// The fields of an HTTP/2 request at the most, in bytes.
pub(super) const FIELDS_MAX: usize = framing::HEAD_MAX;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Why a request is not carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("an HTTP/1.1 request needs one Host (RFC 9112, 3.2)")]
    Host,
    #[error("a request with both Content-Length and Transfer-Encoding, or several of one, has no one length")]
    Framing,
    #[error("the only transfer coding carried is chunked")]
    TransferCoding,
    #[error("an HTTP/2 request needs a scheme and an authority")]
    Authority,
    #[error("the fields are more than 64 KiB (RFC 6585, 5)")]
    TooLarge,
    #[error("the body broke off")]
    Body,
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
}

impl BadRequest {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TransferCoding | Self::Unreadable(Unreadable::Coding) => StatusCode::NOT_IMPLEMENTED,
            Self::Unreadable(Unreadable::TargetTooLong) => StatusCode::URI_TOO_LONG,
            Self::Unreadable(Unreadable::Version) => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TooLarge | Self::Unreadable(Unreadable::TooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

/// Makes a request's head fit for the next hop. Answers whether the request asks for another protocol, or for a tunnel.
///
/// # Errors
/// [`BadRequest`].
pub(super) fn request(head: &mut request::Parts) -> Result<bool, BadRequest> {
    let upgrade = if head.version == Version::HTTP_2 {
        fields(head)?;
        authority(head)?;
        head.method == Method::CONNECT
    } else {
        framing(&head.headers)?;
        host(head)?;
        let upgrade = upgrade(head);
        strip(&mut head.headers, upgrade.is_some());
        if let Some(upgrade) = upgrade {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, upgrade);
            return Ok(true);
        }
        head.method == Method::CONNECT
    };
    Ok(upgrade)
}

/// Makes of an app's request over HTTP/1 one for an endpoint that speaks HTTP/2 (RFC 9113, 8.3.1). What asks for another
/// protocol, names nobody (HTTP/1.0 may) or asks for no resource cannot be said so: it stays as it is. Answers whether it could.
pub(super) fn raise<B>(request: &mut Request<B>) -> bool {
    let http1 = request.version() != Version::HTTP_2;
    if !http1 || request.method() == Method::CONNECT || request.headers().contains_key(UPGRADE) {
        return false;
    }
    let host = request.headers().get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let (Some(host), true) = (host, request.uri().path().starts_with('/')) else { return false };
    let mut uri = request.uri().clone().into_parts();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    uri.authority = Some(host);
    let Ok(uri) = http::Uri::from_parts(uri) else { return false };
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    for name in [HOST, TRANSFER_ENCODING, EXPECT] {
        request.headers_mut().remove(name);
    }
    true
}

/// Makes a response's head fit for the app.
///
/// # Errors
/// Where its length is not said once, in one way, and understood: who took one of two lengths would cut the body short.
pub(super) fn response(head: &mut response::Parts) -> Result<(), BadRequest> {
    let upgrade = (head.status == StatusCode::SWITCHING_PROTOCOLS).then(|| head.headers.remove(UPGRADE)).flatten();
    if head.version != Version::HTTP_2 {
        framing(&head.headers)?;
        strip(&mut head.headers, false);
        // What is sent on is framed anew.
        head.headers.remove(TRANSFER_ENCODING);
    }
    if let Some(upgrade) = upgrade {
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, upgrade);
    }
    Ok(())
}

/// The length must be said once, in one way, and be understood.
fn framing(headers: &HeaderMap) -> Result<(), BadRequest> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (Some(_), Some(_)) => return Err(BadRequest::Framing),
        (Some(coding), None) if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            return Err(BadRequest::TransferCoding);
        }
        _ => {}
    }
    if codings.next().is_some() || lengths.next().is_some() { Err(BadRequest::Framing) } else { Ok(()) }
}

/// As HTTP/2 counts them (RFC 9113, 6.5.2), without those that stand for the request line.
fn fields(head: &request::Parts) -> Result<(), BadRequest> {
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target + head.headers.iter().map(size).sum::<usize>() > FIELDS_MAX { Err(BadRequest::TooLarge) } else { Ok(()) }
}

/// One Host, which is that of an absolute target where there is one (RFC 9112, 3.2.2).
fn host(head: &mut request::Parts) -> Result<(), BadRequest> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() || (first.is_none() && head.version != Version::HTTP_10) {
        return Err(BadRequest::Host);
    }
    let Some(authority) = head.uri.authority().filter(|_| head.method != Method::CONNECT) else { return Ok(()) };
    if first.is_none_or(|host| !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes())) {
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| BadRequest::Host)?;
        head.headers.insert(HOST, host);
    }
    Ok(())
}

/// An HTTP/2 request that names its authority by Host alone gets it where HTTP/2 has it.
fn authority(head: &mut request::Parts) -> Result<(), BadRequest> {
    if head.uri.authority().is_some() {
        return Ok(());
    }
    let host = head.headers.get(HOST).ok_or(BadRequest::Authority)?;
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    uri.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| BadRequest::Authority)?);
    uri.scheme.get_or_insert(http::uri::Scheme::HTTP);
    head.uri = http::Uri::from_parts(uri).map_err(|_| BadRequest::Authority)?;
    Ok(())
}

/// The protocol a request asks to go on with. HTTP/2 is not among those: who were to be understood in it later would get
/// past whatever is decided by requests.
fn upgrade(head: &request::Parts) -> Option<HeaderValue> {
    let asked = head.version == Version::HTTP_11 && names(&head.headers).any(|name| name == UPGRADE);
    let to = head.headers.get(UPGRADE).filter(|_| asked)?;
    framing::switches(to.as_bytes()).then(|| to.clone())
}

/// Whether bytes behind a request's head may be something else than HTTP, as [`super::framing`] has read it.
pub(super) fn may_switch(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::CONNECT || headers.get_all(UPGRADE).iter().any(|value| framing::switches(value.as_bytes()))
}

/// Whether the app waits to be asked for the request's body.
pub(super) fn expects(head: &request::Parts) -> bool {
    let expects = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    head.version == Version::HTTP_11 && head.headers.get(EXPECT).is_some_and(expects)
}

/// What the Connection fields name.
fn names(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| HeaderName::try_from(name.trim()).ok())
}

/// Takes off what concerns this hop. `TE: trailers` stays: trailers are carried.
fn strip(headers: &mut HeaderMap, upgrade: bool) {
    let trailers = takes_trailers(headers);
    if headers.contains_key(CONNECTION) {
        for name in
            names(headers).filter(|name| ![HOST, CONTENT_LENGTH, TRANSFER_ENCODING].contains(name)).collect::<Vec<_>>()
        {
            headers.remove(name);
        }
    }
    for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, TE] {
        headers.remove(name);
    }
    if !upgrade {
        headers.remove(UPGRADE);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

#[cfg(test)]
mod tests;
