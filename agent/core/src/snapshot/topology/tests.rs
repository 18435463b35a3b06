//! Against a naive model of how kube-proxy sorts a service port's endpoints, and what goes beyond it.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::model::{EndpointSlice, Hints, Node, Place, Service};
use crate::snapshot::{Delta, EndpointSet, Fitness, Resource};
use crate::testing::strategies::{hints, preferences};
use crate::testing::{domain, here, key, ready, service, slice};

/// Where the tests' connections begin.
fn mesh(zone: Option<&str>, service: Service, endpoints: Vec<EndpointAddress>) -> Snapshot {
    let node = Node { name: "n1".into(), zone: zone.map(Into::into), off: false };
    Snapshot::on(domain(), here()).apply(
        [
            Resource::Node(node),
            Resource::Service(service),
            Resource::EndpointSlice(EndpointSlice { endpoints, ..slice("a/s", &[]) }),
        ]
        .map(Delta::Put),
    )
}

fn set(snapshot: &Snapshot) -> EndpointSet {
    snapshot.endpoints(&key("a/s:80")).unwrap()
}

/// What kube-proxy would send connections to: its usable endpoints for traffic policy Cluster, or for Local, and whether
/// it knows of any anywhere.
fn kube_proxy(endpoints: &[EndpointAddress], zone: Option<&str>, local_only: bool) -> (BTreeSet<SocketAddr>, bool) {
    let zone = zone.unwrap_or_default();
    let for_node = |e: &EndpointAddress| e.place.hints.as_ref().map_or(vec![], |h| h.nodes.clone());
    let for_zone = |e: &EndpointAddress| e.place.hints.as_ref().map_or(vec![], |h| h.zones.clone());
    let named = |list: Vec<Arc<str>>, name: &str| list.iter().any(|one| &**one == name);
    let is_local = |e: &EndpointAddress| e.place.node.as_deref() == Some("n1");
    let drains = |e: &EndpointAddress| !e.ready && e.serving && e.terminating;
    let ready: Vec<_> = endpoints.iter().filter(|e| e.ready).collect();
    let anywhere = endpoints.iter().any(|e| e.ready || drains(e));
    let pick = |wanted: &dyn Fn(&EndpointAddress) -> bool| -> BTreeSet<SocketAddr> {
        endpoints.iter().filter(|e| wanted(e)).map(|e| SocketAddr::new(e.address, 8080)).collect()
    };
    if local_only {
        let local = pick(&|e| e.ready && is_local(e));
        return (if local.is_empty() { pick(&|e| drains(e) && is_local(e)) } else { local }, anywhere);
    }
    if ready.is_empty() {
        return (pick(&drains), anywhere);
    }
    if ready.iter().all(|e| !for_node(e).is_empty()) && ready.iter().any(|e| named(for_node(e), "n1")) {
        return (pick(&|e| e.ready && named(for_node(e), "n1")), anywhere);
    }
    if ready.iter().all(|e| !for_zone(e).is_empty()) && ready.iter().any(|e| named(for_zone(e), zone)) {
        return (pick(&|e| e.ready && named(for_zone(e), zone)), anywhere);
    }
    (pick(&|e| e.ready), anywhere)
}

/// The endpoints that get connections while all are well: the fittest, and of those, if they are ready, the nearest.
fn preferred(set: &EndpointSet) -> BTreeSet<SocketAddr> {
    let usable = || set.endpoints.iter().filter(|e| e.fitness != Fitness::Unready);
    let Some(best) = usable().map(|e| e.fitness).min() else { return BTreeSet::new() };
    let nearest = usable().filter(|e| e.fitness == best).map(|e| e.proximity).min();
    let near = |e: &&crate::snapshot::Endpoint| best != Fitness::Ready || Some(e.proximity) == nearest;
    usable().filter(|e| e.fitness == best).filter(near).map(|e| e.address).collect()
}

fn endpoints() -> impl Strategy<Value = Vec<EndpointAddress>> {
    let conditions = (prop::bool::weighted(0.7), prop::bool::weighted(0.7), prop::bool::weighted(0.3));
    let place = (option::of(select(vec!["n1", "n2"])), option::of(select(vec!["z1", "z2"])));
    // Hinted all alike as often as not: only then do hints count.
    let all = vec((conditions, place, hints()), 0..6);
    (all, option::of(hints())).prop_map(|(all, same)| {
        let endpoint = |(n, ((ready, serving, terminating), (node, zone), own)): (usize, _)| EndpointAddress {
            ready,
            serving,
            terminating,
            place: Arc::new(Place {
                node: Option::<&str>::map(node, Into::into),
                zone: Option::<&str>::map(zone, Into::into),
                hints: if n % 2 == 0 { own } else { same.clone().unwrap_or(own) },
            }),
            ..self::ready(&format!("10.0.0.{}", n + 1))
        };
        all.into_iter().enumerate().map(endpoint).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// As long as all are well, connections go where kube-proxy sends them.
    #[test]
    fn the_preferred_are_those_kube_proxy_uses(
        endpoints in endpoints(),
        zone in option::of(select(vec!["z1", "z3"])),
        local_only in prop::bool::weighted(0.3),
    ) {
        let service = Service { local_only, ..service("a/s", "10.9.0.1", 80) };
        let snapshot = mesh(zone, service, endpoints.clone());
        let set = set(&snapshot);
        let (wanted, anywhere) = kube_proxy(&endpoints, zone, local_only);
        prop_assert_eq!(preferred(&set), wanted.clone());
        prop_assert_eq!(wanted.is_empty() && anywhere, preferred(&set).is_empty() && set.elsewhere);
    }

    /// What a Service prefers has the effect the hints would have that Kubernetes writes for it.
    #[test]
    fn a_preference_without_hints_is_as_good_as_hints(endpoints in endpoints(), prefers in preferences()) {
        let with = |e: &EndpointAddress, hints| {
            EndpointAddress { place: Arc::new(Place { hints, ..Place::clone(&e.place) }), ..e.clone() }
        };
        let plain = endpoints.iter().map(|e| with(e, None)).collect::<Vec<_>>();
        let written = |e: &EndpointAddress| {
            // n1 is the one node whose zone is known, and Kubernetes takes an endpoint's zone from its node.
            let (zone, node) = (&e.place.zone, &e.place.node);
            let zone = zone.clone().or_else(|| node.as_deref().filter(|node| *node == "n1").map(|_| "z1".into()));
            let zones: Vec<_> = zone.into_iter().filter(|_| prefers != Preference::None).collect();
            let nodes: Vec<_> = node.iter().filter(|_| prefers == Preference::SameNode).cloned().collect();
            let any = e.ready && !(zones.is_empty() && nodes.is_empty());
            with(e, any.then_some(Hints { zones, nodes }))
        };
        let hinted: Vec<_> = plain.iter().map(written).collect();
        let asked = mesh(Some("z1"), Service { prefers, ..service("a/s", "10.9.0.1", 80) }, plain);
        let told = mesh(Some("z1"), service("a/s", "10.9.0.1", 80), hinted);
        prop_assert_eq!(preferred(&set(&asked)), preferred(&set(&told)));
    }
}

#[test]
fn the_zone_is_the_one_that_was_set_or_that_of_the_node() {
    let in_zone = |zone: &str, n: u8| EndpointAddress {
        place: Arc::new(Place { hints: Some(Hints { zones: vec![zone.into()], nodes: vec![] }), ..Place::default() }),
        ..ready(&format!("10.0.0.{n}"))
    };
    let endpoints = vec![in_zone("z1", 1), in_zone("z2", 2)];
    let nearest =
        |snapshot: &Snapshot| preferred(&set(snapshot)).into_iter().map(|at| at.ip().to_string()).collect::<Vec<_>>();
    let by_node = mesh(Some("z2"), service("a/s", "10.9.0.1", 80), endpoints.clone());
    assert_eq!(nearest(&by_node), ["10.0.0.2"]);
    let moved =
        by_node.apply([Delta::Put(Resource::Node(Node { name: "n1".into(), zone: Some("z1".into()), off: false }))]);
    assert_eq!(nearest(&moved), ["10.0.0.1"], "the node's label has changed");
    let gone = by_node.apply([Delta::Remove(crate::snapshot::Key::Node("n1".into()))]);
    assert_eq!(nearest(&gone).len(), 2, "in no zone, none is near");
    let set = Snapshot::on(domain(), Here { node: "n1".into(), zone: Some("z1".into()) }).apply(
        [
            Resource::Node(Node { name: "n1".into(), zone: Some("z2".into()), off: false }),
            Resource::Service(service("a/s", "10.9.0.1", 80)),
            Resource::EndpointSlice(EndpointSlice { endpoints, ..slice("a/s", &[]) }),
        ]
        .map(Delta::Put),
    );
    assert_eq!(nearest(&set), ["10.0.0.1"]);
}
