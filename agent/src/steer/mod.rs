//! Steering: the agent's hand on the kernel. Loads and pins the programs, writes their maps, and enrols pods.
//!
//! A connection meets this room before any proxy code runs, and mostly without it: what is written here stays in force
//! while no agent is alive, so every change is made in the order that is safe to be interrupted in, and every change to a
//! pod is journalled first. The room decides nothing about policy or routing; it is told which pods to enrol, which
//! addresses are the mesh's and how plaintext is to be met, and it reports what the hooks see.
//!
//! Un-enrolment has three stages, because connections outlive it: [`Steering::withdraw`] takes no new connects,
//! [`Steering::detach`] takes no new SYNs, and [`Steering::restore`], once the pod's last proxied connection is closed,
//! puts back everything that was changed.

mod adopt;
mod direct;
mod enrol;
mod error;
mod events;
mod guard;
mod heartbeat;
mod journal;
mod listeners;
mod object;
mod owner;
mod pins;
mod settings;
mod slots;
mod survey;
mod tables;
mod trial;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, TcpListener},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;
use weft_abi::{ListenerKey, PodEntry};

use self::{
    direct::Direct,
    guard::Guard,
    journal::Journal,
    object::Programs,
    owner::Owner,
    pins::Pins,
    tables::{Modes, Tables},
};
use crate::{
    hold,
    sys::{NetNs, cgroup, link},
};

pub use error::SteerError;
pub use events::{Events, FlowRecords};
pub use guard::Guarded;
pub use journal::Entry;
pub use settings::{EnrolledPod, InboundModes, PodNetwork, SteerConfig, Unclassified};
pub use survey::GuardedPod;
pub use trial::{Tried, trial};

/// The steering of one node, owned by one agent at a time. Dropping it changes nothing in the kernel.
#[derive(Clone)]
pub struct Steering {
    shared: Arc<Shared>,
    /// One enrolment or stage of one at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

struct Shared {
    programs: Programs,
    cgroup: PathBuf,
    proc_sys: PathBuf,
    journal: Journal,
    host: Arc<NetNs>,
    own_cgroup: u64,
    holder: Option<hold::Client>,
    tables: Mutex<Tables>,
    direct: Mutex<Direct>,
    guard: Mutex<Guard>,
    pods: Mutex<BTreeMap<u64, Pod>>,
    /// What the holder kept and no enrolment has asked for yet.
    held: Mutex<BTreeMap<ListenerKey, OwnedFd>>,
    log_level: Mutex<u8>,
    owner: Mutex<Option<Owner>>,
    /// The hooks are told that this agent lives.
    beats: AtomicBool,
    /// It is alive and does not hear of new pods, which is no better than being dead.
    deaf: AtomicBool,
    released: CancellationToken,
}

/// What is known of an enrolled pod, or of one a predecessor enrolled.
struct Pod {
    ns: Arc<NetNs>,
    entry: Entry,
    modes: Modes,
    listeners: Option<Listeners>,
}

struct Listeners {
    outbound: TcpListener,
    inbound: TcpListener,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.released.cancel();
    }
}

impl Steering {
    /// Takes the node's steering over, or sets it up if nobody left any. Inside a tokio runtime, and after logging was
    /// set up, or the hooks' diagnostics go nowhere.
    pub fn open(config: SteerConfig) -> Result<Self, SteerError> {
        std::fs::create_dir_all(&config.state).map_err(SteerError::file("create", &config.state))?;
        let owner = Owner::acquire(&config.state)?;
        let pins = Pins::create(&config.bpffs, &config.instance)?;
        let programs = Programs { pins, destinations: config.destinations };
        let mut ebpf = programs.maps()?;
        let own = SteerError::file("find the cgroup of", "/proc/self");
        let shared = Arc::new(Shared {
            direct: Mutex::new(Direct::new(&mut ebpf, programs.follows()?)?),
            guard: Mutex::new(Guard::new(&programs)?),
            tables: Mutex::new(Tables::new(&mut ebpf)?),
            journal: Journal::open(&config.state)?,
            host: NetNs::current().map_err(SteerError::file("open", "/proc/thread-self/ns/net"))?,
            own_cgroup: cgroup::own_id().map_err(own)?,
            holder: config.holder.as_deref().map(hold::Client::at),
            programs,
            cgroup: config.cgroup,
            proc_sys: config.proc_sys,
            pods: Mutex::default(),
            held: Mutex::default(),
            log_level: Mutex::default(),
            owner: Mutex::new(Some(owner)),
            beats: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            released: CancellationToken::new(),
        });
        events::forward_logs(&mut ebpf, shared.released.clone())?;
        shared.announce(config.unclassified)?;
        shared.adopt()?;
        shared.programs.install_connect(&shared.cgroup, 0)?;
        heartbeat::keep_holder(&shared);
        Ok(Self { shared, turn: Arc::default() })
    }

    /// What a predecessor enrolled and this agent has neither enrolled nor restored yet. Its pods are steered; each is to
    /// be enrolled again, which takes it over without a gap, or to go through the stages of un-enrolment.
    pub fn adopted(&self) -> Vec<Entry> {
        let pods = lock(&self.shared.pods);
        pods.values().filter(|pod| pod.listeners.is_none()).map(|pod| pod.entry.clone()).collect()
    }

    /// Cookies of all pods that are enrolled or in some stage of un-enrolment.
    pub fn cookies(&self) -> BTreeSet<u64> {
        lock(&self.shared.pods).keys().copied().collect()
    }

    /// Says that a namespace is known and not meshed: its connects pass without a report.
    pub fn classify(&self, cookie: u64) -> Result<(), SteerError> {
        let mut tables = self.shared.writable()?;
        if tables.pod(cookie)?.is_none() {
            tables.set_pod(cookie, PodEntry::default())?;
        }
        Ok(())
    }

    /// Says that exactly these namespaces exist beside the enrolled ones, and that everything a predecessor left has been
    /// dealt with: older classifications and the pins of other ABI versions go. From now on pods that nobody has classified
    /// are held, if they are to be: an agent that knows none yet would hold them all, the cluster's DNS among them.
    pub fn settle(&self, known: &BTreeSet<u64>) -> Result<(), SteerError> {
        heartbeat::start(&self.shared)?;
        let mut tables = self.shared.writable()?;
        for (cookie, entry) in tables.pods()? {
            if entry.flags == 0 && cookie != self.shared.host.cookie() && !known.contains(&cookie) {
                tables.remove_pod(cookie)?;
            }
        }
        drop(tables);
        self.shared.programs.pins.remove_other_versions()
    }

    /// Whether the agent hears of new pods. While it does not, it would hold every one of them for as long as that lasts, and so
    /// holds none, as if it were dead. Yields whether that is another answer than before.
    pub fn set_hearing(&self, hears: bool) -> bool {
        self.shared.deaf.swap(!hears, Ordering::Relaxed) == hears
    }

    /// The addresses at which the mesh is: only connects to these are taken. Yields whether the kernel holds all of them; if
    /// not, it takes every connect, and is to be told by this again.
    pub fn set_destinations(&self, destinations: &BTreeSet<IpAddr>) -> Result<bool, SteerError> {
        self.shared.writable()?.set_destinations(destinations)
    }

    /// What has changed of the addresses, once [`Self::set_destinations`] has told all of them. Yields the same.
    pub fn change_destinations(&self, added: Vec<IpAddr>, removed: Vec<IpAddr>) -> Result<bool, SteerError> {
        self.shared.writable()?.change_destinations(added, removed)
    }

    /// How plaintext that arrives at an enrolled pod is met.
    pub fn set_inbound_modes(&self, cookie: u64, modes: &InboundModes) -> Result<(), SteerError> {
        let mut pods = lock(&self.shared.pods);
        let pod = pods.get_mut(&cookie).ok_or(SteerError::UnknownPod { cookie })?;
        let wanted = Modes::from(modes);
        self.shared.writable()?.set_modes(cookie, &pod.modes, &wanted)?;
        pod.modes = wanted;
        Ok(())
    }

    /// The node's own addresses, from which it may connect to ports that are probed.
    pub fn set_node_addresses(&self, addresses: &BTreeSet<IpAddr>) -> Result<(), SteerError> {
        self.shared.writable()?.set_node_addresses(addresses)
    }

    /// Tells when the node's addresses change.
    pub fn address_changes(&self) -> std::io::Result<link::Changes> {
        link::Changes::of_addresses(&self.shared.host)
    }

    /// The node's own addresses.
    pub async fn node_addresses(&self) -> std::io::Result<BTreeSet<IpAddr>> {
        link::own_addresses(&self.shared.host).await
    }

    /// Every verdict's label and how often it was given since the maps were made, by whichever agent's programs.
    pub fn verdicts(&self) -> Result<Vec<(&'static str, u64)>, SteerError> {
        lock(&self.shared.tables).verdicts()
    }

    /// What the hooks report from now on. One reader only.
    pub fn events(&self) -> Result<Events, SteerError> {
        Events::open(&self.shared.programs.pins, self.shared.released.clone())
    }

    /// What becomes of connections between pods of this node that never see the proxy. One reader only.
    pub fn flow_records(&self) -> Result<FlowRecords, SteerError> {
        FlowRecords::open(&self.shared.programs.pins, self.shared.released.clone())
    }

    /// Sets the level of the hooks' own diagnostics, which arrive in the agent's log. The level is a constant of the
    /// programs, so that it costs nothing while it is off; changing it replaces them all, without a gap, and takes some
    /// milliseconds a pod.
    pub fn set_program_log(&self, level: LevelFilter) -> Result<(), SteerError> {
        let number = match level.into_level() {
            None => 0,
            Some(tracing::Level::ERROR) => 1,
            Some(tracing::Level::WARN) => 2,
            Some(tracing::Level::INFO) => 3,
            Some(tracing::Level::DEBUG) => 4,
            Some(_) => 5,
        };
        self.shared.check_owner()?;
        *lock(&self.shared.log_level) = number;
        self.shared.programs.install_connect(&self.shared.cgroup, number)?;
        for pod in lock(&self.shared.pods).values().filter(|pod| pod.listeners.is_some()) {
            self.shared.programs.install_lookup(&pod.ns, pod.entry.identity(), number)?;
        }
        Ok(())
    }

    /// Gives the steering to a successor: from here on nothing is written, and the lock is free. What is enrolled stays
    /// enrolled, and listeners handed out stay open for as long as their holders want.
    pub fn release(&self) {
        self.shared.released.cancel();
        *lock(&self.shared.owner) = None;
    }
}

impl Shared {
    fn check_owner(&self) -> Result<(), SteerError> {
        if self.released.is_cancelled() { Err(SteerError::Released) } else { Ok(()) }
    }

    /// The maps, if they are still ours to write.
    fn writable(&self) -> Result<MutexGuard<'_, Tables>, SteerError> {
        let tables = lock(&self.tables);
        self.check_owner()?;
        Ok(tables)
    }

    /// Tells the hooks who the agent is, that it lives, and what it wants of strangers; drops what dead agents left.
    fn announce(&self, unclassified: Unclassified) -> Result<(), SteerError> {
        let mut tables = self.writable()?;
        for (cgroup, pid) in tables.exempted()? {
            if cgroup != self.own_cgroup && !PathBuf::from(format!("/proc/{pid}")).exists() {
                tables.unexempt(cgroup)?;
            }
        }
        tables.exempt(self.own_cgroup, std::process::id())?;
        tables.set_pod(self.host.cookie(), PodEntry::default())?;
        tables.update_config(|config| {
            config.closed = u32::from(unclassified == Unclassified::Closed);
        })
    }
}

/// A panic elsewhere cannot leave these structures half-changed in a way that matters more than going on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
