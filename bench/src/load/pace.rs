//! When operations are meant to start: evenly, whatever becomes of those before.
//!
//! A client that sends the next request when the last one is answered asks less of a slow server, and never sees what a
//! caller with a clock of its own would wait. Here a request is due at its time, and its latency counts from then.

use std::time::{Duration, Instant};

/// An even sequence of due times.
#[derive(Clone, Debug)]
pub struct Schedule {
    start: Instant,
    end: Instant,
    per_second: u64,
    next: u64,
}

impl Schedule {
    /// `per_second` operations a second from `start`, none at or after `end`.
    #[must_use]
    pub fn new(start: Instant, end: Instant, per_second: u64) -> Self {
        Self { start, end, per_second: per_second.max(1), next: 0 }
    }

    /// When the next operation is due; `None` after the last.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let nanos = u128::from(self.next) * 1_000_000_000 / u128::from(self.per_second);
        let due = self.start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        (due < self.end).then_some(due)
    }

    /// Takes the next operation if it is due: its number and when it was meant to start.
    pub fn take(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.due().filter(|due| *due <= now)?;
        self.next += 1;
        Some((self.next - 1, due))
    }
}
