//! Events for user space: at most one of a kind per pod in a while, dropped when the ring is full.

use aya_ebpf::{
    bindings::BPF_ANY,
    helpers::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_ktime_get_ns},
};
use weft_abi::{Address, Event, EventKind, Port};

use crate::maps::{EVENT_GATE, EVENTS};

/// What a hook knows of the connection it reports.
pub(crate) struct Subject<'a> {
    pub(crate) cookie: u64,
    pub(crate) destination: &'a Address,
    pub(crate) port: Port,
}

/// From a connect: the current task is the caller.
#[inline(always)]
pub(crate) fn caller(kind: EventKind, subject: &Subject<'_>) {
    // SAFETY: both helpers only read the current task.
    let (cgroup, pid_tgid) = unsafe { (bpf_get_current_cgroup_id(), bpf_get_current_pid_tgid()) };
    send(kind, subject, cgroup, pid_tgid);
}

/// From a SYN: the current task is whoever was running when the packet came.
#[inline(always)]
pub(crate) fn packet(kind: EventKind, subject: &Subject<'_>) {
    send(kind, subject, 0, 0);
}

#[inline(always)]
fn send(kind: EventKind, subject: &Subject<'_>, cgroup: u64, pid_tgid: u64) {
    let key = [subject.cookie, kind as u64];
    // SAFETY: reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the value is one word; a concurrent write is seen before or after, never in between.
    let last = unsafe { EVENT_GATE.get(key) };
    if last.is_some_and(|last| now.wrapping_sub(*last) < Event::INTERVAL_NS) {
        return;
    }
    let _ = EVENT_GATE.insert(key, now, u64::from(BPF_ANY));
    if let Some(mut entry) = EVENTS.reserve::<Event>(0) {
        entry.write(Event {
            kind: kind as u32,
            port: u32::from(subject.port.number()),
            cookie: subject.cookie,
            cgroup,
            pid_tgid,
            destination: *subject.destination,
        });
        entry.submit(0);
    }
}
