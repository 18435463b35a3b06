//! Consistent hashing: what has the same hash goes to the same endpoint, and an endpoint that goes takes few others along.
//!
//! | algorithm | where a hash leads | of an endpoint that goes |
//! |---|---|---|
//! | ring hash | the next of the points that stand for endpoints on a ring | the endpoint's own move, and no others |
//! | Maglev | a place in a table whose places endpoints have chosen in turns | the endpoint's own move, and a few others |
//!
//! Points and choices follow from the endpoints' addresses and weights alone, so that all agents send alike, also after they
//! were restarted.

use std::net::SocketAddr;

use super::lane::Lane;
use super::rendezvous::{digest, mixed};
use crate::model::Algorithm;

/// Points on a ring for an endpoint of mean weight. Shares then differ by some 10 % from what weights say.
const POINTS: u64 = 128;
/// Points at the most.
const POINTS_MAX: u64 = 1 << 16;
/// Sizes of Maglev's table, primes: the first that is a hundred times the number of endpoints, so that shares differ by 1 %.
const SIZES: [usize; 6] = [251, 1021, 4093, 16_381, 65_537, 262_147];

/// The hash of what requests have in common: the same on every node and for good (FNV-1a, and a finaliser that spreads it).
#[must_use]
pub fn hash_of(bytes: &[u8]) -> u64 {
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
}

/// What leads from a hash to a position of a lane.
#[derive(Debug)]
pub(super) enum Hashing {
    Ring(Vec<(u64, u32)>),
    Maglev(Vec<u32>),
}

impl Hashing {
    /// For an algorithm that hashes.
    pub(super) fn of(algorithm: Algorithm, lane: &Lane) -> Self {
        let members = lane.members.iter().enumerate();
        let weighed: Vec<_> = members.map(|(at, member)| (member.address, lane.weights.at(at))).collect();
        match algorithm {
            Algorithm::Maglev => Self::maglev(&weighed),
            _ => Self::ring(&weighed),
        }
    }

    pub(super) fn is_of(&self, algorithm: Algorithm) -> bool {
        matches!((self, algorithm), (Self::Maglev(_), Algorithm::Maglev) | (Self::Ring(_), Algorithm::RingHash))
    }

    fn ring(members: &[(SocketAddr, u64)]) -> Self {
        let total: u128 = members.iter().map(|(_, weight)| u128::from(*weight)).sum();
        let points = u128::from((POINTS * members.len() as u64).min(POINTS_MAX).max(members.len() as u64));
        let mut ring = Vec::new();
        for (at, (address, weight)) in members.iter().enumerate() {
            let own = (points * u128::from(*weight)).div_ceil(total.max(1));
            let seed = digest(address.ip(), address.port());
            ring.extend((0..own as u64).map(|point| (mixed(seed ^ mixed(point)), at as u32)));
        }
        ring.sort_unstable();
        Self::Ring(ring)
    }

    /// Eisenbud and others, "Maglev: A Fast and Reliable Software Network Load Balancer", 3.4; an endpoint's weight is how often
    /// its turn comes.
    fn maglev(members: &[(SocketAddr, u64)]) -> Self {
        let size = SIZES.into_iter().find(|size| *size >= members.len() * 100).unwrap_or(SIZES[SIZES.len() - 1]);
        let most = members.iter().map(|(_, weight)| *weight).max().unwrap_or(0);
        let (mut table, mut left) = (vec![u32::MAX; size], if most == 0 { 0 } else { size });
        let mut each: Vec<Choices> = members.iter().map(|(address, _)| Choices::of(*address, size as u64)).collect();
        while left > 0 {
            for (at, choices) in each.iter_mut().enumerate() {
                choices.turns += u128::from(members[at].1);
                while choices.turns >= u128::from(most) && left > 0 {
                    choices.turns -= u128::from(most);
                    let place = choices.next_free(&table);
                    table[place] = at as u32;
                    left -= 1;
                }
            }
        }
        Self::Maglev(table)
    }

    /// The position a hash leads to, none of `excluded` (ascending).
    pub(super) fn find(&self, hash: u64, excluded: &[usize]) -> Option<usize> {
        let (len, from) = match self {
            Self::Ring(ring) => (ring.len(), ring.partition_point(|(point, _)| *point < hash)),
            Self::Maglev(table) => (table.len(), (hash % table.len().max(1) as u64) as usize),
        };
        let at = |place: usize| match self {
            Self::Ring(ring) => ring[place % len].1 as usize,
            Self::Maglev(table) => table[place % len] as usize,
        };
        (from..from + len)
            .map(at)
            .find(|position| *position != u32::MAX as usize && excluded.binary_search(position).is_err())
    }
}

/// The places of a table in the order in which an endpoint would have them.
struct Choices {
    next: u64,
    skip: u64,
    size: u64,
    turns: u128,
}

impl Choices {
    fn of(address: SocketAddr, size: u64) -> Self {
        let seed = digest(address.ip(), address.port());
        Self { next: mixed(seed) % size, skip: mixed(!seed) % (size - 1) + 1, size, turns: 0 }
    }

    /// There is a free one: the size is a prime, so that all are come by.
    fn next_free(&mut self, table: &[u32]) -> usize {
        loop {
            let place = self.next as usize;
            self.next = (self.next + self.skip) % self.size;
            if table[place] == u32::MAX {
                return place;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn members(weights: &[u64]) -> Vec<(SocketAddr, u64)> {
        let address = |n: usize| SocketAddr::from((Ipv4Addr::from_bits(0x0a01_0000 + n as u32), 8080));
        weights.iter().enumerate().map(|(n, weight)| (address(n), *weight)).collect()
    }

    fn both(members: &[(SocketAddr, u64)]) -> [Hashing; 2] {
        [Hashing::ring(members), Hashing::maglev(members)]
    }

    fn hashes() -> impl Iterator<Item = u64> {
        (0..20_000).map(mixed)
    }

    #[test]
    fn every_endpoint_has_the_share_its_weight_says() {
        let weights = [60, 30, 10];
        for hashing in both(&members(&weights)) {
            let mut counts = [0_u32; 3];
            hashes().for_each(|hash| counts[hashing.find(hash, &[]).unwrap()] += 1);
            for (count, weight) in counts.iter().zip(weights) {
                let (got, wanted) = (f64::from(*count) / 20_000.0, weight as f64 / 100.0);
                assert!((got - wanted).abs() < 0.06, "{hashing:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn one_that_goes_moves_little_beside_its_own() {
        let all = members(&[1; 10]);
        let without: Vec<_> = all.iter().enumerate().filter(|(n, _)| *n != 3).map(|(_, member)| *member).collect();
        for ((before, after), most) in both(&all).into_iter().zip(both(&without)).zip([0, 20_000 * 5 / 100]) {
            let (mut own, mut others) = (0, 0);
            for hash in hashes() {
                let (was, is) = (all[before.find(hash, &[]).unwrap()].0, without[after.find(hash, &[]).unwrap()].0);
                if was == all[3].0 {
                    own += 1;
                } else if was != is {
                    others += 1;
                }
            }
            assert!((1_400..2_800).contains(&own) && others <= most, "{own} of its own, {others} others");
        }
    }

    #[test]
    fn what_is_excluded_is_never_found() {
        for hashing in both(&members(&[1, 2, 3])) {
            assert!(hashes().all(|hash| hashing.find(hash, &[0, 2]) == Some(1)));
            assert!(hashing.find(7, &[0, 1, 2]).is_none());
        }
        for hashing in both(&[]) {
            assert_eq!(hashing.find(7, &[]), None);
        }
        for hashing in both(&members(&[0, 1])) {
            assert!(hashes().all(|hash| hashing.find(hash, &[]) == Some(1)));
        }
    }
}
