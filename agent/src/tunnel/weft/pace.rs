//! How wide a stream's window is worth being: as wide as its path, and no wider. What is sent beyond that waits in a queue, at
//! one end or the other, and everything of the tunnel waits behind it.

use std::time::{Duration, Instant};

/// How soon two agents answer each other at the best, however near they are: both have other things to do. With windows of
/// what comes in less, one flow alone is a third slower.
const NEAREST: Duration = Duration::from_micros(500);

/// How fast an app takes what comes for it.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When a window's worth had been taken the last time.
    last: Option<Instant>,
}

impl Pace {
    /// One window has been taken since this was last asked. Answers whether the stream could be faster with a wider one:
    /// it took less than two round trips. Of a stream that its window holds back one is taken in each.
    pub(super) fn fills(&mut self, round_trip: Duration, now: Instant) -> bool {
        let last = self.last.replace(now);
        last.is_some_and(|last| now.saturating_duration_since(last) < 2 * round_trip.max(NEAREST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_holds_its_stream_back_grows() {
        let (round_trip, mut now) = (Duration::from_millis(20), Instant::now());
        let mut pace = Pace::default();
        // What was before says nothing.
        assert!(!pace.fills(round_trip, now));
        now += round_trip;
        assert!(pace.fills(round_trip, now));
        // Twice as wide, and no faster.
        now += 2 * round_trip;
        assert!(!pace.fills(round_trip, now));
    }

    #[test]
    fn a_near_peer_needs_no_wide_window() {
        let (round_trip, now) = (Duration::from_micros(30), Instant::now());
        let mut pace = Pace::default();
        pace.fills(round_trip, now);
        assert!(!pace.fills(round_trip, now + 2 * NEAREST));
        assert!(pace.fills(round_trip, now + 3 * NEAREST));
    }
}
