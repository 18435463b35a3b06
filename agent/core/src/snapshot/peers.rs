//! The pods of other nodes, a slice of them at a time, and by address.
//!
//! They are known by what slices say and looked up by address only. Whether two slices tell of one pod, or a slice of a pod
//! this node knows by itself, makes no difference as long as they do not claim one address; if they do, the rules for claims
//! decide.

use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use super::index::Addressed;
use crate::model::{Peer, Workload};

/// Pods of other nodes, as one WorkloadSlice has them.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerSlice {
    name: Arc<str>,
    /// In order.
    pods: Vec<Arc<Peer>>,
}

impl PeerSlice {
    /// The slice of this name, with these pods.
    #[must_use]
    pub fn new(name: Arc<str>, mut pods: Vec<Peer>) -> Self {
        pods.sort_unstable();
        pods.dedup();
        // Collected, they would stay in the allocation of `pods`: twelve times as much.
        let mut shared = Vec::with_capacity(pods.len());
        shared.extend(pods.into_iter().map(Arc::new));
        Self { name, pods: shared }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its pods, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Peer> {
        self.pods.iter().map(|pod| &**pod)
    }
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Peers {
    slices: OrdMap<Arc<str>, Arc<PeerSlice>>,
    at: Addressed<Peer>,
}

impl Peers {
    /// Those that claim an address, in order.
    pub(super) fn at(&self, ip: IpAddr) -> &[Arc<Peer>] {
        self.at.at(ip)
    }

    /// Every address that is claimed, with those who do.
    pub(super) fn claims(&self) -> impl Iterator<Item = (IpAddr, &[Arc<Peer>])> {
        self.at.iter()
    }

    /// All, by slice.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.slices.values().flat_map(|slice| &slice.pods)
    }

    /// The slice of this name.
    pub(super) fn slice(&self, name: &str) -> Option<&Arc<PeerSlice>> {
        self.slices.get(name)
    }

    /// Puts `new` in the place of the slice of this name, or takes that away, and yields every pod that has come or gone.
    /// Those that are as they were stay the ones they were.
    pub(super) fn replace(&mut self, name: &Arc<str>, new: Option<PeerSlice>) -> Vec<Arc<Peer>> {
        let old = self.slices.remove(name);
        let mut new = new;
        let mut changed = Vec::new();
        let before = old.as_ref().map_or(&[][..], |old| &old.pods);
        for pod in new.iter_mut().flat_map(|new| &mut new.pods) {
            match before.binary_search(pod) {
                Ok(same) => *pod = before[same].clone(),
                Err(_) => {
                    self.claim(pod);
                    changed.push(pod.clone());
                }
            }
        }
        let after = new.as_ref().map_or(&[][..], |new| &new.pods);
        for pod in before.iter().filter(|pod| after.binary_search(pod).is_err()) {
            self.release(pod);
            changed.push(pod.clone());
        }
        if let Some(new) = new {
            self.slices.insert(name.clone(), Arc::new(new));
        }
        changed
    }

    fn claim(&mut self, pod: &Arc<Peer>) {
        for ip in pod.addresses() {
            let mut all = self.at(*ip).to_vec();
            let at = all.partition_point(|other| other < pod);
            all.insert(at, pod.clone());
            self.at.set(*ip, all);
        }
    }

    /// Two slices may tell of one pod: only one of the claims goes.
    fn release(&mut self, pod: &Arc<Peer>) {
        for ip in pod.addresses() {
            let mut all = self.at(*ip).to_vec();
            if let Ok(at) = all.binary_search(pod) {
                all.remove(at);
                self.at.set(*ip, all);
            }
        }
    }
}

/// A pod, known in full or in short.
#[derive(Clone, Copy)]
pub(super) enum Known<'a> {
    Whole(&'a Arc<Workload>),
    Peer(&'a Arc<Peer>),
}

impl Known<'_> {
    pub(super) fn whole(self) -> Arc<Workload> {
        match self {
            Self::Whole(workload) => workload.clone(),
            Self::Peer(peer) => Arc::new(peer.workload()),
        }
    }

    pub(super) fn uid(self) -> Arc<str> {
        match self {
            Self::Whole(workload) => workload.uid.clone(),
            Self::Peer(peer) => peer.uid(),
        }
    }

    pub(super) fn node(&self) -> &Arc<str> {
        match self {
            Self::Whole(workload) => &workload.node,
            Self::Peer(peer) => peer.node(),
        }
    }

    pub(super) fn weight(self) -> crate::model::Weight {
        match self {
            Self::Whole(workload) => workload.weight,
            Self::Peer(peer) => peer.weight(),
        }
    }

    pub(super) fn host_network(self) -> bool {
        match self {
            Self::Whole(workload) => workload.host_network,
            Self::Peer(peer) => peer.host_network(),
        }
    }

    pub(super) fn name(self) -> crate::model::ObjectName {
        match self {
            Self::Whole(workload) => workload.name.clone(),
            Self::Peer(peer) => peer.name(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Roles;
    use crate::testing::pod;

    #[test]
    fn a_slice_takes_no_more_room_than_its_pods() {
        let mut roles = Roles::default();
        let pods = (0..100).map(|n| roles.peer(pod(&format!("a/p-{n}"), &format!("10.0.0.{n}")), true)).collect();
        assert_eq!(PeerSlice::new("s".into(), pods).pods.capacity(), 100);
    }
}
