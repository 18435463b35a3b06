//! Counts: what clients asked for and what it cost them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Counts since the server started, or since they were last reset.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// Requests by verb and resource (`list pods`), answered or not.
    pub requests: BTreeMap<String, u64>,
    /// Bytes of answers' bodies by verb and resource, watches included.
    pub bytes: BTreeMap<String, u64>,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Every watch, by the order in which they began.
    pub watches: BTreeMap<u64, Watch>,
}

/// One watch.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Watch {
    /// `pods`, `leases.coordination.k8s.io`.
    pub resource: String,
    /// The client's `User-Agent`.
    pub agent: String,
    /// Events sent, bookmarks included.
    pub events: u64,
    /// Bytes sent.
    pub bytes: u64,
    /// Whether it still runs.
    pub open: bool,
}

impl Counts {
    /// All requests of a verb for a resource.
    pub fn requests(&self, verb: &str, resource: &str) -> u64 {
        self.requests.get(&format!("{verb} {resource}")).copied().unwrap_or_default()
    }
}

#[derive(Default)]
pub(crate) struct Counters {
    counts: Mutex<Counts>,
    next_watch: std::sync::atomic::AtomicU64,
}

impl Counters {
    pub(crate) fn snapshot(&self) -> Counts {
        self.with(|counts| counts.clone())
    }

    /// Starts anew; watches that are open go on being counted from 0.
    pub(crate) fn reset(&self) {
        self.with(|counts| {
            let open = std::mem::take(counts).watches.into_iter().filter(|(_, watch)| watch.open);
            counts.watches = open.map(|(id, watch)| (id, Watch { events: 0, bytes: 0, ..watch })).collect();
        });
    }

    pub(crate) fn request(&self, verb: &str, resource: &str) {
        self.with(|counts| *counts.requests.entry(format!("{verb} {resource}")).or_default() += 1);
    }

    pub(crate) fn answer(&self, verb: &str, resource: &str, status: u16, bytes: u64) {
        self.with(|counts| {
            *counts.bytes.entry(format!("{verb} {resource}")).or_default() += bytes;
            *counts.statuses.entry(status).or_default() += 1;
        });
    }

    /// A watch begins; its number is for [`Counters::sent`] and [`Counters::ended`].
    pub(crate) fn began(&self, resource: &str, agent: &str) -> u64 {
        let id = self.next_watch.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let watch = Watch { resource: resource.into(), agent: agent.into(), open: true, ..Watch::default() };
        self.with(|counts| counts.watches.insert(id, watch));
        id
    }

    pub(crate) fn sent(&self, id: u64, events: u64, bytes: u64) {
        self.with(|counts| {
            let Some(watch) = counts.watches.get_mut(&id) else { return };
            watch.events += events;
            watch.bytes += bytes;
            let resource = watch.resource.clone();
            *counts.bytes.entry(format!("watch {resource}")).or_default() += bytes;
        });
    }

    pub(crate) fn ended(&self, id: u64) {
        self.with(|counts| {
            if let Some(watch) = counts.watches.get_mut(&id) {
                watch.open = false;
            }
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Counts) -> T) -> T {
        act(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
