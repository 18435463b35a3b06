//! Services and their endpoints.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::name::ObjectName;

/// One port of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServicePort {
    /// The port's name; empty for the only, unnamed one. Joins it to the EndpointSlices' ports.
    pub name: Arc<str>,
    /// The port clients dial.
    pub port: u16,
    /// `appProtocol`, as declared.
    pub app_protocol: Option<Arc<str>>,
}

/// A Service with TCP ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    /// Namespace and name.
    pub name: ObjectName,
    /// Its virtual addresses; empty for a headless service.
    pub cluster_ips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// `publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// Connections to it may take the same-node fast path (`weft.dev/fast-path: disabled` says they may not).
    pub fast_path: bool,
    /// `weft.dev/l7`: whether it is to be found out what its ports speak; its namespace says where it does not.
    pub detect: Option<bool>,
    /// `internalTrafficPolicy: Local`: only endpoints of the client's own node.
    pub local_only: bool,
    /// `trafficDistribution`: which endpoints are preferred where their slices give no hints.
    pub prefers: Preference,
    /// `sessionAffinity: ClientIP`: how long after its last connection a client keeps its endpoint.
    pub affinity: Option<Duration>,
}

impl Service {
    /// How long a client is remembered where `sessionAffinityConfig` does not say (Kubernetes' default).
    pub const AFFINITY: Duration = Duration::from_secs(10_800);
}

/// `trafficDistribution` of a Service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Preference {
    /// All endpoints alike.
    #[default]
    None,
    /// Those of the client's zone (`PreferSameZone`, formerly `PreferClose`).
    SameZone,
    /// Those of the client's node, else those of its zone (`PreferSameNode`).
    SameNode,
}

/// A port of an EndpointSlice, by its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlicePort {
    /// The Service port's name this one serves.
    pub name: Arc<str>,
    /// The port the endpoints listen on.
    pub port: u16,
}

/// One endpoint of an EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointAddress {
    /// Its address (the first of `addresses`; Kubernetes says the others are alternatives).
    pub address: IpAddr,
    /// `conditions.ready`.
    pub ready: bool,
    /// `conditions.serving`.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// Where it is: the same for many, and held once.
    pub place: Arc<Place>,
}

/// Where an endpoint is, and for whom.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct Place {
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints`, where there are any.
    pub hints: Option<Hints>,
}

/// Whom an endpoint is meant for, as the EndpointSlice's author says.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct Hints {
    /// `forZones`.
    pub zones: Vec<Arc<str>>,
    /// `forNodes`.
    pub nodes: Vec<Arc<str>>,
}

/// An EndpointSlice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: ObjectName,
    /// The Service it belongs to (label `kubernetes.io/service-name`).
    pub service: ObjectName,
    /// Ports, the same for all its endpoints.
    pub ports: Vec<SlicePort>,
    /// Endpoints.
    pub endpoints: Vec<EndpointAddress>,
}

impl EndpointSlice {
    /// Endpoint ports by port name.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|p| &*p.name == name).map(|p| p.port)
    }

    /// Endpoints by address.
    #[must_use]
    pub fn by_address(&self) -> BTreeMap<IpAddr, &EndpointAddress> {
        self.endpoints.iter().map(|e| (e.address, e)).collect()
    }
}
