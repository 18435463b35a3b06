//! What the tests of several rooms share: short ways to write resources, a seeded source of randomness, and strategies
//! that generate configurations over a universe small enough for things to collide.

pub(crate) mod strategies;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::model::{
    Algorithm, BackendRef, EndpointAddress, EndpointSlice, Labels, Name, NodeLiveness, ObjectName, ParentRef,
    Preference, Service, ServicePort, SlicePort, TcpRoute, Traffic, TrafficKind, TrafficPolicy, TrafficPolicyId,
    TrafficTarget, TrustDomain, Weight, Workload,
};
use crate::snapshot::{Delta, Family, Here, Resource, ServicePortKey, Snapshot};

/// `namespace/name`.
pub(crate) fn object(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    ObjectName::new(namespace, name).expect("names")
}

/// A name.
pub(crate) fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

/// An address.
pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An address and port.
pub(crate) fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and port")
}

/// A service port in IPv4, `namespace/name:port`.
pub(crate) fn key(text: &str) -> ServicePortKey {
    let (service, port) = text.rsplit_once(':').expect("namespace/name:port");
    ServicePortKey { service: object(service), port: port.parse().expect("a port"), family: Family::V4 }
}

/// Labels from pairs.
pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// A pod on node `n1` whose UID is its name.
pub(crate) fn pod(named: &str, address: &str) -> Workload {
    Workload {
        name: object(named),
        uid: named.into(),
        addresses: vec![ip(address)],
        service_account: name("default"),
        node: "n1".into(),
        owner: named.into(),
        labels: Labels::new(),
        weight: Weight(1),
        mesh: None,
        netns: None,
        host_network: false,
        declared_ports: Vec::new(),
        probe_ports: Vec::new(),
    }
}

/// What the agent of `n1` publishes.
pub(crate) fn live(uids: &[&str]) -> NodeLiveness {
    NodeLiveness { node: "n1".into(), live: uids.iter().map(|uid| (*uid).into()).collect::<BTreeSet<_>>() }
}

/// A service with one unnamed port.
pub(crate) fn service(named: &str, vip: &str, port: u16) -> Service {
    let ports = vec![ServicePort { name: "".into(), port, app_protocol: None }];
    Service {
        name: object(named),
        cluster_ips: vec![ip(vip)],
        ports,
        publish_not_ready: false,
        fast_path: true,
        detect: None,
        local_only: false,
        prefers: Preference::None,
        affinity: None,
    }
}

/// A slice of that service: ready endpoints that listen on 8080.
pub(crate) fn slice(service: &str, addresses: &[&str]) -> EndpointSlice {
    EndpointSlice {
        name: object(service),
        service: object(service),
        ports: vec![SlicePort { name: "".into(), port: 8080 }],
        endpoints: addresses.iter().map(|address| ready(address)).collect(),
    }
}

/// A ready endpoint.
pub(crate) fn ready(address: &str) -> EndpointAddress {
    EndpointAddress { address: ip(address), ready: true, serving: true, terminating: false, place: Default::default() }
}

/// A route of `parent`'s whole service to weighted backends, each `namespace/name:port`.
pub(crate) fn route(named: &str, parent: &str, backends: &[(&str, u32)]) -> TcpRoute {
    let backend = |(backend, weight): &(&str, u32)| {
        let key = key(backend);
        BackendRef { service: key.service, port: key.port, weight: Weight(*weight) }
    };
    TcpRoute {
        name: object(named),
        parents: vec![ParentRef::whole(object(parent))],
        backends: backends.iter().map(backend).collect(),
        created: 0,
    }
}

/// The name of a TrafficPolicy.
pub(crate) fn tuned(named: &str) -> TrafficPolicyId {
    TrafficPolicyId { kind: TrafficKind::Weft, name: object(named) }
}

/// A policy for one service of the same name.
pub(crate) fn balanced_by(service: &str, algorithm: Algorithm) -> TrafficPolicy {
    let traffic = Box::new(Traffic { algorithm: Some(algorithm), ..Traffic::default() });
    TrafficPolicy {
        id: tuned(service),
        targets: vec![TrafficTarget::Service(object(service), None)],
        traffic,
        created: 0,
    }
}

/// The domain of every test mesh.
pub(crate) fn domain() -> TrustDomain {
    TrustDomain::new("cluster.local").expect("a domain")
}

/// Node `n1`, in the zone its Node object says.
pub(crate) fn here() -> Here {
    Here { node: "n1".into(), zone: None }
}

/// A snapshot of these resources.
pub(crate) fn snapshot(resources: impl IntoIterator<Item = Resource>) -> Snapshot {
    Snapshot::new(domain()).apply(resources.into_iter().map(Delta::Put))
}

/// A seeded source of random numbers (splitmix64): tests repeat.
pub(crate) fn seeded(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
