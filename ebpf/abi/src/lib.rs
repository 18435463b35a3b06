//! What the kernel's half and the agent's half of Weft agree on: marks, map names, keys and values, verdicts, events,
//! and the decisions themselves.
//!
//! Both sides compile this crate, so a type cannot differ between them; sizes are asserted and padding is spelled out,
//! because map keys are compared byte by byte. [`decide`] holds the judgements of the hooks as pure functions, tested
//! on the host; the programs only gather facts and carry the verdict out. Nothing here touches a map or a helper.
#![no_std]

#[cfg(test)]
#[macro_use]
extern crate std;

mod address;
pub mod decide;
mod event;
mod guard;
mod maps;
mod mark;
mod port;
mod same_node;
mod verdict;

pub use address::Address;
pub use event::{Event, EventKind};
pub use guard::{Frame, Link, Owners, Station, guard};
pub use maps::{Config, ListenerKey, ListenerRole, PodEntry, PodIdentity, PortKey, PortMode, capacity, map, program};
pub use mark::Marks;
pub use port::Port;
pub use same_node::{
    AdmitSet, Attested, Choice, Flow, FlowEnd, FlowRecord, Frontend, FrontendKey, Slot, Tuple, state, traffic,
};
pub use verdict::{Effect, Refusal, Verdict};

/// Version of everything in this crate that outlives an agent in a pinned map or program. Raise it with any change of
/// layout or meaning: pins of different versions lie side by side and never mix.
pub const ABI_VERSION: u32 = 4;

/// Index of the loopback device, the first device of every network namespace.
pub const LOOPBACK_IFINDEX: u32 = 1;

/// Where pods receive tunnels.
pub const TUNNEL_PORT: u16 = 15008;
