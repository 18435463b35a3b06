//! The one place that changes what the mesh knows.
//!
//! Readers take the current snapshot without waiting and keep it for as long as one decision lasts; who must act on a
//! change is told by a watch. There is one writer, so a delta is never applied to a snapshot that is no longer current.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_core::snapshot::{Delta, Snapshot};

/// Holds the current snapshot.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Snapshot>,
    changed: watch::Sender<u64>,
    writer: Mutex<()>,
}

impl Store {
    /// Starts with `first`, usually an empty snapshot.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        let changed = watch::Sender::new(first.generation());
        Self { current: ArcSwap::from_pointee(first), changed, writer: Mutex::new(()) }
    }

    /// The current snapshot. Take it once per decision, so that the decision is about one moment.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Applies a batch as one change and tells who waits. Gives the snapshots before and after.
    pub fn apply(&self, deltas: impl IntoIterator<Item = Delta>) -> (Arc<Snapshot>, Arc<Snapshot>) {
        // The lock guards no data that a panic could have left half-written.
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.current.load_full();
        let after = Arc::new(before.apply(deltas));
        self.current.store(after.clone());
        self.changed.send_replace(after.generation());
        (before, after)
    }

    /// Generations as they come; one that is slow to look sees only the newest.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::model::TrustDomain;

    #[tokio::test]
    async fn every_batch_is_a_generation_and_is_announced() {
        let store = Store::new(Snapshot::new(TrustDomain::new("cluster.local").unwrap()));
        let mut changes = store.changes();
        let (before, after) = store.apply([]);
        assert_eq!(before.generation() + 1, after.generation());
        changes.changed().await.unwrap();
        assert_eq!(*changes.borrow_and_update(), store.snapshot().generation());
        assert!(Arc::ptr_eq(&after, &store.snapshot()));
    }

    #[test]
    fn writers_do_not_lose_each_others_batches() {
        let store = Store::new(Snapshot::new(TrustDomain::new("cluster.local").unwrap()));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| _ = store.apply([])));
            }
        });
        assert_eq!(store.snapshot().generation(), 400);
    }
}
