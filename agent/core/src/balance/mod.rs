//! Which endpoint of a service port gets a connection, and what is learned from how it went.
//!
//! | algorithm | choice | cost |
//! |---|---|---|
//! | [`Algorithm::Random`] | an endpoint, by weight | O(log n) |
//! | [`Algorithm::RoundRobin`] | the endpoint whose turn it is; after any number of picks nobody is a whole pick off its share | O(log n) |
//! | [`Algorithm::LeastRequest`] | of two, the one with fewer connections in flight per weight | O(log n) |
//! | [`Algorithm::RingHash`], [`Algorithm::Maglev`] | the endpoint the hash of a header, a cookie, a parameter or the client's address leads to | O(log n), O(1) |
//! | [`Algorithm::PeakEwma`] | of two, the one with the lower cost: connect time x (in flight + 1), where times tell them apart | O(log n) |
//!
//! Where a route divides the connections to a service, a branch is chosen first: in turns for round robin, by weight at
//! random otherwise. A branch's service may have a TrafficPolicy of its own; else the dialled service's applies.
//!
//! Where a service prefers near endpoints, those get everything while enough of them are well (`spill`). Where its
//! clients keep their endpoints (`session`), a client goes where it went last, and else where rendezvous hashing
//! sends it, whatever the algorithm.
//!
//! Where none of a service's endpoints is well and its TrafficPolicy names another that stands in, that one's are meant.
//!
//! Eligible are the endpoints of non-zero weight that are ready, not ejected (see [`outlier`]) and, where they are checked,
//! healthy. Others get something only when nothing else is left, in this order: far, ejected or unhealthy, draining, not ready.
//! If fewer than half of the ready ones are neither, that is ignored: so many failures say more about the path than about
//! the endpoints. Weight 0 gets nothing ever.
//!
//! State lives per service port behind one short lock and survives snapshots: what is known of an endpoint stays as long
//! as the same pod has the same address. Picking takes time and randomness as arguments and, but for retries, allocates
//! nothing.
//!
//! [`outlier`]: Settings::outlier
//! [`Algorithm::RingHash`]: crate::model::Algorithm::RingHash
//! [`Algorithm::Maglev`]: crate::model::Algorithm::Maglev
//! [`Algorithm::Random`]: crate::model::Algorithm::Random
//! [`Algorithm::RoundRobin`]: crate::model::Algorithm::RoundRobin
//! [`Algorithm::LeastRequest`]: crate::model::Algorithm::LeastRequest
//! [`Algorithm::PeakEwma`]: crate::model::Algorithm::PeakEwma

mod checks;
mod ewma;
mod hashing;
mod lane;
mod least_request;
mod member;
mod outlier;
mod peak_ewma;
mod pick;
mod picking;
mod pool;
mod random;
mod rendezvous;
mod round_robin;
mod session;
mod slow_start;
mod spill;
mod splitter;
mod token;
mod two_choices;
mod weights;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use crate::model::{HealthCheck, Name, Traffic};
use crate::route::ServicePortKey;
use crate::snapshot::{BranchFault, EndpointSet, Fitness, Snapshot};
use pool::Pool;
use session::Sessions;
use splitter::Splitter;

pub use hashing::hash_of;
pub use outlier::OutlierSettings;
pub use pick::{InFlight, Pick};
pub use slow_start::SlowStart;
pub use token::{Times, Token};

/// A source of random numbers, uniform over all of `u64`.
pub type Random<'a> = &'a mut dyn FnMut() -> u64;

/// What applies to every service.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// When an endpoint that refuses connections is left out, and for how long.
    pub outlier: OutlierSettings,
    /// How fast the weight of a new endpoint grows.
    pub slow_start: SlowStart,
    /// Near endpoints get everything while so many of a hundred are well; 5/7 of them where absent.
    pub healthy_percent: Option<u32>,
}

impl Settings {
    /// The same, but for what is set for a service port.
    fn with(&self, traffic: &Traffic) -> Self {
        let mut settings = self.clone();
        if let Some(window) = traffic.slow_start {
            settings.slow_start = SlowStart { window };
        }
        settings.healthy_percent = traffic.healthy_percent.or(settings.healthy_percent);
        if let Some(set) = traffic.outlier {
            let own = &mut settings.outlier;
            own.failures = set.failures.unwrap_or(own.failures);
            own.base = set.base.unwrap_or(own.base);
            own.cap = set.cap.unwrap_or(own.cap).max(own.base);
            own.success_rate = set.success_rate;
        }
        settings
    }
}

/// Why no endpoint was picked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PickError {
    /// The service or its port has gone.
    #[error("{0} is not a port of any Service")]
    UnknownService(ServicePortKey),
    /// The service has no endpoints.
    #[error("{0} has no endpoints; are its pods running, and does its selector match them?")]
    NoEndpoints(ServicePortKey),
    /// The service has endpoints on other nodes only, and is not to use those.
    #[error("{0} has no endpoint on this node, and internalTrafficPolicy: Local lets it use no other")]
    NoLocalEndpoints(ServicePortKey),
    /// It has endpoints, or its route has backends, but all have weight 0.
    #[error("everything behind {0} has weight 0; give an endpoint or a backendRef a weight")]
    AllWeightsZero(ServicePortKey),
    /// A route gave the connection to a backend that cannot have any.
    #[error("TCPRoute {route} refers to {backend}: {fault}")]
    Branch {
        /// The route.
        route: crate::model::ObjectName,
        /// The backend it names.
        backend: ServicePortKey,
        /// What is wrong with it.
        fault: BranchFault,
    },
    /// Every endpoint has been tried for this connection.
    #[error("every endpoint of {0} was tried and none could be connected to")]
    Exhausted(ServicePortKey),
}

impl PickError {
    /// The reason as a metric label, in snake case.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::UnknownService(_) => "unknown_service",
            Self::NoEndpoints(_) => "no_endpoints",
            Self::NoLocalEndpoints(_) => "no_local_endpoints",
            Self::AllWeightsZero(_) => "all_weights_zero",
            Self::Branch { fault, .. } => fault.label(),
            Self::Exhausted(_) => "endpoints_exhausted",
        }
    }
}

/// An endpoint to be checked, and the pod that has its address.
pub type Checkable = (SocketAddr, Option<Arc<str>>);

/// The balancing state of every service port in use. Shared by all connections; survives snapshots.
#[derive(Debug, Default)]
pub struct Balancers {
    settings: Arc<Settings>,
    pools: RwLock<HashMap<ServicePortKey, Arc<Pool>>>,
    splitters: RwLock<HashMap<ServicePortKey, Arc<Splitter>>>,
    sessions: RwLock<HashMap<ServicePortKey, Arc<Sessions>>>,
    /// Endpoints ejected, readmitted, suspected and cleared so far.
    changes: Arc<AtomicU64>,
}

/// A connection that wants an endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// The address it comes from, for services whose clients keep their endpoints. It should be one of its pod's own:
    /// what is remembered is bounded by how many there are.
    pub client: Option<IpAddr>,
    /// The namespace of the pod it comes from, whose routes decide for it.
    pub from: Option<&'a Name>,
    /// The endpoints (ascending) among which the kernel has drawn for it already, and fallen on none: it gets one of the
    /// others, so that every endpoint gets its share and no more. These are turned to only when no other is left.
    pub besides: Option<&'a Arc<[SocketAddr]>>,
    /// What it has in common with those that are to go to the same endpoint, where the algorithm hashes. Without, the client's
    /// address is taken.
    pub hash: Option<u64>,
    /// Endpoints that were tried for it.
    pub tried: &'a [SocketAddr],
    /// Where it is to go if that endpoint may have anything: the one its session is with.
    pub prefer: Option<SocketAddr>,
}

impl Balancers {
    /// No state yet, and the default settings.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No state yet.
    #[must_use]
    pub fn with_settings(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), ..Self::default() }
    }

    /// Forgets the service ports that `snapshot` no longer has. Picking follows snapshots by itself; this only frees.
    pub fn sync(&self, snapshot: &Snapshot) {
        write(&self.pools).retain(|key, _| snapshot.has_port(key));
        write(&self.splitters).retain(|key, splitter| {
            let splits = snapshot.splits(key);
            splits.inspect(|splits| splitter.keep(splits)).is_some()
        });
        write(&self.sessions).retain(|key, _| {
            snapshot.has_port(key) && snapshot.service(&key.service).is_some_and(|service| service.affinity.is_some())
        });
    }

    /// The endpoints of a service port that may be picked now, by address, with their weights, and the sum of these.
    #[must_use]
    pub fn shares(&self, snapshot: &Snapshot, key: &ServicePortKey, now: Instant) -> (Vec<(SocketAddr, u64)>, u64) {
        let Some((pool, set)) = self.endpoints(snapshot, key) else { return (Vec::new(), 0) };
        pool.shares(&set, snapshot.generation(), now)
    }

    /// The endpoint of a service port that a token of the session `session` is for, if it is still there.
    #[must_use]
    pub fn held_by(
        &self,
        snapshot: &Snapshot,
        key: &ServicePortKey,
        session: &str,
        token: &Token,
    ) -> Option<SocketAddr> {
        let (pool, set) = self.endpoints(snapshot, key)?;
        pool.held_by(&set, key, session, token)
    }

    /// A connection that the kernel sent to `address` by itself was refused.
    pub fn refused(&self, key: &ServicePortKey, address: SocketAddr, now: Instant, jitter: u64) {
        self.pool(key).refused(address, now, jitter);
    }

    /// The endpoints of a service port that are worth checking, each with the UID of its pod. From here on what checks say of
    /// them counts, whether any was picked or not.
    #[must_use]
    pub fn to_check(&self, snapshot: &Snapshot, key: &ServicePortKey, now: Instant) -> Vec<Checkable> {
        let Some((pool, set)) = self.endpoints(snapshot, key) else { return Vec::new() };
        pool.adopt(&set, snapshot.generation(), now);
        let open = set.endpoints.iter().filter(|one| one.fitness != Fitness::Unready && one.weight.0 > 0);
        open.map(|one| (one.address, one.uid.clone())).collect()
    }

    /// An endpoint has been checked. Returns what it is from now on, healthy or not, if that is new; an ejected one that has
    /// proven itself is readmitted.
    pub fn checked(
        &self,
        key: &ServicePortKey,
        endpoint: &Checkable,
        good: bool,
        settings: &HealthCheck,
        now: Instant,
    ) -> Option<bool> {
        self.pool(key).checked(endpoint, good, settings, now)
    }

    /// The endpoints of a service port are no longer checked: what checks have said is forgotten.
    pub fn unchecked(&self, key: &ServicePortKey) {
        self.pool(key).unchecked();
    }

    /// How many endpoints of a service port are unhealthy now.
    #[must_use]
    pub fn unhealthy(&self, key: &ServicePortKey) -> usize {
        self.pool(key).unhealthy()
    }

    /// Rises whenever connections or checks made an endpoint eligible or suspect, or made it stop being that: [`Self::shares`] may
    /// differ.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The pool of a service port and its endpoints, worked out anew only when they may have changed; `None` where there is no
    /// such service port.
    fn endpoints(&self, snapshot: &Snapshot, key: &ServicePortKey) -> Option<(Arc<Pool>, Arc<EndpointSet>)> {
        let service = snapshot.service(&key.service).filter(|_| snapshot.has_port(key))?;
        let pool = self.pool(key);
        let revision = snapshot.revision(&key.service)?;
        let set = pool.endpoints((service, revision), || snapshot.endpoints(key).unwrap_or_default());
        Some((pool, set))
    }

    fn pool(&self, key: &ServicePortKey) -> Arc<Pool> {
        entry(&self.pools, key, || Pool::new(self.settings.clone(), self.changes.clone()))
    }
}

/// The entry of `key`, made if it is missing. Reading, the usual case, excludes nobody.
fn entry<T>(map: &RwLock<HashMap<ServicePortKey, Arc<T>>>, key: &ServicePortKey, make: impl FnOnce() -> T) -> Arc<T> {
    if let Some(found) = map.read().unwrap_or_else(PoisonError::into_inner).get(key) {
        return found.clone();
    }
    write(map).entry(key.clone()).or_insert_with(|| Arc::new(make())).clone()
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Takes a lock whose holder may have panicked: the state behind these stays usable at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
