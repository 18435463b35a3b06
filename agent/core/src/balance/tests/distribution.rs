//! Shares: over many picks, and for round robin after every single one.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::round_robin::RoundRobin;
use super::super::weights::Weights;
use super::*;

const PICKS: usize = 10_000;

/// The largest distance, in percentage points, between what endpoints got and what their weights give them.
fn worst(counts: &BTreeMap<SocketAddr, usize>, weights: &[u32]) -> f64 {
    let (picks, total) = (counts.values().sum::<usize>() as f64, f64::from(weights.iter().sum::<u32>()));
    let off = |(n, weight): (usize, &u32)| {
        let got = counts.get(&endpoint(n)).copied().unwrap_or(0) as f64;
        100.0 * (got / picks - f64::from(*weight) / total).abs()
    };
    weights.iter().enumerate().map(off).fold(0.0, f64::max)
}

#[test]
fn weights_90_10() {
    for algorithm in ALGORITHMS {
        let snapshot = weighted(algorithm, &[90, 10]);
        let counts = Client::new().spread(&snapshot, PICKS);
        let bound = if algorithm == Algorithm::RoundRobin { 1.0 } else { 3.0 };
        assert!(worst(&counts, &[90, 10]) <= bound, "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn many_weights_are_kept_by_every_algorithm() {
    for weights in [&[1, 1, 1][..], &[1, 2, 3, 4], &[50, 1, 1, 1, 1, 1], &[7], &[1_000_000, 1, 500_000]] {
        for algorithm in ALGORITHMS {
            let counts = Client::new().spread(&weighted(algorithm, weights), PICKS);
            let bound = if algorithm == Algorithm::RoundRobin { 1.0 } else { 3.0 };
            assert!(worst(&counts, weights) <= bound, "{algorithm:?} {weights:?}: {counts:?}");
        }
    }
}

/// With connections that overlap, in-flight counts come into play, and shares still follow weights.
#[test]
fn overlapping_connections_keep_the_weights() {
    for algorithm in ALGORITHMS {
        let snapshot = weighted(algorithm, &[60, 30, 10]);
        let mut client = Client::new();
        let (mut standing, mut counts) = (Vec::new(), BTreeMap::new());
        for turn in 0..PICKS {
            let mut pick = client.pick(&snapshot, &[]).unwrap();
            pick.connected(Duration::from_millis(1), client.now);
            *counts.entry(pick.target.address).or_default() += 1;
            standing.push(pick);
            if standing.len() == 100 {
                standing.swap_remove(turn * 7 % 100);
            }
        }
        assert!(worst(&counts, &[60, 30, 10]) <= 3.0, "{algorithm:?}: {counts:?}");
    }
}

#[test]
fn least_request_levels_connections_in_flight() {
    let snapshot = weighted(Algorithm::LeastRequest, &[2, 1, 1]);
    let mut client = Client::new();
    let standing: Vec<Pick> = (0..400).map(|_| client.pick(&snapshot, &[]).unwrap()).collect();
    let held = |n: usize| standing.iter().filter(|p| p.target.address == endpoint(n)).count();
    assert!(held(0).abs_diff(200) <= 4 && held(1).abs_diff(100) <= 4, "{} {} {}", held(0), held(1), held(2));
}

#[test]
fn slow_endpoint_gets_less() {
    let snapshot = weighted(Algorithm::PeakEwma, &[1, 1, 1]);
    let (mut client, mut slow) = (Client::new(), 0);
    for _ in 0..PICKS {
        let mut pick = client.pick(&snapshot, &[]).unwrap();
        let is_slow = pick.target.address == endpoint(2);
        slow += usize::from(is_slow);
        pick.connected(Duration::from_millis(if is_slow { 100 } else { 1 }), client.now);
    }
    // A third of one in 32 looks again.
    assert!(slow > 0 && slow < PICKS * 2 / 100, "{slow} of {PICKS}");
}

/// Connect times of equal pods differ wildly from one connection to the next, and peaks last ten seconds.
#[test]
fn peak_ewma_keeps_the_weights_under_noise() {
    let snapshot = weighted(Algorithm::PeakEwma, &[6, 3, 1]);
    for seed in 0..8 {
        let (mut client, mut noise) = (Client::new(), seeded(seed));
        let (mut standing, mut counts) = (std::collections::VecDeque::new(), BTreeMap::new());
        for _ in 0..PICKS {
            let mut pick = client.pick(&snapshot, &[]).unwrap();
            // 0.2 to 1 ms; one in a hundred up to 60 ms: a scheduler's stall on a busy machine.
            let draw = noise();
            let micros = if draw % 100 == 0 { (draw >> 32) % 60_000 } else { 200 + (draw >> 32) % 800 };
            client.now += Duration::from_micros(600);
            pick.connected(Duration::from_micros(micros), client.now);
            *counts.entry(pick.target.address).or_default() += 1;
            standing.push_back(pick);
            if standing.len() == 16 {
                standing.pop_front();
            }
        }
        assert!(worst(&counts, &[6, 3, 1]) <= 3.0, "seed {seed}: {counts:?}");
    }
}

#[test]
fn an_endpoint_that_recovers_gets_its_share_back_within_few_connections() {
    let snapshot = weighted(Algorithm::PeakEwma, &[1, 1]);
    let mut client = Client::new();
    let mut run = |slow: bool| {
        let mut got = 0;
        for _ in 0..1000 {
            let mut pick = client.pick(&snapshot, &[]).unwrap();
            let second = pick.target.address == endpoint(1);
            got += usize::from(second);
            pick.connected(Duration::from_millis(if second && slow { 100 } else { 1 }), client.now);
            client.now += Duration::from_millis(1);
        }
        got
    };
    assert!(run(true) < 60);
    assert!(run(false) > 200, "ten seconds have not passed");
}

#[test]
fn an_endpoint_that_was_slow_is_measured_again() {
    let snapshot = weighted(Algorithm::PeakEwma, &[1, 1]);
    let mut client = Client::new();
    let connects = |client: &mut Client, n: usize, took: u64| {
        let tried = [endpoint(1 - n)];
        client.pick(&snapshot, &tried).unwrap().connected(Duration::from_millis(took), client.now);
    };
    let slow = |client: &mut Client| client.spread(&snapshot, 100).get(&endpoint(1)).copied().unwrap_or(0);
    connects(&mut client, 0, 1);
    (0..5).for_each(|_| connects(&mut client, 1, 500));
    assert!(slow(&mut client) < 10);
    client.now += Duration::from_secs(120);
    assert!(slow(&mut client) > 20);
}

#[test]
fn a_new_endpoint_is_tried_at_once() {
    let mut client = Client::new();
    client.spread(&weighted(Algorithm::PeakEwma, &[1]), 100);
    let counts = client.spread(&weighted(Algorithm::PeakEwma, &[1, 1]), 100);
    assert!(counts[&endpoint(1)] > 20, "{counts:?}");
}

#[test]
fn slow_start_grows_a_new_endpoints_share() {
    let slow_start = SlowStart { window: Duration::from_secs(100) };
    let mut client = Client::with_settings(Settings { slow_start, ..Settings::default() });
    client.spread(&weighted(Algorithm::RoundRobin, &[1]), 10);
    let both = weighted(Algorithm::RoundRobin, &[1, 1]);
    for (tenths, wanted) in [(1, 91), (5, 333), (10, 500)] {
        let counts = client.spread(&both, 1000);
        assert!(counts[&endpoint(1)].abs_diff(wanted) <= 2, "at {tenths}/10: {counts:?}");
        client.now += Duration::from_secs(if tenths == 1 { 40 } else { 50 });
    }
}

#[test]
fn round_robin_goes_on_where_it_was_when_endpoints_change() {
    let mut client = Client::new();
    let (three, four) = (weighted(Algorithm::RoundRobin, &[1; 3]), weighted(Algorithm::RoundRobin, &[1; 4]));
    assert_eq!([client.connect(&three), client.connect(&three)], [endpoint(0), endpoint(1)]);
    let next: Vec<_> = (0..4).map(|_| client.connect(&four)).collect();
    assert_eq!(next, [endpoint(2), endpoint(3), endpoint(0), endpoint(1)], "whoever waited longest goes first");
}

proptest! {
    /// At any moment every position is less than one pick off what it is due.
    #[test]
    fn round_robin_is_never_a_whole_pick_off(weights in vec(0_u64..40, 1..12)) {
        let total: u64 = weights.iter().sum();
        prop_assume!(total > 0);
        let mut turns = RoundRobin::new(weights.clone(), (0..weights.len()).collect());
        let mut taken = vec![0_u64; weights.len()];
        for clock in 1..=total * 2 {
            taken[turns.next().unwrap()] += 1;
            for (got, weight) in taken.iter().zip(&weights) {
                prop_assert!((got * total).abs_diff(clock * weight) < total, "{weights:?} after {clock}: {taken:?}");
            }
        }
    }

    /// A retry goes to someone else and takes nobody's turn.
    #[test]
    fn retries_take_no_turns(weights in vec(1_u64..10, 2..6), out in 0_usize..2, skips in vec(0_usize..3, 50)) {
        let mut turns = RoundRobin::new(weights.clone(), (0..weights.len()).collect());
        let mut undisturbed = turns.clone();
        for skips in skips {
            (0..skips).for_each(|_| assert!(turns.peek(&[out]).is_some_and(|other| other != out)));
            prop_assert_eq!(turns.next(), undisturbed.next());
        }
        let all: Vec<usize> = (0..weights.len()).collect();
        prop_assert_eq!(turns.peek(&all), None);
    }

    /// Every point of the line of what is not excluded leads to the position a walk along it finds.
    #[test]
    fn draws_agree_with_a_walk(weights in vec(0_u64..6, 1..8), excluded in proptest::collection::btree_set(0_usize..8, 0..4)) {
        let excluded: Vec<usize> = excluded.into_iter().filter(|at| *at < weights.len()).collect();
        let line: Vec<usize> =
            (0..weights.len()).filter(|at| !excluded.contains(at)).flat_map(|at| vec![at; weights[at] as usize]).collect();
        let table = Weights::new(weights);
        prop_assert_eq!(table.draw(&excluded, &mut || 0).is_some(), !line.is_empty());
        for (point, wanted) in line.iter().enumerate() {
            // The smallest number that is mapped to this point.
            let number = ((point as u128) << 64).div_ceil(line.len() as u128) as u64;
            prop_assert_eq!(table.draw(&excluded, &mut || number), Some(*wanted));
        }
    }
}
