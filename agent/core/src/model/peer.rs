//! A pod of another node, as the controller's WorkloadSlices tell of it, in a fraction of what a [`Workload`] takes: there
//! may be fifty thousand, and nearly all of them are never asked for.
//!
//! What pods of one workload have in common is held once ([`Role`]), their names included up to the last part; UIDs are held
//! as the numbers they are. With 50,000 pods that is some 130 bytes each in place of 600.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::name::{Name, ObjectName};
use super::pool::Pool;
use super::workload::{Weight, Workload};

/// The part of a name that is a pod's own, in bytes at most.
const TAIL: usize = 15;

/// A pod of another node.
#[derive(Clone, PartialEq, Eq)]
pub struct Peer {
    role: Arc<Role>,
    node: Arc<str>,
    uid: Uid,
    addresses: Addresses,
    tail: Tail,
    weight: Weight,
    live: bool,
    host_network: bool,
}

/// What the pods of one workload have in common.
#[derive(PartialEq, Eq, Hash)]
struct Role {
    namespace: Name,
    service_account: Name,
    owner: Arc<str>,
    /// What their names begin with.
    stem: Box<str>,
}

/// A UID: 16 bytes where it is a UUID as Kubernetes writes them, else a text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Uid {
    Uuid([u8; 16]),
    Text(Box<str>),
}

/// A pod's addresses: nearly always one.
#[derive(Clone, PartialEq, Eq)]
enum Addresses {
    One(IpAddr),
    Many(Box<[IpAddr]>),
}

/// The last part of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Tail {
    bytes: [u8; TAIL],
    length: u8,
}

/// What peers have in common with each other, each held once.
#[derive(Debug, Default)]
pub struct Roles {
    held: HashSet<Arc<Role>>,
    texts: Pool,
    /// How many there may be before it is looked for those nobody has any more.
    limit: usize,
}

/// The least [`Roles::limit`].
const LIMIT: usize = 1024;

impl Roles {
    /// The pod in short. Its labels, ports and netns are left out: they matter on its own node only.
    #[must_use]
    pub fn peer(&mut self, mut workload: Workload, live: bool) -> Peer {
        workload.share(&mut self.texts);
        let (stem, tail) = Tail::split(workload.name.name.as_str());
        let role = Role {
            namespace: workload.name.namespace,
            service_account: workload.service_account,
            owner: workload.owner,
            stem: stem.into(),
        };
        Peer {
            role: self.share(role),
            node: workload.node,
            uid: Uid::of(&workload.uid),
            addresses: Addresses::of(&workload.addresses),
            tail,
            weight: workload.weight,
            live: live && !workload.host_network,
            host_network: workload.host_network,
        }
    }

    fn share(&mut self, role: Role) -> Arc<Role> {
        if let Some(held) = self.held.get(&role) {
            return held.clone();
        }
        if self.held.len() >= self.limit {
            self.held.retain(|held| Arc::strong_count(held) > 1);
            self.limit = (self.held.len() * 2).max(LIMIT);
        }
        let role = Arc::new(role);
        self.held.insert(role.clone());
        role
    }
}

impl Peer {
    /// The pod in full.
    #[must_use]
    pub fn workload(&self) -> Workload {
        Workload {
            name: self.name(),
            uid: self.uid(),
            addresses: self.addresses().to_vec(),
            service_account: self.role.service_account.clone(),
            node: self.node.clone(),
            owner: self.role.owner.clone(),
            labels: Default::default(),
            weight: self.weight,
            mesh: None,
            netns: None,
            host_network: self.host_network,
            declared_ports: Vec::new(),
            probe_ports: Vec::new(),
        }
    }

    /// Its namespace and name.
    #[must_use]
    pub fn name(&self) -> ObjectName {
        let name = [&*self.role.stem, self.tail.text()].concat();
        ObjectName { namespace: self.role.namespace.clone(), name: Name::checked(&name) }
    }

    /// Its UID.
    #[must_use]
    pub fn uid(&self) -> Arc<str> {
        self.uid.to_string().into()
    }

    /// Whether this is its UID.
    #[must_use]
    pub fn is(&self, uid: &str) -> bool {
        self.uid == Uid::of(uid)
    }

    /// Its addresses, the primary one first.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        match &self.addresses {
            Addresses::One(only) => std::slice::from_ref(only),
            Addresses::Many(all) => all,
        }
    }

    /// Its namespace.
    #[must_use]
    pub fn namespace(&self) -> &Name {
        &self.role.namespace
    }

    /// The name shown as the workload in metrics.
    #[must_use]
    pub fn owner(&self) -> &str {
        &self.role.owner
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Arc<str> {
        &self.node
    }

    /// Its weight among the endpoints of a Service.
    #[must_use]
    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// Its node's agent publishes it as served.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// It shares its node's network namespace.
    #[must_use]
    pub fn host_network(&self) -> bool {
        self.host_network
    }
}

/// By name first; two that are equal are equal in everything.
impl Ord for Peer {
    fn cmp(&self, other: &Self) -> Ordering {
        let of_role = |peer: &Self| (peer.role.service_account.clone(), peer.role.owner.clone());
        let own = |peer: &Self| (peer.node.clone(), peer.weight, peer.live, peer.host_network);
        (self.role.namespace.cmp(&other.role.namespace))
            .then_with(|| self.name().cmp(&other.name()))
            .then_with(|| self.uid.cmp(&other.uid))
            .then_with(|| self.addresses().cmp(other.addresses()))
            .then_with(|| of_role(self).cmp(&of_role(other)))
            .then_with(|| own(self).cmp(&own(other)))
    }
}

impl PartialOrd for Peer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peer").field(&self.workload()).field(&self.live).finish()
    }
}

impl fmt::Debug for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}*", self.namespace, self.stem)
    }
}

impl Uid {
    fn of(text: &str) -> Self {
        let uuid = uuid(text).map(Self::Uuid);
        uuid.filter(|uuid| uuid.to_string() == text).unwrap_or_else(|| Self::Text(text.into()))
    }
}

/// The bytes of a UUID, if the text is one.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut digits = text.bytes().filter(|byte| *byte != b'-');
    for byte in &mut bytes {
        let mut digit = || char::from(digits.next()?).to_digit(16);
        *byte = u8::try_from(digit()? * 16 + digit()?).ok()?;
    }
    digits.next().is_none().then_some(bytes)
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Uuid(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
                    write!(f, "{dash}{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

impl Addresses {
    fn of(all: &[IpAddr]) -> Self {
        let all: Box<[IpAddr]> = all.iter().map(IpAddr::to_canonical).collect();
        match *all {
            [only] => Self::One(only),
            _ => Self::Many(all),
        }
    }
}

impl Tail {
    /// Divides a name behind its last `-`, or where what is left fits. Names are ASCII.
    fn split(name: &str) -> (&str, Self) {
        let at = name.rfind('-').map_or(0, |dash| dash + 1).max(name.len().saturating_sub(TAIL));
        let (stem, tail) = name.split_at(at);
        let mut bytes = [0; TAIL];
        bytes[..tail.len()].copy_from_slice(tail.as_bytes());
        (stem, Self { bytes, length: tail.len() as u8 })
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    #[test]
    fn nothing_of_what_peers_need_is_lost() {
        let uids = [
            "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0",
            "0B1C2D3E-4f50-6172-8394-a5b6c7d8e9f0",
            "u-1",
            "",
            "0b1c2d3e4f5061728394a5b6c7d8e9f0",
        ];
        let names =
            ["web-7d9f8c6b54-x2x4z", "db-0", "p", "a-name-without-a-short-last.part-of-it-at-all", "exactlyfifteen1"];
        let mut roles = Roles::default();
        for (uid, name) in uids.iter().flat_map(|uid| names.map(|name| (uid, name))) {
            let mut whole = pod(&format!("shop/{name}"), "10.0.0.1");
            whole.uid = (*uid).into();
            whole.weight = Weight(7);
            let peer = roles.peer(whole.clone(), true);
            assert_eq!(peer.workload(), whole);
            assert!(peer.is(uid) && !peer.is("0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f1") && peer.is_live());
            whole.addresses.push("fd00::1".parse().unwrap());
            assert_eq!(roles.peer(whole.clone(), false).workload(), whole);
        }
        assert!(!roles.peer(Workload { host_network: true, ..pod("a/b", "10.0.0.1") }, true).is_live());
    }

    #[test]
    fn a_peer_is_small_and_shares_what_it_can() {
        assert!(size_of::<Peer>() <= 96, "{}", size_of::<Peer>());
        let mut roles = Roles::default();
        let all: Vec<Peer> = (0..50)
            .map(|n| {
                roles.peer(
                    Workload { owner: "web".into(), ..pod(&format!("a/web-7d9f8c6b54-{n:05}"), "10.0.0.1") },
                    true,
                )
            })
            .collect();
        assert!(all.iter().all(|peer| Arc::ptr_eq(&peer.role, &all[0].role)));
        assert_eq!(roles.held.len(), 1);
    }
}
