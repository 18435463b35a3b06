//! Least request: power of two choices over connections in flight per weight.

use std::time::Instant;

use super::Random;
use super::lane::{Lane, Picker};
use super::two_choices::{Drawn, draw};

/// Of two endpoints drawn by weight, the one with fewer connections in flight per weight.
#[derive(Debug)]
pub(super) struct LeastRequest;

impl Picker for LeastRequest {
    fn pick(&mut self, lane: &Lane, excluded: &[usize], _now: Instant, random: Random<'_>) -> Option<usize> {
        Some(match draw(lane, excluded, random)? {
            Drawn::Only(only) => only,
            Drawn::Two(pair) => pair.less_loaded(lane),
        })
    }
}
