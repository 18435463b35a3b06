//! Ejection, probes and panic, as connections to a service see them.

use std::time::Duration;

use super::*;

#[test]
fn five_failures_take_an_endpoint_out_and_a_probe_brings_it_back() {
    for algorithm in ALGORITHMS {
        let snapshot = weighted(algorithm, &[1, 1, 1]);
        let mut client = Client::new();
        client.eject(&snapshot, endpoint(1));
        assert!(!client.spread(&snapshot, 300).contains_key(&endpoint(1)), "{algorithm:?}: ejected");
        client.now += Duration::from_secs(34);
        assert_eq!(client.fail(&snapshot), endpoint(1), "{algorithm:?}: the next connection is the probe");
        assert!(!client.spread(&snapshot, 300).contains_key(&endpoint(1)), "{algorithm:?}: it failed");
        client.now += Duration::from_secs(34);
        assert!(!client.spread(&snapshot, 300).contains_key(&endpoint(1)), "{algorithm:?}: twice as long");
        client.now += Duration::from_secs(34);
        assert_eq!(client.connect(&snapshot), endpoint(1), "{algorithm:?}: probed again");
        assert!(client.spread(&snapshot, 300).contains_key(&endpoint(1)), "{algorithm:?}: readmitted");
    }
}

#[test]
fn one_probe_at_a_time_and_one_given_up_is_made_again() {
    let snapshot = weighted(Algorithm::Random, &[1, 1]);
    let mut client = Client::new();
    client.eject(&snapshot, endpoint(1));
    client.now += Duration::from_secs(34);
    let probe = client.pick(&snapshot, &[]).unwrap();
    assert_eq!(probe.target.address, endpoint(1));
    assert_eq!(client.spread(&snapshot, 100), BTreeMap::from([(endpoint(0), 100)]), "while it is under way");
    drop(probe);
    assert_eq!(client.connect(&snapshot), endpoint(1));
}

#[test]
fn retries_do_not_probe() {
    let snapshot = weighted(Algorithm::Random, &[1, 1, 1]);
    let mut client = Client::new();
    client.eject(&snapshot, endpoint(1));
    client.now += Duration::from_secs(34);
    assert_eq!(client.pick(&snapshot, &[endpoint(0)]).unwrap().target.address, endpoint(2));
    assert_eq!(
        client.pick(&snapshot, &[endpoint(0), endpoint(2)]).unwrap().target.address,
        endpoint(1),
        "the last one left"
    );
}

#[test]
fn at_most_half_are_ejected() {
    for (endpoints, out) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let snapshot = weighted(Algorithm::RoundRobin, &vec![1; endpoints]);
        let mut client = Client::new();
        (0..200).for_each(|_| _ = client.fail(&snapshot));
        // Picks of which nothing is heard readmit nobody.
        let left: std::collections::BTreeSet<_> =
            (0..100).map(|_| client.pick(&snapshot, &[]).unwrap().target.address).collect();
        assert_eq!(left.len(), endpoints - out, "of {endpoints}");
    }
}

#[test]
fn panic_threshold() {
    let four = weighted(Algorithm::RoundRobin, &[1; 4]);
    let mut client = Client::new();
    client.eject(&four, endpoint(0));
    client.eject(&four, endpoint(1));
    assert_eq!(client.spread(&four, 100).len(), 2);
    let three =
        four.apply([Delta::Put(Resource::EndpointSlice(slice("a/s", &[&address(0), &address(1), &address(2)])))]);
    let mut pick = client.pick(&three, &[]).unwrap();
    pick.failed(client.now);
    let mut seen = std::collections::BTreeSet::from([pick.target.address]);
    seen.extend((0..2).map(|_| client.fail(&three)));
    assert_eq!(seen.len(), 3, "two of three are out: better to try all than to drown the last");
}

#[test]
fn dead_endpoint_no_client_error() {
    for algorithm in ALGORITHMS {
        let snapshot = weighted(algorithm, &[1, 1, 1]);
        let mut client = Client::new();
        let (mut wasted, dead) = (0, endpoint(2));
        for _ in 0..1000 {
            let mut tried = Vec::new();
            loop {
                let mut pick = client.pick(&snapshot, &tried).expect("a live endpoint within three");
                if pick.target.address != dead {
                    pick.connected(Duration::from_millis(1), client.now);
                    break;
                }
                pick.failed(client.now);
                wasted += 1;
                tried.push(dead);
            }
        }
        assert_eq!(wasted, 5, "{algorithm:?}: then it is ejected");
    }
}

#[test]
fn a_success_between_failures_forgives_them() {
    let snapshot = weighted(Algorithm::RoundRobin, &[1, 1]);
    let mut client = Client::new();
    for turn in 0..40 {
        let mut pick = client.pick(&snapshot, &[]).unwrap();
        if turn % 8 < 6 { pick.failed(client.now) } else { pick.connected(Duration::ZERO, client.now) }
    }
    assert_eq!(client.spread(&snapshot, 10).len(), 2, "three failures, then a success, over and over");
}

const CHECK: crate::model::HealthCheck = crate::model::HealthCheck {
    probe: crate::model::HealthProbe::Tcp,
    interval: std::time::Duration::from_secs(1),
    timeout: std::time::Duration::from_secs(1),
    healthy: 2,
    unhealthy: 1,
};

impl Client {
    /// Tells of a check of endpoint `n`.
    fn check(&self, snapshot: &Snapshot, n: usize, good: bool) -> Option<bool> {
        let all = self.balancers.to_check(snapshot, &key("a/s:80"), self.now);
        let one = all.into_iter().find(|(address, _)| *address == endpoint(n)).expect("an endpoint");
        self.balancers.checked(&key("a/s:80"), &one, good, &CHECK, self.now)
    }
}

#[test]
fn an_unhealthy_endpoint_gets_nothing_until_it_is_well() {
    for algorithm in ALGORITHMS {
        let snapshot = weighted(algorithm, &[1; 4]);
        let mut client = Client::new();
        client.connect(&snapshot);
        assert_eq!(client.check(&snapshot, 1, false), Some(false));
        assert_eq!((client.spread(&snapshot, 400).len(), client.balancers.unhealthy(&key("a/s:80"))), (3, 1));
        // Time heals nobody who is checked.
        client.now += std::time::Duration::from_secs(1000);
        assert_eq!(client.spread(&snapshot, 400).get(&endpoint(1)), None);
        assert_eq!((client.check(&snapshot, 1, true), client.check(&snapshot, 1, true)), (None, Some(true)));
        assert_eq!(client.spread(&snapshot, 400).len(), 4);
        // Nobody checks any more: what was said is forgotten.
        client.check(&snapshot, 2, false);
        client.balancers.unchecked(&key("a/s:80"));
        assert_eq!(client.spread(&snapshot, 400).len(), 4);
    }
}

#[test]
fn checks_count_for_endpoints_that_nobody_has_picked_yet() {
    let snapshot = weighted(Algorithm::RoundRobin, &[1; 3]);
    let mut client = Client::new();
    client.connect(&snapshot);
    let grown = weighted(Algorithm::RoundRobin, &[1; 4]);
    let grown = grown.apply([]);
    assert_eq!(client.check(&grown, 3, false), Some(false));
    assert_eq!(client.spread(&grown, 300).get(&endpoint(3)), None);
}

#[test]
fn where_most_are_unhealthy_that_is_ignored() {
    let snapshot = weighted(Algorithm::Random, &[1; 5]);
    let mut client = Client::new();
    client.connect(&snapshot);
    for n in 0..2 {
        client.check(&snapshot, n, false);
    }
    assert_eq!(client.spread(&snapshot, 500).len(), 3);
    client.check(&snapshot, 2, false);
    assert_eq!(client.spread(&snapshot, 500).len(), 5, "the panic threshold");
    client.check(&snapshot, 3, false);
    client.check(&snapshot, 4, false);
    assert_eq!(client.spread(&snapshot, 500).len(), 5);
}

#[test]
fn an_ejected_endpoint_returns_when_its_checks_succeed() {
    let snapshot = weighted(Algorithm::Random, &[1; 4]);
    let mut client = Client::new();
    for _ in 0..9 {
        client.connect(&snapshot);
        client.check(&snapshot, 3, true);
    }
    client.eject(&snapshot, endpoint(3));
    assert_eq!(client.spread(&snapshot, 400).len(), 3);
    client.check(&snapshot, 3, true);
    assert_eq!(client.spread(&snapshot, 400).len(), 3, "good checks before it was ejected do not count");
    client.check(&snapshot, 3, true);
    assert_eq!(client.spread(&snapshot, 400).len(), 4);
}
