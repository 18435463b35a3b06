//! What this room is told and what it hands out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
};

use weft_abi::PortMode;
use weft_core::policy::{PlaintextMode, PlaintextModes};

use crate::sys::NetNs;

/// What steering must know to start.
#[derive(Clone, Debug)]
pub struct SteerConfig {
    /// A mounted BPF file system.
    pub bpffs: PathBuf,
    /// Sets this agent's pins apart from those of another on the same machine.
    pub instance: String,
    /// Processes below this cgroup are seen by the connect hooks.
    pub cgroup: PathBuf,
    /// Directory for the journal and the lock; must survive the agent.
    pub state: PathBuf,
    /// Where sysctls are written: `/proc/sys`, or a mount of it that is not read-only.
    pub proc_sys: PathBuf,
    /// What happens to connects of pods that nobody has classified.
    pub unclassified: Unclassified,
    /// The socket of `weft hold`, if there is one.
    pub holder: Option<PathBuf>,
    /// How many destinations the map holds when it is made: [`weft_abi::capacity::DESTINATIONS`].
    pub destinations: u32,
}

/// What happens to TCP connects from network namespaces that the agent has not classified yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unclassified {
    /// They pass, and are reported.
    #[default]
    Open,
    /// They are refused, and reported, while the agent is alive.
    Closed,
}

/// A pod to enrol.
#[derive(Clone, Debug)]
pub struct PodNetwork {
    /// Names the pod in logs and in the journal.
    pub uid: String,
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Ports its containers declare, which no listener of ours may take.
    pub avoid_ports: Vec<u16>,
    /// How plaintext is met from the first SYN on.
    pub modes: InboundModes,
}

/// A pod that is steered.
#[derive(Debug)]
pub struct EnrolledPod {
    /// Cookie of its network namespace, the name of the pod everywhere in this room.
    pub cookie: u64,
    /// The namespace, to dial from. Drop it when the pod is gone.
    pub netns: Arc<NetNs>,
    /// Accepts the pod's own connects; non-blocking, and a duplicate of what steering and the holder keep.
    pub outbound: TcpListener,
    /// Accepts tunnels and judged plaintext; likewise.
    pub inbound: TcpListener,
}

/// How plaintext that arrives at a pod is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundModes {
    /// Ports not named.
    pub default: PortMode,
    /// Ports with a mode of their own.
    pub ports: BTreeMap<u16, PortMode>,
    /// Ports to which the node itself may connect whatever their mode: kubelet probes them.
    pub probes: BTreeSet<u16>,
}

impl Default for InboundModes {
    /// The agent sees everything.
    fn default() -> Self {
        Self { default: PortMode::Judge, ports: BTreeMap::new(), probes: BTreeSet::new() }
    }
}

impl InboundModes {
    /// What policy says of a pod, of which kubelet probes these ports.
    pub fn new(modes: &PlaintextModes, probes: &[u16]) -> Self {
        let mode = |mode: &PlaintextMode| match mode {
            PlaintextMode::Pass => PortMode::Pass,
            PlaintextMode::Judge => PortMode::Judge,
            PlaintextMode::Refuse => PortMode::Refuse,
        };
        Self {
            default: mode(&modes.default),
            ports: modes.ports.iter().map(|(port, of)| (*port, mode(of))).collect(),
            probes: probes.iter().copied().collect(),
        }
    }
}
