//! Peak EWMA: power of two choices over how long connecting is expected to take, given what is in flight already.
//!
//! cost = estimate x (in flight x mean weight / weight + 1), the mean being that of the two candidates. With equal
//! weights this is estimate x (in flight + 1). Dividing all of it by the weight instead would leave the lighter of two
//! idle endpoints with nothing: 1/10 is never less than 1/90. Here the draw gives each its share, and the cost corrects.
//!
//! Two estimates within a factor of [`NOISE`] of each other count as equal. Connect times of one and the same pod vary
//! as much from one connection to the next, and believing them would send everything to whoever was luckier last.

use std::time::{Duration, Instant};

use super::Random;
use super::ewma::INITIAL;
use super::lane::{Lane, Picker};
use super::random::pair;

/// Estimates that differ by no more than this factor tell nothing apart.
const NOISE: f64 = 2.0;

/// Of two endpoints drawn by weight, the second if it costs less, else the first.
#[derive(Debug)]
pub(super) struct PeakEwma;

impl Picker for PeakEwma {
    fn pick(&mut self, lane: &Lane, excluded: &[usize], now: Instant, random: Random<'_>) -> Option<usize> {
        let (first, second) = pair(lane, excluded, random)?;
        let Some(second) = second else { return Some(first) };
        let estimates = comparable(lane.members[first].estimate(now), lane.members[second].estimate(now));
        let mean = (lane.weights.at(first) + lane.weights.at(second)) as f64 / 2.0;
        let cost = |at: usize, estimate: f64| {
            let in_flight = f64::from(lane.members[at].in_flight());
            estimate * (in_flight * mean / lane.weights.at(at) as f64 + 1.0)
        };
        Some(if cost(second, estimates.1) < cost(first, estimates.0) { second } else { first })
    }
}

/// Two estimates, in seconds, as they are to be compared.
///
/// One that was never measured is taken to be as good as the other, up to the initial 30 ms: it is by being picked that
/// it gets measured.
fn comparable(first: Option<Duration>, second: Option<Duration>) -> (f64, f64) {
    let unmeasured = |other: Option<Duration>| other.map_or(INITIAL, |other| other.min(INITIAL));
    let a = first.unwrap_or_else(|| unmeasured(second)).as_secs_f64();
    let b = second.unwrap_or_else(|| unmeasured(first)).as_secs_f64();
    if a.max(b) <= NOISE * a.min(b) { (1.0, 1.0) } else { (a, b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_alike_are_equal_and_others_are_not() {
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(comparable(ms(10), ms(20)), (1.0, 1.0));
        assert_eq!(comparable(ms(10), ms(21)), (0.010, 0.021));
        assert_eq!(comparable(None, None), (1.0, 1.0));
        assert_eq!(comparable(None, ms(2)), (1.0, 1.0), "unmeasured is as good as the other");
        assert_eq!(comparable(ms(100), None), (0.1, 0.03), "but for the initial 30 ms");
    }
}
