//! The endpoints of a service port: the service's ports joined to its slices, and each address to the pod behind it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::Snapshot;
use super::peers::Known;
use super::topology::{Placed, Proximity, proximities};
use crate::model::{EndpointAddress, ObjectName, Service, ServicePort, Weight};

/// An address family. A Service's virtual address leads to endpoints of its own family, as with kube-proxy: the server
/// is to see the client's address, and an address of the other family cannot be shown to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address; a v4-mapped one is IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.to_canonical().is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A port of a Service in one address family, the unit of balancing. Shown as `namespace/name:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ServicePortKey {
    /// The Service.
    pub service: ObjectName,
    /// The port clients dial.
    pub port: u16,
    /// The family of the address clients dial.
    pub family: Family,
}

impl std::fmt::Display for ServicePortKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// How fit an endpoint is for a new connection, the fittest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Fitness {
    /// Ready, or of a service that publishes endpoints before they are.
    Ready,
    /// Terminating but still serving: used only when none is ready.
    Draining,
    /// Neither: used only when nothing else is left.
    Unready,
}

impl Fitness {
    /// Kubernetes marks what a Service publishes before it is ready as ready; a person who writes slices need not. What is
    /// ready counts as that also while it terminates, as it does for kube-proxy.
    fn of(endpoint: &EndpointAddress, publish_not_ready: bool) -> Self {
        if endpoint.ready || publish_not_ready {
            Self::Ready
        } else if endpoint.serving && endpoint.terminating {
            Self::Draining
        } else {
            Self::Unready
        }
    }
}

/// One endpoint of a service port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its share among the endpoints of the same service; 0 gets nothing.
    pub weight: Weight,
    /// What its slice says of it.
    pub fitness: Fitness,
    /// The pod behind the address, by UID: another pod at the same address is another endpoint.
    pub uid: Option<Arc<str>>,
    /// How near it is.
    pub proximity: Proximity,
}

/// The endpoints of one service port, by address and each address once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointSet {
    /// The endpoints, in the order of their addresses.
    pub endpoints: Vec<Endpoint>,
    /// Usable ones were left out because they are on other nodes (`internalTrafficPolicy: Local`).
    pub elsewhere: bool,
    /// How long a client keeps its endpoint after its last connection, if it does.
    pub affinity: Option<Duration>,
}

/// An endpoint that slices list.
struct Listed<'a> {
    address: SocketAddr,
    fitness: Fitness,
    endpoint: &'a EndpointAddress,
    pod: Option<Known<'a>>,
}

impl Listed<'_> {
    /// The node it is on: as its slice says, or else the pod.
    fn node(&self) -> Option<&Arc<str>> {
        self.endpoint.place.node.as_ref().or_else(|| self.pod.as_ref().map(Known::node))
    }
}

/// Joins one port of `service` to its slices, and leaves out what it may not use here.
pub(super) fn resolve(snapshot: &Snapshot, service: &Service, port: &ServicePort, family: Family) -> EndpointSet {
    let mut listed = list(snapshot, service, port, family);
    let mut elsewhere = false;
    if service.local_only {
        listed.retain(|listed| {
            let here = listed.node() == Some(&snapshot.here().node);
            elsewhere |= !here && listed.fitness != Fitness::Unready;
            here
        });
    }
    let proximities = if service.local_only {
        vec![Proximity::Anywhere; listed.len()]
    } else {
        let ready = |one: &Listed<'_>| one.fitness == Fitness::Ready;
        let all: Vec<_> = listed
            .iter()
            .map(|one: &Listed<'_>| Placed { endpoint: one.endpoint, node: one.node(), ready: ready(one) })
            .collect();
        proximities(snapshot, service.prefers, &all)
    };
    let endpoints = listed.iter().zip(proximities).map(|(listed, proximity)| Endpoint {
        address: listed.address,
        weight: listed.pod.map_or_else(Weight::default, Known::weight),
        fitness: listed.fitness,
        uid: listed.pod.map(Known::uid),
        proximity,
    });
    EndpointSet { endpoints: endpoints.collect(), elsewhere, affinity: service.affinity }
}

/// The endpoints by address. One that two slices list (Kubernetes moves endpoints between slices without a transaction)
/// counts once, at its fittest.
fn list<'a>(snapshot: &'a Snapshot, service: &Service, port: &ServicePort, family: Family) -> Vec<Listed<'a>> {
    let mut listed: Vec<Listed<'a>> = Vec::new();
    for slice in snapshot.primary.slices_of.at(&service.name) {
        let Some(target) = slice.port(&port.name) else { continue };
        let of_family = slice.endpoints.iter().filter(|e| Family::of(e.address) == family);
        listed.extend(of_family.map(|endpoint| Listed {
            address: SocketAddr::new(endpoint.address.to_canonical(), target),
            fitness: Fitness::of(endpoint, service.publish_not_ready),
            endpoint,
            pod: None,
        }));
    }
    // Stable: of equals, the one in the slice of the smallest name.
    listed.sort_by_key(|listed| (listed.address, listed.fitness));
    listed.dedup_by_key(|listed| listed.address);
    for one in &mut listed {
        one.pod = snapshot.pod_at(one.address.ip());
    }
    listed
}
