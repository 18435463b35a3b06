//! The judgements of the hooks. Facts come through traits, so that a program looks up only what a branch asks for and a
//! test states them all.

use crate::{
    Address, AdmitSet, LOOPBACK_IFINDEX, PodEntry, PodIdentity, Port, PortKey, PortMode, Slot, TUNNEL_PORT, Verdict,
};

/// What the connect hook can find out.
pub trait ConnectFacts {
    /// TCP, or MPTCP, which is TCP on the wire.
    fn is_tcp(&self) -> bool;
    /// The entry of the socket's network namespace; `None` is a namespace nobody has classified.
    fn pod(&self) -> Option<&PodEntry>;
    /// Where the application wants to go.
    fn destination(&self) -> &Address;
    /// The caller lives in the agent's own cgroup. Not a mark: a container with NET_RAW can set marks.
    fn is_agent(&self) -> bool;
    /// The destination is a service or a meshed pod, or cannot be told from one.
    fn is_mesh_destination(&self) -> bool;
    /// Index of the device the socket is bound to, 0 for none.
    fn bound_device(&self) -> u32;
    /// Unclassified namespaces are to wait just now.
    fn holds_unclassified(&self) -> bool;
    /// Who of this node gets the connection, if anybody; asked at most once.
    fn draw(&self) -> Draw;
}

/// What a draw among the endpoints of a destination came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Draw {
    /// It was not made: the proxy makes it.
    Unmade,
    /// It fell on an endpoint of this node that may be reached directly.
    Here,
    /// It fell on none of those.
    Elsewhere,
}

/// Whether the mesh takes a connect.
#[inline(always)]
pub fn connect(facts: &impl ConnectFacts) -> Verdict {
    if !facts.is_tcp() {
        return Verdict::ConnectNotTcp;
    }
    let destination = facts.destination();
    let Some(pod) = facts.pod() else {
        if is_local(destination) || !facts.holds_unclassified() {
            return Verdict::ConnectUnclassified;
        }
        return Verdict::RefuseUnclassified;
    };
    if pod.flags & (PodEntry::ENROLLED | PodEntry::LEAVING) == 0 {
        return Verdict::ConnectNotEnrolled;
    }
    if facts.is_agent() {
        return Verdict::ConnectAgent;
    }
    if pod.flags & PodEntry::ENROLLED == 0 {
        return Verdict::ConnectLeaving;
    }
    if is_local(destination) {
        return Verdict::ConnectLocal;
    }
    if pod.owns(destination) {
        return Verdict::ConnectOwnAddress;
    }
    if !facts.is_mesh_destination() {
        return Verdict::ConnectUnknownDestination;
    }
    match facts.bound_device() {
        0 => match facts.draw() {
            Draw::Unmade => Verdict::Steer,
            Draw::Here => Verdict::ConnectSameNode,
            Draw::Elsewhere => Verdict::SteerRest,
        },
        // It cannot leave the pod, and steered it would wait for ever: the SYN-ACK from the agent counts as having come
        // in by the device that carries the pod's address, and a socket bound to lo does not hear it.
        LOOPBACK_IFINDEX => Verdict::ConnectLocal,
        _ => Verdict::RefuseBoundDevice,
    }
}

#[inline(always)]
fn is_local(destination: &Address) -> bool {
    destination.is_loopback() || destination.is_unspecified() || destination.is_link_scoped()
}

/// What the lookup hook can find out of a SYN that arrived in the pod's namespace.
pub trait LookupFacts {
    /// The protocol is TCP.
    fn is_tcp(&self) -> bool;
    /// The pod this instance of the program was loaded for.
    fn pod(&self) -> &PodIdentity;
    /// The SYN's source.
    fn source(&self) -> &Address;
    /// The SYN's destination.
    fn destination(&self) -> &Address;
    /// The SYN's destination port.
    fn port(&self) -> Port;
    /// The device it came in by. Loopback only for what was routed or bound there by name: a pod that calls its own
    /// address is reported with the device that carries the address.
    fn ingress_device(&self) -> u32;
    /// The kernel knows which pod of this node the SYN is from: whether policy lets that pod in.
    fn admits_attested(&self) -> Option<bool>;
    /// The mode of a port of this pod.
    fn mode(&self, port: Port) -> PortMode;
    /// Kubelet probes that port, and the SYN is from the node itself.
    fn is_probe(&self, port: Port) -> bool;
}

/// Whose a SYN is.
#[inline(always)]
pub fn lookup(facts: &impl LookupFacts) -> Verdict {
    if !facts.is_tcp() {
        return Verdict::LookupNotTcp;
    }
    let pod = facts.pod();
    let owns = |address: &Address| pod.own[0].is(address) || pod.own[1].is(address);
    let destination = facts.destination();
    if destination.is_loopback() || destination.is_unspecified() {
        return Verdict::LookupLoopback;
    }
    let by_loopback = facts.ingress_device() == LOOPBACK_IFINDEX;
    if !owns(destination) {
        return if by_loopback { Verdict::AssignOutbound } else { Verdict::LookupForeign };
    }
    if by_loopback {
        return Verdict::LookupDelivery;
    }
    if owns(facts.source()) {
        return Verdict::LookupOwn;
    }
    if facts.port() == Port::new(TUNNEL_PORT) {
        return Verdict::AssignTunnel;
    }
    match facts.admits_attested() {
        Some(true) => return Verdict::LookupSameNode,
        Some(false) => return Verdict::DropSameNode,
        None => {}
    }
    match facts.mode(facts.port()) {
        PortMode::Pass => Verdict::LookupPlaintext,
        _ if facts.is_probe(facts.port()) => Verdict::LookupProbe,
        PortMode::Judge => Verdict::AssignPlaintext,
        PortMode::Refuse => Verdict::DropPlaintext,
    }
}

/// Whether policy lets the pod with this slot connect to a port of the pod `destination`: by the set of the port, or else
/// by that of all ports no policy names. A pod without any is on its way out, and lets nobody in.
#[inline(always)]
pub fn admits<'a>(sets: impl Fn(PortKey) -> Option<&'a AdmitSet>, destination: u64, port: Port, slot: Slot) -> bool {
    let key = PortKey { cookie: destination, port: port.number() as u64 };
    let set = match sets(key) {
        Some(set) => Some(set),
        None => sets(PortKey { port: 0, ..key }),
    };
    match set {
        Some(set) => set.admits(slot),
        None => false,
    }
}

#[cfg(test)]
mod tests;
