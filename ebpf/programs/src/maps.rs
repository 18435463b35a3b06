//! The maps. User space pins every one, so that all programs of a node, loaded at different times, share them.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash},
};
use weft_abi::{Config, ListenerKey, PodEntry, PortKey, Verdict, capacity};

#[map]
pub(crate) static PODS: HashMap<u64, PodEntry> = HashMap::with_max_entries(capacity::PODS, 0);

/// Written by user space only, so entries may be allocated one by one.
#[map]
pub(crate) static DESTINATIONS: HashMap<[u32; 4], u32> =
    HashMap::with_max_entries(capacity::DESTINATIONS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static AGENTS: HashMap<u64, u32> = HashMap::with_max_entries(capacity::AGENTS, 0);

#[map]
pub(crate) static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(capacity::LISTENERS, 0);

#[map]
pub(crate) static INBOUND_MODES: HashMap<PortKey, u32> =
    HashMap::with_max_entries(capacity::INBOUND_MODES, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::ALL.len() as u32, 0);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS, 0);

/// (cookie, kind) -> time. Losing an entry costs one event too many.
#[map]
pub(crate) static EVENT_GATE: LruHashMap<[u64; 2], u64> = LruHashMap::with_max_entries(capacity::EVENT_GATE, 0);

/// Adds one to a verdict's counter of this CPU.
#[inline(always)]
pub(crate) fn count(verdict: Verdict) {
    if let Some(counter) = VERDICTS.get_ptr_mut(verdict as u32) {
        // SAFETY: the slot belongs to this CPU and programs are not preempted by one another on it; a lost increment
        // under nesting would only make a counter one short.
        unsafe { *counter += 1 };
    }
}

/// What the agent said of itself last; before it said anything, nothing is held and nothing captured.
#[inline(always)]
pub(crate) fn config() -> Config {
    CONFIG.get(0).copied().unwrap_or_default()
}
