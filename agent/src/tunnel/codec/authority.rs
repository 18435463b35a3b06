//! `:authority` of a CONNECT: the address of a pod and a port, and nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Why an authority is not `ip:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// There is no port.
    #[error("the authority has no port")]
    NoPort,
    /// The port is not 1 to 65535 in plain decimal.
    #[error("the authority's port is not a number from 1 to 65535")]
    Port,
    /// The host is not an address; names are not resolved on behalf of peers.
    #[error("the authority's host is not an IP address (IPv6 stands in brackets)")]
    Host,
    /// An IPv4 address in IPv6 clothes would slip past rules written for IPv4.
    #[error("the authority is an IPv4-mapped IPv6 address")]
    Mapped,
}

/// Reads `ip:port` or `[ipv6]:port`.
///
/// # Errors
/// [`AuthorityError`] for user information, zones, names, mapped addresses, port 0 and numbers with signs or zeros in front.
pub fn parse_authority(text: &str) -> Result<SocketAddr, AuthorityError> {
    let (host, port) = text.rsplit_once(':').ok_or(AuthorityError::NoPort)?;
    let ip = parse_host(host)?;
    Ok(SocketAddr::new(ip, parse_port(port)?))
}

/// Writes what [`parse_authority`] reads.
#[must_use]
pub fn format_authority(address: SocketAddr) -> String {
    // A scope would be printed as a zone, which no peer understands.
    SocketAddr::new(address.ip(), address.port()).to_string()
}

fn parse_host(host: &str) -> Result<IpAddr, AuthorityError> {
    let Some(inner) = host.strip_prefix('[') else {
        return host.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| AuthorityError::Host);
    };
    let inner = inner.strip_suffix(']').ok_or(AuthorityError::Host)?;
    let v6: Ipv6Addr = inner.parse().map_err(|_| AuthorityError::Host)?;
    if v6.to_ipv4_mapped().is_some() {
        return Err(AuthorityError::Mapped);
    }
    Ok(IpAddr::V6(v6))
}

fn parse_port(port: &str) -> Result<u16, AuthorityError> {
    if port.is_empty() || port.starts_with('0') || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(AuthorityError::Port);
    }
    port.parse().map_err(|_| AuthorityError::Port)
}
