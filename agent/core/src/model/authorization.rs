//! `weft.dev/v1alpha1 AuthorizationPolicy`, the L4 part: who may connect to a workload.

use ipnet::IpNet;

use super::identity::Identity;
use super::name::{Name, ObjectName, Selector};

/// What a policy does with a connection one of its rules matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Action {
    /// Lets it through; a workload with any allow policy refuses what none matches.
    Allow,
    /// Refuses it, whatever else allows it.
    Deny,
}

/// The workloads a policy is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Every workload of its namespace.
    Namespace,
    /// Those of its namespace that carry these labels.
    Workloads(Selector),
}

/// A list of values, one of which must match, and a list of which none may. Both empty matches anything.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match<T> {
    /// At least one matches; empty matches all.
    pub any: Vec<T>,
    /// None matches (the `not*` form).
    pub none: Vec<T>,
}

impl<T> Default for Match<T> {
    fn default() -> Self {
        Self { any: Vec::new(), none: Vec::new() }
    }
}

impl<T> Match<T> {
    /// Whether a fact satisfies both lists, `hit` telling whether it matches one value.
    pub fn satisfied(&self, hit: impl Fn(&T) -> bool) -> bool {
        (self.any.is_empty() || self.any.iter().any(&hit)) && !self.none.iter().any(&hit)
    }
}

/// One `from` clause: all of its non-empty fields must match.
///
/// A plaintext peer has no identity: it matches no value of `principals`, `namespaces` or `service_accounts`, so a
/// clause that asks for one does not match it, and a `not*` list of them does not exclude it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PeerMatch {
    /// Identities, in full.
    pub principals: Match<Identity>,
    /// Namespaces of identities.
    pub namespaces: Match<Name>,
    /// Service accounts, as namespace and name.
    pub service_accounts: Match<ObjectName>,
    /// Blocks that hold the peer's address.
    pub ip_blocks: Match<IpNet>,
}

/// One `to` clause.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortMatch {
    /// Destination ports, as the workload listens on them.
    pub ports: Match<u16>,
}

/// A rule: matches when one of `from` and one of `to` do; an empty list matches anything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AuthorizationRule {
    /// Clauses about the peer.
    pub from: Vec<PeerMatch>,
    /// Clauses about the destination.
    pub to: Vec<PortMatch>,
}

/// A policy. One whose manifest could not be understood is kept with `valid: false` and refuses every connection to
/// what it selects, so that a typing error never opens a door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthorizationPolicy {
    /// Namespace and name.
    pub name: ObjectName,
    /// The workloads it is for.
    pub scope: Scope,
    /// Allow or deny.
    pub action: Action,
    /// Logs what it would do and does nothing.
    pub audit: bool,
    /// Its rules; none of them matches nothing.
    pub rules: Vec<AuthorizationRule>,
    /// Whether everything in its manifest was understood.
    pub valid: bool,
}
