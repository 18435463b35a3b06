//! Weighted random.

use std::time::Instant;

use super::Random;
use super::lane::{Lane, Picker};

/// Draws an endpoint in proportion to its weight.
#[derive(Debug)]
pub(super) struct WeightedRandom;

impl Picker for WeightedRandom {
    fn pick(&mut self, lane: &Lane, excluded: &[usize], _now: Instant, random: Random<'_>) -> Option<usize> {
        lane.weights.draw(excluded, random)
    }
}

/// Two different positions drawn one after the other in proportion to their weights, for power of two choices; the
/// second is missing where only one is left.
///
/// As long as the first is kept, shares are exactly the weights, and with equal weights this is the classic uniform
/// pair. So the algorithms let the second win only where it is better, not where both are alike.
pub(super) fn pair(lane: &Lane, excluded: &[usize], random: Random<'_>) -> Option<(usize, Option<usize>)> {
    let first = lane.weights.draw(excluded, &mut *random)?;
    if excluded.is_empty() {
        return Some((first, lane.weights.draw(&[first], random)));
    }
    let mut without = excluded.to_vec();
    super::weights::exclude(&mut without, first);
    Some((first, lane.weights.draw(&without, random)))
}
