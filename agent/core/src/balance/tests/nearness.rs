//! Near endpoints first, far ones for what the near cannot take; and clients that keep their endpoints.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::model::{EndpointSlice, Hints, Place, Service};
use crate::snapshot::Here;
use crate::testing::{domain, ip, key, route, service};

/// An endpoint hinted for a zone; this is zone `near`.
fn hinted(n: usize, zone: &str) -> EndpointAddress {
    let hints = Hints { zones: vec![zone.into()], nodes: vec![] };
    let place = Place { node: None, zone: Some(zone.into()), hints: Some(hints) };
    EndpointAddress { place: Arc::new(place), ..ready(&address(n)) }
}

fn zoned(service: Service, endpoints: Vec<EndpointAddress>) -> Snapshot {
    let here = Here { node: "n1".into(), zone: Some("near".into()) };
    Snapshot::on(domain(), here).apply(
        [Resource::Service(service), Resource::EndpointSlice(EndpointSlice { endpoints, ..slice("a/s", &[]) })]
            .map(Delta::Put),
    )
}

fn plain() -> Service {
    service("a/s", "10.9.0.1", 80)
}

fn share(counts: &BTreeMap<SocketAddr, usize>, of: std::ops::Range<usize>) -> f64 {
    let total: usize = counts.values().sum();
    of.map(|n| counts.get(&endpoint(n)).copied().unwrap_or(0)).sum::<usize>() as f64 / total as f64
}

#[test]
fn locality_spills_over() {
    let all = |unready: usize| {
        let near = (0..4).map(|n| EndpointAddress { ready: n >= unready, serving: n >= unready, ..hinted(n, "near") });
        zoned(plain(), near.chain((4..8).map(|n| hinted(n, "far"))).collect())
    };
    // 3 of 4 are enough; 2 of 4 take 0.7, 1 of 4 takes 0.35.
    for (unready, near) in [(0, 1.0), (1, 1.0), (2, 0.7), (3, 0.35), (4, 0.0)] {
        let counts = Client::new().spread(&all(unready), 20_000);
        let got = share(&counts, 0..4);
        assert!((got - near).abs() < 0.015, "{unready} unready: {got} and not {near}: {counts:?}");
    }
}

#[test]
fn ejection_spills_over_too_and_a_retry_goes_far_before_it_goes_to_the_ejected() {
    let endpoints: Vec<_> = (0..2).map(|n| hinted(n, "near")).chain((2..6).map(|n| hinted(n, "far"))).collect();
    let snapshot = zoned(plain(), endpoints);
    let mut client = Client::new();
    client.eject(&snapshot, endpoint(0));
    let got = share(&client.spread(&snapshot, 20_000), 0..2);
    assert!((got - 0.7).abs() < 0.015, "one of two near ones is out: {got}");
    client.eject(&snapshot, endpoint(1));
    let counts = client.spread(&snapshot, 2_000);
    assert_eq!(share(&counts, 0..2), 0.0, "both are out, which is a third of all: {counts:?}");
    let mut tried: Vec<SocketAddr> = (2..6).map(endpoint).collect();
    tried.push(client.pick(&snapshot, &tried).unwrap().target.address);
    assert!(tried[4] == endpoint(0) || tried[4] == endpoint(1), "the ejected when nobody else is left");
}

#[test]
fn where_too_many_are_ejected_ejection_is_ignored() {
    let endpoints: Vec<_> = (0..2).map(|n| hinted(n, "near")).chain((2..4).map(|n| hinted(n, "far"))).collect();
    let snapshot = zoned(plain(), endpoints.clone());
    let mut client = Client::new();
    client.eject(&snapshot, endpoint(0));
    client.eject(&snapshot, endpoint(1));
    // The far ones go away: none of two serves, and that is fewer than half.
    let alone = snapshot.apply([Delta::Put(Resource::EndpointSlice(EndpointSlice {
        endpoints: endpoints[..2].to_vec(),
        ..slice("a/s", &[])
    }))]);
    // Picked and not reported on: the first that connects is readmitted, and the other is out again.
    let picked: std::collections::BTreeSet<_> =
        (0..50).map(|_| client.pick(&alone, &[]).unwrap().target.address).collect();
    assert_eq!(picked.len(), 2, "{picked:?}");
}

#[test]
fn far_endpoints_get_nothing_while_the_near_suffice_but_are_tried_before_giving_up() {
    let snapshot = zoned(plain(), vec![hinted(0, "near"), hinted(1, "far"), hinted(2, "far")]);
    for algorithm in ALGORITHMS {
        let snapshot = snapshot.apply([Delta::Put(Resource::TrafficPolicy(balanced_by("a/s", algorithm)))]);
        let mut client = Client::new();
        assert_eq!(client.spread(&snapshot, 100), BTreeMap::from([(endpoint(0), 100)]), "{algorithm:?}");
        let second = client.pick(&snapshot, &[endpoint(0)]).unwrap().target.address;
        assert_ne!(second, endpoint(0), "{algorithm:?}");
    }
}

#[test]
fn weights_hold_within_each_level() {
    let weights = [3_u32, 1, 2, 2];
    let pods = (0..4).map(|n| {
        let pod = pod(&format!("a/p{n}"), &address(n));
        Delta::Put(Resource::Workload(Workload { weight: Weight(weights[n]), ..pod }))
    });
    let endpoints = vec![
        hinted(0, "near"),
        EndpointAddress { ready: false, serving: false, ..hinted(1, "near") },
        hinted(2, "far"),
        hinted(3, "far"),
    ];
    // Three quarters of the near weight is well: enough.
    let snapshot = zoned(plain(), endpoints.clone()).apply(pods);
    assert_eq!(Client::new().spread(&snapshot, 100).len(), 1);
    let heavy = pod("a/p1", &address(1));
    let heavy = Delta::Put(Resource::Workload(Workload { weight: Weight(3), ..heavy }));
    let counts = Client::new().spread(&snapshot.apply([heavy]), 20_000);
    for (of, wanted) in [(0..1, 0.7), (2..3, 0.15), (3..4, 0.15)] {
        assert!((share(&counts, of) - wanted).abs() < 0.015, "{counts:?}");
    }
}

#[test]
fn internal_traffic_policy_local_uses_no_other_node() {
    let on = |n: usize, node: &str| EndpointAddress {
        place: Arc::new(Place { node: Some(node.into()), ..Place::default() }),
        ..ready(&address(n))
    };
    let local = || Service { local_only: true, ..plain() };
    let snapshot = zoned(local(), vec![on(0, "n2"), on(1, "n1"), on(2, "n2")]);
    let mut client = Client::new();
    assert_eq!(client.spread(&snapshot, 50), BTreeMap::from([(endpoint(1), 50)]));
    assert_eq!(client.pick(&snapshot, &[endpoint(1)]).unwrap_err(), PickError::Exhausted(key("a/s:80")));
    let none = zoned(local(), vec![on(0, "n2")]);
    assert_eq!(Client::new().pick(&none, &[]).unwrap_err().label(), "no_local_endpoints");
    assert_eq!(Client::new().pick(&zoned(local(), vec![]), &[]).unwrap_err().label(), "no_endpoints");
}

const KEEP: Duration = Duration::from_secs(60);

fn sticky(count: usize) -> Snapshot {
    let service = Service { affinity: Some(KEEP), ..plain() };
    zoned(service, (0..count).map(|n| ready(&address(n))).collect())
}

impl Client {
    fn pick_from(&mut self, snapshot: &Snapshot, from: IpAddr, tried: &[SocketAddr]) -> Pick {
        let request = Request { client: Some(from), tried, ..Request::default() };
        self.balancers.pick_for(snapshot, &key("a/s:80"), &request, self.now, &mut *self.random).unwrap()
    }

    fn goes(&mut self, snapshot: &Snapshot, from: IpAddr) -> SocketAddr {
        self.pick_from(snapshot, from, &[]).target.address
    }
}

#[test]
fn a_client_keeps_its_endpoint_whatever_becomes_of_the_others() {
    let mut client = Client::new();
    let clients: Vec<IpAddr> = (1..60).map(|n| ip(&format!("10.1.0.{n}"))).collect();
    let four = sticky(4);
    let first: Vec<_> = clients.iter().map(|from| client.goes(&four, *from)).collect();
    assert!((0..4).all(|n| first.contains(&endpoint(n))), "clients are spread: {first:?}");
    for _ in 0..3 {
        let again: Vec<_> = clients.iter().map(|from| client.goes(&four, *from)).collect();
        assert_eq!(again, first);
    }
    let nine = sticky(9);
    let more: Vec<_> = clients.iter().map(|from| client.goes(&nine, *from)).collect();
    assert_eq!(more, first, "new endpoints take nobody's clients");
    let three = sticky(3);
    for (from, before) in clients.iter().zip(&first) {
        let now = client.goes(&three, *from);
        assert!(now == *before || *before == endpoint(3), "only those whose endpoint went had to move");
        assert_eq!(client.goes(&nine, *from), now, "and they stay where they went");
    }
    // A restarted agent knows nothing, and sends them where its predecessor did.
    let mut successor = Client::new();
    successor.random = Box::new(seeded(99));
    let again: Vec<_> = clients.iter().map(|from| successor.goes(&four, *from)).collect();
    assert_eq!(again, first);
}

#[test]
fn a_session_ends_so_long_after_the_last_connection() {
    let mut client = Client::new();
    let from = (1..250).map(|n| ip(&format!("10.1.0.{n}"))).find(|from| {
        let (mut small, mut large) = (Client::new(), Client::new());
        small.goes(&sticky(2), *from) != large.goes(&sticky(4), *from)
    });
    let from = from.expect("one whom more endpoints would have sent elsewhere");
    let first = client.goes(&sticky(2), from);
    for _ in 0..5 {
        client.now += KEEP - Duration::from_secs(1);
        assert_eq!(client.goes(&sticky(4), from), first);
    }
    client.now += KEEP;
    assert_ne!(client.goes(&sticky(4), from), first);
}

#[test]
fn a_client_whose_endpoint_fails_moves_for_good() {
    let (mut client, from, snapshot) = (Client::new(), ip("10.1.0.1"), sticky(3));
    let first = client.goes(&snapshot, from);
    let second = client.pick_from(&snapshot, from, &[first]).target.address;
    assert_ne!(second, first);
    assert_eq!(client.goes(&snapshot, from), second, "where its retry went");
    // One that may not be used any more is left, also within its time.
    let unready = |n| EndpointAddress { ready: endpoint(n) != second, ..ready(&address(n)) };
    let service = Service { affinity: Some(KEEP), ..plain() };
    let third = client.goes(&zoned(service, (0..3).map(unready).collect()), from);
    assert_ne!(third, second);
}

#[test]
fn a_client_keeps_its_branch_too() {
    let extra = [
        Resource::Service(service("a/t", "10.9.0.2", 80)),
        Resource::EndpointSlice(slice("a/t", &[&address(10), &address(11)])),
        Resource::TcpRoute(route("a/r", "a/s", &[("a/s:80", 1), ("a/t:80", 1)])),
    ];
    let snapshot = sticky(2).apply(extra.map(Delta::Put));
    let (mut client, mut seen) = (Client::new(), std::collections::BTreeSet::new());
    for n in 1..60 {
        let from = ip(&format!("10.1.0.{n}"));
        let first = client.pick_from(&snapshot, from, &[]).backend.clone();
        let at = client.goes(&snapshot, from);
        assert!((0..5).all(|_| client.goes(&snapshot, from) == at));
        seen.insert(first);
    }
    assert_eq!(seen.len(), 2, "clients are spread over the branches");
    // A branch that gets nothing any more keeps nobody.
    let shut = Delta::Put(Resource::TcpRoute(route("a/r", "a/s", &[("a/s:80", 0), ("a/t:80", 1)])));
    let shut = snapshot.apply([shut]);
    for n in 1..60 {
        assert_eq!(client.pick_from(&shut, ip(&format!("10.1.0.{n}")), &[]).backend, key("a/t:80"));
    }
}

#[test]
fn sessions_go_with_their_service() {
    let mut client = Client::new();
    client.goes(&sticky(2), ip("10.1.0.1"));
    client.balancers.sync(&sticky(2));
    assert_eq!(client.balancers.sessions.read().unwrap().len(), 1);
    client.balancers.sync(&zoned(plain(), vec![]));
    assert!(client.balancers.sessions.read().unwrap().is_empty());
}

#[test]
fn how_many_near_ones_are_enough_may_be_set() {
    let near = (0..4).map(|n| EndpointAddress { ready: n > 0, serving: n > 0, ..hinted(n, "near") });
    let endpoints: Vec<_> = near.chain((4..8).map(|n| hinted(n, "far"))).collect();
    for (percent, near) in [(None, 1.0), (Some(75), 1.0), (Some(100), 0.75), (Some(10), 1.0)] {
        let traffic = Box::new(crate::model::Traffic { healthy_percent: percent, ..Default::default() });
        let targets = vec![crate::model::TrafficTarget::Service(plain().name, None)];
        let policy = crate::model::TrafficPolicy { id: crate::testing::tuned("a/p"), targets, traffic, created: 0 };
        let snapshot = zoned(plain(), endpoints.clone()).apply([Delta::Put(Resource::TrafficPolicy(policy))]);
        let got = share(&Client::new().spread(&snapshot, 20_000), 0..4);
        assert!((got - near).abs() < 0.015, "{percent:?}: {got} and not {near}");
    }
}
