//! One service port: its members over time, and the lane they make at the moment.
//!
//! The lock is held for one pick. Whatever changes who is eligible (a newer snapshot, an ejection, its end, a step of
//! slow start) only marks the lane, and the next pick makes a new one.

mod chooser;
mod state;
mod verdicts;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::lane::Lane;
use super::member::Member;
use super::token::{Marks, Token};
use super::{PickError, Random, Settings, lock};
use crate::model::{Algorithm, Keepalive, Service, SuccessRate, Traffic};
use crate::route::ServicePortKey;
use crate::snapshot::EndpointSet;
use chooser::Chooser;
use state::State;

/// While a probe is due, one connection for so many that the kernel sends to the others by itself.
const PROBES: u64 = 32;

/// The balancing state of one service port.
#[derive(Debug)]
pub(super) struct Pool {
    /// What applies to every service.
    common: Arc<Settings>,
    /// Counts changes of who is eligible, over all pools.
    changes: Arc<AtomicU64>,
    /// The lane no longer says who is eligible.
    stale: AtomicBool,
    /// The endpoints, and what they are of.
    known: Mutex<Option<Resolved>>,
    /// By which tokens name them.
    marks: Mutex<Marks>,
    state: Mutex<State>,
}

/// Endpoints, and the service and its revision they follow from.
#[derive(Clone, Debug)]
struct Resolved {
    service: Arc<Service>,
    revision: u64,
    set: Arc<EndpointSet>,
}

/// What one pick is to be made by.
pub(super) struct Ask<'a> {
    pub(super) algorithm: Algorithm,
    /// What is set for the service port.
    pub(super) traffic: Option<&'a Arc<Traffic>>,
    /// What it has in common with those that are to go to the same endpoint.
    pub(super) hash: Option<u64>,
    /// Who connects, where it is to keep its endpoint; then that decides and no algorithm.
    pub(super) client: Option<IpAddr>,
    /// Endpoints that had their chance in the kernel's draw, ascending.
    pub(super) besides: Option<&'a Arc<[SocketAddr]>>,
    pub(super) tried: &'a [SocketAddr],
    pub(super) now: Instant,
}

/// What a pool picked.
pub(super) struct Chosen {
    pub(super) member: Arc<Member>,
    /// It is an ejected endpoint's probe.
    pub(super) probe: bool,
    /// Random, for the length of an ejection this may lead to.
    pub(super) jitter: u64,
    pub(super) judging: Judging,
}

/// What an endpoint's connections and answers are treated by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Judging {
    /// Every status from 500 is a failure.
    pub(super) server_errors: bool,
    pub(super) success_rate: Option<SuccessRate>,
    pub(super) keepalive: Option<Keepalive>,
    /// It is asked how it is.
    pub(super) checked: bool,
}

/// Why a pool picked nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Nothing {
    NoEndpoints,
    AllWeightsZero,
    Exhausted,
}

impl Nothing {
    /// The error for whoever asked for `key`.
    pub(super) fn of(self, key: &ServicePortKey, set: &EndpointSet) -> PickError {
        match self {
            Self::NoEndpoints if set.elsewhere => PickError::NoLocalEndpoints(key.clone()),
            Self::NoEndpoints => PickError::NoEndpoints(key.clone()),
            Self::AllWeightsZero => PickError::AllWeightsZero(key.clone()),
            Self::Exhausted => PickError::Exhausted(key.clone()),
        }
    }
}

impl Pool {
    /// A pool that has seen no snapshot.
    pub(super) fn new(common: Arc<Settings>, changes: Arc<AtomicU64>) -> Self {
        let state = Mutex::new(State::of(common.clone()));
        let (known, marks) = (Mutex::default(), Mutex::default());
        Self { common, changes, stale: AtomicBool::new(false), known, marks, state }
    }

    /// The endpoints of a service in this revision. They are worked out for each newer one, and keep their identity if they
    /// are the same: what is made from them stays.
    pub(super) fn endpoints(
        &self,
        (service, revision): (&Arc<Service>, u64),
        resolve: impl FnOnce() -> EndpointSet,
    ) -> Arc<EndpointSet> {
        let is_of = |known: &Resolved| Arc::ptr_eq(&known.service, service);
        let held = lock(&self.known).clone();
        if let Some(held) = held.filter(|held| is_of(held) && held.revision == revision) {
            return held.set;
        }
        let resolved = resolve();
        let mut known = lock(&self.known);
        let set = match &*known {
            Some(held) if *held.set == resolved => held.set.clone(),
            _ => Arc::new(resolved),
        };
        // A connection that began under an older snapshot has those of its own.
        if known.as_ref().is_none_or(|held| !is_of(held) || held.revision < revision) {
            *known = Some(Resolved { service: service.clone(), revision, set: set.clone() });
        }
        set
    }

    /// Picks one of `set`, the endpoints in a snapshot of this generation.
    ///
    /// Connections that began under an older snapshot than the pool has seen are given only what theirs has too: of
    /// newer endpoints they do not know whether these are enrolled.
    pub(super) fn pick(
        &self,
        set: &Arc<EndpointSet>,
        generation: u64,
        ask: &Ask<'_>,
        random: Random<'_>,
    ) -> Result<Chosen, Nothing> {
        let mut state = lock(&self.state);
        self.tune(&mut state, ask.traffic);
        if !self.refresh(&mut state, set, generation, ask.now) {
            let tried = state.unknown_to(set).chain(ask.tried.iter().copied()).collect::<Vec<_>>();
            return state.choose(&Ask { besides: None, tried: &tried, ..*ask }, random);
        }
        if state.members.is_empty() {
            return Err(Nothing::NoEndpoints);
        }
        if state.whole.lane.is_empty() {
            return Err(Nothing::AllWeightsZero);
        }
        if ask.tried.is_empty()
            && let Some(member) = state.whole.lane.probe()
        {
            member.outlier(|outlier| outlier.probe());
            return Ok(Chosen::new(member, true, state.judging, random));
        }
        if let Some(besides) = ask.besides {
            state.set_besides(besides, ask.now);
        }
        state.choose(ask, random)
    }

    /// The endpoint at `address`, if it is eligible in a snapshot of this generation, or at least fit where it may be `far`.
    pub(super) fn take(
        &self,
        set: &Arc<EndpointSet>,
        generation: u64,
        (address, far): (SocketAddr, bool),
        ask: &Ask<'_>,
        random: Random<'_>,
    ) -> Option<Chosen> {
        let mut state = lock(&self.state);
        self.tune(&mut state, ask.traffic);
        if !self.refresh(&mut state, set, generation, ask.now) {
            return None;
        }
        let lane = &state.whole.lane;
        let near = || lane.position(&address).map(|at| &lane.members[at]);
        let member = if far { lane.fit(&address) } else { near() }?.clone();
        Some(Chosen::new(member, false, state.judging, random))
    }

    /// Whether any endpoint is ready, and neither ejected nor unhealthy.
    pub(super) fn is_any_well(&self, set: &Arc<EndpointSet>, generation: u64, ask: &Ask<'_>) -> bool {
        let mut state = lock(&self.state);
        self.tune(&mut state, ask.traffic);
        self.refresh(&mut state, set, generation, ask.now);
        state.whole.lane.well
    }

    /// The endpoint of `set` that a token is for.
    pub(super) fn held_by(
        &self,
        set: &Arc<EndpointSet>,
        key: &ServicePortKey,
        session: &str,
        token: &Token,
    ) -> Option<SocketAddr> {
        lock(&self.marks).find(set, key, session, token)
    }

    /// Who is eligible and did not fail last, with their weights, and the sum of the weights of all who are eligible. Where
    /// an ejected endpoint is due for a probe, the sum is more by one in [`PROBES`]: somebody has to come by here to make it.
    pub(super) fn shares(
        &self,
        set: &Arc<EndpointSet>,
        generation: u64,
        now: Instant,
    ) -> (Vec<(SocketAddr, u64)>, u64) {
        let mut state = lock(&self.state);
        if !self.refresh(&mut state, set, generation, now) {
            return (Vec::new(), 0);
        }
        let lane = &state.whole.lane;
        let trusted = lane.members.iter().enumerate().filter(|(_, member)| !member.outlier(|o| o.is_suspect()));
        let (scale, spare) = if lane.is_probe_due() { (PROBES, lane.weights.total()) } else { (1, 0) };
        let shares = trusted.map(|(at, member)| (member.address, lane.weights.at(at) * scale)).collect();
        (shares, lane.weights.total() * scale + spare)
    }

    /// Goes by what is set for the service port now.
    fn tune(&self, state: &mut State, traffic: Option<&Arc<Traffic>>) {
        let same = match (&state.tuned, traffic) {
            (None, None) => true,
            (Some(held), Some(new)) => Arc::ptr_eq(held, new),
            _ => false,
        };
        if !same {
            state.tuned = traffic.cloned();
            let keepalive = traffic.and_then(|traffic| traffic.keepalive);
            let outlier = traffic.and_then(|traffic| traffic.outlier).unwrap_or_default();
            let (server_errors, success_rate) = (outlier.server_errors, outlier.success_rate);
            let checked = traffic.is_some_and(|traffic| traffic.health.is_some());
            state.judging = Judging { server_errors, success_rate, keepalive, checked };
            state.settings = traffic.map_or_else(|| self.common.clone(), |traffic| Arc::new(self.common.with(traffic)));
            self.stale.store(true, Ordering::Relaxed);
        }
    }

    /// Takes over the endpoints of `set`, if they are newer.
    pub(super) fn adopt(&self, set: &Arc<EndpointSet>, generation: u64, now: Instant) {
        self.refresh(&mut lock(&self.state), set, generation, now);
    }

    /// Takes over newer endpoints, and makes a new lane if the present one is out of date. Returns whether the pool's
    /// endpoints are now those of `set`.
    fn refresh(&self, state: &mut State, set: &Arc<EndpointSet>, generation: u64, now: Instant) -> bool {
        let (same, older) = state.adopted.as_ref().map_or((false, false), |(held, seen)| {
            let same = Arc::ptr_eq(held, set);
            (same, !same && generation < *seen)
        });
        if same {
            state.adopted.iter_mut().for_each(|(_, seen)| *seen = generation.max(*seen));
        } else if !older {
            state.adopt(set, generation, now);
        }
        let stale = self.stale.swap(false, Ordering::Relaxed);
        let expired = state.whole.lane.expires.is_some_and(|at| at <= now);
        if stale || expired || !(same || older) {
            let Some((held, _)) = &state.adopted else { return !older };
            let lane = Lane::new(held, &state.members, &[], &state.settings, now);
            state.whole = Chooser::of(lane);
            state.rest = None;
        }
        !older
    }
}

impl Chosen {
    /// A picked member, in flight from here on.
    fn new(member: Arc<Member>, probe: bool, judging: Judging, random: Random<'_>) -> Self {
        member.begin();
        Self { member, probe, jitter: random(), judging }
    }
}
