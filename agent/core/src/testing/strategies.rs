//! Generated configurations. Two namespaces, a few names and a few addresses: pods fight over addresses, services over
//! virtual ones, routes over parents, and references lead nowhere as often as somewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::{domain, ip, labels, name, object, pod};
use crate::model::{
    Action, Algorithm, AuthorizationPolicy, AuthorizationRule, BackendRef, EndpointAddress, EndpointSlice, GrantKind,
    Hints, Identity, Label, Labels, Match, MeshLabel, MtlsMode, Name, Namespace, Node, NodeLiveness, ObjectName,
    ParentRef, PeerAuthentication, PeerMatch, Place, PortMatch, Preference, ReferenceGrant, Roles, Scope, Selector,
    Service, ServicePort, SlicePort, TcpRoute, Traffic, TrafficKind, TrafficPolicy, TrafficPolicyId, TrafficTarget,
    TrustDomain, Weight, Workload,
};
use crate::snapshot::{Delta, PeerSlice, Resource};

/// Addresses of pods; the last is on the services' side too.
pub(crate) const ADDRESSES: &[&str] = &["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "10.9.0.1"];
const VIPS: &[&str] = &["10.9.0.1", "10.9.0.2", "fd00:9::1"];
const PORTS: &[u16] = &[80, 81];

fn names() -> impl Strategy<Value = Name> {
    select(vec!["a", "b"]).prop_map(name)
}

fn objects(names: &'static [&'static str]) -> impl Strategy<Value = ObjectName> {
    select(names).prop_map(object)
}

fn services_named() -> impl Strategy<Value = ObjectName> {
    objects(&["a/s", "a/t", "b/s"])
}

fn addresses(from: &'static [&'static str]) -> impl Strategy<Value = Vec<IpAddr>> {
    subsequence(from, 0..=2).prop_map(|some| some.into_iter().map(ip).collect())
}

fn weights() -> impl Strategy<Value = Weight> {
    (0_u32..4).prop_map(Weight)
}

fn pod_labels() -> impl Strategy<Value = Labels> {
    subsequence(&[("app", "x"), ("app", "y"), ("tier", "z")][..], 0..=2).prop_map(|pairs| labels(&pairs))
}

fn selectors() -> impl Strategy<Value = Selector> {
    pod_labels().prop_map(|labels| Selector(labels.into_iter().collect::<Vec<Label>>()))
}

/// Pods.
pub(crate) fn workloads() -> impl Strategy<Value = Workload> {
    let mesh = option::of(select(vec![MeshLabel::Enabled, MeshLabel::Disabled]));
    let who = (objects(&["a/p", "a/q", "b/p", "b/q"]), select(vec!["u1", "u2", "u3", "u4"]), select(vec!["n1", "n2"]));
    let what = (addresses(ADDRESSES), pod_labels(), weights(), mesh, select(vec!["x", "y"]), prop::bool::weighted(0.1));
    (who, what).prop_map(|((named, uid, node), (addresses, labels, weight, mesh, account, host_network))| Workload {
        name: named,
        uid: uid.into(),
        node: node.into(),
        addresses,
        labels,
        weight,
        mesh,
        service_account: name(account),
        host_network,
        ..pod("a/p", "10.0.0.1")
    })
}

fn liveness() -> impl Strategy<Value = NodeLiveness> {
    (select(vec!["n1", "n2"]), subsequence(vec!["u1", "u2", "u3", "u4"], 0..=4))
        .prop_map(|(node, live)| NodeLiveness { node: node.into(), live: live.into_iter().map(Into::into).collect() })
}

fn services() -> impl Strategy<Value = Service> {
    let port = |(name, port): (&str, u16)| ServicePort { name: name.into(), port, app_protocol: None };
    let ports = subsequence(vec![("", 80), ("other", 81)], 0..=2);
    let who = (services_named(), addresses(VIPS), ports);
    (who, any::<bool>(), preferences(), prop::bool::weighted(0.2), affinities()).prop_map(
        move |((name, cluster_ips, ports), early, prefers, local_only, affinity)| Service {
            name,
            cluster_ips,
            ports: ports.into_iter().map(port).collect(),
            publish_not_ready: early,
            fast_path: true,
            detect: None,
            local_only,
            prefers,
            affinity,
        },
    )
}

/// What a Service may prefer.
pub(crate) fn preferences() -> impl Strategy<Value = Preference> {
    select(vec![Preference::None, Preference::SameZone, Preference::SameNode])
}

fn affinities() -> impl Strategy<Value = Option<Duration>> {
    prop_oneof![3 => Just(None), 1 => Just(Some(Duration::from_secs(10)))]
}

fn names_of(among: &'static [&'static str]) -> impl Strategy<Value = Vec<Arc<str>>> {
    subsequence(among, 0..=2).prop_map(|some| some.into_iter().map(Arc::from).collect())
}

/// Hints, or none.
pub(crate) fn hints() -> impl Strategy<Value = Option<Hints>> {
    let some = (names_of(&["z1", "z2"]), names_of(&["n1", "n2"]));
    option::weighted(0.7, some.prop_map(|(zones, nodes)| Hints { zones, nodes }))
}

/// Endpoints in all conditions and places.
pub(crate) fn endpoints() -> impl Strategy<Value = EndpointAddress> {
    let conditions = (prop::bool::weighted(0.8), prop::bool::weighted(0.8), prop::bool::weighted(0.2));
    let node = option::of(select(vec!["n1", "n2"]));
    let zone = option::of(select(vec!["z1", "z2"]));
    (select(ADDRESSES), conditions, node, zone, hints()).prop_map(
        |(address, (ready, serving, terminating), node, zone, hints)| EndpointAddress {
            address: ip(address),
            ready,
            serving,
            terminating,
            place: Arc::new(Place { node: node.map(Into::into), zone: zone.map(Into::into), hints }),
        },
    )
}

fn nodes() -> impl Strategy<Value = Node> {
    (select(vec!["n1", "n2"]), option::of(select(vec!["z1", "z2"]))).prop_map(|(name, zone)| Node {
        name: name.into(),
        zone: zone.map(Into::into),
        off: false,
    })
}

fn slices() -> impl Strategy<Value = EndpointSlice> {
    let port = |(name, port): (&str, u16)| SlicePort { name: name.into(), port };
    let ports = subsequence(vec![("", 8080), ("other", 8081)], 0..=2);
    (objects(&["a/e", "a/f", "b/e"]), services_named(), ports, vec(endpoints(), 0..4)).prop_map(
        move |(name, service, ports, endpoints)| EndpointSlice {
            name,
            service,
            ports: ports.into_iter().map(port).collect(),
            endpoints,
        },
    )
}

fn routes() -> impl Strategy<Value = TcpRoute> {
    let section = select(vec![None, Some("http"), Some("other")]);
    let parent = (services_named(), option::of(select(PORTS)), section)
        .prop_map(|(service, port, section)| ParentRef { service, port, section: section.map(Into::into) });
    let backend = (services_named(), select(PORTS), weights()).prop_map(|(service, port, weight)| BackendRef {
        service,
        port,
        weight,
    });
    (objects(&["a/r", "a/u", "b/r"]), vec(parent, 0..3), vec(backend, 0..3), 0_i64..2)
        .prop_map(|(name, parents, backends, created)| TcpRoute { name, parents, backends, created })
}

fn grants() -> impl Strategy<Value = ReferenceGrant> {
    let to = subsequence(vec!["s", "t"], 0..=1).prop_map(|names| names.into_iter().map(name).collect());
    (objects(&["a/g", "b/g"]), vec((Just(GrantKind::Tcp), names()), 0..2), to)
        .prop_map(|(name, from, to)| ReferenceGrant { name, from, to })
}

fn traffic() -> impl Strategy<Value = TrafficPolicy> {
    let algorithm =
        select(vec![Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random]);
    let section = select(vec![None, Some("80"), Some("http")]);
    let target =
        (services_named(), section).prop_map(|(name, section)| TrafficTarget::Service(name, section.map(Into::into)));
    let traffic = (option::of(algorithm), option::of(Just(Duration::from_secs(9))))
        .prop_map(|(algorithm, idle)| Traffic { algorithm, idle, ..Traffic::default() });
    let kind = select(vec![TrafficKind::Weft, TrafficKind::Gateway]);
    (kind, objects(&["a/p", "a/q", "b/p"]), vec(target, 0..2), traffic, 0..3_i64).prop_map(
        |(kind, name, targets, traffic, created)| {
            let (id, traffic) = (TrafficPolicyId { kind, name }, Box::new(traffic));
            TrafficPolicy { id, targets, traffic, created }
        },
    )
}

fn matches<T: Clone + std::fmt::Debug>(values: impl Strategy<Value = T> + Clone) -> impl Strategy<Value = Match<T>> {
    let any = prop_oneof![2 => vec(values.clone(), 0..1), 1 => vec(values.clone(), 1..3)];
    let none = prop_oneof![4 => vec(values.clone(), 0..1), 1 => vec(values, 1..2)];
    (any, none).prop_map(|(any, none)| Match { any, none })
}

/// Identities, a few of another mesh.
pub(crate) fn identities() -> impl Strategy<Value = Identity> + Clone {
    (prop::bool::weighted(0.1), select(vec!["a", "b"]), select(vec!["x", "y"])).prop_map(|(foreign, ns, account)| {
        let domain = if foreign { TrustDomain::new("elsewhere").expect("a domain") } else { domain() };
        Identity { trust_domain: domain, namespace: name(ns), service_account: name(account) }
    })
}

/// Ports policies name, and one they do not.
pub(crate) fn ports() -> impl Strategy<Value = u16> + Clone {
    select(vec![8080, 8081, 9090])
}

fn peers() -> impl Strategy<Value = PeerMatch> {
    let blocks = select(vec!["10.0.0.0/24", "10.0.0.2/32", "10.0.0.1/8", "fd00::/16", "0.0.0.0/0"]);
    let blocks = blocks.prop_map(|block| block.parse::<IpNet>().expect("a block"));
    (
        matches(identities()),
        matches(select(vec!["a", "b"]).prop_map(name)),
        matches(select(vec!["a/x", "b/y"]).prop_map(object)),
        matches(blocks),
    )
        .prop_map(|(principals, namespaces, service_accounts, ip_blocks)| PeerMatch {
            principals,
            namespaces,
            service_accounts,
            ip_blocks,
        })
}

/// Authorization policies.
pub(crate) fn authorization() -> impl Strategy<Value = AuthorizationPolicy> {
    let to = matches(select(vec![8080_u16, 8081])).prop_map(|ports| PortMatch { ports });
    let rule = (vec(peers(), 0..3), vec(to, 0..2)).prop_map(|(from, to)| AuthorizationRule { from, to });
    let scope = prop_oneof![Just(Scope::Namespace), selectors().prop_map(Scope::Workloads)];
    let what = (select(vec![Action::Allow, Action::Deny]), prop::bool::weighted(0.2), prop::bool::weighted(0.95));
    (objects(&["a/p1", "a/p2", "a/p3", "b/p1"]), scope, what, vec(rule, 0..3)).prop_map(
        |(name, scope, (action, audit, valid), rules)| AuthorizationPolicy { name, scope, action, audit, rules, valid },
    )
}

/// mTLS policies.
pub(crate) fn authentication() -> impl Strategy<Value = PeerAuthentication> {
    let mode = || select(vec![MtlsMode::Permissive, MtlsMode::Strict]);
    let ports = prop::collection::btree_map(select(vec![8080_u16, 8081]), mode(), 0..2);
    (objects(&["a/m1", "a/m2", "b/m1"]), selectors(), option::of(mode()), ports).prop_map(
        |(name, selector, mode, ports): (_, _, _, BTreeMap<u16, MtlsMode>)| PeerAuthentication {
            name,
            selector,
            mode,
            ports,
        },
    )
}

/// Pods of other nodes, which may have the names and addresses of others.
fn peers_of_slices() -> impl Strategy<Value = PeerSlice> {
    let pods = vec((workloads(), any::<bool>()), 0..4);
    (select(vec!["s1", "s2"]), pods).prop_map(|(name, pods)| {
        let mut roles = Roles::default();
        PeerSlice::new(name.into(), pods.into_iter().map(|(pod, live)| roles.peer(pod, live)).collect())
    })
}

/// Any resource.
pub(crate) fn resources() -> impl Strategy<Value = Resource> {
    let mesh = option::of(select(vec![MeshLabel::Enabled, MeshLabel::Disabled]));
    let namespace = (names(), mesh).prop_map(|(name, mesh)| Namespace {
        name,
        mesh,
        labels: Labels::new(),
        fast_path: true,
        detect: None,
    });
    prop_oneof![
        1 => namespace.prop_map(Resource::Namespace),
        1 => nodes().prop_map(Resource::Node),
        4 => workloads().prop_map(Resource::Workload),
        3 => liveness().prop_map(Resource::Liveness),
        3 => peers_of_slices().prop_map(Resource::Peers),
        3 => services().prop_map(Resource::Service),
        3 => slices().prop_map(Resource::EndpointSlice),
        2 => routes().prop_map(Resource::TcpRoute),
        1 => grants().prop_map(Resource::ReferenceGrant),
        1 => authorization().prop_map(Resource::AuthorizationPolicy),
        1 => authentication().prop_map(Resource::PeerAuthentication),
        1 => traffic().prop_map(Resource::TrafficPolicy),
    ]
}

/// Changes: mostly arrivals, some of them of what is already there in another form, and some departures.
pub(crate) fn deltas() -> impl Strategy<Value = Delta> {
    changes(resources())
}

/// The same of what a big cluster has many of: services and endpoint slices.
pub(crate) fn deltas_of_many() -> impl Strategy<Value = Delta> {
    changes(prop_oneof![services().prop_map(Resource::Service), slices().prop_map(Resource::EndpointSlice)])
}

fn changes(of: impl Strategy<Value = Resource>) -> impl Strategy<Value = Delta> {
    (of, prop::bool::weighted(0.8))
        .prop_map(|(resource, put)| if put { Delta::Put(resource) } else { Delta::Remove(resource.key()) })
}
