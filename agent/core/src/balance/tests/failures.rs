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
