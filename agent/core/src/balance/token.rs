//! What a client shows to be sent where it was sent: which endpoint that was, and since when.
//!
//! Nothing is remembered here. A token names its endpoint by digests over the pod's UID, which every agent knows and no client:
//! so every agent can tell a token that one of them has given from any other, and a client learns nothing of an endpoint
//! but whether two tokens of one service port are about the same. An endpoint that is no pod of the cluster has its address in
//! the place of the UID.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::route::ServicePortKey;
use crate::snapshot::EndpointSet;

/// When a session began, and when it was used last, in seconds since the epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// Its first response.
    pub begun: u32,
    /// Its last request, where that matters.
    pub used: u32,
}

/// A session's token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    /// Finds the endpoint.
    mark: [u8; 8],
    /// Its times.
    pub times: Times,
    /// Proves that the token was given for them, for this endpoint and this session.
    proof: [u8; 16],
}

/// Its length as text.
const LENGTH: usize = 2 * (8 + 4 + 4 + 16);

/// Who holds a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder<'a> {
    pub(super) address: SocketAddr,
    pub(super) uid: Option<&'a Arc<str>>,
}

impl Holder<'_> {
    /// A digest of what is known of it and of `parts`, no two of which can be taken for others.
    fn digest<const N: usize>(&self, key: &ServicePortKey, parts: &[&[u8]]) -> [u8; N] {
        let address = if self.uid.is_none() { self.address.to_string() } else { String::new() };
        let uid = self.uid.map_or("", |uid| uid);
        let (namespace, name) = (key.service.namespace.as_str(), key.service.name.as_str());
        let own = [uid.as_bytes(), address.as_bytes(), namespace.as_bytes(), name.as_bytes(), &key.port.to_be_bytes()];
        let mut hash = Sha256::new();
        for part in own.iter().chain(parts) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut out = [0; N];
        out.copy_from_slice(&hash.finalize()[..N]);
        out
    }

    fn mark(&self, key: &ServicePortKey) -> [u8; 8] {
        self.digest(key, &[])
    }

    fn proof(&self, key: &ServicePortKey, session: &str, times: Times) -> [u8; 16] {
        self.digest(key, &[session.as_bytes(), &times.begun.to_be_bytes(), &times.used.to_be_bytes()])
    }

    /// A token for it.
    pub(super) fn token(&self, key: &ServicePortKey, session: &str, times: Times) -> Token {
        Token { mark: self.mark(key), times, proof: self.proof(key, session, times) }
    }
}

impl Token {
    /// Whether it was given for this endpoint and session. Guessing one gets nobody further than an endpoint that it may
    /// reach anyway, so that comparing need not take the same time for all.
    pub(super) fn is_for(&self, holder: &Holder<'_>, key: &ServicePortKey, session: &str) -> bool {
        *self == holder.token(key, session, self.times)
    }

    /// Reads one; `None` of what is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != LENGTH {
            return None;
        }
        let mut bytes = [0; LENGTH / 2];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        let number = |at: usize| -> Option<u32> { Some(u32::from_be_bytes(bytes[at..at + 4].try_into().ok()?)) };
        Some(Self {
            mark: bytes[..8].try_into().ok()?,
            times: Times { begun: number(8)?, used: number(12)? },
            proof: bytes[16..].try_into().ok()?,
        })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (begun, used) = (self.times.begun.to_be_bytes(), self.times.used.to_be_bytes());
        let all = self.mark.iter().chain(&begun).chain(&used).chain(&self.proof);
        all.into_iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The endpoints of a service port by their marks; made when a token is first shown, and anew when they are others.
#[derive(Debug, Default)]
pub(super) struct Marks(Option<(Arc<EndpointSet>, Places)>);

/// Places in a set of endpoints.
type Places = HashMap<[u8; 8], usize>;

impl Marks {
    /// The endpoint of `set` a token is for.
    pub(super) fn find(
        &mut self,
        set: &Arc<EndpointSet>,
        key: &ServicePortKey,
        session: &str,
        token: &Token,
    ) -> Option<SocketAddr> {
        let of = |at: usize| {
            let endpoint = &set.endpoints[at];
            Holder { address: endpoint.address, uid: endpoint.uid.as_ref() }
        };
        if self.0.as_ref().is_none_or(|(held, _)| !Arc::ptr_eq(held, set)) {
            let marks = (0..set.endpoints.len()).map(|at| (of(at).mark(key), at)).collect();
            self.0 = Some((set.clone(), marks));
        }
        let at = *self.0.as_ref()?.1.get(&token.mark)?;
        token.is_for(&of(at), key, session).then_some(set.endpoints[at].address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, key};

    const TIMES: Times = Times { begun: 1_800_000_000, used: 1_800_000_060 };

    #[test]
    fn a_token_is_for_what_it_was_given_for() {
        let (port, uid): (_, Arc<str>) = (key("a/s:80"), "2b1e".into());
        let holder = Holder { address: at("10.0.0.1:8080"), uid: Some(&uid) };
        let token = holder.token(&port, "cart", TIMES);
        let read = Token::parse(&token.to_string()).unwrap();
        assert!(read == token && read.is_for(&holder, &port, "cart"));
        // The pod has another address: it is still that pod.
        assert!(read.is_for(&Holder { address: at("[fd00::1]:8080"), ..holder }, &port, "cart"));
        let other: Arc<str> = "2b1f".into();
        assert!(!read.is_for(&Holder { uid: Some(&other), ..holder }, &port, "cart"));
        assert!(!read.is_for(&holder, &port, "other") && !read.is_for(&holder, &key("a/s:81"), "cart"));
        let longer = Token { times: Times { used: TIMES.used + 1, ..TIMES }, ..token };
        assert!(!longer.is_for(&holder, &port, "cart"), "nobody gives himself more time");
        // Who is no pod is told by its address.
        let outside = Holder { uid: None, ..holder };
        let token = outside.token(&port, "cart", TIMES);
        assert!(token.is_for(&outside, &port, "cart"));
        assert!(!token.is_for(&Holder { address: at("10.0.0.2:8080"), uid: None }, &port, "cart"));
    }

    #[test]
    fn what_is_no_token_is_read_as_none() {
        let (port, uid): (_, Arc<str>) = (key("a/s:80"), "u".into());
        let good = Holder { address: at("10.0.0.1:1"), uid: Some(&uid) }.token(&port, "s", TIMES).to_string();
        for wrong in ["", "x", &good[1..], &format!("{good}0"), &good.replace(&good[..1], "g"), &"é".repeat(LENGTH / 2)]
        {
            assert_eq!(Token::parse(wrong), None, "{wrong:?}");
        }
    }
}
