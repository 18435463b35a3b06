//! `forwarded`: the client as the source's node saw it, `for="ip:port"[;host=name]`.

use std::net::SocketAddr;

use super::authority::{AuthorityError, format_authority, parse_authority};

/// The longest header read, in bytes: an address and a DNS name fit several times over.
const FORWARDED_MAX: usize = 1024;

/// What the header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarded {
    /// The client's address.
    pub client: SocketAddr,
    /// The service the client dialled, e.g. `echo.shop.svc.cluster.local`.
    pub host: Option<String>,
}

/// Why a `forwarded` header was not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ForwardedError {
    /// It is longer than any honest one.
    #[error("the forwarded header is longer than {FORWARDED_MAX} bytes")]
    TooLong,
    /// It is not a list of `name=value`.
    #[error("the forwarded header is not for=\"ip:port\"[;host=name]")]
    Syntax,
    /// A parameter comes twice, or is none of `for` and `host`.
    #[error("the forwarded header repeats a parameter or has an unknown one")]
    Parameter,
    /// The client is not an address.
    #[error("the forwarded header's client is not an address: {0}")]
    Client(#[from] AuthorityError),
    /// There is no `for`.
    #[error("the forwarded header names no client")]
    NoClient,
}

/// Reads one element; a list of hops is refused, since a tunnel has one.
///
/// # Errors
/// [`ForwardedError`] for anything but one `for` and at most one `host`.
pub fn parse_forwarded(text: &str) -> Result<Forwarded, ForwardedError> {
    if text.len() > FORWARDED_MAX {
        return Err(ForwardedError::TooLong);
    }
    let (mut client, mut host) = (None, None);
    for parameter in text.split(';') {
        let (name, value) = parameter.trim_matches([' ', '\t']).split_once('=').ok_or(ForwardedError::Syntax)?;
        let value = unquote(value)?;
        let slot = if name.eq_ignore_ascii_case("for") {
            &mut client
        } else if name.eq_ignore_ascii_case("host") {
            &mut host
        } else {
            return Err(ForwardedError::Parameter);
        };
        if slot.replace(value).is_some() {
            return Err(ForwardedError::Parameter);
        }
    }
    let client = parse_authority(client.ok_or(ForwardedError::NoClient)?)?;
    Ok(Forwarded { client, host: host.map(str::to_owned) })
}

/// Writes what [`parse_forwarded`] reads. A host that is not a plain name is left out.
#[must_use]
pub fn format_forwarded(forwarded: &Forwarded) -> String {
    let client = format_authority(forwarded.client);
    match &forwarded.host {
        Some(host) if is_name(host) => format!("for=\"{client}\";host={host}"),
        _ => format!("for=\"{client}\""),
    }
}

fn unquote(value: &str) -> Result<&str, ForwardedError> {
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').ok_or(ForwardedError::Syntax)?,
        None => value,
    };
    // No value of ours needs an escape, a space or a second element.
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b',' | b';' | b'=');
    if inner.is_empty() || !inner.bytes().all(plain) {
        return Err(ForwardedError::Syntax);
    }
    Ok(inner)
}

fn is_name(host: &str) -> bool {
    !host.is_empty()
        && host.len() <= 253
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}
