//! How connections are divided between near and far endpoints: the near get all while enough of them are well, and what
//! they are short of goes to the next nearest.
//!
//! A level (this node, this zone, anywhere) whose healthy share is h can take min(1, h·7/5) of the connections: while at
//! least 5/7 of it is well, the rest is expected to carry it alone. That is Envoy's overprovisioning factor of 1.4. Levels
//! are filled in order; where all together cannot take everything, each gets what it can take in proportion.
//! Healthy is who is ready and not ejected; endpoints that are being replaced (terminating) do not count as missing.

use crate::snapshot::Proximity;

/// A level takes everything while this share of it is well, unless it is set otherwise.
const ENOUGH: (u128, u128) = (5, 7);
/// Everything.
const ALL: u128 = 1_000_000;
/// The largest weight that comes out: sums of a million of them, times what others multiply them by, stay in range.
const WEIGHT_MAX: u128 = 1 << 32;

/// The endpoints of one proximity.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    /// Weight of all that belong to it.
    whole: u128,
    /// Weight of those that are well.
    healthy: u128,
    /// The same as it is drawn by: slow start lessens it.
    drawn: u128,
    /// Its part of the connections.
    share: u128,
}

/// What each level gets.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spill {
    levels: [Level; Proximity::LEVELS],
}

impl Spill {
    /// Notes an endpoint that is not well; its share of the level is missing.
    pub(super) fn missing(&mut self, proximity: Proximity, weight: u64) {
        self.levels[proximity as usize].whole += u128::from(weight);
    }

    /// Notes an endpoint that is well, and the weight it is drawn by.
    pub(super) fn healthy(&mut self, proximity: Proximity, weight: u64, drawn: u64) {
        let level = &mut self.levels[proximity as usize];
        level.whole += u128::from(weight);
        level.healthy += u128::from(weight);
        level.drawn += u128::from(drawn);
    }

    /// Fills the levels. Each takes everything while so many of a hundred are well.
    pub(super) fn fill(mut self, healthy_percent: Option<u32>) -> Self {
        let mut left = ALL;
        let (enough, of) = healthy_percent.map_or(ENOUGH, |percent| (u128::from(percent.max(1)), 100));
        for level in self.levels.iter_mut().filter(|level| level.drawn > 0) {
            level.share = (ALL * of * level.healthy / (enough * level.whole)).min(left);
            left -= level.share;
        }
        self
    }

    /// Whether a level gets anything.
    pub(super) fn takes(&self, proximity: Proximity) -> bool {
        self.levels[proximity as usize].share > 0
    }

    /// The weights to draw by, of endpoints given as level and own weight. Where one level gets all, their own.
    pub(super) fn weights(&self, members: &[(Proximity, u64)]) -> Vec<u64> {
        let own = || members.iter().map(|(_, weight)| *weight).collect();
        let taking = || self.levels.iter().filter(|level| level.share > 0);
        if taking().count() < 2 {
            return own();
        }
        // share · weight / drawn, without dividing: times what all levels are drawn by.
        let product: u128 = taking().map(|level| level.drawn).product();
        let scaled = members.iter().map(|(proximity, weight)| {
            let level = &self.levels[*proximity as usize];
            level.share * u128::from(*weight) * (product / level.drawn)
        });
        small(scaled.collect())
    }
}

/// The same weights in smaller numbers: exactly where that is possible.
fn small(weights: Vec<u128>) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let most = weights.iter().map(|weight| weight / divisor).max().unwrap_or(0);
    let divisor = divisor * most.div_ceil(WEIGHT_MAX).max(1);
    weights.iter().map(|weight| u64::try_from(weight / divisor).unwrap_or(u64::MAX).max(1)).collect()
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NEAR: Proximity = Proximity::Zone;
    const FAR: Proximity = Proximity::Anywhere;

    /// What the near and the far get, of 1, where so many of so many are well.
    fn shares(near: (u64, u64), far: (u64, u64)) -> (f64, f64) {
        let mut spill = Spill::default();
        let mut members = Vec::new();
        for (proximity, (well, all)) in [(NEAR, near), (FAR, far)] {
            (well..all).for_each(|_| spill.missing(proximity, 1));
            (0..well).for_each(|_| spill.healthy(proximity, 1, 1));
            (0..well).for_each(|_| members.push((proximity, 1)));
        }
        let spill = spill.fill(None);
        members.retain(|(proximity, _)| spill.takes(*proximity));
        let weights = spill.weights(&members);
        let total: u64 = weights.iter().sum();
        let of = |proximity| {
            let mine = members.iter().zip(&weights).filter(|((at, _), _)| *at == proximity);
            mine.map(|(_, weight)| *weight as f64).sum::<f64>() / total as f64
        };
        (of(NEAR), of(FAR))
    }

    #[test]
    fn the_near_have_all_until_fewer_than_five_of_seven_are_well() {
        assert_eq!(shares((7, 7), (9, 9)), (1.0, 0.0));
        assert_eq!(shares((5, 7), (9, 9)), (1.0, 0.0));
        let (near, far) = shares((1, 2), (4, 4));
        assert!((near - 0.7).abs() < 1e-5 && (far - 0.3).abs() < 1e-5, "{near} {far}");
        assert_eq!(shares((0, 4), (1, 4)), (0.0, 1.0));
    }

    #[test]
    fn where_all_together_are_too_few_each_gets_what_it_can_take() {
        let (near, far) = shares((1, 4), (1, 4));
        assert!((near - 0.5).abs() < 1e-5 && (far - 0.5).abs() < 1e-5, "{near} {far}");
        assert_eq!(shares((1, 4), (0, 4)), (1.0, 0.0));
    }

    proptest! {
        /// Numbers of any size keep their proportions, within what the largest allows.
        #[test]
        fn small_weights_keep_their_proportions(weights in proptest::collection::vec(1_u128..u128::from(u64::MAX) << 40, 1..20)) {
            let small = small(weights.clone());
            let most = *weights.iter().max().unwrap() as f64;
            let small_most = *small.iter().max().unwrap() as f64;
            for (weight, small) in weights.iter().zip(&small) {
                let (wanted, got) = (*weight as f64 / most, *small as f64 / small_most);
                prop_assert!((wanted - got).abs() <= 4.0 / WEIGHT_MAX as f64, "{wanted} {got}");
            }
        }
    }
}
