//! Who may be picked: the eligible endpoints of a service port with their weights, and who is left when they are not enough.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Random;
use super::member::Member;
use super::slow_start::{SlowStart, WHOLE};
use super::weights::{Weights, below, exclude};
use crate::snapshot::{EndpointSet, Fitness};

/// An algorithm: chooses a position of the lane, none of `excluded` (ascending, without repetition).
pub(super) trait Picker {
    /// The position chosen; `None` where all are excluded.
    fn pick(&mut self, lane: &Lane, excluded: &[usize], now: Instant, random: Random<'_>) -> Option<usize>;
}

/// The endpoints of a service port at one moment, sorted by what they may be used for.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Eligible, by address.
    pub(super) members: Vec<Arc<Member>>,
    /// Weights of `members`, none of them zero.
    pub(super) weights: Weights,
    /// The rest in the order in which they are turned to, with a rank: equal ranks are as good as each other.
    reserve: Vec<(u8, Arc<Member>)>,
    /// The fittest endpoints, ejected ones among them: those ejection is counted over.
    tier: Vec<Arc<Member>>,
    /// Ejected ones that are due for a probe.
    probes: Vec<Arc<Member>>,
    /// When this changes by itself.
    pub(super) expires: Option<Instant>,
}

impl Lane {
    /// Sorts `members`, which are those of `set` in its order. Those at the addresses `besides` (ascending) are as fit as
    /// they are, but get something only when nobody else is left.
    pub(super) fn new(
        set: &EndpointSet,
        members: &[Arc<Member>],
        besides: &[SocketAddr],
        slow_start: SlowStart,
        now: Instant,
    ) -> Self {
        let open = || set.endpoints.iter().zip(members).filter(|(endpoint, _)| endpoint.weight.0 > 0);
        let Some(best) = open().map(|(endpoint, _)| endpoint.fitness).min() else { return Self::default() };
        let tier: Vec<_> = open().filter(|(endpoint, _)| endpoint.fitness == best).collect();
        let serving = tier.iter().filter(|(_, member)| member.outlier(|o| o.serves())).count();
        let panic = serving * 2 < tier.len();
        let mut lane = Self { tier: tier.iter().map(|(_, member)| (*member).clone()).collect(), ..Self::default() };
        let mut shares = Vec::with_capacity(tier.len());
        for (endpoint, member) in tier {
            if panic || member.outlier(|o| o.serves()) {
                let (share, changes) = slow_start.share(member.joined, now);
                lane.expire(changes);
                if besides.binary_search(&member.address).is_ok() {
                    lane.reserve.push((0, member.clone()));
                    continue;
                }
                shares.push((u64::from(endpoint.weight.0), share));
                lane.members.push(member.clone());
            } else {
                lane.leave_out(member, now);
            }
        }
        lane.weights = scaled(&shares);
        for (endpoint, member) in open().filter(|(endpoint, _)| endpoint.fitness != best) {
            lane.reserve.push((1 + rank(endpoint.fitness), member.clone()));
        }
        lane.reserve.sort_by_key(|(rank, _)| *rank);
        lane
    }

    /// Puts an ejected endpoint first in reserve, and up for a probe if it is due.
    fn leave_out(&mut self, member: &Arc<Member>, now: Instant) {
        self.reserve.push((0, member.clone()));
        match member.outlier(|outlier| outlier.due()) {
            Some(due) if due <= now => self.probes.push(member.clone()),
            due => self.expire(due),
        }
    }

    fn expire(&mut self, at: Option<Instant>) {
        self.expires = [self.expires, at].into_iter().flatten().min();
    }

    /// Whether nobody may be picked at all.
    pub(super) fn is_empty(&self) -> bool {
        self.tier.is_empty()
    }

    /// Positions of the addresses that are eligible, ascending. Allocates only if there are any.
    pub(super) fn positions(&self, addresses: &[SocketAddr]) -> Vec<usize> {
        let mut found = Vec::new();
        for address in addresses {
            if let Ok(position) = self.members.binary_search_by(|member| member.address.cmp(address)) {
                exclude(&mut found, position);
            }
        }
        found
    }

    /// An ejected endpoint that is due for a probe, once.
    pub(super) fn probe(&mut self) -> Option<Arc<Member>> {
        self.probes.pop()
    }

    /// Whether an ejected endpoint is due for a probe.
    pub(super) fn is_probe_due(&self) -> bool {
        !self.probes.is_empty()
    }

    /// Someone of the reserve who was not tried: of the best rank that has any, each as likely.
    pub(super) fn fall_back(&self, tried: &[SocketAddr], random: Random<'_>) -> Option<Arc<Member>> {
        let mut open = self.reserve.iter().filter(|(_, member)| !tried.contains(&member.address)).peekable();
        let best = open.peek()?.0;
        let of_best: Vec<_> = open.take_while(|(rank, _)| *rank == best).collect();
        let chosen = usize::try_from(below(of_best.len() as u64, random)?).ok()?;
        of_best.get(chosen).map(|(_, member)| member.clone())
    }

    /// Whether one more endpoint may be ejected, leaving at least half of the fittest. Looks at all but the
    /// candidate, whose lock the caller holds.
    pub(super) fn spares(&self, candidate: &Arc<Member>) -> bool {
        let is_candidate = |member: &&Arc<Member>| Arc::ptr_eq(member, candidate);
        let out = self.tier.iter().filter(|m| !is_candidate(m) && !m.outlier(|o| o.serves())).count();
        self.tier.iter().any(|m| is_candidate(&m)) && (out + 1) * 2 <= self.tier.len()
    }
}

/// The reserve's order of those less fit than the fittest.
fn rank(fitness: Fitness) -> u8 {
    match fitness {
        Fitness::Ready => 0,
        Fitness::Draining => 1,
        Fitness::Unready => 2,
    }
}

/// Weights times shares; plain weights where every share is whole, so that round robin's cycle stays short.
fn scaled(shares: &[(u64, u64)]) -> Weights {
    let growing = shares.iter().any(|(_, share)| *share < WHOLE);
    Weights::new(shares.iter().map(|(weight, share)| if growing { weight * share } else { *weight }))
}
