//! What the kernel may decide by itself of connections between pods of one node: which endpoints of a service it may send
//! to directly and with what share, and who is let in.
//!
//! A pure function of the snapshot, the pods this node's agent serves and the state of balancing. Whatever it does not
//! list goes through the proxy: a service that speaks HTTP, is divided by a route, balanced by what only the proxy measures or
//! whose clients keep their endpoints, a pod
//! whose policies the compiled form cannot express, and everything `weft.dev/fast-path: disabled` is said of.

mod near;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::balance::Balancers;
use crate::model::{Algorithm, ObjectName, Service, Workload};
use crate::policy::{Admission, Admissions};
use crate::reason::reasons;
use crate::route::{HBONE_PORT, Protocol, protocol, service_port_at};
use crate::snapshot::{Family, ServicePortKey, Snapshot};
pub use near::Near;

/// A pod of this node that its agent serves.
#[derive(Clone, Debug)]
pub struct Local {
    /// The cookie of its network namespace.
    pub cookie: u64,
    /// Its number among the pods of the node; without one it connects through the proxy.
    pub number: Option<u32>,
    /// The pod.
    pub workload: Arc<Workload>,
}

/// An endpoint the kernel may send to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Where it is; port 0 stands for the one dialled.
    pub address: SocketAddr,
    /// The cookie of its network namespace.
    pub cookie: u64,
    /// The last of the numbers of `u32` that fall on it.
    pub last: u32,
}

/// How the kernel draws for one destination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frontend {
    /// In turns instead of at random.
    pub in_turns: bool,
    /// Ascending by `last`; numbers after the last one's are shares of endpoints the proxy chooses from.
    pub choices: Vec<Choice>,
}

/// What the kernel is to know.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SameNode {
    /// By what applications dial: a service's address and port, or a pod's address and port 0.
    pub frontends: BTreeMap<SocketAddr, Frontend>,
    /// Who may connect, by the destination's cookie.
    pub admissions: BTreeMap<u64, Admission>,
    /// Numbers of the pods that may connect directly, by cookie.
    pub sources: BTreeMap<u64, u32>,
    /// The endpoints the kernel draws, by service port and ascending: who is not for the proxy to choose where the draw is
    /// made.
    pub drawn: HashMap<ServicePortKey, Arc<[SocketAddr]>>,
}

reasons! {
    /// Why the kernel draws no endpoints of a service port: all of its connections go through the proxy.
    ProxyOnly {
        /// It was asked for.
        Annotation = "annotation", "weft.dev/fast-path: disabled on the Service or its Namespace";
        /// The kernel keeps no sessions.
        Affinity = "session_affinity", "sessionAffinity: ClientIP";
        /// The kernel measures nothing.
        Algorithm = "algorithm", "its TrafficPolicy's algorithm needs what only the proxy measures";
        /// The kernel counts, times and asks nothing.
        Bounded = "limits", "its TrafficPolicy limits its connections or their idle time, or has its endpoints checked";
        /// The kernel knows no requests.
        Http = "http", "its connections are carried request by request";
        /// The kernel looks at no bytes.
        Detected = "detected", "its connections are looked at to tell what they speak";
        /// The kernel knows no branches, nor for which clients a consumer's route decides.
        Route = "route", "a route divides its connections";
    }
}

/// Why the kernel draws no endpoints of a service port, if it does not.
#[must_use]
pub fn proxy_only(snapshot: &Snapshot, service: &Service, key: &ServicePortKey) -> Option<ProxyOnly> {
    let namespace = snapshot.namespace(&service.name.namespace);
    // One that was asked for by name is asked for what it measures, which the kernel does not.
    let traffic = snapshot.traffic(&service.name, key.port);
    let algorithm = traffic.and_then(|traffic| traffic.algorithm);
    let drawn = matches!(algorithm, None | Some(Algorithm::Random | Algorithm::RoundRobin));
    let bounded =
        traffic.is_some_and(|traffic| traffic.limits.is_some() || traffic.idle.is_some() || traffic.health.is_some());
    let held_back = !service.fast_path || namespace.is_some_and(|namespace| !namespace.fast_path);
    match () {
        () if held_back => Some(ProxyOnly::Annotation),
        () if service.affinity.is_some() => Some(ProxyOnly::Affinity),
        () if !drawn => Some(ProxyOnly::Algorithm),
        () if bounded => Some(ProxyOnly::Bounded),
        () if protocol(snapshot, key, None).is_http() => Some(ProxyOnly::Http),
        () if protocol(snapshot, key, None) == Protocol::Detected => Some(ProxyOnly::Detected),
        () if snapshot.splits(key).is_some() => Some(ProxyOnly::Route),
        () => None,
    }
}

/// Says what the kernel may decide. `choices` is how many endpoints of one service port it can hold.
#[must_use]
pub fn same_node(snapshot: &Snapshot, pods: &[Local], balancers: &Balancers, choices: usize, now: Instant) -> SameNode {
    let allows = |pod: &&Local| may(snapshot, &pod.workload) && snapshot.is_live(&pod.workload);
    let sources = pods.iter().filter(allows).filter_map(|pod| Some((pod.number?, &*pod.workload)));
    let mut plan = SameNode {
        sources: pods.iter().filter(allows).filter_map(|pod| Some((pod.cookie, pod.number?))).collect(),
        ..SameNode::default()
    };
    let mut admissions = Admissions::of(snapshot, sources);
    let mut reachable: HashMap<&str, u64> = HashMap::new();
    for pod in pods.iter().filter(allows) {
        if let Some(admission) = admissions.to(&pod.workload) {
            plan.admissions.insert(pod.cookie, admission);
            reachable.insert(&pod.workload.uid, pod.cookie);
        }
    }
    let draw = Drawing { snapshot, balancers, reachable: &reachable, choices, now };
    for pod in pods.iter().filter(|pod| reachable.contains_key(&*pod.workload.uid)) {
        draw.pod(pod, &mut plan);
        let services = pod.workload.addresses.iter().flat_map(|ip| snapshot.services_with_endpoint_at(*ip));
        for service in services {
            draw.service(service, &mut plan);
        }
    }
    plan
}

/// Whether nothing keeps a pod's connections off the fast path.
fn may(snapshot: &Snapshot, pod: &Workload) -> bool {
    snapshot.namespace(&pod.name.namespace).is_none_or(|namespace| namespace.fast_path)
}

/// What frontends are made from.
struct Drawing<'a> {
    snapshot: &'a Snapshot,
    balancers: &'a Balancers,
    /// Cookies of the pods that may be sent to directly, by UID.
    reachable: &'a HashMap<&'a str, u64>,
    choices: usize,
    now: Instant,
}

impl Drawing<'_> {
    /// The cookie of the pod that is meant by an address, if it may be sent to directly.
    fn reach(&self, address: SocketAddr) -> Option<u64> {
        let workload = self.snapshot.workload_at(address.ip())?;
        self.reachable.get(&*workload.uid).copied().filter(|_| address.port() != HBONE_PORT)
    }

    /// The pod at its own addresses, on any port.
    fn pod(&self, pod: &Local, plan: &mut SameNode) {
        for ip in pod.workload.addresses.iter().filter(|ip| self.snapshot.services_at(**ip).is_empty()) {
            let address = SocketAddr::new(*ip, 0);
            if self.reach(address) == Some(pod.cookie) {
                let choices = vec![Choice { address, cookie: pod.cookie, last: u32::MAX }];
                plan.frontends.insert(address, Frontend { in_turns: false, choices });
            }
        }
    }

    /// Every port of a service, at each of its addresses.
    fn service(&self, name: &ObjectName, plan: &mut SameNode) {
        let Some(service) = self.snapshot.service(name) else { return };
        for (port, family) in service.ports.iter().flat_map(|port| Family::ALL.map(|family| (port.port, family))) {
            let key = ServicePortKey { service: name.clone(), port, family };
            if plan.drawn.contains_key(&key) || proxy_only(self.snapshot, service, &key).is_some() {
                continue;
            }
            let choices = self.choose(&key);
            if choices.is_empty() {
                continue;
            }
            let in_turns = self.snapshot.algorithm(name, port) == Some(Algorithm::RoundRobin);
            let frontend = Frontend { in_turns, choices };
            plan.drawn.insert(key.clone(), frontend.choices.iter().map(|choice| choice.address).collect());
            for ip in service.cluster_ips.iter().filter(|ip| Family::of(**ip) == family) {
                let dialled = SocketAddr::new(*ip, port);
                if service_port_at(self.snapshot, dialled).as_ref() == Some(&key) {
                    plan.frontends.insert(dialled, frontend.clone());
                }
            }
        }
    }

    /// The endpoints of a service port that may be sent to directly, with their shares among all of them.
    fn choose(&self, key: &ServicePortKey) -> Vec<Choice> {
        let (shares, total) = self.balancers.shares(self.snapshot, key, self.now);
        let mut choices = Vec::new();
        let mut sum = 0_u128;
        for (address, weight) in shares {
            let Some(cookie) = self.reach(address) else { continue };
            if choices.len() == self.choices {
                break;
            }
            let start = (sum << 32) / u128::from(total);
            sum += u128::from(weight);
            let end = (sum << 32) / u128::from(total);
            // A share of less than one in 2^32 is none.
            if let Some(last) =
                end.checked_sub(1).filter(|last| *last >= start).and_then(|last| u32::try_from(last).ok())
            {
                choices.push(Choice { address, cookie, last });
            }
        }
        choices
    }
}

#[cfg(test)]
mod tests;
