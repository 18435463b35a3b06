//! The same-node fast path's maps: what the connect hooks draw from, whom a pod lets in, and which connections stand.
//!
//! Written in the order that never lets in more than policy does: who is let in before who may be sent there, and the
//! other way round when it is taken back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use weft_abi::{AdmitSet, Attested, Frontend, FrontendKey, PodEntry, PortKey, Tuple, map};
use weft_core::{
    policy::{Admission, Sources},
    same_node::{self, SameNode},
};

use super::{
    SteerError, Steering, lock,
    tables::{Tables, optional, take},
};

/// The maps, and what they hold.
pub(super) struct Direct {
    frontends: HashMap<MapData, FrontendKey, Frontend>,
    /// `None` for what a predecessor wrote: it is written again.
    drawn: BTreeMap<FrontendKey, Option<same_node::Frontend>>,
    admits: HashMap<MapData, PortKey, AdmitSet>,
    admitted: BTreeMap<PortKey, Option<Sources>>,
    counts: HashMap<MapData, u64, u64>,
    attested: HashMap<MapData, Tuple, Attested>,
    held: HashMap<MapData, FrontendKey, u64>,
    /// The hooks that follow such connections run, with this agent's programs.
    followed: bool,
}

impl Direct {
    /// Takes the maps out of a loaded object, and reads back what a predecessor wrote; with `followed`, one that left hooks.
    pub(super) fn new(ebpf: &mut Ebpf, followed: bool) -> Result<Self, SteerError> {
        let frontends: HashMap<MapData, FrontendKey, Frontend> = take(ebpf, map::FRONTENDS)?;
        let drawn = frontends.keys().map(|key| key.map(|key| (key, None))).collect::<Result<_, _>>();
        let admits: HashMap<MapData, PortKey, AdmitSet> = take(ebpf, map::ADMITS)?;
        let admitted = admits.keys().map(|key| key.map(|key| (key, None))).collect::<Result<_, _>>();
        let mut direct = Self {
            drawn: drawn.map_err(SteerError::map(map::FRONTENDS))?,
            frontends,
            admitted: admitted.map_err(SteerError::map(map::ADMITS))?,
            admits,
            counts: take(ebpf, map::FLOW_COUNTS)?,
            attested: take(ebpf, map::ATTESTED)?,
            held: take(ebpf, map::HELD)?,
            followed,
        };
        direct.count(0)?;
        Ok(direct)
    }

    /// Has the hooks count a pod's connections; who is not counted may have none.
    fn count(&mut self, cookie: u64) -> Result<(), SteerError> {
        const NO_EXIST: u64 = 1;
        match self.counts.insert(cookie, 0, NO_EXIST) {
            Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            other => other.map_err(SteerError::map(map::FLOW_COUNTS)),
        }
    }

    /// Forgets a namespace.
    pub(super) fn erase(&mut self, cookie: u64) -> Result<(), SteerError> {
        let gone: Vec<_> = self.drawn.iter().filter(|(_, frontend)| leads_to(frontend.as_ref(), cookie)).collect();
        let gone: Vec<FrontendKey> = gone.into_iter().map(|(key, _)| *key).collect();
        gone.iter().try_for_each(|key| self.remove_frontend(*key))?;
        let ports: Vec<PortKey> = self.admitted.keys().filter(|key| key.cookie == cookie).copied().collect();
        ports.iter().try_for_each(|key| self.remove_admits(*key))?;
        optional(self.counts.remove(&cookie)).map(drop).map_err(SteerError::map(map::FLOW_COUNTS))
    }

    fn set_admissions(&mut self, wanted: &BTreeMap<u64, Admission>) -> Result<(), SteerError> {
        for (key, sources) in wanted.iter().flat_map(|(cookie, admission)| sets(*cookie, admission)) {
            if self.admitted.get(&key) != Some(&Some(*sources)) {
                let set = AdmitSet::from_words(*sources.words());
                self.admits.insert(key, set, 0).map_err(SteerError::map(map::ADMITS))?;
                self.admitted.insert(key, Some(*sources));
            }
        }
        // A port that lost its own set is met by the default, which is written by now.
        let stale: Vec<PortKey> = self
            .admitted
            .keys()
            .filter(|key| {
                let admission = wanted.get(&key.cookie);
                admission.is_some_and(|admission| key.port != 0 && !admission.ports.contains_key(&(key.port as u16)))
            })
            .copied()
            .collect();
        stale.into_iter().try_for_each(|key| self.remove_admits(key))
    }

    /// Takes away the sets of pods that are not among the wanted; nobody is sent there any more.
    fn drop_admissions(&mut self, wanted: &BTreeMap<u64, Admission>) -> Result<(), SteerError> {
        let stale: Vec<PortKey> =
            self.admitted.keys().filter(|key| !wanted.contains_key(&key.cookie)).copied().collect();
        stale.into_iter().try_for_each(|key| self.remove_admits(key))
    }

    fn set_frontends(&mut self, wanted: &BTreeMap<SocketAddr, same_node::Frontend>) -> Result<(), SteerError> {
        let wanted: BTreeMap<FrontendKey, &same_node::Frontend> =
            wanted.iter().map(|(dialled, frontend)| (key(*dialled), frontend)).collect();
        let stale: Vec<FrontendKey> = self.drawn.keys().filter(|key| !wanted.contains_key(key)).copied().collect();
        stale.into_iter().try_for_each(|key| self.remove_frontend(key))?;
        for (key, frontend) in wanted {
            let before = self.drawn.get(&key).and_then(Option::as_ref);
            if before != Some(frontend) {
                let drawn = |address| before.is_some_and(|before| before.choices.iter().any(|c| c.address == address));
                for again in frontend.choices.iter().filter(|choice| !drawn(choice.address)) {
                    // It was left out since it refused, and has been connected to.
                    let endpoint = self::key(again.address);
                    optional(self.held.remove(&endpoint)).map_err(SteerError::map(map::HELD))?;
                }
                self.frontends.insert(key, compiled(frontend), 0).map_err(SteerError::map(map::FRONTENDS))?;
                self.drawn.insert(key, Some(frontend.clone()));
            }
        }
        Ok(())
    }

    fn remove_frontend(&mut self, key: FrontendKey) -> Result<(), SteerError> {
        optional(self.frontends.remove(&key)).map_err(SteerError::map(map::FRONTENDS))?;
        self.drawn.remove(&key);
        Ok(())
    }

    fn remove_admits(&mut self, key: PortKey) -> Result<(), SteerError> {
        optional(self.admits.remove(&key)).map_err(SteerError::map(map::ADMITS))?;
        self.admitted.remove(&key);
        Ok(())
    }
}

/// Whether a frontend may lead to a namespace; one whose content is not known may.
fn leads_to(frontend: Option<&same_node::Frontend>, cookie: u64) -> bool {
    frontend.is_none_or(|frontend| frontend.choices.iter().any(|choice| choice.cookie == cookie))
}

fn sets(cookie: u64, admission: &Admission) -> impl Iterator<Item = (PortKey, &Sources)> {
    let ports = admission.ports.iter().map(|(port, sources)| (u64::from(*port), sources));
    ports.chain([(0, &admission.default)]).map(move |(port, sources)| (PortKey { cookie, port }, sources))
}

fn key(dialled: SocketAddr) -> FrontendKey {
    FrontendKey { address: dialled.ip().into(), port: u32::from(dialled.port()) }
}

fn compiled(frontend: &same_node::Frontend) -> Frontend {
    let mut compiled = Frontend { in_turns: u32::from(frontend.in_turns), ..Frontend::NONE };
    for (slot, choice) in compiled.choices.iter_mut().zip(&frontend.choices) {
        *slot = weft_abi::Choice {
            address: choice.address.ip().into(),
            cookie: choice.cookie,
            port: u32::from(choice.address.port()),
            last: choice.last,
        };
        compiled.count += 1;
    }
    compiled
}

impl Steering {
    /// What the kernel may decide of connections between pods of this node. With `on` false it decides nothing: every
    /// connection goes through the proxy, and those that stand stay. What follows them runs from the first `on` until
    /// [`Self::retire_same_node`].
    pub fn set_same_node(&self, wanted: &SameNode, on: bool) -> Result<(), SteerError> {
        let mut direct = lock(&self.shared.direct);
        self.shared.check_owner()?;
        if on && !direct.followed {
            self.shared.programs.install_flow(&self.shared.cgroup)?;
            direct.followed = true;
        }
        let mut tables = self.shared.writable()?;
        if !on {
            tables.update_config(|config| config.same_node = 0)?;
        }
        direct.set_admissions(&wanted.admissions)?;
        for (cookie, number) in &wanted.sources {
            direct.count(*cookie)?;
            tables.set_direct(*cookie, Some(*number))?;
        }
        direct.set_frontends(&wanted.frontends)?;
        let sources: BTreeSet<u64> = wanted.sources.keys().copied().collect();
        for (cookie, entry) in tables.pods()? {
            if entry.flags & PodEntry::DIRECT != 0 && !sources.contains(&cookie) {
                tables.set_direct(cookie, None)?;
            }
        }
        direct.drop_admissions(&wanted.admissions)?;
        if on {
            tables.update_config(|config| config.same_node = 1)?;
        }
        Ok(())
    }

    /// Takes off the hooks that follow connections past the proxy, if they run and none is left to be followed. To be
    /// called a moment after [`Self::set_same_node`] switched it off, when connects that were under way have sent their SYN.
    pub fn retire_same_node(&self) -> Result<(), SteerError> {
        if self.has_flows(0) {
            return Ok(());
        }
        let mut direct = lock(&self.shared.direct);
        self.shared.check_owner()?;
        if direct.followed {
            self.shared.programs.remove_flow()?;
            direct.followed = false;
        }
        Ok(())
    }

    /// Whether the hooks that follow connections past the proxy run.
    pub fn follows_flows(&self) -> bool {
        lock(&self.shared.direct).followed
    }

    /// The number a namespace has among those that may connect directly, if it has one: a successor gives it the same.
    pub fn number_of(&self, cookie: u64) -> Option<u32> {
        let entry = lock(&self.shared.tables).pod(cookie).ok()??;
        entry.is_direct().then_some(entry.slot)
    }

    /// Whether a namespace, or for cookie 0 any, still has connections that went directly.
    pub fn has_flows(&self, cookie: u64) -> bool {
        lock(&self.shared.direct).counts.get(&cookie, 0).is_ok_and(|count| count != 0)
    }

    /// Connections between pods of this node that never saw the proxy.
    pub fn attested(&self) -> Result<Vec<(Tuple, Attested)>, SteerError> {
        let direct = lock(&self.shared.direct);
        // One that ended while the map was read is no error: the next key is found from the start again.
        let found: Result<Vec<_>, _> = direct.attested.iter().filter(|entry| !is_gone(entry)).collect();
        found.map_err(SteerError::map(map::ATTESTED))
    }
}

fn is_gone<T>(entry: &Result<T, MapError>) -> bool {
    matches!(entry, Err(MapError::KeyNotFound))
}

impl Tables {
    /// Gives an enrolled pod its number among those that may connect directly, or takes it away.
    fn set_direct(&mut self, cookie: u64, number: Option<u32>) -> Result<(), SteerError> {
        let Some(entry) = self.pod(cookie)?.filter(|entry| entry.flags & PodEntry::ENROLLED != 0) else {
            return Ok(());
        };
        let next = match number {
            Some(slot) => PodEntry { flags: entry.flags | PodEntry::DIRECT, slot, ..entry },
            None => PodEntry { flags: entry.flags & !PodEntry::DIRECT, slot: 0, ..entry },
        };
        if next != entry { self.set_pod(cookie, next) } else { Ok(()) }
    }
}
