//! The book against a server that keeps revisions, with replicas that take over from each other at any moment.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weft_control::crd::SlicePod;

use super::*;

const FILL: usize = 4;

fn pod(name: u8, uid: u32, live: bool) -> Arc<SliceWorkload> {
    let pod = SlicePod {
        namespace: "demo".into(),
        name: format!("p{name}"),
        service_account: "app".into(),
        node: "n".into(),
        ips: vec![format!("10.0.0.{name}")],
        workload: None,
        weight: None,
        host_network: false,
    };
    Arc::new(SliceWorkload { uid: format!("u{uid:04}"), live, pod: Some(pod) })
}

/// An API server that keeps slices.
#[derive(Default)]
struct Server {
    slices: BTreeMap<Arc<str>, Stored>,
    revision: u64,
    writes: usize,
    deletions: usize,
}

impl Server {
    /// Makes a write, and tells its writer what became of it.
    fn make(&mut self, write: &Write, book: &mut Book) {
        let name = write.name();
        let expected = match write {
            Write::Create { .. } => None,
            Write::Update { revision, .. } | Write::Delete { revision, .. } => Some(revision),
        };
        let present = self.slices.get(name).map(|slice| &slice.revision);
        if present != expected {
            match self.slices.get(name) {
                Some(slice) => book.observe(name, slice),
                None => book.vanished(name),
            }
            return;
        }
        self.revision += 1;
        match write {
            Write::Delete { .. } => {
                assert!(self.slices[name].workloads.is_empty(), "a slice goes only when it has been written empty");
                self.deletions += 1;
                self.slices.remove(name);
                book.vanished(name);
            }
            Write::Create { workloads, .. } | Write::Update { workloads, .. } => {
                self.writes += 1;
                let workloads = workloads.iter().map(|w| SliceWorkload::clone(w)).collect();
                let stored = Stored { revision: self.revision.to_string(), workloads };
                self.slices.insert(name.clone(), stored.clone());
                book.observe(name, &stored);
            }
        }
    }

    fn drain(&mut self, book: &mut Book) {
        while let Some(write) = book.next() {
            self.make(&write, book);
        }
    }

    fn pods(&self) -> Vec<SliceWorkload> {
        let mut pods: Vec<_> = self.slices.values().flat_map(|slice| slice.workloads.clone()).collect();
        pods.sort_by(|a, b| a.uid.cmp(&b.uid));
        pods
    }

    fn place(&self) -> HashMap<String, Arc<str>> {
        let placed = |(name, slice): (&Arc<str>, &Stored)| {
            slice.workloads.iter().map(|w| (w.uid.clone(), name.clone())).collect::<Vec<_>>()
        };
        self.slices.iter().flat_map(placed).collect()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Come(u8, bool),
    Flip(u8),
    Go(u8),
    /// So many writes are made.
    Write(u8),
    /// The other replica takes over; it has seen all, or nothing since it last wrote.
    TakeOver(bool),
    /// A person deletes a slice.
    Meddle(u8),
    /// The watch tells once more how a slice was at some time.
    Echo(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40_u8, any::<bool>()).prop_map(|(name, live)| Step::Come(name, live)),
        3 => (0..40_u8).prop_map(Step::Flip),
        4 => (0..40_u8).prop_map(Step::Go),
        3 => (0..4_u8).prop_map(Step::Write),
        1 => any::<bool>().prop_map(Step::TakeOver),
        1 => (0..10_u8).prop_map(Step::Meddle),
        1 => (0..10_u8).prop_map(Step::Echo),
    ]
}

proptest! {
    /// Whatever happens on the way: when it is quiet the slices hold every pod once, none is over-full, one is always
    /// there, and nothing is left to write.
    #[test]
    fn slices_come_to_hold_every_pod_once(steps in prop::collection::vec(step(), 0..120)) {
        let mut server = Server::default();
        let mut pods: BTreeMap<u8, Arc<SliceWorkload>> = BTreeMap::new();
        let mut book = Book::recover(FILL, &BTreeMap::new(), []);
        let mut past: Vec<(Arc<str>, Stored)> = Vec::new();
        let mut old = BTreeMap::new();
        for (uid, step) in steps.into_iter().enumerate() {
            match step {
                Step::Come(name, live) => {
                    let next = pod(name, u32::try_from(uid).unwrap(), live);
                    if let Some(before) = pods.insert(name, next.clone()) {
                        book.remove(&before.uid);
                    }
                    book.put(next);
                }
                Step::Flip(name) => if let Some(there) = pods.get_mut(&name) {
                    let next = Arc::new(SliceWorkload { live: !there.live, ..SliceWorkload::clone(there) });
                    *there = next.clone();
                    book.put(next);
                },
                Step::Go(name) => if let Some(before) = pods.remove(&name) {
                    book.remove(&before.uid);
                },
                Step::Write(count) => for _ in 0..count {
                    if let Some(write) = book.next() {
                        server.make(&write, &mut book);
                        past.extend(server.slices.iter().map(|(name, slice)| (name.clone(), slice.clone())));
                    }
                },
                Step::TakeOver(current) => {
                    if current {
                        old = server.slices.clone();
                    }
                    book = Book::recover(FILL, &old, pods.values().cloned());
                }
                Step::Meddle(number) => {
                    let name = format!("{PREFIX}{number}");
                    if server.slices.remove(name.as_str()).is_some() {
                        book.vanished(&name);
                    }
                }
                Step::Echo(index) => if let Some((name, slice)) = past.get(usize::from(index)).filter(|(name, _)| server.slices.contains_key(name)) {
                    book.observe(name, slice);
                },
            }
        }
        server.drain(&mut book);
        // A replica that has missed slices, or that they are gone, learns of it by its watch.
        for (name, slice) in server.slices.clone() {
            book.observe(&name, &slice);
        }
        let gone: Vec<_> = book.names().filter(|name| !server.slices.contains_key(name)).collect();
        gone.iter().for_each(|name| book.vanished(name));
        server.drain(&mut book);
        let mut there: Vec<_> = pods.values().map(|pod| SliceWorkload::clone(pod)).collect();
        there.sort_by(|a, b| a.uid.cmp(&b.uid));
        prop_assert_eq!(server.pods(), there);
        prop_assert!(server.slices.values().all(|slice| slice.workloads.len() <= FILL));
        prop_assert!(!server.slices.is_empty());
        prop_assert_eq!(book.next(), None);
        prop_assert_eq!(book.count().1, 0);
    }

    /// A pod stays where it is; a round of changes costs at most a write each, and one more and a deletion for each slice
    /// that dies.
    #[test]
    fn pods_stay_in_their_slices_and_writes_are_few(
        first in prop::collection::btree_set(0..40_u8, 1..40),
        changed in prop::collection::vec((0..40_u8, any::<bool>()), 0..20),
    ) {
        let mut server = Server::default();
        let mut pods: BTreeMap<u8, Arc<SliceWorkload>> =
            first.iter().map(|name| (*name, pod(*name, u32::from(*name), false))).collect();
        let mut book = Book::recover(FILL, &BTreeMap::new(), pods.values().cloned());
        server.drain(&mut book);
        prop_assert_eq!(server.slices.len(), first.len().div_ceil(FILL), "no more slices than are needed");
        let (place, writes, slices) = (server.place(), server.writes, server.slices.len());
        let mut changes = 0;
        for (name, goes) in changed {
            changes += 1;
            match pods.remove(&name) {
                Some(before) if goes => book.remove(&before.uid),
                Some(before) => {
                    let next = Arc::new(SliceWorkload { live: !before.live, ..SliceWorkload::clone(&before) });
                    pods.insert(name, next.clone());
                    book.put(next);
                }
                None => {
                    let next = pod(name, u32::from(name), true);
                    pods.insert(name, next.clone());
                    book.put(next);
                }
            }
        }
        server.drain(&mut book);
        prop_assert!(server.writes - writes <= changes, "{} writes for {changes} changes", server.writes - writes);
        prop_assert!(server.deletions <= slices);
        let now = server.place();
        let kept: BTreeSet<String> = pods.values().map(|pod| pod.uid.clone()).collect();
        // Those that went and came again may be anywhere.
        let moved = place.iter().filter(|(uid, name)| kept.contains(*uid) && now.get(*uid) != Some(name)).count();
        prop_assert!(moved <= changes / 2, "{moved} pods moved");
        // The same again costs nothing.
        let (before, pods) = (server.writes, pods.values().cloned().collect::<Vec<_>>());
        let mut successor = Book::recover(FILL, &server.slices, pods);
        server.drain(&mut successor);
        prop_assert_eq!(server.writes, before, "who takes over finds nothing to write");
    }
}

#[test]
fn a_slice_that_was_deleted_with_pods_in_it_comes_back_as_it_was() {
    let mut server = Server::default();
    let mut book = Book::recover(FILL, &BTreeMap::new(), (0..6).map(|name| pod(name, name.into(), true)));
    server.drain(&mut book);
    let before = server.place();
    server.slices.remove("pods-0").unwrap();
    book.vanished("pods-0");
    server.drain(&mut book);
    assert_eq!(server.place(), before);
}

#[test]
fn changes_that_cancel_each_other_are_not_written() {
    let mut server = Server::default();
    let mut book = Book::recover(FILL, &BTreeMap::new(), [pod(1, 1, false)]);
    server.drain(&mut book);
    book.put(pod(1, 1, true));
    book.put(pod(1, 1, false));
    assert_eq!(book.next(), None);
}
