//! The maps. User space pins every one, so that all programs of a node, loaded at different times, share them.

use core::arch::asm;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash},
};
use weft_abi::{
    AdmitSet, Attested, Config, Flow, Frontend, FrontendKey, Link, ListenerKey, PodEntry, PortKey, Tuple, Verdict,
    capacity,
};

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

/// Written by user space only.
#[map]
pub(crate) static NODE_ADDRESSES: HashMap<[u32; 4], u32> =
    HashMap::with_max_entries(capacity::NODE_ADDRESSES, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static VERDICTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Verdict::ALL.len() as u32, 0);

#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENTS, 0);

/// (cookie, kind) -> time. Losing an entry costs one event too many.
#[map]
pub(crate) static EVENT_GATE: LruHashMap<[u64; 2], u64> = LruHashMap::with_max_entries(capacity::EVENT_GATE, 0);

#[map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, Frontend> =
    HashMap::with_max_entries(capacity::FRONTENDS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static ADMITS: HashMap<PortKey, AdmitSet> = HashMap::with_max_entries(capacity::ADMITS, BPF_F_NO_PREALLOC);

/// Not an LRU: whoever filled one would throw out the others' entries, and they would lose their identity.
#[map]
pub(crate) static ATTESTED: HashMap<Tuple, Attested> = HashMap::with_max_entries(capacity::ATTESTED, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static FLOW_COUNTS: HashMap<u64, u64> = HashMap::with_max_entries(capacity::PODS, 0);

/// Goes with its socket, whatever ends it.
#[btf_map]
pub(crate) static FLOWS: SkStorage<Flow> = SkStorage::new();

#[map]
pub(crate) static FLOW_RECORDS: RingBuf = RingBuf::with_byte_size(capacity::FLOW_RECORDS, 0);

/// Losing an entry costs a client one refusal.
#[map]
pub(crate) static HELD: LruHashMap<FrontendKey, u64> = LruHashMap::with_max_entries(capacity::HELD, 0);

#[map]
pub(crate) static GUARDED: HashMap<[u32; 4], u64> = HashMap::with_max_entries(capacity::GUARDED, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static STATIONS: HashMap<u64, u64> = HashMap::with_max_entries(capacity::STATIONS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static LINKS: HashMap<u32, Link> = HashMap::with_max_entries(capacity::LINKS, BPF_F_NO_PREALLOC);

/// Counts an entry of a pod, or its end.
#[inline(always)]
pub(crate) fn count_flow(cookie: u64, change: i64) {
    for key in [cookie, 0] {
        if let Some(count) = FLOW_COUNTS.get_ptr_mut(key) {
            // SAFETY: one atomic addition to an aligned word that lives as long as the program runs. `core` offers none for
            // a target without compare-and-swap.
            unsafe { asm!("lock *(u64 *)({count} + 0) += {change}", count = in(reg) count, change = in(reg) change) };
        }
    }
}

/// Entries of a pod, or of all for cookie 0; nobody counted is as good as full.
#[inline(always)]
pub(crate) fn flows_of(cookie: u64) -> u64 {
    // SAFETY: the value is one word.
    unsafe { FLOW_COUNTS.get(cookie) }.copied().unwrap_or(u64::MAX)
}

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
