//! The index against a naive model, and what has to happen when claims collide.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index as Choice;

use super::{Delta, Endpoint, Family, Fitness, Key, Proximity, Resource, Snapshot};
use crate::model::{EndpointAddress, MeshLabel, Namespace, Service, ServicePort, Weight, Workload};
use crate::testing::strategies::{ADDRESSES, deltas};
use crate::testing::{at, domain, here, ip, key, labels, live, name, object, pod, ready, service, slice, snapshot};

/// What is left of a series of deltas: the last word on each key.
fn last_words(deltas: &[Delta]) -> BTreeMap<Key, Resource> {
    let mut held = BTreeMap::new();
    for delta in deltas {
        match delta {
            Delta::Put(resource) => _ = held.insert(resource.key(), resource.clone()),
            Delta::Remove(key) => _ = held.remove(key),
        }
    }
    held
}

/// Answers looked up by looking at everything.
struct Naive(BTreeMap<Key, Resource>);

impl Naive {
    fn workloads(&self) -> impl Iterator<Item = &Workload> {
        self.0.values().filter_map(|r| if let Resource::Workload(w) = r { Some(w) } else { None })
    }

    /// Pods that slices tell of, with whether they are live.
    fn peers(&self) -> impl Iterator<Item = (Workload, bool)> {
        let slices = self.0.values().filter_map(|r| if let Resource::Peers(slice) = r { Some(slice) } else { None });
        slices.flat_map(|slice| slice.pods()).map(|peer| (peer.workload(), peer.is_live()))
    }

    fn services(&self) -> impl Iterator<Item = &Service> {
        self.0.values().filter_map(|r| if let Resource::Service(s) = r { Some(s) } else { None })
    }

    fn is_live(&self, w: &Workload) -> bool {
        let published =
            self.0.values().any(|r| matches!(r, Resource::Liveness(n) if n.node == w.node && n.live.contains(&w.uid)));
        published && !w.host_network
    }

    fn owner(&self, ip: IpAddr) -> Option<Workload> {
        let own = self.workloads().map(|w| (w.clone(), self.is_live(w), 0));
        let mut claimants: Vec<_> = own.chain(self.peers().map(|(w, live)| (w, live, 1))).collect();
        claimants.retain(|(w, ..)| w.addresses.contains(&ip));
        // Of one name: what is known by itself, then the smallest UID, as the order of peers has it.
        claimants.sort_by_key(|(w, live, kind)| {
            (
                w.name.clone(),
                *kind,
                w.uid.clone(),
                w.addresses.clone(),
                w.service_account.clone(),
                w.owner.clone(),
                w.node.clone(),
                w.weight,
                *live,
            )
        });
        let live = claimants.iter().find(|(_, live, _)| *live);
        let best = live.or_else(|| claimants.iter().find(|(w, ..)| !w.host_network)).or(claimants.first());
        best.map(|(w, ..)| w.clone())
    }

    fn destinations(&self) -> BTreeSet<IpAddr> {
        let virtual_ones = self.services().flat_map(|s| s.cluster_ips.iter().copied());
        let live = self.workloads().filter(|w| self.is_live(w)).flat_map(|w| w.addresses.clone());
        let peers = self.peers().filter(|(_, live)| *live).flat_map(|(w, _)| w.addresses);
        virtual_ones.chain(live).chain(peers).collect()
    }

    fn endpoints(&self, service: &Service, port: &ServicePort, family: Family) -> Vec<Endpoint> {
        type Listed = (Fitness, Option<Arc<str>>);
        let mut found: BTreeMap<_, Vec<Listed>> = BTreeMap::new();
        for resource in self.0.values() {
            let Resource::EndpointSlice(slice) = resource else { continue };
            for wanted in slice.ports.iter().filter(|p| slice.service == service.name && p.name == port.name) {
                for e in slice.endpoints.iter().filter(|e| e.address.is_ipv4() == (family == Family::V4)) {
                    let fitness = match e {
                        EndpointAddress { ready: true, .. } => Fitness::Ready,
                        _ if service.publish_not_ready => Fitness::Ready,
                        EndpointAddress { terminating: true, serving: true, .. } => Fitness::Draining,
                        _ => Fitness::Unready,
                    };
                    let node = e.place.node.clone().or_else(|| self.owner(e.address).map(|owner| owner.node.clone()));
                    found.entry((e.address, wanted.port)).or_default().push((fitness, node));
                }
            }
        }
        let mut all: Vec<Endpoint> = Vec::new();
        for ((address, port), fitness) in found {
            let owner = self.owner(address);
            let weight = owner.as_ref().map_or(Weight(1), |w| w.weight);
            let (fitness, node) = fitness.into_iter().min_by_key(|(fitness, _)| *fitness).unwrap();
            if service.local_only && node.as_deref() != Some("n1") {
                continue;
            }
            // How near each is has a naive model of its own.
            let (uid, proximity) = (owner.map(|w| w.uid.clone()), Proximity::Anywhere);
            all.push(Endpoint { address: (address, port).into(), weight, fitness, uid, proximity });
        }
        all.sort_by_key(|e| e.address);
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// One by one, in any batches, or only what is left of them in any order: the same snapshot.
    #[test]
    fn what_is_known_changes_nothing_and_what_was_put_is_known(
        before in vec(deltas(), 0..30),
        delta in deltas(),
    ) {
        let snapshot = Snapshot::on(domain(), here()).apply(before);
        let after = snapshot.apply([delta.clone()]);
        if snapshot.knows(&delta) {
            prop_assert_eq!(&snapshot, &after);
        }
        prop_assert!(after.knows(&delta), "{:?}", delta);
    }

    #[test]
    fn any_order_and_batching_give_one_snapshot(
        deltas in vec(deltas(), 0..40),
        cuts in vec(any::<Choice>(), 0..4),
        swaps in vec((any::<Choice>(), any::<Choice>()), 0..40),
    ) {
        let empty = Snapshot::on(domain(), here());
        let single = deltas.iter().fold(empty.clone(), |held, delta| held.apply([delta.clone()]));

        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(deltas.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut batched, mut from) = (empty.clone(), 0);
        for to in cuts.into_iter().chain([deltas.len()]) {
            batched = batched.apply(deltas[from..to].to_vec());
            from = to;
        }
        prop_assert_eq!(&batched, &single);

        let mut left: Vec<Resource> = last_words(&deltas).into_values().collect();
        if !left.is_empty() {
            swaps.iter().for_each(|(a, b)| { let n = left.len(); left.swap(a.index(n), b.index(n)); });
        }
        let shuffled = left.into_iter().fold(empty, |held, resource| held.apply([Delta::Put(resource)]));
        prop_assert_eq!(&shuffled, &single);
    }

    /// Every index answers what looking at everything answers.
    #[test]
    fn indexes_agree_with_a_naive_model(deltas in vec(deltas(), 0..40), tail in vec(deltas(), 0..5)) {
        let before = Snapshot::on(domain(), here()).apply(deltas.clone());
        let after = before.apply(tail.clone());
        let naive = Naive(last_words(&[deltas, tail].concat()));
        for address in ADDRESSES.iter().map(|text| ip(text)) {
            prop_assert_eq!(after.workload_at(address).map(|w| (*w).clone()), naive.owner(address));
        }
        for workload in naive.workloads() {
            let twin = |(w, live): (Workload, bool)| live && w == *workload && !w.addresses.is_empty();
            prop_assert_eq!(after.is_live(workload), naive.is_live(workload) || naive.peers().any(twin));
            let twins = naive.workloads().filter(|w| w.uid == workload.uid).map(|w| &w.name).min();
            prop_assert_eq!(after.workload(&workload.uid).map(|w| &w.name), twins);
        }
        let on_n1: Vec<_> = naive.workloads().filter(|w| &*w.node == "n1").collect();
        prop_assert_eq!(after.workloads_on("n1").map(|w| &**w).collect::<Vec<_>>(), on_n1);
        prop_assert_eq!(after.destinations().collect::<BTreeSet<_>>(), naive.destinations());
        for service in naive.services() {
            for port in &service.ports {
                for family in Family::ALL {
                    let key = super::ServicePortKey { service: service.name.clone(), port: port.port, family };
                    let set = after.endpoints(&key).unwrap();
                    // As long as the revision is the same, so are the endpoints.
                    if before.revision(&service.name) == after.revision(&service.name) {
                        prop_assert_eq!(before.endpoints(&key), Some(set.clone()));
                    }
                    let found = set.endpoints.into_iter();
                    let found: Vec<_> = found.map(|e| Endpoint { proximity: Proximity::Anywhere, ..e }).collect();
                    prop_assert_eq!(found, naive.endpoints(service, port, family));
                }
            }
        }
        let (added, removed) = after.destination_changes(&before);
        let mut patched: BTreeSet<IpAddr> = before.destinations().collect();
        prop_assert!(removed.iter().all(|ip| patched.remove(ip)));
        prop_assert!(added.iter().all(|ip| patched.insert(*ip)));
        prop_assert_eq!(patched, after.destinations().collect::<BTreeSet<_>>());
    }
}

#[test]
fn of_two_pods_with_one_address_the_live_one_has_it() {
    let (old, new) = (pod("a/old", "10.0.0.1"), pod("a/zzz", "10.0.0.1"));
    let both = snapshot([Resource::Workload(old), Resource::Workload(new)]);
    assert_eq!(both.workload_at(ip("10.0.0.1")).unwrap().name, object("a/old"), "the smallest name, when none is live");
    let published = both.apply([Delta::Put(Resource::Liveness(live(&["a/zzz"])))]);
    assert_eq!(published.workload_at(ip("10.0.0.1")).unwrap().name, object("a/zzz"));
    assert_eq!(published.workload_at(ip("::ffff:10.0.0.1")).unwrap().name, object("a/zzz"), "mapped, the same address");
}

#[test]
fn a_pod_on_the_hosts_network_does_not_claim_a_pods_address() {
    let host = Workload { host_network: true, ..pod("a/aaa", "10.0.0.1") };
    let both = snapshot([Resource::Workload(host), Resource::Workload(pod("a/pod", "10.0.0.1"))]);
    assert_eq!(both.workload_at(ip("10.0.0.1")).unwrap().name, object("a/pod"));
}

#[test]
fn liveness_counts_only_from_the_pods_own_node() {
    let elsewhere = Workload { node: "n2".into(), ..pod("a/p", "10.0.0.1") };
    let s = snapshot([Resource::Workload(elsewhere), Resource::Liveness(live(&["a/p"]))]);
    let w = s.workload("a/p").unwrap();
    assert!(!s.is_live(w));
    assert!(!s.is_destination(ip("10.0.0.1")));
}

#[test]
fn labels_decide_who_is_to_be_enrolled() {
    use MeshLabel::{Disabled, Enabled};
    let cases = [
        (None, None, false),
        (Some(Enabled), None, true),
        (Some(Disabled), None, false),
        (None, Some(Enabled), true),
        (Some(Disabled), Some(Enabled), true),
        (Some(Enabled), Some(Disabled), false),
    ];
    for (namespace, on_pod, wanted) in cases {
        let w = Workload { mesh: on_pod, ..pod("a/p", "10.0.0.1") };
        let namespace =
            Namespace { name: name("a"), mesh: namespace, labels: labels(&[]), fast_path: true, detect: None };
        let s = snapshot([Resource::Namespace(namespace.clone())]);
        assert_eq!(s.wants_mesh(&w), wanted, "{:?} {on_pod:?}", namespace.mesh);
        assert!(!s.wants_mesh(&Workload { host_network: true, ..w.clone() }), "never on the host's network");
        assert!(!s.wants_mesh(&Workload { addresses: vec![], ..w }), "not before it has an address");
    }
}

#[test]
fn an_update_leaves_what_it_does_not_concern_as_it_was() {
    let before = snapshot([
        Resource::Service(service("a/s", "10.9.0.1", 80)),
        Resource::EndpointSlice(slice("a/s", &["10.0.0.1"])),
        Resource::Service(service("a/t", "10.9.0.2", 80)),
        Resource::EndpointSlice(slice("a/t", &["10.0.0.2"])),
    ]);
    let heavy = Workload { weight: Weight(7), ..pod("a/p", "10.0.0.2") };
    let after = before.apply([Delta::Put(Resource::Workload(heavy.clone()))]);
    let same = |a: &Snapshot, b: &Snapshot, service: &str| a.revision(&object(service)) == b.revision(&object(service));
    assert!(same(&before, &after, "a/s"));
    assert!(!same(&before, &after, "a/t"));
    assert_eq!(after.endpoints(&key("a/t:80")).unwrap().endpoints[0].weight, Weight(7));
    assert_eq!(before.endpoints(&key("a/t:80")).unwrap().endpoints[0].weight, Weight(1), "the old snapshot stands");
    let resync = [
        Resource::Workload(heavy),
        Resource::Service(service("a/t", "10.9.0.2", 80)),
        Resource::EndpointSlice(slice("a/t", &["10.0.0.2"])),
    ];
    assert!(same(&after, &after.apply(resync.map(Delta::Put)), "a/t"), "a resync changes nothing");
}

#[test]
fn an_endpoint_in_two_slices_counts_once_at_its_fittest() {
    let mut stale = slice("a/s", &["10.0.0.1"]);
    stale.name = object("a/older");
    stale.endpoints[0] = EndpointAddress { ready: false, terminating: true, ..ready("10.0.0.1") };
    let s = snapshot([
        Resource::Service(service("a/s", "10.9.0.1", 80)),
        Resource::EndpointSlice(stale),
        Resource::EndpointSlice(slice("a/s", &["10.0.0.1"])),
    ]);
    let endpoints = s.endpoints(&key("a/s:80")).unwrap().endpoints;
    assert_eq!(endpoints.len(), 1);
    assert_eq!((endpoints[0].address, endpoints[0].fitness), (at("10.0.0.1:8080"), Fitness::Ready));
}
