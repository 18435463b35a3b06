//! The CONNECT request: what the client writes and what the server accepts of what a peer wrote.

use std::sync::Arc;

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};

use super::HEADER_LIST_MAX;
use crate::tunnel::RequestError;
use crate::tunnel::codec::{
    Claims, Forwarded, format_authority, format_forwarded, parse_authority, parse_baggage, parse_forwarded,
};
use crate::tunnel::server::{Asked, admits};

const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// What a field costs beside its bytes (RFC 9113, section 6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Writes the request for `authority`.
pub(super) fn connect(
    authority: SocketAddr,
    forwarded: &Forwarded,
    baggage: Option<&str>,
) -> Result<Request<()>, http::Error> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .version(Version::HTTP_2)
        .uri(format_authority(authority))
        .header(FORWARDED, format_forwarded(forwarded));
    if let Some(baggage) = baggage {
        request = request.header(BAGGAGE, baggage);
    }
    request.body(())
}

/// Reads a request that came to the pod with these `addresses`.
///
/// Headers that are only claims and cannot be read are ignored; the address is not.
pub(super) fn read(request: &Request<()>, addresses: &[IpAddr]) -> Result<Asked, RequestError> {
    let size = header_list_size(request);
    if size > HEADER_LIST_MAX as usize {
        return Err(RequestError::HeadersTooLarge(size));
    }
    if request.method() != Method::CONNECT {
        return Err(RequestError::NotConnect(request.method().as_str().chars().take(20).collect()));
    }
    let uri = request.uri();
    let plain = uri.scheme().is_none() && uri.path_and_query().is_none_or(|path| path.as_str().is_empty());
    let Some(authority) = uri.authority().filter(|_| plain) else { return Err(RequestError::Form) };
    let authority = parse_authority(authority.as_str())?;
    admits(authority, addresses)?;
    Ok(Asked {
        authority,
        forwarded: single(request.headers(), &FORWARDED).and_then(|text| parse_forwarded(text).ok()),
        claims: read_claims(request.headers()),
    })
}

/// The peer's baggage, if it is there once and well-formed.
pub(super) fn read_claims(headers: &HeaderMap) -> Option<Arc<Claims>> {
    single(headers, &BAGGAGE).and_then(|text| parse_baggage(text).ok()).map(Arc::new)
}

/// The answer that accepts.
pub(super) fn accepted(baggage: Option<&HeaderValue>) -> Response<()> {
    let mut response = Response::new(());
    if let Some(baggage) = baggage {
        response.headers_mut().insert(BAGGAGE, baggage.clone());
    }
    response
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    // Two of them, and nobody knows which one an earlier reader believed.
    values.next().is_none().then(|| first.to_str().ok()).flatten()
}

fn header_list_size(request: &Request<()>) -> usize {
    let authority = request.uri().authority().map_or(0, |authority| authority.as_str().len());
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD);
    authority + request.method().as_str().len() + 2 * FIELD_OVERHEAD + fields.sum::<usize>()
}
