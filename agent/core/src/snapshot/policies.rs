//! The policies of one namespace, compiled for looking up instead of looking through.
//!
//! Every `from` clause is entered under the values of its most selective list: a connection's facts then lead to the few
//! clauses that can match it, however many policies there are. Selectors are entered under one of their labels. Indices
//! follow the policies' names, so the smallest index is the smallest name.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{
    Action, AuthorizationPolicy, AuthorizationRule, Identity, Label, Name, ObjectName, PeerAuthentication, PeerMatch,
    Scope, Selector, Workload,
};

/// What a clause is found by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Facet {
    /// The peer's identity.
    Principal(Identity),
    /// The peer's service account.
    Account(ObjectName),
    /// The peer's namespace.
    Namespace(Name),
    /// A block that holds the peer's address.
    Block(IpNet),
    /// The destination port.
    Port(u16),
    /// Nothing: to be looked at every time.
    Any,
}

/// A clause: which policy, which rule of it, which `from` clause of that (`None` where the rule has none).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Site {
    /// Index into [`NamespacePolicies::authorization`].
    pub(crate) policy: usize,
    /// Index into the policy's rules.
    pub(crate) rule: usize,
    /// Index into the rule's `from`.
    pub(crate) clause: Option<usize>,
}

/// Objects by the workloads they select.
#[derive(Clone, PartialEq, Debug, Default)]
struct Selection {
    by_label: HashMap<Label, Vec<usize>>,
}

impl Selection {
    /// Enters `selector` under its first label; an empty one selects everyone and is not entered.
    fn enter(&mut self, selector: &Selector, index: usize) {
        if let Some(label) = selector.0.first() {
            self.by_label.entry(label.clone()).or_default().push(index);
        }
    }

    /// Those entered under one of the workload's labels; the rest of each selector is still to be checked.
    fn candidates<'a>(&'a self, workload: &'a Workload) -> impl Iterator<Item = usize> + 'a {
        let hits = workload.labels.iter().filter(|_| !self.by_label.is_empty());
        hits.filter_map(|(key, value)| self.by_label.get(&(key.clone(), value.clone()))).flatten().copied()
    }
}

/// What the policies that select a workload have in common, before any of their rules is looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Standing {
    /// Some policy selects it, audited or not.
    pub(crate) selected: bool,
    /// The first enforced policy that was not understood.
    pub(crate) invalid: Option<usize>,
    /// Some enforced policy allows, so that what none allows is refused.
    pub(crate) restricted: bool,
    /// Audited policies that would restrict it.
    pub(crate) audited: Vec<usize>,
}

impl Standing {
    fn add(&mut self, index: usize, policy: &AuthorizationPolicy) {
        self.selected = true;
        match (policy.audit, policy.valid, policy.action) {
            (false, false, _) => self.invalid = Some(self.invalid.map_or(index, |held| held.min(index))),
            (false, true, Action::Allow) => self.restricted = true,
            (true, false, _) | (true, true, Action::Allow) => self.audited.push(index),
            (_, true, Action::Deny) => {}
        }
    }
}

/// All policies of one namespace.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct NamespacePolicies {
    /// Authorization policies, by name.
    pub(crate) authorization: Vec<Arc<AuthorizationPolicy>>,
    /// mTLS policies, by name.
    pub(crate) authentication: Vec<Arc<PeerAuthentication>>,
    everyone: Standing,
    authorization_by_label: Selection,
    authentication_by_label: Selection,
    authentication_for_all: Vec<usize>,
    sites: HashMap<Facet, Vec<Site>>,
    /// Prefix lengths that occur, v4 and v6.
    lengths: [BTreeSet<u8>; 2],
}

impl NamespacePolicies {
    /// Compiles policies given by name.
    pub(super) fn compile(
        authorization: &[Arc<AuthorizationPolicy>],
        authentication: &[Arc<PeerAuthentication>],
    ) -> Self {
        let mut compiled =
            Self { authorization: authorization.to_vec(), authentication: authentication.to_vec(), ..Self::default() };
        for (index, policy) in authorization.iter().enumerate() {
            compiled.enter(index, policy);
        }
        for (index, policy) in authentication.iter().enumerate() {
            compiled.authentication_by_label.enter(&policy.selector, index);
            if policy.selector.is_empty() {
                compiled.authentication_for_all.push(index);
            }
        }
        compiled
    }

    fn enter(&mut self, index: usize, policy: &AuthorizationPolicy) {
        match selector(policy) {
            Some(selector) => self.authorization_by_label.enter(selector, index),
            None => self.everyone.add(index, policy),
        }
        // What was not understood may have been left out: its rules must match nothing.
        for (rule, clauses) in policy.rules.iter().enumerate().filter(|_| policy.valid) {
            if clauses.from.is_empty() {
                self.enter_site(&by_port(clauses), Site { policy: index, rule, clause: None });
            }
            for (clause, peer) in clauses.from.iter().enumerate() {
                self.enter_site(&facets(peer, clauses), Site { policy: index, rule, clause: Some(clause) });
            }
        }
    }

    fn enter_site(&mut self, facets: &[Facet], site: Site) {
        for facet in facets {
            if let Facet::Block(block) = facet {
                self.lengths[usize::from(block.addr().is_ipv6())].insert(block.prefix_len());
            }
            let list = self.sites.entry(facet.clone()).or_default();
            if list.last() != Some(&site) {
                list.push(site);
            }
        }
    }

    /// What selects `workload` and what that means before rules are looked at.
    pub(crate) fn standing(&self, workload: &Workload) -> Standing {
        let mut standing = self.everyone.clone();
        for index in self.authorization_by_label.candidates(workload) {
            let policy = &self.authorization[index];
            if selects(policy, workload) {
                standing.add(index, policy);
            }
        }
        standing.audited.sort_unstable();
        standing
    }

    /// The authorization policies that select `workload`, by name.
    pub(crate) fn selecting<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = &'a Arc<AuthorizationPolicy>> {
        self.authorization.iter().filter(move |policy| selects(policy, workload))
    }

    /// The mTLS policies that select `workload`, by name.
    pub(crate) fn authenticating<'a>(
        &'a self,
        workload: &'a Workload,
    ) -> impl Iterator<Item = &'a Arc<PeerAuthentication>> {
        let labelled = self.authentication_by_label.candidates(workload);
        let all = labelled.chain(self.authentication_for_all.iter().copied()).map(|index| &self.authentication[index]);
        all.filter(move |policy| policy.selector.matches(&workload.labels))
    }

    /// The clauses entered under `facet`.
    pub(crate) fn sites(&self, facet: &Facet) -> &[Site] {
        self.sites.get(facet).map_or(&[], Vec::as_slice)
    }

    /// The blocks that could hold `ip`, of every length that occurs.
    pub(crate) fn blocks(&self, ip: IpAddr) -> impl Iterator<Item = Facet> + '_ {
        let lengths = self.lengths[usize::from(ip.is_ipv6())].iter();
        lengths.filter_map(move |length| IpNet::new(ip, *length).ok()).map(|block| Facet::Block(block.trunc()))
    }
}

/// The selector of a policy; `None` where it is for every workload of its namespace.
fn selector(policy: &AuthorizationPolicy) -> Option<&Selector> {
    match &policy.scope {
        Scope::Workloads(selector) if !selector.is_empty() => Some(selector),
        Scope::Workloads(_) | Scope::Namespace => None,
    }
}

/// Whether a policy of the workload's namespace is for it.
pub(crate) fn selects(policy: &AuthorizationPolicy, workload: &Workload) -> bool {
    selector(policy).is_none_or(|selector| selector.matches(&workload.labels))
}

/// What a `from` clause is found by: every connection it matches has one of these.
fn facets(peer: &PeerMatch, rule: &AuthorizationRule) -> Vec<Facet> {
    if !peer.principals.any.is_empty() {
        peer.principals.any.iter().cloned().map(Facet::Principal).collect()
    } else if !peer.service_accounts.any.is_empty() {
        peer.service_accounts.any.iter().cloned().map(Facet::Account).collect()
    } else if !peer.namespaces.any.is_empty() {
        peer.namespaces.any.iter().cloned().map(Facet::Namespace).collect()
    } else if !peer.ip_blocks.any.is_empty() {
        peer.ip_blocks.any.iter().map(|block| Facet::Block(block.trunc())).collect()
    } else {
        by_port(rule)
    }
}

/// What a clause that says nothing positive about the peer is found by.
fn by_port(rule: &AuthorizationRule) -> Vec<Facet> {
    if rule.to.is_empty() || rule.to.iter().any(|to| to.ports.any.is_empty()) {
        return vec![Facet::Any];
    }
    rule.to.iter().flat_map(|to| &to.ports.any).copied().map(Facet::Port).collect()
}
