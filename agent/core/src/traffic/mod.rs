//! What a TrafficPolicy bounds: how much a service port is asked to bear. State machines that take the time as an argument.

mod bucket;
mod budget;
mod fault;

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::model::{HttpRouteId, Rate, RetryBudget};
use crate::route::ServicePortKey;
use crate::snapshot::Snapshot;

pub use bucket::Bucket;
pub use budget::Budget;

/// What one service port has borne lately.
#[derive(Debug, Default)]
pub struct Ledger {
    retries: Mutex<Budget>,
    requests: Mutex<Bucket>,
}

impl Ledger {
    /// A request that may be made again is made for the first time.
    pub fn request(&self, settings: &RetryBudget, now: Instant) {
        lock(&self.retries).request(settings, now);
    }

    /// Whether a request may be made again; if so, that is counted.
    pub fn retry(&self, settings: &RetryBudget, now: Instant) -> bool {
        lock(&self.retries).retry(settings, now)
    }

    /// Lets a request in.
    ///
    /// # Errors
    /// How long until one may come in, if there were too many.
    pub fn admit(&self, rate: &Rate, now: Instant) -> Result<(), Duration> {
        lock(&self.requests).take(rate, now)
    }
}

/// The ledgers of all service ports and rules in use.
#[derive(Debug, Default)]
pub struct Ledgers {
    ports: RwLock<HashMap<ServicePortKey, Arc<Ledger>>>,
    rules: RwLock<HashMap<RuleKey, Arc<Ledger>>>,
}

/// A rule of a route, by its place.
pub type RuleKey = (HttpRouteId, usize);

impl Ledgers {
    /// That of a service port.
    #[must_use]
    pub fn of(&self, key: &ServicePortKey) -> Arc<Ledger> {
        entry(&self.ports, key)
    }

    /// That of a route's rule.
    #[must_use]
    pub fn of_rule(&self, key: &RuleKey) -> Arc<Ledger> {
        entry(&self.rules, key)
    }

    /// Forgets the service ports and routes that are gone.
    pub fn sync(&self, snapshot: &Snapshot) {
        self.ports.write().unwrap_or_else(PoisonError::into_inner).retain(|key, _| snapshot.has_port(key));
        self.rules
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|(id, _), _| snapshot.http_route(id).is_some());
    }
}

/// The entry of `key`, made if it is missing. Reading, the usual case, excludes nobody.
fn entry<K: Clone + Eq + Hash>(map: &RwLock<HashMap<K, Arc<Ledger>>>, key: &K) -> Arc<Ledger> {
    if let Some(held) = map.read().unwrap_or_else(PoisonError::into_inner).get(key) {
        return Arc::clone(held);
    }
    Arc::clone(map.write().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default())
}

/// Takes a lock whose holder may have panicked: the state behind these stays usable at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
