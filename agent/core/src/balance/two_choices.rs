//! Power of two choices: a pair of endpoints drawn by weight, and what is decided between two that are equally good.
//!
//! As long as the first is kept, shares are exactly the weights. Every time the second wins they shift towards it, and
//! as the second is never the first, towards light endpoints: were it a coin that decided, weights of 60, 30 and 10
//! would end as 46, 39 and 15. Drawing both independently has no such bias: any rule that treats the two alike then
//! gives each its weight. [`Pair::kept`] is that independent draw, made where the pair is.

use super::Random;
use super::lane::Lane;
use super::weights::{below, exclude};

/// Two positions of a lane drawn in proportion to their weights.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) first: usize,
    /// Never the first.
    pub(super) second: usize,
    /// An independent second draw would have been the first again: a whim of load must not move the connection.
    kept: bool,
}

/// What was drawn.
#[derive(Clone, Copy, Debug)]
pub(super) enum Drawn {
    /// Only this one is left.
    Only(usize),
    Two(Pair),
}

/// Draws two different positions, none of them `excluded`; `None` where all are.
pub(super) fn draw(lane: &Lane, excluded: &[usize], random: Random<'_>) -> Option<Drawn> {
    let first = lane.weights.draw(excluded, &mut *random)?;
    let second = if excluded.is_empty() {
        lane.weights.draw(&[first], &mut *random)
    } else {
        let mut without = excluded.to_vec();
        exclude(&mut without, first);
        lane.weights.draw(&without, &mut *random)
    };
    let Some(second) = second else { return Some(Drawn::Only(first)) };
    let kept = below(lane.weights.total(), random).is_some_and(|point| point < lane.weights.at(first));
    Some(Drawn::Two(Pair { first, second, kept }))
}

impl Pair {
    /// The one with fewer connections in flight per weight.
    ///
    /// The second wins against a first that is kept only if it would still be the lighter with one connection more:
    /// that is load to be levelled. Less than one connection is the grain of counting: a light endpoint has either none
    /// or more than its share. With weights of 60, 30 and 10 shares stay within 2.5 points at 4 connections at once and
    /// within 1 at 16 and 64, whether connections last equally or exponentially long (simulated).
    pub(super) fn less_loaded(&self, lane: &Lane) -> usize {
        let in_flight = |at: usize| u128::from(lane.members[at].in_flight());
        let weight = |at: usize| u128::from(lane.weights.at(at));
        // in_flight(second) / weight(second) < in_flight(first) / weight(first), without dividing.
        let beats = |second: u128| second * weight(self.first) < in_flight(self.first) * weight(self.second);
        let second = in_flight(self.second);
        if beats(second + 1) || (!self.kept && beats(second)) { self.second } else { self.first }
    }
}
