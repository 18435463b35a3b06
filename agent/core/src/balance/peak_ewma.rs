//! Peak EWMA: power of two choices over how long connecting is expected to take, given what is in flight already.
//!
//! cost = estimate x (in flight x mean weight / weight + 1), the mean being that of the two candidates. With equal
//! weights this is estimate x (in flight + 1). Dividing all of it by the weight instead would leave the lighter of two
//! idle endpoints with nothing: 1/10 is never less than 1/90. Here the draw gives each its share, and the cost corrects.
//!
//! Two endpoints whose connect times cannot be told apart are compared by what is in flight alone. Connect times of one and
//! the same pod vary as much from one connection to the next, and believing every peak would send everything to whoever
//! was luckier last, for as long as the peak takes to fade.

use std::time::Instant;

use super::Random;
use super::ewma::Timing;
use super::lane::{Lane, Picker};
use super::two_choices::{Drawn, Pair, draw};
use super::weights::below;

/// One in so many connections goes to the endpoint drawn first however slow it is, so that one that has become fast
/// again is noticed within few connections.
const LOOK_AGAIN: u64 = 32;

/// Of two endpoints drawn by weight, the one that costs less.
#[derive(Debug)]
pub(super) struct PeakEwma;

impl Picker for PeakEwma {
    fn pick(&mut self, lane: &Lane, excluded: &[usize], now: Instant, random: Random<'_>) -> Option<usize> {
        let pair = match draw(lane, excluded, &mut *random)? {
            Drawn::Only(only) => return Some(only),
            Drawn::Two(pair) => pair,
        };
        let timing = |at: usize| lane.members[at].timing(now);
        let (first, second) = Timing::comparable(timing(pair.first), timing(pair.second));
        if first.is_like(&second) {
            return Some(pair.less_loaded(lane));
        }
        let looks_again = below(LOOK_AGAIN, random) == Some(0);
        let better = cost(lane, pair, pair.second, second) < cost(lane, pair, pair.first, first);
        Some(if better && !looks_again { pair.second } else { pair.first })
    }
}

/// What one of the pair costs, in seconds.
fn cost(lane: &Lane, pair: Pair, at: usize, timing: Timing) -> f64 {
    let mean = (lane.weights.at(pair.first) + lane.weights.at(pair.second)) as f64 / 2.0;
    let in_flight = f64::from(lane.members[at].in_flight());
    timing.estimate * (in_flight * mean / lane.weights.at(at) as f64 + 1.0)
}
