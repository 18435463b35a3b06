//! One pick of a lane, by whichever algorithm is asked for.

use std::sync::Arc;

use super::super::hashing::Hashing;
use super::super::lane::{Lane, Picker};
use super::super::least_request::LeastRequest;
use super::super::member::Member;
use super::super::peak_ewma::PeakEwma;
use super::super::random::WeightedRandom;
use super::super::round_robin::RoundRobin;
use super::super::{Random, rendezvous};
use super::Ask;
use crate::model::Algorithm;

/// Who may be picked, and whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Chooser {
    pub(super) lane: Lane,
    /// Made when round robin is first asked for.
    turns: Option<RoundRobin>,
    /// Made when hashing is first asked for.
    hashing: Option<Hashing>,
}

impl Chooser {
    /// Of this lane.
    pub(super) fn of(lane: Lane) -> Self {
        Self { lane, ..Self::default() }
    }

    pub(super) fn choose(&mut self, ask: &Ask<'_>, turn: &mut u64, random: Random<'_>) -> Option<Arc<Member>> {
        let excluded = self.lane.positions(ask.tried);
        let (lane, now) = (&self.lane, ask.now);
        if let Some(client) = ask.client {
            let weighed = lane.members.iter().enumerate().map(|(at, member)| (member.address, lane.weights.at(at)));
            return rendezvous::choose(client, weighed, &excluded).map(|at| lane.members[at].clone());
        }
        let position = match ask.algorithm {
            algorithm @ (Algorithm::RingHash | Algorithm::Maglev) => match ask.hash {
                Some(hash) => {
                    if self.hashing.as_ref().is_none_or(|held| !held.is_of(algorithm)) {
                        self.hashing = Some(Hashing::of(algorithm, lane));
                    }
                    self.hashing.as_ref().and_then(|hashing| hashing.find(hash, &excluded))
                }
                None => WeightedRandom.pick(lane, &excluded, now, random),
            },
            Algorithm::Random => WeightedRandom.pick(lane, &excluded, now, random),
            Algorithm::LeastRequest => LeastRequest.pick(lane, &excluded, now, random),
            Algorithm::PeakEwma => PeakEwma.pick(lane, &excluded, now, random),
            Algorithm::RoundRobin => {
                let turns = self.turns.get_or_insert_with(|| turns(lane));
                let position = turns.pick(lane, &excluded, now, random);
                if let (Some(position), true) = (position, excluded.is_empty()) {
                    *turn += 1;
                    lane.members[position].take_turn(*turn);
                }
                position
            }
        };
        position.map(|position| lane.members[position].clone())
    }
}

/// Round robin over a new lane: whoever waited longest goes first, so that changes do not favour anyone.
fn turns(lane: &Lane) -> RoundRobin {
    let mut ranked: Vec<usize> = (0..lane.members.len()).collect();
    ranked.sort_by_key(|position| lane.members[*position].turn());
    RoundRobin::new((0..lane.weights.len()).map(|position| lane.weights.at(position)).collect(), ranked)
}
