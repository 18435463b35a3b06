//! Smooth weighted round robin: turns spread as evenly as weights allow.
//!
//! Of `t` picks, position i with weight w of a total W is due t·w/W. Its pick number k may be made no earlier than
//! floor(k·W/w), when it becomes due, and has to be made before ceil((k+1)·W/w); among the positions that may be picked,
//! the one with the earliest deadline is. Scheduling theory (earliest deadline first on one processor, full load) says
//! that every deadline is met: at any moment every position is less than one pick off its due. That is the smoothness of
//! nginx's round robin, which looks at every position for each pick; two heaps make it O(log n) here.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::Random;
use super::lane::{Lane, Picker};

/// A position in a heap, by the time it is ordered by and then by rank.
type Entry = Reverse<(i128, usize)>;

/// Turns of positions 0..n.
#[derive(Clone, Debug)]
pub(super) struct RoundRobin {
    weights: Vec<u64>,
    total: u64,
    /// Picks made.
    clock: u64,
    /// Picks made of each position.
    taken: Vec<u64>,
    /// Ties are broken by the order of `ranked`; heaps hold ranks.
    ranked: Vec<usize>,
    /// Ranks that may be picked, by deadline.
    open: BinaryHeap<Entry>,
    /// Ranks whose next turn is not yet due, by when it is.
    waiting: BinaryHeap<Entry>,
}

impl RoundRobin {
    /// Turns for `weights`; `ranked`, a permutation of the positions, says who goes first among equals. Positions of
    /// weight 0 get none.
    pub(super) fn new(weights: Vec<u64>, ranked: Vec<usize>) -> Self {
        let total = weights.iter().sum();
        let taken = vec![0; weights.len()];
        let mut turns =
            Self { weights, total, clock: 0, taken, ranked, open: BinaryHeap::new(), waiting: BinaryHeap::new() };
        for rank in (0..turns.ranked.len()).filter(|rank| turns.weights[turns.ranked[*rank]] > 0) {
            turns.waiting.push(Reverse((0, rank)));
        }
        turns
    }

    /// The position whose turn it is; `None` where all weigh nothing.
    pub(super) fn next(&mut self) -> Option<usize> {
        self.open_due();
        // One heap is empty only where no position has a weight: dues sum up to the picks made, so someone is always due.
        let Reverse((_, rank)) = self.open.pop().or_else(|| self.waiting.pop())?;
        let position = self.ranked[rank];
        self.taken[position] += 1;
        self.clock += 1;
        self.waiting.push(Reverse((self.due(rank), rank)));
        Some(position)
    }

    /// The position next in turn that is not `excluded`, without its turn being taken: a retry is not counted against
    /// whoever helps out, or the endpoint that failed would be first in line for the next connection.
    pub(super) fn peek(&mut self, excluded: &[usize]) -> Option<usize> {
        self.open_due();
        let first = |heap: &BinaryHeap<Entry>| {
            let left = heap.iter().filter(|Reverse((_, rank))| excluded.binary_search(&self.ranked[*rank]).is_err());
            left.max().map(|Reverse((_, rank))| self.ranked[*rank])
        };
        first(&self.open).or_else(|| first(&self.waiting))
    }

    /// Lets those compete whose next turn is due by now.
    fn open_due(&mut self) {
        let now = i128::from(self.clock);
        while let Some(Reverse((_, rank))) = self.waiting.peek().copied().filter(|Reverse((due, _))| *due <= now) {
            self.waiting.pop();
            self.open.push(Reverse((self.deadline(rank), rank)));
        }
    }

    /// The first moment at which a rank's next turn may be taken: floor(k·W/w).
    fn due(&self, rank: usize) -> i128 {
        let position = self.ranked[rank];
        i128::from(self.taken[position]) * i128::from(self.total) / i128::from(self.weights[position])
    }

    /// The moment before which it has to be: ceil((k+1)·W/w).
    fn deadline(&self, rank: usize) -> i128 {
        let position = self.ranked[rank];
        let weight = i128::from(self.weights[position]);
        let turns = i128::from(self.taken[position]) + 1;
        (turns * i128::from(self.total) + weight - 1) / weight
    }
}

impl Picker for RoundRobin {
    fn pick(&mut self, _lane: &Lane, excluded: &[usize], _now: Instant, _random: Random<'_>) -> Option<usize> {
        if excluded.is_empty() { self.next() } else { self.peek(excluded) }
    }
}
