//! Balancing, tested through the door everyone uses: `Balancers::pick` over a snapshot.

mod branches;
mod distribution;
mod eligibility;
mod failures;
mod nearness;
mod sessions;

use std::collections::BTreeMap;

use super::*;
use crate::model::{Algorithm, EndpointAddress, Weight, Workload};
use crate::snapshot::{Delta, Resource};
use crate::testing::{at, balanced_by, key, pod, ready, seeded, service, slice, snapshot};

/// All algorithms.
const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::Random, Algorithm::RoundRobin, Algorithm::LeastRequest, Algorithm::PeakEwma];

/// The address of endpoint `n`.
fn address(n: usize) -> String {
    format!("10.0.{}.{}", n / 250, 1 + n % 250)
}

/// A service `a/s:80` with an endpoint for each weight, all ready.
fn weighted(algorithm: Algorithm, weights: &[u32]) -> Snapshot {
    let ready: Vec<EndpointAddress> = (0..weights.len()).map(|n| ready(&address(n))).collect();
    with_endpoints(algorithm, weights, ready)
}

/// The same with endpoints in any condition.
fn with_endpoints(algorithm: Algorithm, weights: &[u32], endpoints: Vec<EndpointAddress>) -> Snapshot {
    let pods = weights.iter().enumerate().map(|(n, weight)| {
        Resource::Workload(Workload { weight: Weight(*weight), ..pod(&format!("a/p{n}"), &address(n)) })
    });
    snapshot(pods).apply(
        [
            Resource::Service(service("a/s", "10.9.0.1", 80)),
            Resource::TrafficPolicy(balanced_by("a/s", algorithm)),
            Resource::EndpointSlice(crate::model::EndpointSlice { endpoints, ..slice("a/s", &[]) }),
        ]
        .map(Delta::Put),
    )
}

/// Connections to `a/s:80` in a test: one set of balancers, one stream of random numbers, one clock.
struct Client {
    balancers: Balancers,
    random: Box<dyn FnMut() -> u64>,
    now: Instant,
}

impl Client {
    fn new() -> Self {
        Self::with_settings(Settings::default())
    }

    fn with_settings(settings: Settings) -> Self {
        let balancers = Balancers::with_settings(settings);
        Self { balancers, random: Box::new(seeded(7)), now: Instant::now() }
    }

    fn pick(&mut self, snapshot: &Snapshot, tried: &[SocketAddr]) -> Result<Pick, PickError> {
        self.balancers.pick(snapshot, &key("a/s:80"), tried, self.now, &mut *self.random)
    }

    /// One connection that stands for a moment. Returns where it went.
    fn connect(&mut self, snapshot: &Snapshot) -> SocketAddr {
        let mut pick = self.pick(snapshot, &[]).expect("an endpoint");
        pick.connected(std::time::Duration::from_millis(1), self.now);
        pick.target.address
    }

    /// Where each of `count` connections went, by address.
    fn spread(&mut self, snapshot: &Snapshot, count: usize) -> BTreeMap<SocketAddr, usize> {
        let mut counts = BTreeMap::new();
        (0..count).for_each(|_| *counts.entry(self.connect(snapshot)).or_default() += 1);
        counts
    }

    /// One connection that fails at once. Returns where it went.
    fn fail(&mut self, snapshot: &Snapshot) -> SocketAddr {
        let mut pick = self.pick(snapshot, &[]).expect("an endpoint");
        pick.failed(self.now);
        pick.target.address
    }

    /// Connects until `bad` was tried five times, failing there and nowhere else.
    fn eject(&mut self, snapshot: &Snapshot, bad: SocketAddr) {
        let mut failures = 0;
        for _ in 0..10_000 {
            let mut pick = self.pick(snapshot, &[]).expect("an endpoint");
            if pick.target.address != bad {
                pick.connected(std::time::Duration::from_millis(1), self.now);
                continue;
            }
            pick.failed(self.now);
            failures += 1;
            if failures == 5 {
                return;
            }
        }
        panic!("{bad} was picked {failures} times of 10,000");
    }
}

/// The endpoint `n` of [`weighted`].
fn endpoint(n: usize) -> SocketAddr {
    at(&format!("{}:8080", address(n)))
}
