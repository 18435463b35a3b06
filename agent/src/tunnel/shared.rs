//! What the streams of one tunnel, its driver and the pool know of each other.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::TunnelError;

/// What the streams of one tunnel and its driver know of each other.
#[derive(Debug)]
pub(crate) struct Shared {
    epoch: Instant,
    /// Milliseconds since `epoch`.
    heard: AtomicU64,
    /// Milliseconds since `epoch`, of the moment the last stream ended.
    idle_since: AtomicU64,
    streams: AtomicUsize,
    stalled: AtomicUsize,
    suspect: AtomicBool,
    leaving: AtomicBool,
    failure: OnceLock<TunnelError>,
    /// Wakes the driver: a probe is wanted, the first stream has begun or the last has ended.
    pub(super) wake: Notify,
    probe: AtomicBool,
}

impl Shared {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: Instant::now(),
            heard: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            streams: AtomicUsize::new(0),
            stalled: AtomicUsize::new(0),
            suspect: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            failure: OnceLock::new(),
            wake: Notify::new(),
            probe: AtomicBool::new(false),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn heard(&self) {
        self.heard.store(self.now(), Ordering::Relaxed);
        self.suspect.store(false, Ordering::Relaxed);
    }

    /// How long the peer has been silent.
    pub(super) fn silence(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.heard.load(Ordering::Relaxed)))
    }

    /// For how long there has been no stream; `None` while there is one.
    pub(super) fn idle(&self) -> Option<Duration> {
        (self.streams() == 0)
            .then(|| Duration::from_millis(self.now().saturating_sub(self.idle_since.load(Ordering::Relaxed))))
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Whether a stream cannot send because its reader has stopped: with windows shared, the next to join might hang.
    pub(super) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) > 0
    }

    /// Keeps new streams away until the peer is heard again, and asks the driver to PING.
    pub(super) fn distrust(&self) {
        self.suspect.store(true, Ordering::Relaxed);
        self.probe();
    }

    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// The peer takes no more streams, or this end opens none.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Whether it may ever take a stream again.
    pub(super) fn is_open(&self) -> bool {
        self.failure().is_none() && !self.leaving.load(Ordering::Relaxed)
    }

    pub(super) fn probe(&self) {
        self.probe.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(super) fn take_probe(&self) -> bool {
        self.probe.swap(false, Ordering::Relaxed)
    }

    /// Remembers the first cause; later ones follow from it.
    pub(super) fn fail(&self, error: TunnelError) {
        let _ = self.failure.set(error);
    }

    pub(super) fn failure(&self) -> Option<&TunnelError> {
        self.failure.get()
    }

    /// What an h2 error means, given what the transport knows.
    pub(super) fn explain(&self, error: &h2::Error) -> TunnelError {
        let seen = TunnelError::from_h2(error);
        match (&seen, self.failure()) {
            (TunnelError::Closed(_), Some(cause)) => cause.clone(),
            _ => seen,
        }
    }

    /// Why there is no tunnel any more.
    pub(super) fn lost(&self) -> TunnelError {
        self.failure().cloned().unwrap_or_else(|| TunnelError::Closed("it is gone".to_owned()))
    }

    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        if self.streams.fetch_add(1, Ordering::Relaxed) == 0 {
            self.wake.notify_one();
        }
        Lease { shared: Arc::clone(self) }
    }
}

/// A stream's place in its tunnel, given back when dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) shared: Arc<Shared>,
}

impl Lease {
    pub(super) fn standing(&self) -> Standing {
        Standing(Arc::clone(&self.shared))
    }

    /// Marks the tunnel as holding a stream that cannot send, for as long as the mark lives.
    pub(crate) fn stall(&self) -> Stalled {
        self.shared.stalled.fetch_add(1, Ordering::Relaxed);
        Stalled(Arc::clone(&self.shared))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.idle_since.store(self.shared.now(), Ordering::Relaxed);
        if self.shared.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.shared.wake.notify_one();
        }
    }
}

/// How a tunnel stands, for those who keep a stream of it for later.
#[derive(Debug, Clone)]
pub struct Standing(Arc<Shared>);

impl Standing {
    /// Whether the tunnel may be counted on: neither gone, nor silent, nor to be closed after its last stream.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_open() && !self.0.is_suspect()
    }
}

/// See [`Lease::stall`].
#[derive(Debug)]
pub(crate) struct Stalled(Arc<Shared>);

impl Drop for Stalled {
    fn drop(&mut self) {
        self.0.stalled.fetch_sub(1, Ordering::Relaxed);
    }
}
