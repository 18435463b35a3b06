//! Which branch of a route a connection takes: in turns where the service's algorithm is round robin, else by weight at
//! random. Branches whose backend is missing take part: their share is refused by whoever asked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use super::round_robin::RoundRobin;
use super::weights::Weights;
use super::{Random, lock, rendezvous};
use crate::model::{Algorithm, Name};
use crate::snapshot::{Sides, Split};

/// The turns of one service port's branches, by the namespace whose route divides it: a consumer's clients take turns
/// among themselves.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    states: Mutex<BTreeMap<Name, State>>,
}

#[derive(Debug)]
struct State {
    split: Arc<Split>,
    generation: u64,
    weights: Weights,
    turns: RoundRobin,
}

impl Splitter {
    /// The index of the branch; `None` where all weigh nothing. A split older than one seen already, from a snapshot of a
    /// lower generation, is drawn from at random and leaves the turns of the newer alone.
    pub(super) fn choose(
        &self,
        split: &Arc<Split>,
        generation: u64,
        algorithm: Algorithm,
        random: Random<'_>,
    ) -> Option<usize> {
        let mut states = lock(&self.states);
        let side = &split.route.namespace;
        match states.get_mut(side) {
            Some(held) if Arc::ptr_eq(&held.split, split) => held.generation = generation.max(held.generation),
            Some(held) if generation < held.generation => return weights(split).draw(&[], random),
            _ => _ = states.insert(side.clone(), State::new(split.clone(), generation)),
        }
        let state = states.get_mut(side)?;
        match algorithm {
            Algorithm::RoundRobin => state.turns.next(),
            _ => state.weights.draw(&[], random),
        }
    }

    /// Forgets the sides that no longer divide.
    pub(super) fn keep(&self, splits: &Sides<Split>) {
        lock(&self.states).retain(|side, _| splits.all().any(|split| split.route.namespace == *side));
    }
}

impl State {
    fn new(split: Arc<Split>, generation: u64) -> Self {
        let weights = weights(&split);
        let each = (0..weights.len()).map(|at| weights.at(at)).collect();
        let turns = RoundRobin::new(each, (0..weights.len()).collect());
        Self { split, generation, weights, turns }
    }
}

/// The index of the branch of a client that is to keep its endpoint; `None` where all weigh nothing.
pub(super) fn choose_for(client: IpAddr, split: &Split) -> Option<usize> {
    // A branch has no address; its place among the backendRefs stands for one.
    let place = |at: usize| SocketAddr::new([0, 0, 0, 0].into(), u16::try_from(at).unwrap_or(u16::MAX));
    let weighed = split.branches.iter().enumerate().map(|(at, branch)| (place(at), u64::from(branch.weight.0)));
    rendezvous::choose(client, weighed, &[])
}

/// The weights of a route's branches, by position.
pub(super) fn weights(split: &Split) -> Weights {
    Weights::new(split.branches.iter().map(|branch| u64::from(branch.weight.0)))
}
