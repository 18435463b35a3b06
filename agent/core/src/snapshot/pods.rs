//! What is asked of pods: who has an address, who is live, whom there are.
//!
//! Some are known by themselves, in full, and others by slices, in short; who asks is told of both alike.

use std::net::IpAddr;
use std::sync::Arc;

use super::Snapshot;
use super::peers::Known;
use crate::model::{Name, ObjectName, Service, Workload};

impl Snapshot {
    /// The pod that owns `ip`; see the module for what happens when several claim it.
    #[must_use]
    pub fn workload_at(&self, ip: IpAddr) -> Option<Arc<Workload>> {
        self.pod_at(ip).map(Known::whole)
    }

    /// The same, as it is known.
    pub(super) fn pod_at(&self, ip: IpAddr) -> Option<Known<'_>> {
        let own = self.primary.workloads_at.at(ip);
        match (own, self.primary.peers.at(ip)) {
            ([], []) => None,
            ([only], []) => Some(Known::Whole(only)),
            ([], [only]) => Some(Known::Peer(only)),
            (own, peers) => {
                let claimants = own.iter().map(Known::Whole).chain(peers.iter().map(Known::Peer));
                claimants.min_by_key(|pod| (!self.is_known_live(*pod), pod.host_network(), pod.name()))
            }
        }
    }

    pub(super) fn is_known_live(&self, pod: Known<'_>) -> bool {
        match pod {
            Known::Whole(workload) => self.is_published(workload),
            Known::Peer(peer) => peer.is_live(),
        }
    }

    /// The pod with this UID (of several, the one with the smallest name), if it is known by itself and not by a slice.
    #[must_use]
    pub fn workload(&self, uid: &str) -> Option<&Arc<Workload>> {
        self.primary.workloads_by_uid.at(uid).first()
    }

    /// The pod with this name, if it is known by itself and not by a slice.
    #[must_use]
    pub fn workload_named(&self, name: &ObjectName) -> Option<&Arc<Workload>> {
        self.primary.workloads.get(name)
    }

    /// The pods of a node, by name, that are known by themselves and not by slices.
    pub fn workloads_on(&self, node: &str) -> impl Iterator<Item = &Arc<Workload>> + use<'_> {
        self.primary.workloads_on.at(node).iter()
    }

    /// All pods that are known by themselves, by name, and then those of slices.
    pub fn workloads(&self) -> impl Iterator<Item = Arc<Workload>> {
        let whole = self.primary.workloads.values().map(Known::Whole);
        whole.chain(self.primary.peers.all().map(Known::Peer)).map(Known::whole)
    }

    /// The namespace and the owner of every pod.
    pub fn owners(&self) -> impl Iterator<Item = (&Name, &str)> {
        let whole = self.primary.workloads.values().map(|w| (&w.name.namespace, &*w.owner));
        whole.chain(self.primary.peers.all().map(|peer| (peer.namespace(), peer.owner())))
    }

    /// Addresses with the pods and the services that claim them, each by name; those without any service are
    /// listed only where several pods claim them.
    pub fn contests(&self) -> impl Iterator<Item = (IpAddr, Vec<Arc<Workload>>, &[Arc<Service>])> {
        let own = |ip: &IpAddr| self.primary.workloads_at.at(*ip);
        let peers = |ip: &IpAddr| self.primary.peers.at(*ip);
        let of_own = self.primary.workloads_at.iter().map(|(ip, _)| ip).filter(move |ip| peers(ip).is_empty());
        let of_peers = self.primary.peers.claims().map(|(ip, _)| ip);
        let several = move |ip: &IpAddr| own(ip).len() + peers(ip).len() > 1;
        let pods = of_own.chain(of_peers).filter(move |ip| several(ip) && self.services_at(*ip).is_empty());
        let services = self.primary.services_at.iter();
        let contested = pods.map(|ip| (ip, &[][..])).chain(services);
        contested.map(move |(ip, services)| {
            let all = own(&ip).iter().map(Known::Whole).chain(peers(&ip).iter().map(Known::Peer));
            let mut pods: Vec<_> = all.map(Known::whole).collect();
            pods.sort_by(|a, b| a.name.cmp(&b.name));
            (ip, pods, services)
        })
    }

    /// Whether its own node's agent publishes the pod, as this snapshot knows it, as served. Only then do peers reach it by
    /// HBONE; labels alone do not make it so.
    #[must_use]
    pub fn is_live(&self, w: &Workload) -> bool {
        let own = || self.primary.workloads.get(&w.name).is_some_and(|own| **own == *w) && self.is_published(w);
        own() || w.addresses.iter().any(|ip| self.is_live_peer(w, *ip))
    }

    fn is_published(&self, w: &Workload) -> bool {
        !w.host_network && self.primary.liveness.get(&w.node).is_some_and(|node| node.live.contains(&w.uid))
    }

    /// Whether a slice says of this very pod that it is live.
    fn is_live_peer(&self, w: &Workload, ip: IpAddr) -> bool {
        let peers = self.primary.peers.at(ip);
        peers.iter().any(|peer| peer.is_live() && peer.is(&w.uid) && peer.workload() == *w)
    }
}
