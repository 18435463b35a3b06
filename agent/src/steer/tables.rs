//! Typed hands on the pinned maps. Writes only; what to write is decided elsewhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::{
    Ebpf, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SockHash},
};
use weft_abi::{Address, Config, ListenerKey, PodEntry, PortKey, Verdict, map};

use super::{InboundModes, SteerError};

/// The maps an agent writes.
pub(super) struct Tables {
    pods: HashMap<MapData, u64, PodEntry>,
    destinations: HashMap<MapData, Address, u32>,
    config: Array<MapData, Config>,
    current: Config,
    agents: HashMap<MapData, u64, u32>,
    listeners: SockHash<MapData, ListenerKey>,
    modes: HashMap<MapData, PortKey, u32>,
    node: HashMap<MapData, Address, u32>,
    verdicts: PerCpuArray<MapData, u64>,
}

impl Tables {
    /// Takes the maps out of a loaded object, and reads back what a predecessor wrote.
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, SteerError> {
        let destinations: HashMap<MapData, Address, u32> = take(ebpf, map::DESTINATIONS)?;
        let config: Array<MapData, Config> = take(ebpf, map::CONFIG)?;
        Ok(Self {
            pods: take(ebpf, map::PODS)?,
            destinations,
            current: config.get(&0, 0).map_err(SteerError::map(map::CONFIG))?,
            config,
            agents: take(ebpf, map::AGENTS)?,
            listeners: take(ebpf, map::LISTENERS)?,
            modes: take(ebpf, map::INBOUND_MODES)?,
            node: take(ebpf, map::NODE_ADDRESSES)?,
            verdicts: take(ebpf, map::VERDICTS)?,
        })
    }

    /// What the hooks believe of a namespace.
    pub(super) fn pod(&self, cookie: u64) -> Result<Option<PodEntry>, SteerError> {
        optional(self.pods.get(&cookie, 0)).map_err(SteerError::map(map::PODS))
    }

    pub(super) fn set_pod(&mut self, cookie: u64, entry: PodEntry) -> Result<(), SteerError> {
        self.pods.insert(cookie, entry, 0).map_err(SteerError::map(map::PODS))
    }

    /// Has the hooks take a pod's connects. One that is enrolled again keeps what it may beyond that.
    pub(super) fn enrol(&mut self, cookie: u64, own: [Address; 2]) -> Result<(), SteerError> {
        match self.pod(cookie)? {
            Some(entry) if entry.flags & PodEntry::ENROLLED != 0 && entry.own == own => Ok(()),
            _ => self.set_pod(cookie, PodEntry { flags: PodEntry::ENROLLED, slot: 0, own }),
        }
    }

    pub(super) fn remove_pod(&mut self, cookie: u64) -> Result<(), SteerError> {
        optional(self.pods.remove(&cookie)).map(drop).map_err(SteerError::map(map::PODS))
    }

    pub(super) fn pods(&self) -> Result<Vec<(u64, PodEntry)>, SteerError> {
        self.pods.iter().collect::<Result<_, _>>().map_err(SteerError::map(map::PODS))
    }

    /// Makes the map hold exactly these, whatever it held. What does not fit makes the hooks take every destination until it
    /// does: a connection to the mesh must not leave unencrypted because a map is full. Yields whether all fit; if not,
    /// only this can tell when they do.
    pub(super) fn set_destinations(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<bool, SteerError> {
        let held = self.destinations.keys().map(|key| key.map(IpAddr::from)).collect::<Result<BTreeSet<_>, _>>();
        let held = held.map_err(SteerError::map(map::DESTINATIONS))?;
        self.change_destinations(wanted.difference(&held).copied(), held.difference(wanted).copied())
    }

    /// Adds and removes destinations; what does not fit as in [`Self::set_destinations`].
    pub(super) fn change_destinations(
        &mut self,
        added: impl IntoIterator<Item = IpAddr>,
        removed: impl IntoIterator<Item = IpAddr>,
    ) -> Result<bool, SteerError> {
        for ip in removed {
            optional(self.destinations.remove(&ip.into())).map_err(SteerError::map(map::DESTINATIONS))?;
        }
        let mut left_out = 0_usize;
        for ip in added {
            match self.destinations.insert(Address::from(ip), 0, 0) {
                Ok(()) => {}
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::E2BIG) => {
                    left_out += 1;
                }
                Err(error) => return Err(SteerError::map(map::DESTINATIONS)(error)),
            }
        }
        if left_out > 0 {
            tracing::error!(
                left_out,
                "too many destinations for the map: enrolled pods are captured for every destination"
            );
        }
        self.update_config(|config| config.capture_all = u32::from(left_out > 0))?;
        Ok(left_out == 0)
    }

    /// Changes what user space says of itself; an unchanged value is not written.
    pub(super) fn update_config(&mut self, change: impl FnOnce(&mut Config)) -> Result<(), SteerError> {
        let mut next = self.current;
        change(&mut next);
        if next != self.current {
            self.config.set(0, next, 0).map_err(SteerError::map(map::CONFIG))?;
            self.current = next;
        }
        Ok(())
    }

    /// Lets the processes of a cgroup dial unseen; the value tells whose entry it is.
    pub(super) fn exempt(&mut self, cgroup: u64, pid: u32) -> Result<(), SteerError> {
        self.agents.insert(cgroup, pid, 0).map_err(SteerError::map(map::AGENTS))
    }

    pub(super) fn unexempt(&mut self, cgroup: u64) -> Result<(), SteerError> {
        optional(self.agents.remove(&cgroup)).map(drop).map_err(SteerError::map(map::AGENTS))
    }

    pub(super) fn exempted(&self) -> Result<Vec<(u64, u32)>, SteerError> {
        self.agents.iter().collect::<Result<_, _>>().map_err(SteerError::map(map::AGENTS))
    }

    /// Puts a listener into its slot, in the place of any other.
    pub(super) fn set_listener(&mut self, key: ListenerKey, listener: BorrowedFd<'_>) -> Result<(), SteerError> {
        self.listeners.insert(key, listener.as_raw_fd(), 0).map_err(SteerError::map(map::LISTENERS))
    }

    pub(super) fn remove_listener(&mut self, key: ListenerKey) -> Result<(), SteerError> {
        optional(self.listeners.remove(&key)).map(drop).map_err(SteerError::map(map::LISTENERS))
    }

    /// Makes the node's own addresses exactly these.
    pub(super) fn set_node_addresses(&mut self, wanted: &BTreeSet<IpAddr>) -> Result<(), SteerError> {
        let held = self.node.keys().map(|key| key.map(IpAddr::from)).collect::<Result<BTreeSet<_>, _>>();
        let held = held.map_err(SteerError::map(map::NODE_ADDRESSES))?;
        for ip in held.difference(wanted) {
            optional(self.node.remove(&Address::from(*ip))).map_err(SteerError::map(map::NODE_ADDRESSES))?;
        }
        for ip in wanted.difference(&held) {
            self.node.insert(Address::from(*ip), 0, 0).map_err(SteerError::map(map::NODE_ADDRESSES))?;
        }
        Ok(())
    }

    /// Replaces a pod's modes; `before` is what the map holds of it.
    pub(super) fn set_modes(&mut self, cookie: u64, before: &Modes, after: &Modes) -> Result<(), SteerError> {
        for (port, word) in after {
            if before.get(port) != Some(word) {
                let key = PortKey { cookie, port: u64::from(*port) };
                self.modes.insert(key, *word, 0).map_err(SteerError::map(map::INBOUND_MODES))?;
            }
        }
        for port in before.keys().filter(|port| !after.contains_key(port)) {
            let key = PortKey { cookie, port: u64::from(*port) };
            optional(self.modes.remove(&key)).map_err(SteerError::map(map::INBOUND_MODES))?;
        }
        Ok(())
    }

    /// What the map holds of a pod's modes.
    pub(super) fn modes(&self, cookie: u64) -> Result<Modes, SteerError> {
        let mut found = Modes::new();
        for entry in self.modes.iter() {
            let (key, word) = entry.map_err(SteerError::map(map::INBOUND_MODES))?;
            if key.cookie == cookie {
                found.insert(key.port as u16, word);
            }
        }
        Ok(found)
    }

    /// Every verdict's count since the maps were made.
    pub(super) fn verdicts(&self) -> Result<Vec<(&'static str, u64)>, SteerError> {
        let count = |verdict: &Verdict| {
            let per_cpu = self.verdicts.get(&(*verdict as u32), 0).map_err(SteerError::map(map::VERDICTS))?;
            Ok((verdict.label(), per_cpu.iter().sum()))
        };
        Verdict::ALL.iter().map(count).collect()
    }
}

/// Port -> [`weft_abi::PortMode::word`], the default under port 0.
pub(super) type Modes = BTreeMap<u16, u32>;

impl From<&InboundModes> for Modes {
    fn from(modes: &InboundModes) -> Self {
        let mode = |port: &u16| modes.ports.get(port).copied().unwrap_or(modes.default);
        let ports = modes.ports.keys().chain(&modes.probes).filter(|port| **port != 0);
        let word = |port: &u16| (*port, mode(port).word(modes.probes.contains(port)));
        ports.map(word).chain([(0, modes.default.word(false))]).collect()
    }
}

pub(super) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, SteerError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let found = ebpf.take_map(name).ok_or_else(|| SteerError::load(format!("the object has no map {name}")))?;
    found.try_into().map_err(SteerError::map(name))
}

pub(super) fn optional<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(other) => Err(other),
    }
}

/// What aya's maps ask of our types; here so that a type that stops being plain fails to compile close to its use.
const _: () = {
    const fn plain<T: Pod>() {}
    plain::<PodEntry>();
    plain::<PortKey>();
};
