//! Least request: power of two choices over connections in flight per weight.

use std::time::Instant;

use super::Random;
use super::lane::{Lane, Picker};
use super::random::pair;

/// Of two endpoints drawn by weight, the second if it has fewer connections in flight per weight, else the first.
#[derive(Debug)]
pub(super) struct LeastRequest;

impl Picker for LeastRequest {
    fn pick(&mut self, lane: &Lane, excluded: &[usize], _now: Instant, random: Random<'_>) -> Option<usize> {
        let (first, second) = pair(lane, excluded, random)?;
        let Some(second) = second else { return Some(first) };
        // in_flight(a) / weight(a) < in_flight(b) / weight(b), without dividing.
        let side = |a: usize, b: usize| u128::from(lane.members[a].in_flight()) * u128::from(lane.weights.at(b));
        Some(if side(second, first) < side(first, second) { second } else { first })
    }
}
