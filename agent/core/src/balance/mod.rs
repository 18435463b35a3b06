//! Which endpoint of a service port gets a connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::route::{ServicePortKey, Target};
use crate::snapshot::{Fitness, Snapshot};

/// Balancing state over snapshots.
#[derive(Debug, Default)]
pub struct Balancers {}

/// A chosen endpoint; dropping it ends the connection as far as balancing is concerned.
#[derive(Debug)]
pub struct Pick {
    /// What to dial.
    pub target: Target,
    /// The service port it was chosen from: a backend of the route, or the one dialled.
    pub backend: ServicePortKey,
}

impl Pick {
    /// The connection stands, after `took`.
    pub fn connected(&mut self, _took: Duration, _now: Instant) {}

    /// The connection could not be made.
    pub fn failed(&mut self, _now: Instant) {}
}

/// Why no endpoint was picked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PickError {
    /// No such service port.
    #[error("no Service has port {0}")]
    UnknownService(ServicePortKey),
    /// No endpoints.
    #[error("{0} has no endpoints")]
    NoEndpoints(ServicePortKey),
}

impl PickError {
    /// The reason as a metric label, in snake case.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::UnknownService(_) => "unknown_service",
            Self::NoEndpoints(_) => "no_endpoints",
        }
    }
}

impl Balancers {
    /// No state yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets what `snapshot` no longer has.
    pub fn sync(&self, _snapshot: &Snapshot) {}

    /// Picks an endpoint of `key` that is not among `tried`.
    ///
    /// # Errors
    /// [`PickError`] says why there is none.
    pub fn pick(
        &self,
        snapshot: &Snapshot,
        key: &ServicePortKey,
        tried: &[SocketAddr],
        _now: Instant,
        random: &mut dyn FnMut() -> u64,
    ) -> Result<Pick, PickError> {
        let set = snapshot.endpoints(key).ok_or_else(|| PickError::UnknownService(key.clone()))?;
        let open: Vec<_> =
            set.endpoints.iter().filter(|e| e.fitness == Fitness::Ready && !tried.contains(&e.address)).collect();
        if open.is_empty() {
            return Err(PickError::NoEndpoints(key.clone()));
        }
        let at = usize::try_from(random() % open.len() as u64).unwrap_or(0);
        Ok(Pick { target: Target::at(snapshot, open[at].address), backend: key.clone() })
    }
}
