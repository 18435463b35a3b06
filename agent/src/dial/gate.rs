//! How much of a service port is open at once on this node, where its TrafficPolicy limits that: those above the limit wait
//! for one of the others to end, as far as they may, and are refused otherwise.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weft_core::model::Limits;
use weft_core::route::ServicePortKey;
use weft_core::snapshot::Snapshot;

use super::Refused;

/// What is limited.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Connections that are carried byte by byte.
    Connections,
    /// Requests.
    Requests,
}

/// The gates of all service ports that have limits.
#[derive(Debug, Default)]
pub struct Gates(Mutex<HashMap<(ServicePortKey, Kind), Arc<Gate>>>);

#[derive(Debug)]
struct Gate {
    size: u32,
    places: Arc<Semaphore>,
    waiting: AtomicU32,
}

/// A place among those that are open, given back when dropped.
#[derive(Debug)]
pub struct Place(#[expect(dead_code, reason = "held, not looked at")] OwnedSemaphorePermit);

/// One that waits.
struct Waiting<'a>(&'a AtomicU32);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gates {
    /// A place, for which it may wait for `patience`; `None` where there is no limit.
    ///
    /// # Errors
    /// [`Refused::Overloaded`].
    pub async fn enter(
        &self,
        key: &ServicePortKey,
        kind: Kind,
        limits: Option<&Limits>,
        patience: Duration,
    ) -> Result<Option<Place>, Refused> {
        let size = limits.and_then(|limits| match kind {
            Kind::Connections => limits.connections,
            Kind::Requests => limits.requests,
        });
        let (Some(size), Some(limits)) = (size, limits) else { return Ok(None) };
        let gate = self.gate(key, kind, size);
        if let Ok(place) = Arc::clone(&gate.places).try_acquire_owned() {
            return Ok(Some(Place(place)));
        }
        let overloaded = || Refused::Overloaded(key.clone());
        let waiting = gate.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&gate.waiting);
        if waiting >= limits.pending {
            return Err(overloaded());
        }
        let place = tokio::time::timeout(patience, Arc::clone(&gate.places).acquire_owned()).await;
        place.ok().and_then(Result::ok).map(|place| Some(Place(place))).ok_or_else(overloaded)
    }

    /// One of this size. Those that went in by one of another size are not counted any more.
    fn gate(&self, key: &ServicePortKey, kind: Kind, size: u32) -> Arc<Gate> {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let made = || {
            let places = Arc::new(Semaphore::new(usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS)));
            Arc::new(Gate { size, places, waiting: AtomicU32::new(0) })
        };
        let gate = gates.entry((key.clone(), kind)).or_insert_with(made);
        if gate.size != size {
            *gate = made();
        }
        Arc::clone(gate)
    }

    /// Forgets the service ports that are gone.
    pub fn sync(&self, snapshot: &Snapshot) {
        let mut gates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        gates.retain(|(key, _), _| snapshot.has_port(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::model::ObjectName;
    use weft_core::snapshot::Family;

    #[tokio::test(start_paused = true)]
    async fn so_many_enter_so_many_wait_and_the_rest_are_refused() {
        let key = ServicePortKey { service: ObjectName::new("a", "s").unwrap(), port: 80, family: Family::V4 };
        let limits = Limits { connections: None, requests: Some(2), pending: 1 };
        let gates = Gates::default();
        let enter = || gates.enter(&key, Kind::Requests, Some(&limits), Duration::from_secs(1));
        let (first, second) = (enter().await.unwrap(), enter().await.unwrap());
        let (third, fourth) = tokio::join!(enter(), async {
            let fourth = enter().await;
            drop(first);
            fourth
        });
        assert!(third.is_ok() && matches!(fourth, Err(Refused::Overloaded(_))));
        let begun = tokio::time::Instant::now();
        assert!(enter().await.is_err() && begun.elapsed() == Duration::from_secs(1));
        drop(second);
        assert!(enter().await.is_ok());
        assert!(gates.enter(&key, Kind::Connections, Some(&limits), Duration::ZERO).await.unwrap().is_none());
    }
}
