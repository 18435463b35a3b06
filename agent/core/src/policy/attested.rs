//! Who of this node may connect to a pod of it, compiled for the kernel: the same verdicts as [`super::authorize`], for
//! peers whose identity the kernel knows.
//!
//! A verdict depends on the port and on the peer. Ports that no policy names are all alike, and there are a few hundred
//! pods on a node: so a set of them for each port that is named, and one for the rest, say it all. What they cannot say
//! (a policy in audit mode wants a report of what it would refuse) is left to the proxy.
//!
//! Destinations that the same policies select have the same sets, and peers that those policies cannot tell apart are judged
//! once: a node's pods cost what its policies distinguish, and not their number squared.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{AuthorizationPolicy, Identity, Name, ObjectName, PeerMatch, Workload};
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

    fn add(&mut self, others: &Self) {
        for (word, more) in self.0.iter_mut().zip(others.0) {
            *word |= more;
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

/// Who of some pods of the node may connect to others of it. What was worked out for one destination stands for all that
/// the same policies select.
pub struct Admissions<'a> {
    snapshot: &'a Snapshot,
    sources: Vec<Source>,
    known: HashMap<Vec<ObjectName>, Option<Admission>>,
}

/// A pod that connects.
struct Source {
    number: u32,
    identity: Identity,
    /// Its address in each family. A pod with two of one is not enrolled: its place could not tell them apart.
    addresses: [Option<IpAddr>; 2],
}

impl<'a> Admissions<'a> {
    /// Of `sources`, pods with their numbers.
    #[must_use]
    pub fn of<'w>(snapshot: &'a Snapshot, sources: impl Iterator<Item = (u32, &'w Workload)>) -> Self {
        let only = |pod: &Workload, family| {
            let mut of_family = pod.addresses.iter().filter(|ip| Family::of(**ip) == family);
            of_family.next().filter(|_| of_family.next().is_none()).copied()
        };
        let source = |(number, pod): (u32, &Workload)| Source {
            number,
            identity: snapshot.identity_of(pod),
            addresses: Family::ALL.map(|family| only(pod, family)),
        };
        Self { snapshot, sources: sources.map(source).collect(), known: HashMap::new() }
    }

    /// Who may connect to `destination`; `None` where only the proxy can judge.
    #[must_use]
    pub fn to(&mut self, destination: &Workload) -> Option<Admission> {
        let everyone = Admission { default: Sources::ALL, ports: BTreeMap::new() };
        let Some(policies) = self.snapshot.policies_in(&destination.name.namespace) else { return Some(everyone) };
        let judging: Vec<_> = policies.selecting(destination).collect();
        if judging.is_empty() {
            return Some(everyone);
        }
        let key: Vec<_> = judging.iter().map(|policy| policy.name.clone()).collect();
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let found = self.judge(destination, &judging);
        self.known.insert(key, found.clone());
        found
    }

    fn judge(&self, destination: &Workload, judging: &[&Arc<AuthorizationPolicy>]) -> Option<Admission> {
        let ports = named_ports(judging);
        if ports.len() > PORTS_MAX || judging.iter().any(|policy| policy.audit) {
            return None;
        }
        let unnamed = (1..=u16::MAX).find(|port| !ports.contains(port))?;
        let groups = self.groups(&Named::by(judging));
        let at = |port| {
            let mut allowed = Sources::default();
            for ((peer, source), members) in groups.values() {
                let facts = ConnectionFacts { destination, port, peer: Some(peer), source: *source };
                if authorize(self.snapshot, &facts).is_allowed() {
                    allowed.add(members);
                }
            }
            allowed
        };
        Some(Admission { default: at(unnamed), ports: ports.iter().map(|port| (*port, at(*port))).collect() })
    }

    /// Sources that are judged alike, with one of them.
    fn groups<'s>(&'s self, named: &Named<'s>) -> HashMap<Group<'s>, ((&'s Identity, IpAddr), Sources)> {
        let mut groups = HashMap::new();
        for source in &self.sources {
            for (family, address) in Family::ALL.into_iter().zip(source.addresses) {
                let Some(address) = address else { continue };
                let one = ((&source.identity, address), Sources::default());
                let (_, members) = groups.entry(named.group(&source.identity, address)).or_insert(one);
                members.insert(source.number, family);
            }
        }
        groups
    }
}

/// What policies name of peers.
struct Named<'a> {
    principals: HashSet<&'a Identity>,
    accounts: HashSet<&'a ObjectName>,
    namespaces: HashSet<&'a Name>,
    blocks: Vec<&'a IpNet>,
}

/// All that a verdict can depend on of a peer of this mesh: what is not named of it is left out.
#[derive(PartialEq, Eq, Hash)]
struct Group<'a> {
    identity: Option<&'a Identity>,
    namespace: Option<&'a Name>,
    /// Which of the blocks hold its address.
    within: Vec<bool>,
}

impl<'a> Named<'a> {
    fn by(policies: &[&'a Arc<AuthorizationPolicy>]) -> Self {
        let clauses = || policies.iter().flat_map(|policy| &policy.rules).flat_map(|rule| &rule.from);
        let all = |of: &'a PeerMatch| of.principals.any.iter().chain(&of.principals.none);
        Self {
            principals: clauses().flat_map(all).collect(),
            accounts: clauses()
                .flat_map(|of| of.service_accounts.any.iter().chain(&of.service_accounts.none))
                .collect(),
            namespaces: clauses().flat_map(|of| of.namespaces.any.iter().chain(&of.namespaces.none)).collect(),
            blocks: clauses().flat_map(|of| of.ip_blocks.any.iter().chain(&of.ip_blocks.none)).collect(),
        }
    }

    fn group<'s>(&self, identity: &'s Identity, address: IpAddr) -> Group<'s> {
        let address = address.to_canonical();
        let named = self.principals.contains(identity) || self.accounts.contains(&super::account(identity));
        Group {
            identity: Some(identity).filter(|_| named),
            namespace: Some(&identity.namespace).filter(|namespace| self.namespaces.contains(namespace)),
            within: self.blocks.iter().map(|block| block.contains(&address)).collect(),
        }
    }
}

fn named_ports(policies: &[&Arc<AuthorizationPolicy>]) -> BTreeSet<u16> {
    let clauses = policies.iter().flat_map(|policy| &policy.rules).flat_map(|rule| &rule.to);
    clauses.flat_map(|to| to.ports.any.iter().chain(&to.ports.none)).copied().collect()
}
