//! The endpoints of a service port: the service's ports joined to its slices, and each address to the pod behind it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::Snapshot;
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
    fn of(endpoint: &EndpointAddress, publish_not_ready: bool) -> Self {
        if (endpoint.ready || publish_not_ready) && !endpoint.terminating {
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
}

/// The endpoints of one service port, by address and each address once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EndpointSet {
    /// The endpoints, in the order of their addresses.
    pub endpoints: Vec<Endpoint>,
}

/// Joins one port of `service` to its slices. An address that two slices list (Kubernetes moves endpoints between
/// slices without a transaction) counts once, at its fittest.
pub(super) fn resolve(snapshot: &Snapshot, service: &Service, port: &ServicePort, family: Family) -> EndpointSet {
    let mut found: Vec<(SocketAddr, Fitness)> = Vec::new();
    for slice in snapshot.primary.slices_of.at(&service.name) {
        let Some(target) = slice.port(&port.name) else { continue };
        let of_family = slice.endpoints.iter().filter(|e| Family::of(e.address) == family);
        found.extend(of_family.map(|endpoint| {
            let address = SocketAddr::new(endpoint.address.to_canonical(), target);
            (address, Fitness::of(endpoint, service.publish_not_ready))
        }));
    }
    found.sort_unstable();
    found.dedup_by_key(|(address, _)| *address);
    let endpoints = found.into_iter().map(|(address, fitness)| {
        let workload = snapshot.workload_at(address.ip());
        Endpoint {
            address,
            weight: workload.map_or_else(Weight::default, |w| w.weight),
            fitness,
            uid: workload.map(|w| w.uid.clone()),
        }
    });
    EndpointSet { endpoints: endpoints.collect() }
}
