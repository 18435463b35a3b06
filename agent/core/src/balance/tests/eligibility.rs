//! Who may be picked: never someone unfit while someone fit is left, never weight 0, never the tried.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::snapshot::Fitness;

/// Endpoint `n` in a condition.
fn condition(n: usize, fitness: Fitness) -> EndpointAddress {
    match fitness {
        Fitness::Ready => ready(&address(n)),
        Fitness::Draining => EndpointAddress { ready: false, terminating: true, ..ready(&address(n)) },
        Fitness::Unready => EndpointAddress { ready: false, serving: false, ..ready(&address(n)) },
    }
}

fn conditions() -> impl Strategy<Value = Vec<(Fitness, u32)>> {
    vec((select(vec![Fitness::Ready, Fitness::Draining, Fitness::Unready]), 0_u32..3), 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Retrying until nobody is left visits everyone of non-zero weight exactly once, the fittest first.
    #[test]
    fn the_fittest_first_and_everyone_once(all in conditions(), algorithm in select(&ALGORITHMS[..]), seed in any::<u64>()) {
        let weights: Vec<u32> = all.iter().map(|(_, weight)| *weight).collect();
        let endpoints = all.iter().enumerate().map(|(n, (fitness, _))| condition(n, *fitness)).collect();
        let snapshot = with_endpoints(algorithm, &weights, endpoints);
        let (mut client, mut tried) = (Client::new(), Vec::new());
        client.random = Box::new(seeded(seed));
        let end = loop {
            match client.pick(&snapshot, &tried) {
                Ok(pick) => tried.push(pick.target.address),
                Err(why) => break why,
            }
        };
        let fitness = |at: &SocketAddr| (0..all.len()).find(|n| endpoint(*n) == *at).map(|n| all[n].0);
        let visited: Vec<_> = tried.iter().map(fitness).collect();
        prop_assert!(visited.is_sorted(), "{visited:?}");
        let mut once = tried.clone();
        once.sort_unstable();
        let wanted: Vec<_> = (0..all.len()).filter(|n| all[*n].1 > 0).map(endpoint).collect();
        prop_assert_eq!(once, wanted.clone());
        let k = key("a/s:80");
        prop_assert_eq!(end, match (all.is_empty(), wanted.is_empty()) {
            (true, _) => PickError::NoEndpoints(k),
            (false, true) => PickError::AllWeightsZero(k),
            (false, false) => PickError::Exhausted(k),
        });
    }
}

#[test]
fn weight_zero() {
    for algorithm in ALGORITHMS {
        let counts = Client::new().spread(&weighted(algorithm, &[0, 1, 1]), 2000);
        assert!(!counts.contains_key(&endpoint(0)), "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn all_weights_zero() {
    for algorithm in ALGORITHMS {
        let error = Client::new().pick(&weighted(algorithm, &[0, 0]), &[]).unwrap_err();
        assert_eq!(error, PickError::AllWeightsZero(key("a/s:80")));
    }
}

#[test]
fn no_endpoints_fails_fast() {
    let error = Client::new().pick(&weighted(Algorithm::PeakEwma, &[]), &[]).unwrap_err();
    assert_eq!((error.label(), error), ("no_endpoints", PickError::NoEndpoints(key("a/s:80"))));
    let gone = Snapshot::new(crate::testing::domain());
    assert_eq!(Client::new().pick(&gone, &[]).unwrap_err(), PickError::UnknownService(key("a/s:80")));
}

#[test]
fn an_older_snapshot_is_given_only_what_it_knows() {
    let old = weighted(Algorithm::RoundRobin, &[1, 1]);
    let new = old.apply([Delta::Put(Resource::EndpointSlice(slice("a/s", &[&address(1), &address(2)])))]);
    let mut client = Client::new();
    client.spread(&new, 4);
    assert_eq!(
        client.spread(&old, 10),
        BTreeMap::from([(endpoint(1), 10)]),
        "not the one that is gone, nor the new one"
    );
    assert_eq!(client.spread(&new, 10).len(), 2);
}

#[test]
fn state_is_kept_for_who_stays_and_dropped_with_the_service() {
    let two = weighted(Algorithm::Random, &[1, 1]);
    let three = weighted(Algorithm::Random, &[1, 1, 1]);
    let mut client = Client::new();
    let held: Vec<Pick> = (0..6).map(|_| client.pick(&two, &[endpoint(1)]).unwrap()).collect();
    let pick = client.pick(&three, &[endpoint(1), endpoint(2)]).unwrap();
    assert_eq!((pick.target.address, pick.in_flight()), (endpoint(0), 7));
    drop((pick, held));
    assert_eq!(client.pick(&three, &[endpoint(1), endpoint(2)]).unwrap().in_flight(), 1);

    let moved = pod("a/other", &address(0));
    let another = three.apply([
        Delta::Remove(crate::snapshot::Key::Workload(crate::testing::object("a/p0"))),
        Delta::Put(Resource::Workload(moved)),
    ]);
    let _held = client.pick(&three, &[endpoint(1), endpoint(2)]).unwrap();
    let fresh = client.pick(&another, &[endpoint(1), endpoint(2)]).unwrap();
    assert_eq!(fresh.in_flight(), 1, "another pod at the same address begins anew");

    client.balancers.sync(&Snapshot::new(crate::testing::domain()));
    assert!(client.balancers.pools.read().unwrap().is_empty());
}

#[test]
fn threads_lose_no_count() {
    let snapshot = weighted(Algorithm::LeastRequest, &[1, 2, 3]);
    let balancers = Balancers::new();
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (balancers, snapshot) = (&balancers, &snapshot);
            scope.spawn(move || {
                let (mut random, now) = (seeded(seed), Instant::now());
                for turn in 0..2000 {
                    let mut pick = balancers.pick(snapshot, &key("a/s:80"), &[], now, &mut random).unwrap();
                    if turn % 3 == 0 { pick.failed(now) } else { pick.connected(std::time::Duration::ZERO, now) }
                }
            });
        }
    });
    let mut client = Client { balancers, ..Client::new() };
    for n in 0..3 {
        let others: Vec<_> = (0..3).filter(|other| *other != n).map(endpoint).collect();
        let pick = client.pick(&snapshot, &others).unwrap();
        assert_eq!((pick.target.address, pick.in_flight()), (endpoint(n), 1));
    }
}
