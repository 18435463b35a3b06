//! One service port: its members over time, and the lane they make at the moment.
//!
//! The lock is held for one pick. Whatever changes who is eligible (a newer snapshot, an ejection, its end, a step of
//! slow start) only marks the lane, and the next pick makes a new one.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::hashing::Hashing;
use super::lane::{Lane, Picker};
use super::least_request::LeastRequest;
use super::member::Member;
use super::outlier::Outlier;
use super::peak_ewma::PeakEwma;
use super::random::WeightedRandom;
use super::rendezvous;
use super::round_robin::RoundRobin;
use super::token::{Marks, Token};
use super::{Checkable, PickError, Random, Settings, lock};
use crate::model::{Algorithm, HealthCheck, Keepalive, Service, SuccessRate, Traffic};
use crate::route::ServicePortKey;
use crate::snapshot::EndpointSet;

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

#[derive(Debug, Default)]
struct State {
    /// Those of all services, but for what is set for this one.
    settings: Arc<Settings>,
    /// What they were made from.
    tuned: Option<Arc<Traffic>>,
    judging: Judging,
    /// The endpoints the members stand for, and the generation of the snapshot they came with.
    adopted: Option<(Arc<EndpointSet>, u64)>,
    members: Vec<Arc<Member>>,
    /// All of them.
    whole: Chooser,
    /// Those the kernel does not send to directly, and the others' addresses it was made for; made when first asked for.
    rest: Option<(Arc<[SocketAddr]>, Chooser)>,
    /// Turns given out since the beginning.
    turn: u64,
}

/// Who may be picked, and whose turn it is.
#[derive(Debug, Default)]
struct Chooser {
    lane: Lane,
    /// Made when round robin is first asked for.
    turns: Option<RoundRobin>,
    /// Made when hashing is first asked for.
    hashing: Option<Hashing>,
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
        let state = Mutex::new(State { settings: common.clone(), ..State::default() });
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

    /// Who is eligible has changed.
    fn unsettle(&self) {
        self.stale.store(true, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection to `member` stood.
    pub(super) fn connected(&self, member: &Member, judging: Judging, took: std::time::Duration, now: Instant) {
        match member.connected(judging.success_rate.as_ref(), took, now) {
            (true, _) => self.unsettle(),
            (false, true) => drop(self.changes.fetch_add(1, Ordering::Relaxed)),
            (false, false) => {}
        }
    }

    /// A connection that was not picked here failed at `address`.
    pub(super) fn refused(&self, address: SocketAddr, now: Instant, jitter: u64) {
        let member = lock(&self.state).members.iter().find(|member| member.address == address).cloned();
        if let Some(member) = member {
            self.failed(&member, false, now, jitter);
        }
    }

    /// A connection to `member` failed. Ejections are counted under the pool's lock, so that two at once cannot both
    /// be the last one that is allowed.
    pub(super) fn failed(&self, member: &Arc<Member>, probe: bool, now: Instant, jitter: u64) {
        let state = lock(&self.state);
        let spares = || state.whole.lane.spares(member);
        let news = |outlier: &mut Outlier| {
            let suspect = outlier.is_suspect();
            (outlier.failed(&state.settings.outlier, probe, now, jitter, spares), !suspect)
        };
        match member.outlier(news) {
            (true, _) => {
                member.ejected();
                self.unsettle();
            }
            (false, true) => drop(self.changes.fetch_add(1, Ordering::Relaxed)),
            (false, false) => {}
        }
    }

    /// An endpoint was checked; what it is from now on, if that is new.
    pub(super) fn checked(
        &self,
        (address, uid): &Checkable,
        good: bool,
        settings: &HealthCheck,
        now: Instant,
    ) -> Option<bool> {
        let state = lock(&self.state);
        let member = state.members.iter().find(|member| member.address == *address && member.uid == *uid)?;
        let (changes, readmits) = member.checked(good, settings, now);
        if changes || readmits {
            self.unsettle();
        }
        changes.then_some(good)
    }

    /// Endpoints are not checked any more.
    pub(super) fn unchecked(&self) {
        let unwell = lock(&self.state).members.iter().filter(|member| member.unchecked()).count();
        if unwell > 0 {
            self.unsettle();
        }
    }

    /// How many endpoints checks find unhealthy.
    pub(super) fn unhealthy(&self) -> usize {
        lock(&self.state).members.iter().filter(|member| !member.is_healthy()).count()
    }

    /// A probe ended without saying anything.
    pub(super) fn unprobe(&self, member: &Member) {
        member.outlier(|outlier| outlier.unprobe());
        self.stale.store(true, Ordering::Relaxed);
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
            state.whole = Chooser { lane, ..Chooser::default() };
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

impl State {
    /// Replaces the endpoints. Who stays, the same pod at the same address, keeps what is known of it.
    fn adopt(&mut self, set: &Arc<EndpointSet>, generation: u64, now: Instant) {
        let mut known: HashMap<_, _> = self.members.drain(..).map(|m| ((m.address, m.uid.clone()), m)).collect();
        let joined = self.adopted.is_some().then_some(now);
        let members = set.endpoints.iter().map(|endpoint| {
            known
                .remove(&(endpoint.address, endpoint.uid.clone()))
                .unwrap_or_else(|| Arc::new(Member::new(endpoint.address, endpoint.uid.clone(), joined)))
        });
        self.members = members.collect();
        self.adopted = Some((set.clone(), generation));
    }

    /// The members an older set lacks, or has as another pod.
    fn unknown_to<'a>(&'a self, set: &'a EndpointSet) -> impl Iterator<Item = SocketAddr> + 'a {
        let known = |member: &Member| {
            let at = set.endpoints.binary_search_by(|endpoint| endpoint.address.cmp(&member.address));
            at.is_ok_and(|at| set.endpoints[at].uid == member.uid)
        };
        self.members.iter().filter(move |member| !known(member)).map(|member| member.address)
    }

    /// Sees to it that there is a lane of those not among `besides`.
    fn set_besides(&mut self, besides: &Arc<[SocketAddr]>, now: Instant) {
        if self.rest.as_ref().is_some_and(|(held, _)| Arc::ptr_eq(held, besides)) {
            return;
        }
        let Some((set, _)) = &self.adopted else { return };
        let lane = Lane::new(set, &self.members, besides, &self.settings, now);
        self.rest = Some((besides.clone(), Chooser { lane, ..Chooser::default() }));
    }

    fn choose(&mut self, ask: &Ask<'_>, random: Random<'_>) -> Result<Chosen, Nothing> {
        let Self { whole, rest, turn, .. } = self;
        let chooser = match (ask.besides, rest) {
            (Some(_), Some((_, rest))) => rest,
            _ => whole,
        };
        let member = match chooser.choose(ask, turn, &mut *random) {
            Some(member) => member,
            None => chooser.lane.fall_back(ask.tried, &mut *random).ok_or(Nothing::Exhausted)?,
        };
        Ok(Chosen::new(member, false, self.judging, random))
    }
}

impl Chooser {
    fn choose(&mut self, ask: &Ask<'_>, turn: &mut u64, random: Random<'_>) -> Option<Arc<Member>> {
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
