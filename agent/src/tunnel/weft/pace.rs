//! How wide a stream's window is worth being: as wide as its path, and no wider. What is sent beyond that waits in a queue, at
//! one end or the other, and everything of the tunnel waits behind it.

use std::time::{Duration, Instant};

use crate::tunnel::Budget;

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
    /// One window of so many bytes has been taken since this was last asked. Answers whether the stream could be faster with a
    /// wider one: it took less than two round trips (of a stream that its window holds back one is taken in each), or no
    /// longer than the pod's widest takes for a wider one, beside which it has less than its share.
    pub(super) fn fills(&mut self, window: u32, round_trip: Duration, budget: &Budget, now: Instant) -> bool {
        let last = self.last.replace(now);
        let Some(took) = last.map(|last| now.saturating_duration_since(last)) else { return false };
        let round_trip = round_trip.max(NEAREST);
        let behind = budget.leaves_behind(window, took, round_trip, now);
        took < 2 * round_trip || behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_holds_its_stream_back_grows() {
        let (round_trip, mut now) = (Duration::from_millis(20), Instant::now());
        let (mut pace, budget) = (Pace::default(), Budget::new(0));
        // What was before says nothing.
        assert!(!pace.fills(1, round_trip, &budget, now));
        now += round_trip;
        assert!(pace.fills(1, round_trip, &budget, now));
        // Twice as wide, and no faster.
        now += 2 * round_trip;
        assert!(!pace.fills(2, round_trip, &budget, now));
    }

    #[test]
    fn a_near_peer_needs_no_wide_window() {
        let (round_trip, now) = (Duration::from_micros(30), Instant::now());
        let (mut pace, budget) = (Pace::default(), Budget::new(0));
        pace.fills(1, round_trip, &budget, now);
        assert!(!pace.fills(1, round_trip, &budget, now + 2 * NEAREST));
        assert!(pace.fills(1, round_trip, &budget, now + 3 * NEAREST));
    }

    #[test]
    fn who_comes_late_grows_to_the_width_of_who_was_alone() {
        let (round_trip, now) = (Duration::from_micros(30), Instant::now());
        let ([mut first, mut late], budget) = ([Pace::default(), Pace::default()], Budget::new(0));
        let takes =
            |pace: &mut Pace, window, round_trip, at| pace.fills(window, round_trip, &budget, now + at * NEAREST);
        takes(&mut first, 4, round_trip, 0);
        assert!(!takes(&mut first, 4, round_trip, 4));
        takes(&mut late, 1, round_trip, 0);
        assert!(takes(&mut late, 1, round_trip, 4), "as long, for a quarter");
        assert!(!takes(&mut late, 2, 5 * NEAREST, 15), "its peer is further away");
        assert!(!takes(&mut late, 2, round_trip, 21), "its app is slow");
        assert!(takes(&mut late, 2, round_trip, 25));
        assert!(!takes(&mut late, 4, round_trip, 29), "as wide as the widest");
        takes(&mut late, 2, round_trip, 68);
        assert!(!takes(&mut late, 2, round_trip, 72), "who was wide has long stopped");
    }
}
