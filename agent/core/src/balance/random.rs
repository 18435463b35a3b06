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
