//! Which endpoint a client was sent to last, for services with session affinity.
//!
//! A client is an address of a pod of this node, so that there are as many as the node has pods; the bound is for what
//! nobody thought of. As with kube-proxy every connection begins the time anew, and what becomes of other endpoints
//! concerns nobody's session.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lock;
use crate::route::ServicePortKey;

/// Clients remembered for one service port; far more than a node has pods.
const CLIENTS: usize = 1024;

/// The sessions of one service port.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    clients: Mutex<HashMap<IpAddr, Session>>,
}

/// Where a client was sent, and when last.
#[derive(Clone, Debug)]
struct Session {
    backend: ServicePortKey,
    address: SocketAddr,
    last: Instant,
}

impl Sessions {
    /// Where a client was sent within the last `keep`.
    pub(super) fn recall(&self, client: IpAddr, keep: Duration, now: Instant) -> Option<(ServicePortKey, SocketAddr)> {
        let clients = lock(&self.clients);
        let session = clients.get(&client).filter(|held| now.saturating_duration_since(held.last) < keep)?;
        Some((session.backend.clone(), session.address))
    }

    /// Notes where a client is sent.
    pub(super) fn note(
        &self,
        client: IpAddr,
        backend: &ServicePortKey,
        address: SocketAddr,
        keep: Duration,
        now: Instant,
    ) {
        let mut clients = lock(&self.clients);
        if clients.len() >= CLIENTS && !clients.contains_key(&client) {
            make_room(&mut clients, keep, now);
        }
        match clients.get_mut(&client) {
            Some(held) if held.address == address && held.backend == *backend => held.last = now,
            _ => _ = clients.insert(client, Session { backend: backend.clone(), address, last: now }),
        }
    }

    /// How many clients are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.clients).len()
    }
}

/// Forgets whose time is over, or else who has been away longest.
fn make_room(clients: &mut HashMap<IpAddr, Session>, keep: Duration, now: Instant) {
    clients.retain(|_, held| now.saturating_duration_since(held.last) < keep);
    if clients.len() >= CLIENTS
        && let Some(oldest) = clients.iter().min_by_key(|(_, held)| held.last).map(|(client, _)| *client)
    {
        clients.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, ip, key};
    use std::net::Ipv4Addr;

    const KEEP: Duration = Duration::from_secs(10);

    #[test]
    fn every_connection_begins_the_time_anew() {
        let (sessions, begin, backend) = (Sessions::default(), Instant::now(), key("a/s:80"));
        let (client, endpoint) = (ip("10.0.0.9"), at("10.0.0.1:8080"));
        let after = |seconds| begin + Duration::from_secs(seconds);
        sessions.note(client, &backend, endpoint, KEEP, begin);
        assert_eq!(sessions.recall(client, KEEP, after(9)), Some((backend.clone(), endpoint)));
        sessions.note(client, &backend, endpoint, KEEP, after(9));
        assert!(sessions.recall(client, KEEP, after(18)).is_some());
        assert_eq!(sessions.recall(client, KEEP, after(19)), None);
        assert_eq!(sessions.recall(ip("10.0.0.8"), KEEP, begin), None);
    }

    #[test]
    fn there_are_never_more_than_so_many_and_the_oldest_goes() {
        let (sessions, begin, backend) = (Sessions::default(), Instant::now(), key("a/s:80"));
        let client = |n: u32| IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 + n));
        for n in 0..2 * CLIENTS as u32 {
            let now = begin + Duration::from_micros(u64::from(n));
            sessions.note(client(n), &backend, at("10.0.0.1:8080"), KEEP, now);
        }
        assert_eq!(sessions.len(), CLIENTS);
        assert_eq!(sessions.recall(client(0), KEEP, begin), None);
        assert!(sessions.recall(client(2 * CLIENTS as u32 - 1), KEEP, begin).is_some());
    }
}
