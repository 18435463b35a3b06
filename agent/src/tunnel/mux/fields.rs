//! The fields of HELLO and OPEN. `docs/tunnel.md`, "HELLO" and "OPEN".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::malformed::Malformed;
use crate::tunnel::codec::BAGGAGE_MAX;

/// HELLO's fields, each `tag (1) length (2) value`; tags this version does not know are skipped.
const TAG_STREAMS: u8 = 1;
const TAG_BAGGAGE: u8 = 2;

/// Bits of OPEN's first byte.
const TO_V6: u8 = 1;
const FROM_V6: u8 = 2;
const HOST: u8 = 4;

/// The longest DNS name.
const HOST_MAX: usize = 253;

/// What each side says first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Streams its sender lets the peer have open at once; 0 if it lets it open none.
    pub streams: u32,
    /// What it says about its workload, in the words of the `baggage` header. A claim.
    pub baggage: Option<String>,
}

impl Hello {
    /// Streams that may be opened before the peer's HELLO has come.
    pub const STREAMS_UNTOLD: u32 = 1000;

    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = vec![TAG_STREAMS, 0, 4];
        out.extend_from_slice(&self.streams.to_be_bytes());
        if let Some(baggage) = self.baggage.as_ref().filter(|text| text.len() <= BAGGAGE_MAX) {
            out.push(TAG_BAGGAGE);
            out.extend_from_slice(&u16::try_from(baggage.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(baggage.as_bytes());
        }
        out
    }

    pub(super) fn read(mut payload: &[u8]) -> Result<Self, Malformed> {
        let (mut streams, mut baggage) = (None, None);
        while let Some((&[tag, l1, l2], rest)) = payload.split_first_chunk::<3>() {
            let length = usize::from(u16::from_be_bytes([l1, l2]));
            let (value, rest) = rest.split_at_checked(length).ok_or(Malformed::HelloFields)?;
            payload = rest;
            let repeated = match tag {
                TAG_STREAMS => {
                    let value = value.try_into().map_err(|_| Malformed::HelloFields)?;
                    streams.replace(u32::from_be_bytes(value)).is_some()
                }
                TAG_BAGGAGE => {
                    let text = std::str::from_utf8(value).ok().filter(|text| text.len() <= BAGGAGE_MAX);
                    baggage.replace(text.ok_or(Malformed::HelloFields)?.to_owned()).is_some()
                }
                _ => false,
            };
            if repeated {
                return Err(Malformed::HelloFields);
            }
        }
        if !payload.is_empty() {
            return Err(Malformed::HelloFields);
        }
        Ok(Self { streams: streams.ok_or(Malformed::HelloFields)?, baggage })
    }
}

/// Where a stream leads, and for whom: what `:authority` and `forwarded` say in HBONE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The server pod and port.
    pub to: SocketAddr,
    /// The client, as its node saw it.
    pub from: SocketAddr,
    /// The service the client dialled.
    pub host: Option<String>,
}

impl Open {
    /// At most 2 + 2 * 18 + 1 + 253 bytes.
    pub(super) fn write(&self) -> Vec<u8> {
        let host = self.host.as_deref().filter(|host| is_name(host));
        let mut flags = 0;
        for (bit, set) in [(TO_V6, self.to.is_ipv6()), (FROM_V6, self.from.is_ipv6()), (HOST, host.is_some())] {
            flags |= if set { bit } else { 0 };
        }
        let mut out = vec![flags];
        for address in [self.to, self.from] {
            match address.ip() {
                IpAddr::V4(v4) => out.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
            }
            out.extend_from_slice(&address.port().to_be_bytes());
        }
        if let Some(host) = host {
            out.push(u8::try_from(host.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(host.as_bytes());
        }
        out
    }

    pub(super) fn read(fields: &[u8]) -> Result<Self, Malformed> {
        let (&flags, mut rest) = fields.split_first().ok_or(Malformed::OpenFields)?;
        if flags & !(TO_V6 | FROM_V6 | HOST) != 0 {
            return Err(Malformed::OpenFields);
        }
        let to = address(flags & TO_V6 != 0, &mut rest).filter(|to| to.port() != 0).ok_or(Malformed::OpenFields)?;
        let from = address(flags & FROM_V6 != 0, &mut rest).ok_or(Malformed::OpenFields)?;
        let host = match flags & HOST != 0 {
            false => None,
            true => {
                let (&length, text) = rest.split_first().ok_or(Malformed::OpenFields)?;
                let (text, after) = text.split_at_checked(usize::from(length)).ok_or(Malformed::OpenFields)?;
                rest = after;
                let text = std::str::from_utf8(text).ok().filter(|text| is_name(text));
                Some(text.ok_or(Malformed::OpenFields)?.to_owned())
            }
        };
        if rest.is_empty() { Ok(Self { to, from, host }) } else { Err(Malformed::OpenFields) }
    }
}

/// Takes an address and port off the front. An IPv4 address has one form only.
fn address(v6: bool, rest: &mut &[u8]) -> Option<SocketAddr> {
    let ip = if v6 {
        let (octets, after) = rest.split_first_chunk::<16>()?;
        *rest = after;
        let ip = Ipv6Addr::from(*octets);
        IpAddr::V6(ip.to_ipv4_mapped().is_none().then_some(ip)?)
    } else {
        let (octets, after) = rest.split_first_chunk::<4>()?;
        *rest = after;
        IpAddr::V4(Ipv4Addr::from(*octets))
    };
    let (port, after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

fn is_name(host: &str) -> bool {
    (1..=HOST_MAX).contains(&host.len())
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}
