//! How many bytes of a pod's connections the node holds for readers who are slow.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The bytes that were received for one pod's streams and that nobody has taken yet, over all its tunnels.
///
/// It is charged for what is really held, and for what windows have grown by: ten thousand idle streams cost nothing.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    held: AtomicUsize,
    /// What windows have grown by: promised, not held.
    promised: AtomicUsize,
    /// What HTTP bodies that may be behind, and long heads, may hold.
    claimed: AtomicUsize,
    widest: Mutex<Option<Widest>>,
}

/// The widest window of a pod's streams, and how long its stream took for it the last time. What a stream grew to while it was
/// alone it keeps, and those that came later would never fill theirs as fast: the slowest of four had 0.6 of the fastest's
/// share, and of two tunnels one had 3.4 times the other's.
#[derive(Debug, Clone, Copy)]
struct Widest {
    window: u32,
    took: Duration,
    round_trip: Duration,
    at: Instant,
}

impl Widest {
    /// What has not been taken again for so many of its times is over.
    const OVER_AFTER: u32 = 8;

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) > Self::OVER_AFTER * self.took
    }

    /// Paths of which neither is twice as long as the other: what is wide for one is not for another.
    fn is_as_far(&self, round_trip: Duration) -> bool {
        round_trip <= 2 * self.round_trip && self.round_trip <= 2 * round_trip
    }
}

impl Budget {
    /// What a pod gets unless told otherwise: a thousand stalled readers with their first window.
    pub const DEFAULT: usize = 256 << 20;
    /// What one stream may hold however little is left, in bytes: nobody loses a connection over a moment's delay.
    pub(super) const SHARE: usize = 64 * 1024;

    /// Of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            held: AtomicUsize::new(0),
            promised: AtomicUsize::new(0),
            claimed: AtomicUsize::new(0),
            widest: Mutex::default(),
        }
    }

    /// Notes that a stream took so long for its window. Answers whether it is held back beside the pod's widest on a path of
    /// that length: it took no longer for a narrower one.
    pub(super) fn leaves_behind(&self, window: u32, took: Duration, round_trip: Duration, now: Instant) -> bool {
        let mut widest = self.widest.lock().unwrap_or_else(PoisonError::into_inner);
        match *widest {
            Some(known) if known.window > window && !known.is_over(now) => {
                known.is_as_far(round_trip) && took <= known.took + known.took / 4
            }
            _ => {
                *widest = Some(Widest { window, took, round_trip, at: now });
                false
            }
        }
    }

    /// Bytes held now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Charges `bytes` more for a stream that holds `own` already; `false` if that is more than there is.
    pub(super) fn charge(&self, bytes: usize, own: usize) -> bool {
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= self.limit || own + bytes <= Self::SHARE;
        if !fits {
            self.credit(bytes);
        }
        fits
    }

    /// Gives `bytes` back.
    pub(super) fn credit(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Lets a window grow by `bytes`, as long as all growth together is at most half of the budget: a socket's buffer takes
    /// megabytes for an app that never reads, and looks like a reader until then.
    pub(super) fn grow(&self, bytes: usize) -> bool {
        let fits = self.promised.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.limit / 2;
        if !fits {
            self.shrink(bytes);
        }
        fits
    }

    /// Lets an HTTP body or head hold up to `bytes`, as long as all of them together hold no more than an eighth of the budget:
    /// 32 MiB, the windows of 512 bodies that nobody reads.
    #[must_use]
    pub fn claim(&self, bytes: usize) -> bool {
        let fits = self.claimed.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.limit / 8;
        if !fits {
            self.disclaim(bytes);
        }
        fits
    }

    /// The same of what a body can do without: as long as all of them together leave half of that to those who cannot.
    #[must_use]
    pub fn claim_spare(&self, bytes: usize) -> bool {
        let fits = self.claimed.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.limit / 16;
        if !fits {
            self.disclaim(bytes);
        }
        fits
    }

    /// Whether more than half of that is claimed.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.claimed() > self.limit / 16
    }

    /// A body holds nothing any more.
    pub fn disclaim(&self, bytes: usize) {
        self.claimed.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// What HTTP bodies may hold now, in bytes.
    #[must_use]
    pub fn claimed(&self) -> usize {
        self.claimed.load(Ordering::Relaxed)
    }

    /// A stream whose window had grown by `bytes` is gone.
    pub(super) fn shrink(&self, bytes: usize) {
        self.promised.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(Self::DEFAULT)
    }
}
