//! How fresh what the agent knows of the cluster is: for each kind, whether its watch stands and when the API server was
//! last heard on it.
//!
//! It is looked at by metrics, readiness and `weft status`; nothing is decided by it. What was known stays in force
//! however stale it is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::clock::Clock;
use crate::resource::Kind;

/// How a watch is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchState {
    /// Nothing has been received yet.
    Starting,
    /// It stands: what is known is what there is.
    Current,
    /// The cluster does not have the kind: its CustomResourceDefinition is not installed.
    Absent,
    /// It has broken off; what was known before is in force.
    Stale(String),
}

/// The watch of one kind.
#[derive(Clone, Debug)]
pub struct WatchHealth {
    /// How it is.
    pub state: WatchState,
    /// When something last came from the API server on it.
    pub heard: Instant,
    /// How often everything was read anew, the first time included.
    pub lists: u64,
    /// How often it broke off or could not begin.
    pub failures: u64,
}

/// The health of all watches. Clones share it.
#[derive(Clone, Debug)]
pub struct Health {
    watches: Arc<Mutex<BTreeMap<Kind, WatchHealth>>>,
    pub(super) clock: Arc<Clock>,
}

impl Health {
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        let start = WatchHealth { state: WatchState::Starting, heard: Instant::now(), lists: 0, failures: 0 };
        let watches = kinds.into_iter().map(|kind| (kind, start.clone())).collect();
        Self { watches: Arc::new(Mutex::new(watches)), clock: Arc::default() }
    }

    /// Every watch, by kind.
    #[must_use]
    pub fn watches(&self) -> BTreeMap<Kind, WatchHealth> {
        self.lock().clone()
    }

    /// For how long changes may have been missed: the time since the API server was last heard on the stalest watch that
    /// has broken off; `None` while all stand.
    #[must_use]
    pub fn stale(&self, now: Instant) -> Option<Duration> {
        let watches = self.lock();
        let broken = watches.values().filter(|watch| matches!(watch.state, WatchState::Stale(_)));
        broken.map(|watch| now.saturating_duration_since(watch.heard)).max()
    }

    /// Seconds by which this node's clock is ahead of the API server's, behind where negative; `None` before its first answer.
    #[must_use]
    pub fn clock_offset(&self) -> Option<f64> {
        self.clock.milliseconds().map(|ms| ms as f64 / 1000.0)
    }

    /// What is wrong with this node's clock, if it is far from the API server's.
    #[must_use]
    pub fn clock_complaint(&self) -> Option<String> {
        self.clock.complaint()
    }

    pub(super) fn heard(&self, kind: Kind) {
        self.with(kind, |watch| watch.heard = Instant::now());
    }

    pub(super) fn listed(&self, kind: Kind) {
        self.with(kind, |watch| watch.lists += 1);
    }

    /// The watch stands.
    pub(super) fn current(&self, kind: Kind) {
        self.with(kind, |watch| {
            if matches!(watch.state, WatchState::Stale(_)) {
                tracing::info!(kind = kind.as_str(), "the API server is heard again");
            }
            (watch.state, watch.heard) = (WatchState::Current, Instant::now());
        });
    }

    pub(super) fn absent(&self, kind: Kind) {
        self.with(kind, |watch| (watch.state, watch.heard) = (WatchState::Absent, Instant::now()));
    }

    pub(super) fn failed(&self, kind: Kind, reason: String) {
        self.with(kind, |watch| {
            watch.failures += 1;
            if watch.state != WatchState::Stale(reason.clone()) {
                tracing::warn!(
                    kind = kind.as_str(),
                    reason,
                    "cannot follow the API server; what is known stays in force"
                );
                watch.state = WatchState::Stale(reason);
            }
        });
    }

    fn with(&self, kind: Kind, change: impl FnOnce(&mut WatchHealth)) {
        if let Some(watch) = self.lock().get_mut(&kind) {
            change(watch);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Kind, WatchHealth>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staleness_counts_from_the_last_word_and_ends_with_the_next() {
        let health = Health::new([Kind::Pod, Kind::Service]);
        let later = || Instant::now() + Duration::from_secs(60);
        assert_eq!(health.stale(later()), None, "what has not begun is not stale");
        health.current(Kind::Pod);
        health.failed(Kind::Pod, "gone".into());
        assert!(health.stale(later()).is_some_and(|stale| stale >= Duration::from_secs(59)));
        health.failed(Kind::Pod, "gone".into());
        assert_eq!(health.watches()[&Kind::Pod].failures, 2);
        health.current(Kind::Pod);
        assert_eq!(health.stale(later()), None);
        health.absent(Kind::Service);
        assert_eq!(health.stale(later()), None, "a kind that is not installed is no failure");
    }
}
