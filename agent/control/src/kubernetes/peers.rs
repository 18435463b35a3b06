//! The pods of all nodes but this one, as the controller's WorkloadSlices have them, and which of them are live.
//!
//! Of the pods of its own node the agent knows by the Pods themselves, and what those say wins. A slice that disappears
//! with pods in it was taken away by somebody else than the controller, which empties a slice first: what it said stays
//! in force until it is back.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use weft_core::model::{NodeLiveness, ObjectName, Pool, Workload};
use weft_core::snapshot::{Delta, Key, Resource};

use crate::crd::SliceWorkload;
use crate::resource::workload_slice;

/// A pod, as a slice has it: the rest is in the snapshot.
#[derive(Debug)]
struct Entry {
    name: ObjectName,
    uid: Arc<str>,
    node: Arc<str>,
    live: bool,
}

impl Entry {
    fn place(&self) -> (Arc<str>, Arc<str>) {
        (self.node.clone(), self.uid.clone())
    }
}

/// The pods of other nodes.
#[derive(Debug, Default)]
pub(super) struct Peers {
    node: Arc<str>,
    /// Names of nodes, namespaces, accounts and owners, each held once.
    texts: Pool,
    slices: BTreeMap<Arc<str>, Vec<Entry>>,
    /// Which slice speaks for a name: the first that did, until it ceases to.
    speaks: HashMap<ObjectName, Arc<str>>,
    /// What others say of it meanwhile: another pod of the same name, in a slice that has come before an older one went.
    unheard: BTreeMap<ObjectName, BTreeMap<Arc<str>, Workload>>,
    /// Names of this node's own pods.
    own: HashSet<ObjectName>,
    /// Live pods by node, each with how many slices say so.
    live: BTreeMap<Arc<str>, BTreeMap<Arc<str>, usize>>,
    touched: BTreeSet<Arc<str>>,
}

impl Peers {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self { node, ..Self::default() }
    }

    /// A slice is there and says this. Yields what is wrong with any of it.
    pub(super) fn put(&mut self, slice: &str, said: &[SliceWorkload], deltas: &mut Vec<Delta>) -> Vec<String> {
        let slice = self.slices.get_key_value(slice).map_or_else(|| slice.into(), |(name, _)| Arc::clone(name));
        let mut wrong = Vec::new();
        let (mut entries, mut workloads) = (Vec::with_capacity(said.len()), Vec::with_capacity(said.len()));
        for told in said {
            let Some(pod) = &told.pod else { continue };
            match workload_slice::workload(&told.uid, pod) {
                Ok(mut workload) => {
                    workload.share(&mut self.texts);
                    entries.push(Entry {
                        name: workload.name.clone(),
                        uid: workload.uid.clone(),
                        node: workload.node.clone(),
                        live: told.live,
                    });
                    workloads.push(workload);
                }
                Err(error) => wrong.push(format!("the pod with the UID {}: {error}", told.uid)),
            }
        }
        let live: Vec<_> = entries.iter().filter(|entry| entry.live).map(Entry::place).collect();
        let before = self.slices.insert(slice.clone(), entries).unwrap_or_default();
        live.into_iter().for_each(|(node, uid)| self.count(node, uid));
        before.iter().filter(|entry| entry.live).for_each(|entry| self.uncount(&entry.node, &entry.uid));
        let names: HashSet<ObjectName> = workloads.iter().map(|workload| workload.name.clone()).collect();
        for entry in before.iter().filter(|entry| !names.contains(&entry.name)) {
            self.unsay(&slice, &entry.name, deltas);
        }
        for workload in workloads {
            self.say(&slice, workload, deltas);
        }
        wrong
    }

    /// A slice has been deleted.
    pub(super) fn remove(&mut self, slice: &str) {
        match self.slices.get(slice) {
            Some(entries) if !entries.is_empty() => {
                tracing::warn!(
                    slice,
                    "a WorkloadSlice was deleted that has pods in it; they stay known until it is back"
                );
            }
            _ => _ = self.slices.remove(slice),
        }
    }

    /// These are all the slices there are.
    pub(super) fn keep_only(&mut self, slices: &BTreeSet<&str>, deltas: &mut Vec<Delta>) {
        let gone: Vec<Arc<str>> = self.slices.keys().filter(|name| !slices.contains(&***name)).cloned().collect();
        for slice in gone {
            self.put(&slice, &[], deltas);
            self.slices.remove(&slice);
        }
    }

    /// This node's own Pods have changed so: what slices say of pods with those names gives way, or holds again.
    pub(super) fn give_way(&mut self, deltas: &mut [Delta]) {
        for delta in deltas {
            match delta {
                Delta::Put(Resource::Workload(workload)) => _ = self.own.insert(workload.name.clone()),
                Delta::Remove(Key::Workload(name)) => {
                    self.own.remove(name);
                    if let Some((slice, workload)) = self.heir(name) {
                        self.speaks.insert(workload.name.clone(), slice);
                        *delta = Delta::Put(Resource::Workload(workload));
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether any slice says that this pod of this node is live.
    pub(super) fn tells_live(&self, uid: &str) -> bool {
        self.live.get(&self.node).is_some_and(|live| live.contains_key(uid))
    }

    /// What follows for the other nodes whose live pods have changed since the last time.
    pub(super) fn changes(&mut self, deltas: &mut Vec<Delta>) {
        for node in std::mem::take(&mut self.touched) {
            if node == self.node {
                continue;
            }
            deltas.push(match self.live.get(&node) {
                Some(live) => {
                    let live = live.keys().cloned().collect();
                    Delta::Put(Resource::Liveness(NodeLiveness { node, live }))
                }
                None => Delta::Remove(Key::Liveness(node)),
            });
        }
    }

    fn say(&mut self, slice: &Arc<str>, workload: Workload, deltas: &mut Vec<Delta>) {
        if workload.node == self.node {
            // Of these the node's own Pods tell, also that they are gone.
            self.unsay(slice, &workload.name, deltas);
            return;
        }
        let free = self.speaks.get(&workload.name).is_none_or(|speaker| speaker == slice);
        if free && !self.own.contains(&workload.name) {
            self.speaks.insert(workload.name.clone(), slice.clone());
            deltas.push(Delta::Put(Resource::Workload(workload)));
        } else {
            self.unheard.entry(workload.name.clone()).or_default().insert(slice.clone(), workload);
        }
    }

    fn unsay(&mut self, slice: &Arc<str>, name: &ObjectName, deltas: &mut Vec<Delta>) {
        if let Some(all) = self.unheard.get_mut(name) {
            all.remove(slice);
            if all.is_empty() {
                self.unheard.remove(name);
            }
        }
        if self.speaks.get(name) != Some(slice) {
            return;
        }
        self.speaks.remove(name);
        if self.own.contains(name) {
            return;
        }
        deltas.push(match self.heir(name) {
            Some((slice, workload)) => {
                self.speaks.insert(name.clone(), slice);
                Delta::Put(Resource::Workload(workload))
            }
            None => Delta::Remove(Key::Workload(name.clone())),
        });
    }

    /// Who is heard of a name nobody speaks for any more.
    fn heir(&mut self, name: &ObjectName) -> Option<(Arc<str>, Workload)> {
        let all = self.unheard.get_mut(name)?;
        let heir = all.pop_first();
        if all.is_empty() {
            self.unheard.remove(name);
        }
        heir
    }

    /// Only who is live now and was not before makes a change: a slice that is written again says the same of nearly all.
    fn count(&mut self, node: Arc<str>, uid: Arc<str>) {
        let count = self.live.entry(node.clone()).or_default().entry(uid).or_default();
        *count += 1;
        if *count == 1 {
            self.touched.insert(node);
        }
    }

    fn uncount(&mut self, node: &Arc<str>, uid: &Arc<str>) {
        let Some(pods) = self.live.get_mut(node) else { return };
        if let Some(count) = pods.get_mut(uid) {
            *count -= 1;
            if *count == 0 {
                pods.remove(uid);
                self.touched.insert(node.clone());
            }
        }
        if pods.is_empty() {
            self.live.remove(node);
        }
    }
}

#[cfg(test)]
mod tests;
