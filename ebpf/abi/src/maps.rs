//! The maps: their names, keys, values and sizes.

use crate::{Address, LOOPBACK_IFINDEX};

/// Names of the programs in the object.
pub mod program {
    /// `cgroup/connect4`.
    pub const CONNECT4: &str = "weft_connect4";
    /// `cgroup/connect6`.
    pub const CONNECT6: &str = "weft_connect6";
    /// `cgroup/getpeername4`.
    pub const PEERNAME4: &str = "weft_peername4";
    /// `cgroup/getpeername6`.
    pub const PEERNAME6: &str = "weft_peername6";
    /// `sockops`.
    pub const FLOW: &str = "weft_flow";
    /// `classifier`, on the node's end of every pod's link.
    pub const GUARD: &str = "weft_guard";
    /// `sk_lookup`, loaded once per pod.
    pub const LOOKUP: &str = "weft_lookup";
    /// The constant each instance of [`LOOKUP`] carries: a [`super::PodIdentity`].
    pub const POD: &str = "WEFT_POD";
}

/// Names of the maps; each is pinned under its own.
pub mod map {
    /// netns cookie -> [`super::PodEntry`].
    pub const PODS: &str = "PODS";
    /// Destination [`super::Address`] -> `u32`, whose value means nothing yet.
    pub const DESTINATIONS: &str = "DESTINATIONS";
    /// One [`super::Config`].
    pub const CONFIG: &str = "CONFIG";
    /// cgroup id -> process id of the agent that lives there.
    pub const AGENTS: &str = "AGENTS";
    /// [`super::ListenerKey`] -> listening socket.
    pub const LISTENERS: &str = "LISTENERS";
    /// [`super::PortKey`] -> [`super::PortMode::word`].
    pub const INBOUND_MODES: &str = "INBOUND_MODES";
    /// [`super::Address`] of the node itself -> `u32`, whose value means nothing yet.
    pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
    /// [`crate::Verdict`] -> count, per CPU.
    pub const VERDICTS: &str = "VERDICTS";
    /// Ring of [`crate::Event`].
    pub const EVENTS: &str = "EVENTS";
    /// When an event of a kind was last reported for a pod; keeps the ring from being flooded.
    pub const EVENT_GATE: &str = "EVENT_GATE";
    /// [`crate::FrontendKey`] -> [`crate::Frontend`].
    pub const FRONTENDS: &str = "FRONTENDS";
    /// [`super::PortKey`] of a destination, port 0 for all others -> [`crate::AdmitSet`].
    pub const ADMITS: &str = "ADMITS";
    /// [`crate::Tuple`] -> [`crate::Attested`].
    pub const ATTESTED: &str = "ATTESTED";
    /// netns cookie -> entries it has in [`ATTESTED`]; cookie 0 counts all of them.
    pub const FLOW_COUNTS: &str = "FLOW_COUNTS";
    /// Socket -> [`crate::Flow`].
    pub const FLOWS: &str = "FLOWS";
    /// Ring of [`crate::FlowRecord`].
    pub const FLOW_RECORDS: &str = "FLOW_RECORDS";
    /// An endpoint that refused -> CLOCK_MONOTONIC until when nobody is sent there directly.
    pub const HELD: &str = "HELD";
    /// [`crate::Address`] of an enrolled pod of this node, or of a bridge that such pods share -> netns cookie of whose it is.
    pub const GUARDED: &str = "GUARDED";
    /// [`crate::Station`] of an enrolled pod on a bridge -> its netns cookie.
    pub const STATIONS: &str = "STATIONS";
    /// Index of the node's end of a link -> [`crate::Link`].
    pub const LINKS: &str = "LINKS";
    /// aya-log's ring.
    pub const LOGS: &str = "AYA_LOGS";

    /// All of them: what programs loaded at different times must share.
    pub const SHARED: &[&str] = &[
        PODS,
        DESTINATIONS,
        CONFIG,
        AGENTS,
        LISTENERS,
        INBOUND_MODES,
        NODE_ADDRESSES,
        VERDICTS,
        EVENTS,
        EVENT_GATE,
        FRONTENDS,
        ADMITS,
        ATTESTED,
        FLOW_COUNTS,
        FLOWS,
        FLOW_RECORDS,
        HELD,
        GUARDED,
        STATIONS,
        LINKS,
        LOGS,
    ];
}

/// How much each map holds. A kubelet runs at most a few hundred pods; the slack is for their comings and goings.
pub mod capacity {
    /// Network namespaces of this node.
    pub const PODS: u32 = 8_192;
    /// Service and pod addresses of the whole mesh; memory is taken per entry, not up front.
    pub const DESTINATIONS: u32 = 262_144;
    /// Agents alive at once: two during a hand-over, and what crashes left.
    pub const AGENTS: u32 = 64;
    /// Two listeners a pod.
    pub const LISTENERS: u32 = 16_384;
    /// Ports with a mode of their own.
    pub const INBOUND_MODES: u32 = 131_072;
    /// The node's own: a few, or one for each pod's link.
    pub const NODE_ADDRESSES: u32 = 4_096;
    /// Bytes.
    pub const EVENTS: u32 = 256 * 1024;
    /// Pods and kinds of event remembered.
    pub const EVENT_GATE: u32 = 4_096;
    /// Service ports with an endpoint on this node, and pods of it.
    pub const FRONTENDS: u32 = 16_384;
    /// Ports of this node's pods that a policy names, and one default a pod.
    pub const ADMITS: u32 = 16_384;
    /// Connections between pods of this node that never saw the proxy. Memory is taken per entry.
    pub const ATTESTED: u32 = 131_072;
    /// Of them, those of one pod: one pod cannot keep another from having any.
    pub const ATTESTED_PER_POD: u64 = 8_192;
    /// Of them, those that may be open before others are sent through the proxy: connects on other CPUs may be between
    /// the check and the entry.
    pub const ATTESTED_IN_ALL: u64 = 131_072 - 1_024;
    /// Bytes.
    pub const FLOW_RECORDS: u32 = 1024 * 1024;
    /// Endpoints that refused lately.
    pub const HELD: u32 = 4_096;
    /// Two addresses a pod.
    pub const GUARDED: u32 = 16_384;
    /// One a link.
    pub const STATIONS: u32 = 16_384;
    /// Links of pods, and of strangers on the same bridges.
    pub const LINKS: u32 = 16_384;
}

/// What the hooks know of a network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodEntry {
    /// Of [`PodEntry::ENROLLED`] and [`PodEntry::LEAVING`]; neither is a pod that is known and not meshed.
    pub flags: u32,
    /// With [`PodEntry::DIRECT`]: the pod's place in every [`crate::AdmitSet`].
    pub slot: u32,
    /// The pod's addresses, [`Address::UNSPECIFIED`] where it has none: a pod has at most one of each family.
    pub own: [Address; 2],
}

impl PodEntry {
    /// The mesh takes the pod's connects.
    pub const ENROLLED: u32 = 1;
    /// The mesh took them once and sockets may still carry its mark.
    pub const LEAVING: u32 = 2;
    /// Beside [`PodEntry::ENROLLED`]: its connects may go to pods of this node directly.
    pub const DIRECT: u32 = 4;

    /// Whether connects of the pod may go to pods of this node directly, and are believed to be the pod's there.
    #[inline(always)]
    pub const fn is_direct(&self) -> bool {
        self.flags & (Self::ENROLLED | Self::DIRECT) == Self::ENROLLED | Self::DIRECT
    }

    /// Whether the address is the pod's.
    #[inline(always)]
    pub const fn owns(&self, address: &Address) -> bool {
        self.own[0].is(address) || self.own[1].is(address)
    }
}

/// Which pod an instance of the lookup program serves. A constant of the program: a pod that forges addresses cannot
/// reach another pod's listener through it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PodIdentity {
    /// The cookie of the pod's network namespace; pod addresses are reused, cookies are not.
    pub cookie: u64,
    /// As in [`PodEntry::own`].
    pub own: [Address; 2],
}

/// What user space tells the hooks of itself.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// CLOCK_MONOTONIC, in nanoseconds, when the agent was last known to be alive.
    pub heartbeat: u64,
    /// Not 0: refuse the TCP connects of pods that nobody has classified.
    pub closed: u32,
    /// Not 0: take every destination; the map of destinations could not hold them all.
    pub capture_all: u32,
    /// Not 0: connections between pods of this node may go directly, for no pod of it can forge another's address.
    pub same_node: u32,
    /// None.
    pub padding: u32,
}

impl Config {
    /// An agent silent for longer than this holds nobody back.
    pub const HEARTBEAT_FRESH_NS: u64 = 3_000_000_000;

    /// Whether unclassified pods are to wait at this moment.
    #[inline(always)]
    pub const fn holds_unclassified(&self, now: u64) -> bool {
        self.closed != 0 && now.wrapping_sub(self.heartbeat) < Self::HEARTBEAT_FRESH_NS
    }
}

/// Whose listener: of which pod, for what.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerKey {
    /// netns cookie.
    pub cookie: u64,
    /// A [`ListenerRole`].
    pub role: u64,
}

/// What a listener of the agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u64)]
pub enum ListenerRole {
    /// The pod's own connects that the mesh took.
    Outbound = 1,
    /// Tunnels to the pod, and plaintext that has to be judged.
    Inbound = 2,
}

impl ListenerRole {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Outbound, Self::Inbound];

    /// From its number.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match raw {
            1 => Some(Self::Outbound),
            2 => Some(Self::Inbound),
            _ => None,
        }
    }
}

/// A port of a pod; port 0 is the pod's default.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// netns cookie.
    pub cookie: u64,
    /// In host order.
    pub port: u64,
}

/// What happens to plaintext that arrives at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum PortMode {
    /// The agent accepts it and asks policy; also what a missing or unknown entry means.
    Judge = 0,
    /// It goes to the application untouched.
    Pass = 1,
    /// It is reset.
    Refuse = 2,
}

impl PortMode {
    /// Beside the mode in a port's word: kubelet probes the port, so the node itself may connect to it whatever the mode.
    const PROBED: u32 = 0x100;

    /// The mode in a port's word; what is unknown is judged.
    #[inline(always)]
    pub const fn from_word(word: u32) -> Self {
        match word & !Self::PROBED {
            1 => Self::Pass,
            2 => Self::Refuse,
            _ => Self::Judge,
        }
    }

    /// What is written of a port with this mode.
    pub const fn word(self, probed: bool) -> u32 {
        if probed { self as u32 | Self::PROBED } else { self as u32 }
    }

    /// Whether a port's word says that kubelet probes it.
    #[inline(always)]
    pub const fn is_probed(word: u32) -> bool {
        word & Self::PROBED != 0
    }
}

const _: () = {
    assert!(size_of::<PodEntry>() == 2 * 4 + 2 * 16);
    assert!(size_of::<PodIdentity>() == 8 + 2 * 16);
    assert!(size_of::<Config>() == 8 + 4 * 4);
    assert!(size_of::<ListenerKey>() == 16);
    assert!(size_of::<PortKey>() == 16);
    assert!(LOOPBACK_IFINDEX == 1);
};

#[cfg(feature = "user")]
#[allow(unsafe_code, reason = "aya asks for the promise that a type is plain bytes")]
mod pod {
    // SAFETY: all are `repr(C)`, made of integers only, and the assertions above show that none has padding.
    unsafe impl aya::Pod for super::PodEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PodIdentity {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Config {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ListenerKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::PortKey {}
    // SAFETY: as above, asserted where they are declared.
    unsafe impl aya::Pod for crate::FrontendKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Frontend {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::AdmitSet {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Tuple {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Attested {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Link {}
    // SAFETY: four integers, `repr(C)`.
    unsafe impl aya::Pod for crate::Address {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn unclassified_pods_wait_only_for_a_living_agent(heartbeat: u32, age in 0..10_000_000_000_u64) {
            let now = u64::from(heartbeat) + age;
            let config = Config { heartbeat: u64::from(heartbeat), closed: 1, ..Config::default() };
            prop_assert_eq!(config.holds_unclassified(now), age < Config::HEARTBEAT_FRESH_NS);
            let open = Config { closed: 0, ..config };
            prop_assert!(!open.holds_unclassified(now));
        }
    }

    #[test]
    fn a_ports_word_says_its_mode_and_whether_it_is_probed() {
        for mode in [PortMode::Judge, PortMode::Pass, PortMode::Refuse] {
            for probed in [true, false] {
                let word = mode.word(probed);
                assert_eq!((PortMode::from_word(word), PortMode::is_probed(word)), (mode, probed));
            }
        }
    }

    #[test]
    fn a_configuration_nobody_wrote_holds_nobody() {
        assert!(!Config::default().holds_unclassified(u64::MAX / 2));
    }
}
