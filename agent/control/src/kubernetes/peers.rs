//! The pods of all nodes but this one, as the controller's WorkloadSlices have them.
//!
//! Of the pods of its own node the agent knows by the Pods themselves; of what slices say of those only whether they call
//! them live is of interest. A slice that disappears with pods in it was taken away by somebody else than the controller,
//! which empties a slice first: what it said stays in force until it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_core::model::Roles;
use weft_core::snapshot::{Delta, Key, PeerSlice, Resource};

use crate::crd::SliceWorkload;
use crate::resource::workload_slice;

/// The pods of other nodes. What is said of them is in the snapshot.
#[derive(Debug, Default)]
pub(super) struct Peers {
    node: Arc<str>,
    /// What they have in common, held once.
    roles: Roles,
    slices: BTreeMap<Arc<str>, Said>,
}

/// What is kept of a slice.
#[derive(Debug, Default)]
struct Said {
    /// It has pods.
    speaks: bool,
    /// Pods of this node that it calls live.
    own: BTreeSet<Arc<str>>,
}

impl Peers {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self { node, ..Self::default() }
    }

    /// A slice is there and says this. Yields what is wrong with any of it.
    pub(super) fn put(&mut self, slice: &str, said: &[SliceWorkload], deltas: &mut Vec<Delta>) -> Vec<String> {
        let slice = self.slices.get_key_value(slice).map_or_else(|| slice.into(), |(name, _)| Arc::clone(name));
        let (mut pods, mut wrong) = (Vec::with_capacity(said.len()), Vec::new());
        let mut kept = Said { speaks: !said.is_empty(), ..Said::default() };
        for told in said {
            let Some(pod) = &told.pod else { continue };
            match workload_slice::workload(&told.uid, pod) {
                Ok(workload) if workload.node != self.node => pods.push(self.roles.peer(workload, told.live)),
                Ok(own) if told.live => _ = kept.own.insert(own.uid),
                Ok(_) => {}
                Err(error) => wrong.push(format!("the pod with the UID {}: {error}", told.uid)),
            }
        }
        self.slices.insert(slice.clone(), kept);
        deltas.push(Delta::Put(Resource::Peers(PeerSlice::new(slice, pods))));
        wrong
    }

    /// A slice has been deleted.
    pub(super) fn remove(&mut self, slice: &str, deltas: &mut Vec<Delta>) {
        if self.slices.get(slice).is_some_and(|said| said.speaks) {
            tracing::warn!(slice, "a WorkloadSlice was deleted that has pods in it; they stay known until it is back");
        } else {
            self.forget(slice, deltas);
        }
    }

    /// These are all the slices there are.
    pub(super) fn keep_only(&mut self, slices: &BTreeSet<&str>, deltas: &mut Vec<Delta>) {
        let gone: Vec<Arc<str>> = self.slices.keys().filter(|name| !slices.contains(&***name)).cloned().collect();
        gone.iter().for_each(|slice| self.forget(slice, deltas));
    }

    /// Whether any slice says that this pod of this node is live.
    pub(super) fn tells_live(&self, uid: &str) -> bool {
        self.slices.values().any(|said| said.own.contains(uid))
    }

    fn forget(&mut self, slice: &str, deltas: &mut Vec<Delta>) {
        if let Some((name, _)) = self.slices.remove_entry(slice) {
            deltas.push(Delta::Remove(Key::Peers(name)));
        }
    }
}

#[cfg(test)]
mod tests;
