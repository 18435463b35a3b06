//! Who may be picked: the eligible endpoints of a service port with their weights, and who is left when they are not enough.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::member::Member;
use super::slow_start::WHOLE;
use super::spill::Spill;
use super::weights::{Weights, below, exclude};
use super::{Random, Settings};
use crate::snapshot::{EndpointSet, Fitness, Proximity};

/// An algorithm: chooses a position of the lane, none of `excluded` (ascending, without repetition).
pub(super) trait Picker {
    /// The position chosen; `None` where all are excluded.
    fn pick(&mut self, lane: &Lane, excluded: &[usize], now: Instant, random: Random<'_>) -> Option<usize>;
}

/// The endpoints of a service port at one moment, sorted by what they may be used for.
#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Eligible and near enough, by address.
    pub(super) members: Vec<Arc<Member>>,
    /// Weights of `members`, none of them zero.
    pub(super) weights: Weights,
    /// The rest in the order in which they are turned to, with a rank: equal ranks are as good as each other.
    reserve: Vec<(u8, Arc<Member>)>,
    /// The fittest endpoints, ejected and unhealthy ones among them: those ejection is counted over.
    tier: Vec<Arc<Member>>,
    /// Ejected ones that are due for a probe.
    probes: Vec<Arc<Member>>,
    /// Somebody is ready, neither ejected nor unhealthy.
    pub(super) well: bool,
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
        settings: &Settings,
        now: Instant,
    ) -> Self {
        let open = || set.endpoints.iter().zip(members).filter(|(endpoint, _)| endpoint.weight.0 > 0);
        let Some(best) = open().map(|(endpoint, _)| endpoint.fitness).min() else { return Self::default() };
        let tier: Vec<_> = open().filter(|(endpoint, _)| endpoint.fitness == best).collect();
        let serving = tier.iter().filter(|(_, member)| member.serves()).count();
        let panic = serving * 2 < tier.len();
        let well = best == Fitness::Ready && serving > 0;
        let mut lane =
            Self { well, tier: tier.iter().map(|(_, member)| (*member).clone()).collect(), ..Self::default() };
        let mut able = Vec::with_capacity(tier.len());
        let mut spill = Spill::default();
        for (endpoint, member) in tier {
            // Nearness is a question among those that are ready: who has none takes what there is.
            let proximity = if best == Fitness::Ready { endpoint.proximity } else { Proximity::Anywhere };
            let weight = u64::from(endpoint.weight.0);
            if panic || member.serves() {
                let (share, changes) = settings.slow_start.share(member.joined, now);
                lane.expire(changes);
                able.push(Able { member, proximity, weight, share });
            } else {
                spill.missing(proximity, weight);
                lane.leave_out(member, now);
            }
        }
        for (endpoint, member) in open().filter(|(endpoint, _)| endpoint.fitness != best) {
            if best == Fitness::Ready && endpoint.fitness == Fitness::Unready {
                spill.missing(endpoint.proximity, u64::from(endpoint.weight.0));
            }
            lane.reserve.push((rank::unfit(endpoint.fitness), member.clone()));
        }
        lane.admit(&able, spill, besides, settings.healthy_percent);
        lane.reserve.sort_by_key(|(rank, _)| *rank);
        lane
    }

    /// Makes members of those that get something, with the weights they are drawn by.
    fn admit(&mut self, able: &[Able<'_>], mut spill: Spill, besides: &[SocketAddr], healthy_percent: Option<u32>) {
        // Plain weights where every share is whole, so that round robin's cycle stays short.
        let growing = able.iter().any(|one| one.share < WHOLE);
        let drawn = |one: &Able<'_>| if growing { one.weight * one.share } else { one.weight };
        able.iter().for_each(|one| spill.healthy(one.proximity, one.weight, drawn(one)));
        let spill = spill.fill(healthy_percent);
        let (near, far): (Vec<_>, Vec<_>) = able.iter().partition(|one| spill.takes(one.proximity));
        self.reserve.extend(far.iter().map(|one| (rank::far(one.proximity), one.member.clone())));
        let own: Vec<_> = near.iter().map(|one| (one.proximity, drawn(one))).collect();
        let mut weights = Vec::with_capacity(near.len());
        for (one, weight) in near.iter().zip(spill.weights(&own)) {
            if besides.binary_search(&one.member.address).is_ok() {
                self.reserve.push((rank::BESIDES, one.member.clone()));
            } else {
                self.members.push(one.member.clone());
                weights.push(weight);
            }
        }
        self.weights = Weights::new(weights);
    }

    /// Puts an ejected or unhealthy endpoint in reserve, and up for a probe if it is due.
    fn leave_out(&mut self, member: &Arc<Member>, now: Instant) {
        self.reserve.push((rank::EJECTED, member.clone()));
        match member.due() {
            Some(due) if due <= now => self.probes.push(member.clone()),
            due => self.expire(due),
        }
    }

    fn expire(&mut self, at: Option<Instant>) {
        self.expires = [self.expires, at].into_iter().flatten().min();
    }

    /// The position of an address, if it is eligible.
    pub(super) fn position(&self, address: &SocketAddr) -> Option<usize> {
        self.members.binary_search_by(|member| member.address.cmp(address)).ok()
    }

    /// Who is fit and not ejected at an address, however far and whatever has been drawn.
    pub(super) fn fit(&self, address: &SocketAddr) -> Option<&Arc<Member>> {
        let held = || self.reserve.iter().find(|(rank, member)| *rank < rank::EJECTED && member.address == *address);
        self.position(address).map(|at| &self.members[at]).or_else(|| held().map(|(_, member)| member))
    }

    /// Whether nobody may be picked at all.
    pub(super) fn is_empty(&self) -> bool {
        self.tier.is_empty()
    }

    /// Positions of the addresses that are eligible, ascending. Allocates only if there are any.
    pub(super) fn positions(&self, addresses: &[SocketAddr]) -> Vec<usize> {
        let mut found = Vec::new();
        for address in addresses {
            if let Some(position) = self.position(address) {
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
        let out = self.tier.iter().filter(|m| !is_candidate(m) && !m.serves()).count();
        self.tier.iter().any(|m| is_candidate(&m)) && (out + 1) * 2 <= self.tier.len()
    }
}

/// An endpoint that is fit and not ejected.
struct Able<'a> {
    member: &'a Arc<Member>,
    proximity: Proximity,
    weight: u64,
    /// How much of its weight slow start gives it.
    share: u64,
}

/// The reserve's order.
mod rank {
    use crate::snapshot::{Fitness, Proximity};

    /// Had its chance in the kernel's draw.
    pub(super) const BESIDES: u8 = 0;
    /// Ejected or unhealthy: better than one that says of itself that it should get nothing.
    pub(super) const EJECTED: u8 = 4;

    /// Farther than needed, the nearest first.
    pub(super) const fn far(proximity: Proximity) -> u8 {
        1 + proximity as u8
    }

    /// Less fit than the fittest.
    pub(super) const fn unfit(fitness: Fitness) -> u8 {
        match fitness {
            Fitness::Ready => 5,
            Fitness::Draining => 6,
            Fitness::Unready => 7,
        }
    }
}
