//! WorkloadSlices: what agents need to know of every pod, published by the replica that holds the Lease.
//!
//! Agents watch the Pods of their own node only, so that a change of a Pod costs the API server one event and, here, one
//! write of the slice it is in, however many nodes there are. What has changed within [`GATHER`] of the first change is
//! written together; more than [`BURST`] writes at once, or [`RATE`] a second, are not made: changes wait, and further ones
//! to the same slice cost no more.
//!
//! Whoever takes over the Lease goes on with the slices as they are. That something was withdrawn is written like any
//! other change: the pod's node serves it until it has read that it is.

mod book;
mod metrics;
mod pods;
mod publish;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use weft_control::kubernetes::{Facts, Interest, Item, News, Observed, observe};
use weft_control::resource::Kind;

use crate::lease::Term;
use crate::parts::Common;
use book::{Book, Stored};
use metrics::Metrics;
use pods::{Change, Pods};
use publish::{Outcome, Publisher};

/// The pods of a slice: as many as the endpoints of an EndpointSlice. A change costs each agent a whole slice, and a slice
/// more costs the API server an object.
pub(crate) const FILL: usize = 100;
/// How long changes are gathered before the first is written.
const GATHER: Duration = Duration::from_millis(100);
/// Writes a second, once [`BURST`] is used up.
const RATE: u32 = 20;
/// Writes that may be made at once.
const BURST: u32 = 100;
/// Pauses after a write that failed: the first, doubling up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// News taken at once.
const BATCH: usize = 1024;
/// How often addresses that several pods have are looked for. One that is reused is contested for a moment.
const LOOK: Duration = Duration::from_secs(5);

const _: () = assert!(FILL <= weft_control::crd::PODS_MAX);

/// Publishes slices until told to stop, whenever `term` says that this replica is the one that does.
pub(crate) async fn run(common: Common, mut term: watch::Receiver<Term>) -> Result<(), String> {
    let metrics = Metrics::new(&common.telemetry);
    let publisher = Publisher::new(common.client.clone(), &common.settings.namespace);
    while !common.shutdown.is_cancelled() {
        let namespace = Some(Arc::from(common.settings.namespace.as_str()));
        let slices = Interest { namespace, ..Kind::WorkloadSlice.into() };
        let observed = observe(&common.client, [Kind::Pod.into(), slices]);
        let room = Room::new(publisher.clone(), metrics.clone());
        common.shutdown.run_until_cancelled(room.serve(&common, observed, &mut term)).await;
    }
    Ok(())
}

/// One stretch of following the cluster: until the Lease is lost.
struct Room {
    publisher: Publisher,
    metrics: Metrics,
    pods: Pods,
    /// Slices as they are, while another replica writes them.
    stored: BTreeMap<Arc<str>, Stored>,
    /// Which of the two kinds has been read: Pods, slices.
    read: (bool, bool),
    /// What this replica writes by, while it does.
    book: Option<Book>,
    /// When the next write is due, if something has to be written.
    due: Option<Instant>,
    budget: Budget,
    failures: u32,
    contested: BTreeMap<std::net::IpAddr, bool>,
}

impl Room {
    fn new(publisher: Publisher, metrics: Metrics) -> Self {
        Self {
            publisher,
            metrics,
            pods: Pods::default(),
            stored: BTreeMap::new(),
            read: (false, false),
            book: None,
            due: None,
            budget: Budget::full(Instant::now()),
            failures: 0,
            contested: BTreeMap::new(),
        }
    }

    /// Follows the cluster, and publishes; returns when the Lease is lost, to begin anew as one that looks on.
    async fn serve(mut self, common: &Common, observed: Observed, term: &mut watch::Receiver<Term>) {
        let Observed { mut news, stop: _watches, .. } = observed;
        let mut heard = Vec::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            let now = *term.borrow_and_update();
            if self.book.is_some() && !now.holds() {
                return;
            }
            if self.read == (true, true) {
                common.telemetry.readiness.set("slices", true);
                if now.holds() && self.book.is_none() {
                    self.take_over();
                }
            }
            tokio::select! {
                count = news.recv_many(&mut heard, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    heard.drain(..).for_each(|(kind, news)| self.hear(kind, news));
                    self.measure();
                }
                changed = term.changed() => if changed.is_err() { return },
                () = until(self.due) => self.write(now).await,
                _ = look.tick() => self.look().await,
            }
        }
    }

    /// From here on this replica writes, beginning with what its predecessor left.
    fn take_over(&mut self) {
        let stored = std::mem::take(&mut self.stored);
        let book = Book::recover(FILL, &stored, self.pods.all());
        let (slices, waiting) = book.count();
        tracing::info!(slices, waiting, pods = self.pods.count(), "publishing WorkloadSlices from here on");
        self.book = Some(book);
        self.due = Some(Instant::now());
    }

    fn hear(&mut self, kind: Kind, news: News) {
        match kind {
            Kind::Pod => self.hear_of_pods(news),
            _ => self.hear_of_slices(news),
        }
        if self.due.is_none() && self.book.as_ref().is_some_and(|book| book.count().1 > 0) {
            self.due = Some(Instant::now() + GATHER);
        }
    }

    fn hear_of_pods(&mut self, news: News) {
        let mut changes = Vec::new();
        match news {
            News::Listed(names) => {
                self.pods.keep_only(&names, &mut changes);
                self.read.0 = true;
            }
            News::Found(item) | News::Put(item) => self.pods.put(&item, &mut changes),
            News::Deleted(object) => self.pods.remove(&object, &mut changes),
            News::Absent => {}
        }
        let Some(book) = &mut self.book else { return };
        // Room first, so that what comes takes the place of what goes.
        let (puts, removals): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| matches!(change, Change::Put(_)));
        for change in removals.into_iter().chain(puts) {
            match change {
                Change::Put(pod) => book.put(pod),
                Change::Remove(uid) => book.remove(&uid),
            }
        }
    }

    fn hear_of_slices(&mut self, news: News) {
        match news {
            News::Listed(names) => {
                let listed: BTreeSet<&str> = names.iter().map(|(_, name)| name).collect();
                if let Some(book) = &mut self.book {
                    let known: Vec<Arc<str>> = book.names().collect();
                    known.iter().filter(|name| !listed.contains(&***name)).for_each(|name| book.vanished(name));
                } else {
                    self.stored.retain(|name, _| listed.contains(&**name));
                }
                self.read.1 = true;
            }
            News::Found(item) | News::Put(item) => {
                let Some((name, slice)) = stored(*item) else { return };
                match &mut self.book {
                    Some(book) => book.observe(&name, &slice),
                    None => _ = self.stored.insert(name, slice),
                }
            }
            News::Deleted(object) => match &mut self.book {
                Some(book) => book.vanished(&object.name),
                None => _ = self.stored.remove(object.name.as_str()),
            },
            // Nothing can be published before the kind is installed; nothing has been.
            News::Absent => {
                tracing::warn!("the cluster has no kind WorkloadSlice: install what weft crds prints");
                self.read.1 = false;
            }
        }
    }

    /// Writes what is due, as far as the budget goes.
    async fn write(&mut self, term: Term) {
        self.due = None;
        while let Some(book) = &mut self.book {
            if !term.may_write() {
                // Until the Lease is renewed, or lost.
                self.due = Some(Instant::now() + PAUSE.0);
                return;
            }
            if let Err(wait) = self.budget.take(Instant::now()) {
                self.due = Some(Instant::now() + wait);
                return;
            }
            let Some(write) = book.next() else {
                self.budget.give_back();
                break;
            };
            let outcome = self.publisher.write(&write).await;
            self.metrics.wrote(&write, &outcome);
            match outcome {
                Outcome::Stored(stored) | Outcome::Overtaken(stored) => book.observe(write.name(), &stored),
                Outcome::Gone => book.vanished(write.name()),
                Outcome::Failed(reason) => {
                    if self.failures == 0 {
                        tracing::warn!(slice = %write.name(), reason, "cannot be written; trying again");
                    }
                    book.again(write.name());
                    let pause = PAUSE.0.saturating_mul(1 << self.failures.min(10)).min(PAUSE.1);
                    self.failures += 1;
                    self.due = Some(Instant::now() + pause);
                    break;
                }
            }
            self.failures = 0;
        }
        self.measure();
    }

    fn measure(&self) {
        let (slices, waiting) = self.book.as_ref().map_or((self.stored.len(), 0), Book::count);
        self.metrics.stands(self.pods.count(), slices, waiting);
    }

    /// Reports addresses that several pods have had for a while.
    async fn look(&mut self) {
        let contested = self.pods.contested();
        self.metrics.contested(contested.len());
        let before = std::mem::take(&mut self.contested);
        for (ip, pods) in contested {
            let reported = match before.get(&ip) {
                Some(false) if self.book.is_some() => {
                    self.publisher.report_contested(ip, &pods).await;
                    true
                }
                Some(reported) => *reported,
                None => false,
            };
            self.contested.insert(ip, reported);
        }
    }
}

/// How many writes may be made: [`BURST`], and [`RATE`] a second.
#[derive(Debug)]
struct Budget {
    /// When it would be full.
    full: Instant,
}

impl Budget {
    const EACH: Duration = Duration::from_millis(1000 / RATE as u64);

    fn full(now: Instant) -> Self {
        Self { full: now }
    }

    /// Takes a write, or says how long there is none.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full = self.full.max(now) + Self::EACH;
        match full.checked_duration_since(now + Self::EACH * BURST) {
            Some(over) if !over.is_zero() => Err(over),
            _ => {
                self.full = full;
                Ok(())
            }
        }
    }

    /// The write that was taken was not needed.
    fn give_back(&mut self) {
        self.full -= Self::EACH;
    }
}

fn stored(item: Item) -> Option<(Arc<str>, Stored)> {
    match item.facts {
        Facts::Slice(slice) => {
            Some((item.object.name.into(), Stored { revision: slice.revision, workloads: slice.workloads }))
        }
        _ => None,
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
