//! Drawing an index in proportion to weights, with some indices left out: a table of running sums, searched by halves.

use super::Random;

/// Weights of positions 0..n.
#[derive(Clone, Debug, Default)]
pub(super) struct Weights {
    /// `ends[i]` is the sum of the weights of positions 0..=i.
    ends: Vec<u64>,
}

impl Weights {
    /// The table of `weights`. Sums stay far below the range: a million each, scaled by 100, over 2^32 positions.
    pub(super) fn new(weights: impl IntoIterator<Item = u64>) -> Self {
        let ends = weights.into_iter().scan(0_u64, |sum, weight| {
            *sum = sum.saturating_add(weight);
            Some(*sum)
        });
        Self { ends: ends.collect() }
    }

    /// How many positions there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The sum of all weights.
    pub(super) fn total(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The weight of a position.
    pub(super) fn at(&self, position: usize) -> u64 {
        self.ends[position] - self.start(position)
    }

    fn start(&self, position: usize) -> u64 {
        position.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// Draws a position in proportion to its weight, none of `excluded`, which must ascend without repetition. `None`
    /// where the rest weighs nothing.
    ///
    /// The draw falls on the line of weights with the excluded stretches cut out; stepping over each stretch that
    /// begins at or before it puts it back on the whole line.
    pub(super) fn draw(&self, excluded: &[usize], random: Random<'_>) -> Option<usize> {
        let left_out: u64 = excluded.iter().map(|position| self.at(*position)).sum();
        let mut point = below(self.total() - left_out, random)?;
        for position in excluded {
            if point < self.start(*position) {
                break;
            }
            point += self.at(*position);
        }
        Some(self.ends.partition_point(|end| *end <= point))
    }
}

/// A number below `bound`, uniform but for a bias of `bound` in 2^64; `None` below 0.
pub(super) fn below(bound: u64, random: Random<'_>) -> Option<u64> {
    let product = u128::from(random()) * u128::from(bound);
    (bound > 0).then_some((product >> 64) as u64)
}

/// Adds a position to an ascending list without repetition.
pub(super) fn exclude(excluded: &mut Vec<usize>, position: usize) {
    if let Err(at) = excluded.binary_search(&position) {
        excluded.insert(at, position);
    }
}
