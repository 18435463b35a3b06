//! Which endpoint of a service port gets a connection, and what is learned from how it went.
//!
//! | algorithm | choice | cost |
//! |---|---|---|
//! | [`Algorithm::Random`] | an endpoint, by weight | O(log n) |
//! | [`Algorithm::RoundRobin`] | the endpoint whose turn it is; after any number of picks nobody is a whole pick off its share | O(log n) |
//! | [`Algorithm::LeastRequest`] | of two, the one with fewer connections in flight per weight | O(log n) |
//! | [`Algorithm::PeakEwma`] | of two, the one with the lower cost: connect time x (in flight + 1), where times tell them apart | O(log n) |
//!
//! Where a route divides the connections to a service, a branch is chosen first: in turns for round robin, by weight at
//! random otherwise. A branch's service may have a TrafficPolicy of its own; else the dialled service's applies.
//!
//! Eligible are the endpoints of non-zero weight that are ready and not ejected (see [`outlier`]). Others get something
//! only when nothing else is left, in this order: ejected, draining, not ready. If fewer than half of the ready ones are
//! not ejected, ejection is ignored: so many failures say more about the path than about the endpoints. Weight 0 gets
//! nothing ever.
//!
//! State lives per service port behind one short lock and survives snapshots: what is known of an endpoint stays as long
//! as the same pod has the same address. Picking takes time and randomness as arguments and, but for retries, allocates
//! nothing.
//!
//! [`outlier`]: Settings::outlier

mod ewma;
mod lane;
mod least_request;
mod member;
mod outlier;
mod peak_ewma;
mod pick;
mod pool;
mod random;
mod round_robin;
mod slow_start;
mod splitter;
mod two_choices;
mod weights;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use crate::model::Algorithm;
use crate::route::{ServicePortKey, Target};
use crate::snapshot::{BranchFault, Snapshot, Split};
use pool::{Ask, Pool};
use splitter::Splitter;

pub use outlier::OutlierSettings;
pub use pick::Pick;
pub use slow_start::SlowStart;

/// A source of random numbers, uniform over all of `u64`.
pub type Random<'a> = &'a mut dyn FnMut() -> u64;

/// What applies to every service.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// When an endpoint that refuses connections is left out, and for how long.
    pub outlier: OutlierSettings,
    /// How fast the weight of a new endpoint grows.
    pub slow_start: SlowStart,
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
            Self::AllWeightsZero(_) => "all_weights_zero",
            Self::Branch { fault, .. } => fault.label(),
            Self::Exhausted(_) => "endpoints_exhausted",
        }
    }
}

/// The balancing state of every service port in use. Shared by all connections; survives snapshots.
#[derive(Debug, Default)]
pub struct Balancers {
    settings: Arc<Settings>,
    pools: RwLock<HashMap<ServicePortKey, Arc<Pool>>>,
    splitters: RwLock<HashMap<ServicePortKey, Arc<Splitter>>>,
    /// Endpoints ejected, readmitted, suspected and cleared so far.
    changes: Arc<AtomicU64>,
}

/// What one pick is made with.
struct Draw<'a, 'r> {
    snapshot: &'a Snapshot,
    besides: Option<&'a Arc<[SocketAddr]>>,
    tried: &'a [SocketAddr],
    now: Instant,
    random: Random<'r>,
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
        write(&self.pools).retain(|key, _| snapshot.endpoints(key).is_some());
        write(&self.splitters).retain(|key, _| snapshot.split(key).is_some());
    }

    /// Picks an endpoint for a connection to `key` that is not among `tried`.
    ///
    /// # Errors
    /// [`PickError`] says why there is none. With nothing tried yet the connection is to be refused, as Gateway API
    /// asks for the share of a missing backend; a retry goes to whichever backend still has an endpoint.
    pub fn pick(
        &self,
        snapshot: &Snapshot,
        key: &ServicePortKey,
        tried: &[SocketAddr],
        now: Instant,
        random: Random<'_>,
    ) -> Result<Pick, PickError> {
        self.pick_besides(snapshot, key, None, tried, now, random)
    }

    /// Picks an endpoint for a connection for which the kernel has drawn and the draw fell on none of `besides`
    /// (ascending): among the others, so that every endpoint gets its share and no more. Those named are turned to only
    /// when no other is left.
    ///
    /// # Errors
    /// As [`Self::pick`].
    pub fn pick_besides(
        &self,
        snapshot: &Snapshot,
        key: &ServicePortKey,
        besides: Option<&Arc<[SocketAddr]>>,
        tried: &[SocketAddr],
        now: Instant,
        random: Random<'_>,
    ) -> Result<Pick, PickError> {
        let mut draw = Draw { snapshot, besides, tried, now, random };
        let algorithm = snapshot.algorithm(&key.service);
        match snapshot.split(key) {
            None => self.pick_endpoint(&mut draw, key, algorithm.unwrap_or_default()),
            Some(split) if tried.is_empty() => self.pick_first(&mut draw, key, split, algorithm),
            Some(split) => self.pick_again(&mut draw, key, split, algorithm),
        }
    }

    /// The endpoints of a service port that may be picked now, by address, with their weights, and the sum of these.
    #[must_use]
    pub fn shares(&self, snapshot: &Snapshot, key: &ServicePortKey, now: Instant) -> (Vec<(SocketAddr, u64)>, u64) {
        let Some(set) = snapshot.endpoints(key) else { return (Vec::new(), 0) };
        self.pool(key).shares(set, snapshot.generation(), now)
    }

    /// A connection that the kernel sent to `address` by itself was refused.
    pub fn refused(&self, key: &ServicePortKey, address: SocketAddr, now: Instant, jitter: u64) {
        self.pool(key).refused(address, now, jitter);
    }

    /// Rises whenever connections made an endpoint eligible or suspect, or made it stop being that: [`Self::shares`] may
    /// differ.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    fn pool(&self, key: &ServicePortKey) -> Arc<Pool> {
        entry(&self.pools, key, || Pool::new(self.settings.clone(), self.changes.clone()))
    }

    /// The first try of a connection that a route divides.
    fn pick_first(
        &self,
        draw: &mut Draw<'_, '_>,
        key: &ServicePortKey,
        split: &Arc<Split>,
        algorithm: Option<Algorithm>,
    ) -> Result<Pick, PickError> {
        let splitter = entry(&self.splitters, key, Splitter::default);
        let chosen =
            splitter.choose(split, draw.snapshot.generation(), algorithm.unwrap_or_default(), &mut *draw.random);
        let branch =
            chosen.and_then(|at| split.branches.get(at)).ok_or_else(|| PickError::AllWeightsZero(key.clone()))?;
        if let Some(fault) = branch.fault {
            return Err(PickError::Branch { route: split.route.clone(), backend: branch.backend.clone(), fault });
        }
        self.pick_branch(draw, &branch.backend, algorithm)
    }

    /// A further try: any branch with an endpoint that was not tried, by weight.
    fn pick_again(
        &self,
        draw: &mut Draw<'_, '_>,
        key: &ServicePortKey,
        split: &Split,
        algorithm: Option<Algorithm>,
    ) -> Result<Pick, PickError> {
        let weights = splitter::weights(split);
        let mut closed: Vec<usize> =
            (0..split.branches.len()).filter(|at| split.branches[*at].fault.is_some()).collect();
        while let Some(at) = weights.draw(&closed, &mut *draw.random) {
            if let Ok(pick) = self.pick_branch(draw, &split.branches[at].backend, algorithm) {
                return Ok(pick);
            }
            weights::exclude(&mut closed, at);
        }
        Err(PickError::Exhausted(key.clone()))
    }

    fn pick_branch(
        &self,
        draw: &mut Draw<'_, '_>,
        backend: &ServicePortKey,
        dialled: Option<Algorithm>,
    ) -> Result<Pick, PickError> {
        let algorithm = draw.snapshot.algorithm(&backend.service).or(dialled).unwrap_or_default();
        self.pick_endpoint(draw, backend, algorithm)
    }

    fn pick_endpoint(
        &self,
        draw: &mut Draw<'_, '_>,
        key: &ServicePortKey,
        algorithm: Algorithm,
    ) -> Result<Pick, PickError> {
        let unknown = || PickError::UnknownService(key.clone());
        let set = draw.snapshot.endpoints(key).ok_or_else(unknown)?;
        let pool = self.pool(key);
        let ask = Ask { algorithm, besides: draw.besides, tried: draw.tried, now: draw.now };
        let chosen = pool.pick(set, draw.snapshot.generation(), &ask, &mut *draw.random);
        let chosen = chosen.map_err(|why| why.of(key))?;
        let target = Target::at(draw.snapshot, chosen.member.address);
        Ok(Pick::new(target, key.clone(), pool, chosen))
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
