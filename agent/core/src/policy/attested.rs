//! Who of this node may connect to a pod of it, compiled for the kernel: the same verdicts as [`super::authorize`], for
//! peers whose identity the kernel knows.
//!
//! A verdict depends on the port and on the peer. Ports that no policy names are all alike, and there are a few hundred
//! pods on a node: so a set of them for each port that is named, and one for the rest, say it all. What they cannot say
//! (a policy in audit mode wants a report of what it would refuse) is left to the proxy.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{AuthorizationPolicy, Workload};
use crate::snapshot::{Family, Snapshot};

use super::{ConnectionFacts, authorize};

/// Ports of one pod that policies may name before its connections are left to the proxy.
const PORTS_MAX: usize = 64;

/// Pods of this node by their numbers, each once for either family of addresses it may connect from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sources([u64; Self::WORDS]);

impl Sources {
    /// The numbers there are.
    pub const PODS: u32 = 512;

    const WORDS: usize = Self::PODS as usize * 2 / 64;

    /// Every pod.
    pub const ALL: Self = Self([u64::MAX; Self::WORDS]);

    /// Adds a pod for the addresses of one family.
    fn insert(&mut self, pod: u32, family: Family) {
        let bit = pod * 2 + u32::from(family == Family::V6);
        if let Some(word) = self.0.get_mut(bit as usize / 64) {
            *word |= 1 << (bit % 64);
        }
    }

    /// As a set of bits, that of pod p in family f at place 2·p + f.
    #[must_use]
    pub const fn words(&self) -> &[u64; Self::WORDS] {
        &self.0
    }
}

/// Who may connect to a pod's ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admission {
    /// Ports not listed.
    pub default: Sources,
    /// Ports that some policy names.
    pub ports: BTreeMap<u16, Sources>,
}

/// Who of `sources`, pods with their numbers, may connect to `destination`; `None` where only the proxy can judge.
#[must_use]
pub fn admission<'a>(
    snapshot: &Snapshot,
    destination: &Workload,
    sources: impl Iterator<Item = (u32, &'a Workload)> + Clone,
) -> Option<Admission> {
    let everyone = Admission { default: Sources::ALL, ports: BTreeMap::new() };
    let Some(policies) = snapshot.policies_in(&destination.name.namespace) else { return Some(everyone) };
    let judging: Vec<_> = policies.selecting(destination).collect();
    if judging.is_empty() {
        return Some(everyone);
    }
    let named = named_ports(judging.iter().map(|policy| &***policy));
    if named.len() > PORTS_MAX || judging.iter().any(|policy| policy.audit) {
        return None;
    }
    let unnamed = (1..=u16::MAX).find(|port| !named.contains(port))?;
    let at = |port| allowed(snapshot, destination, port, sources.clone());
    Some(Admission { default: at(unnamed), ports: named.iter().map(|port| (*port, at(*port))).collect() })
}

fn allowed<'a>(
    snapshot: &Snapshot,
    destination: &Workload,
    port: u16,
    sources: impl Iterator<Item = (u32, &'a Workload)>,
) -> Sources {
    let mut allowed = Sources::default();
    for (number, pod) in sources {
        let identity = snapshot.identity_of(pod);
        for family in Family::ALL {
            let mut of_family = pod.addresses.iter().filter(|ip| Family::of(**ip) == family);
            // A pod with two of one family is not enrolled; its place could not tell them apart.
            let (Some(source), None) = (of_family.next(), of_family.next()) else { continue };
            let facts = ConnectionFacts { destination, port, peer: Some(&identity), source: *source };
            if authorize(snapshot, &facts).is_allowed() {
                allowed.insert(number, family);
            }
        }
    }
    allowed
}

fn named_ports<'a>(policies: impl Iterator<Item = &'a AuthorizationPolicy>) -> BTreeSet<u16> {
    let clauses = policies.flat_map(|policy| &policy.rules).flat_map(|rule| &rule.to);
    clauses.flat_map(|to| to.ports.any.iter().chain(&to.ports.none)).copied().collect()
}
