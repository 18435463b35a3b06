//! Where a connection of an enrolled pod goes: a total function of the snapshot, the pod and what it dialled.
//!
//! What is refused here is refused because no answer could be right: a pod's own address (the connection would come
//! back), addresses no connection can have, the tunnel's own port, and a port its service does not have.

mod detect;
mod effect;
mod protocol;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::model::{Identity, Workload};
use crate::reason::reasons;
use crate::snapshot::{Family, Snapshot};

pub use crate::snapshot::ServicePortKey;
pub use detect::{LOOKED_AT, Said, said};
pub use effect::without_effect;
pub use protocol::{HttpBecause, OpaqueBecause, Protocol, protocol, takes_http2};

/// The port HBONE is served on, at every live pod's address.
pub const HBONE_PORT: u16 = 15008;

/// What is to be done with a connection.
#[derive(Clone, PartialEq, Debug)]
pub enum Plan {
    /// Dial the original destination as the pod would have.
    PassThrough(PassReason),
    /// Dial this target.
    Direct(Target),
    /// Let [`crate::balance::Balancers::pick`] choose among the endpoints of this service port.
    Balanced(ServicePortKey),
    /// Refuse it.
    Refuse(RefuseReason),
}

/// One address to dial, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct Target {
    /// Where the application listens.
    pub address: SocketAddr,
    /// How to get there.
    pub transport: Transport,
    /// The pod behind the address, if it is one.
    pub workload: Option<Arc<Workload>>,
}

/// How a target is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transport {
    /// Through an HBONE tunnel to a server that proves this identity.
    Hbone {
        /// The identity the server's certificate must hold.
        server: Identity,
    },
    /// By TCP, in the clear: the target is not enrolled.
    Plaintext,
}

impl Target {
    /// The target at `address`: by HBONE if, and only if, the pod there is live.
    #[must_use]
    pub fn at(snapshot: &Snapshot, address: SocketAddr) -> Self {
        let address = canonical(address);
        let workload = snapshot.workload_at(address.ip());
        let transport = match &workload {
            Some(w) if snapshot.is_live(w) => Transport::Hbone { server: snapshot.identity_of(w) },
            _ => Transport::Plaintext,
        };
        Self { address, transport, workload }
    }

    /// Whether the target is the pod that dials, as when a pod calls a service it is itself an endpoint of. Such a
    /// connection must be delivered inside the pod's own network: a tunnel to oneself would meet nobody.
    #[must_use]
    pub fn is_own(&self, source: &Workload) -> bool {
        self.workload.as_ref().is_some_and(|w| w.uid == source.uid) || source.addresses.contains(&self.address.ip())
    }
}

reasons! {
    /// Why a connection is passed through unchanged.
    PassReason {
        /// No service and no pod of the mesh has the address.
        UnknownDestination = "unknown_destination", "no service or pod has this address";
        /// The pod at the address is not enrolled.
        NotEnrolled = "not_enrolled", "the pod at this address is not enrolled";
        /// A link-local address, such as a cloud's metadata server.
        LinkLocal = "link_local", "link-local addresses stay outside the mesh";
    }
}

reasons! {
    /// Why a connection is refused before anything is dialled.
    RefuseReason {
        /// The pod dialled itself by the mesh.
        OwnAddress = "own_address", "the pod's own address reached the mesh; connections to it never leave the pod";
        /// A loopback address, such as that of the mesh's own listener.
        Loopback = "loopback", "a loopback address reached the mesh; nothing of another pod is there";
        /// No host has this address.
        NotUnicast = "not_unicast", "unspecified, multicast and broadcast addresses cannot be connected to";
        /// Port 15008 of a live pod is the tunnel, not the application.
        ReservedPort = "reserved_port", "port 15008 of an enrolled pod is the mesh's; use the application's own port";
        /// The service has no such port.
        UnknownServicePort = "unknown_service_port", "the Service at this address has no such TCP port; add it to spec.ports";
    }
}

/// Decides where a connection that `source` made to `destination` goes. Total: every input has an answer.
///
/// The address of a service with a port it does not have is refused: no pod can be meant, and kube-proxy's nftables
/// mode refuses it too, while passing it on would lead to whatever route the node has for its service range.
#[must_use]
pub fn plan(snapshot: &Snapshot, source: &Workload, destination: SocketAddr) -> Plan {
    let destination = canonical(destination);
    if let Some(reason) = impossible(source, destination.ip()) {
        return Plan::Refuse(reason);
    }
    if !snapshot.services_at(destination.ip()).is_empty() {
        return match service_port_at(snapshot, destination) {
            Some(key) => Plan::Balanced(key),
            None => Plan::Refuse(RefuseReason::UnknownServicePort),
        };
    }
    plan_address(snapshot, destination)
}

/// The service port that has `destination`; `None` where no service at the address has the port.
#[must_use]
pub fn service_port_at(snapshot: &Snapshot, destination: SocketAddr) -> Option<ServicePortKey> {
    let services = snapshot.services_at(destination.ip());
    let owner = services.iter().find(|s| s.ports.iter().any(|p| p.port == destination.port()))?;
    Some(ServicePortKey { service: owner.name.clone(), port: destination.port(), family: Family::of(destination.ip()) })
}

/// Decides for an address that is no service's: a pod's, or one the mesh knows nothing of.
fn plan_address(snapshot: &Snapshot, destination: SocketAddr) -> Plan {
    let target = Target::at(snapshot, destination);
    match (&target.transport, &target.workload) {
        (Transport::Hbone { .. }, _) if destination.port() == HBONE_PORT => Plan::Refuse(RefuseReason::ReservedPort),
        (Transport::Hbone { .. }, _) => Plan::Direct(target),
        (Transport::Plaintext, Some(_)) => Plan::PassThrough(PassReason::NotEnrolled),
        (Transport::Plaintext, None) if is_link_local(destination.ip()) => Plan::PassThrough(PassReason::LinkLocal),
        (Transport::Plaintext, None) => Plan::PassThrough(PassReason::UnknownDestination),
    }
}

/// Why nothing can be dialled at `ip` for `source`, if so.
fn impossible(source: &Workload, ip: IpAddr) -> Option<RefuseReason> {
    if source.addresses.contains(&ip) {
        return Some(RefuseReason::OwnAddress);
    }
    if ip.is_loopback() {
        return Some(RefuseReason::Loopback);
    }
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    (ip.is_unspecified() || ip.is_multicast() || broadcast).then_some(RefuseReason::NotUnicast)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// A v4-mapped v6 address as the v4 one it stands for.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
