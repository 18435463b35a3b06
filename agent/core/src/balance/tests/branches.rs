//! Routes: shares of backends, of those that are missing too, and retries across them.

use super::*;
use crate::snapshot::Key;
use crate::testing::{object, route};

/// `a/s:80` routed to `a/v1` (one endpoint, `endpoint(0)`) and others by weight; `a/v2` has `endpoint(1)`.
fn routed(algorithm: Algorithm, backends: &[(&str, u32)]) -> Snapshot {
    weighted(algorithm, &[1, 1]).apply(
        [
            Resource::Service(service("a/v1", "10.9.1.1", 80)),
            Resource::EndpointSlice(slice("a/v1", &[&address(0)])),
            Resource::Service(service("a/v2", "10.9.1.2", 80)),
            Resource::EndpointSlice(slice("a/v2", &[&address(1)])),
            Resource::TcpRoute(route("a/split", "a/s", backends)),
        ]
        .map(Delta::Put),
    )
}

#[test]
fn backends_get_their_share() {
    for algorithm in ALGORITHMS {
        let snapshot = routed(algorithm, &[("a/v1:80", 90), ("a/v2:80", 10)]);
        let counts = Client::new().spread(&snapshot, 10_000);
        let bound = if algorithm == Algorithm::RoundRobin { 100 } else { 300 };
        assert!(counts[&endpoint(0)].abs_diff(9000) <= bound, "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn a_consumers_clients_take_turns_among_themselves() {
    let consumer = route("b/split", "a/s", &[("a/v1:80", 1), ("a/v2:80", 3)]);
    let grant = crate::model::ReferenceGrant {
        name: object("a/g"),
        from: vec![(crate::model::GrantKind::Tcp, crate::model::Name::new("b").unwrap())],
        to: vec![],
    };
    let snapshot = routed(Algorithm::RoundRobin, &[("a/v1:80", 1), ("a/v2:80", 1)])
        .apply([Resource::TcpRoute(consumer), Resource::ReferenceGrant(grant)].map(Delta::Put));
    let balancers = Balancers::new();
    let mut counts: BTreeMap<(&str, SocketAddr), u32> = BTreeMap::new();
    for n in 0..400 {
        // Two of the producer's clients, then one of the consumer's, then one whose namespace has no route.
        let namespace = ["a", "a", "b", "c"][n % 4];
        let from = crate::model::Name::new(namespace).unwrap();
        let request = Request { from: Some(&from), ..Request::default() };
        let pick = balancers.pick_for(&snapshot, &key("a/s:80"), &request, Instant::now(), &mut || 7).unwrap();
        *counts.entry((namespace, pick.target.address)).or_default() += 1;
    }
    let of = |namespace: &str| {
        [0, 1].map(|n| counts.iter().filter(|(k, _)| **k == (namespace, endpoint(n))).map(|(_, c)| *c).sum::<u32>())
    };
    assert_eq!(of("b"), [25, 75]);
    assert_eq!([0, 1].map(|n| of("a")[n] + of("c")[n]), [150, 150], "{counts:?}");
}

#[test]
fn a_backend_of_weight_zero_gets_nothing() {
    for algorithm in ALGORITHMS {
        let snapshot = routed(algorithm, &[("a/v1:80", 1), ("a/v2:80", 0)]);
        assert_eq!(Client::new().spread(&snapshot, 500), BTreeMap::from([(endpoint(0), 500)]));
        let snapshot = routed(algorithm, &[("a/v1:80", 0), ("a/v2:80", 0)]);
        let error = Client::new().pick(&snapshot, &[]).unwrap_err();
        assert_eq!(error, PickError::AllWeightsZero(key("a/s:80")));
    }
}

#[test]
fn the_share_of_a_missing_backend_is_refused() {
    for (backend, label) in [("a/none:80", "backend_missing"), ("a/v2:99", "backend_port_missing")] {
        let snapshot = routed(Algorithm::RoundRobin, &[("a/v1:80", 20), (backend, 80)]);
        let mut client = Client::new();
        let refused =
            (0..1000).filter_map(|_| client.pick(&snapshot, &[]).err()).inspect(|e| assert_eq!(e.label(), label));
        assert_eq!(refused.count(), 800);
    }
    let empty = routed(Algorithm::RoundRobin, &[("a/v1:80", 3), ("a/v2:80", 1)])
        .apply([Delta::Remove(Key::EndpointSlice(object("a/v2")))]);
    let mut client = Client::new();
    let refused: Vec<_> = (0..100).filter_map(|_| client.pick(&empty, &[]).err()).collect();
    assert_eq!(refused, vec![PickError::NoEndpoints(key("a/v2:80")); 25], "so is that of one without endpoints");
}

#[test]
fn a_retry_goes_to_another_backend_when_its_own_has_no_more() {
    for algorithm in ALGORITHMS {
        let snapshot = routed(algorithm, &[("a/none:80", 5), ("a/v1:80", 1), ("a/v2:80", 1)]);
        let mut client = Client::new();
        for n in [0, 1] {
            let pick = client.pick(&snapshot, &[endpoint(n)]).unwrap();
            assert_eq!(pick.target.address, endpoint(1 - n));
        }
        let error = client.pick(&snapshot, &[endpoint(0), endpoint(1)]).unwrap_err();
        assert_eq!(error, PickError::Exhausted(key("a/s:80")));
    }
}

#[test]
fn a_pick_names_the_backend_it_came_from() {
    let snapshot = routed(Algorithm::Random, &[("a/v2:80", 1)]);
    assert_eq!(Client::new().pick(&snapshot, &[]).unwrap().backend, key("a/v2:80"));
}

#[test]
fn shares_follow_a_changed_route_at_once() {
    let mut client = Client::new();
    let before = routed(Algorithm::RoundRobin, &[("a/v1:80", 1), ("a/v2:80", 0)]);
    client.spread(&before, 10);
    let flipped = route("a/split", "a/s", &[("a/v1:80", 0), ("a/v2:80", 1)]);
    let after = before.apply([Delta::Put(Resource::TcpRoute(flipped))]);
    assert_eq!(client.spread(&after, 10), BTreeMap::from([(endpoint(1), 10)]));
    assert_eq!(client.spread(&before, 10), BTreeMap::from([(endpoint(0), 10)]), "connections under the older one too");
    assert_eq!(client.spread(&after, 10), BTreeMap::from([(endpoint(1), 10)]));
}

#[test]
fn an_older_snapshot_leaves_the_turns_of_a_newer_alone() {
    let before = routed(Algorithm::RoundRobin, &[("a/v1:80", 1), ("a/v2:80", 3)]);
    let level = route("a/split", "a/s", &[("a/v1:80", 1), ("a/v2:80", 1)]);
    let after = before.apply([Delta::Put(Resource::TcpRoute(level))]);
    let (mut client, mut counts) = (Client::new(), BTreeMap::new());
    for _ in 0..100 {
        *counts.entry(client.connect(&after)).or_insert(0) += 1;
        client.connect(&before);
    }
    assert_eq!(counts, BTreeMap::from([(endpoint(0), 50), (endpoint(1), 50)]));
}

#[test]
fn another_service_stands_in_while_no_endpoint_is_well() {
    use crate::model::{Fallback, Traffic, TrafficPolicy, TrafficTarget};
    let traffic = Traffic { fallback: Some(Fallback { service: object("a/t"), port: 80 }), ..Traffic::default() };
    let policy = TrafficPolicy {
        id: crate::testing::tuned("a/f"),
        targets: vec![TrafficTarget::Service(object("a/s"), None)],
        traffic: Box::new(traffic),
        created: 0,
    };
    let with = |ready: &[bool]| {
        let own =
            ready.iter().enumerate().map(|(n, ready)| EndpointAddress { ready: *ready, ..self::ready(&address(n)) });
        let snapshot = with_endpoints(Algorithm::Random, &[1, 1], own.collect());
        snapshot.apply(
            [
                Resource::TrafficPolicy(policy.clone()),
                Resource::Service(service("a/t", "10.9.0.2", 80)),
                Resource::EndpointSlice(slice("a/t", &[&address(9)])),
            ]
            .map(Delta::Put),
        )
    };
    let mut client = Client::new();
    assert_eq!(client.spread(&with(&[true, true]), 100).len(), 2);
    let one = with(&[true, false]);
    assert_eq!(client.spread(&one, 100).into_keys().collect::<Vec<_>>(), [endpoint(0)]);
    assert_eq!(
        client.pick(&one, &[endpoint(0)]).unwrap().target.address,
        endpoint(1),
        "it has others, though not ready"
    );
    let none = with(&[false, false]);
    let pick = client.pick(&none, &[]).unwrap();
    assert_eq!((pick.target.address, pick.backend.to_string()), (endpoint(9), "a/t:80".to_owned()));
    assert!(client.pick(&none, &[endpoint(9)]).is_ok(), "the one that stands in has failed, too");
    assert_eq!(client.spread(&with(&[true, true]), 100).len(), 2, "back as soon as they are");
}
