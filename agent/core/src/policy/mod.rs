//! Who may connect: the facts of a connection in, allow or deny out.
//!
//! Order: plaintext to a strict port is refused; then a policy that was not understood refuses; then DENY; then, if any
//! ALLOW policy selects the workload, what none of them matches is refused. Policies in audit mode change nothing and
//! are listed where they would have refused. One of those that was not understood is listed too.

mod attested;
mod changes;
mod modes;
mod mtls;

use std::net::IpAddr;

use crate::model::{Action, AuthorizationRule, Identity, MtlsMode, ObjectName, PeerMatch, TrustDomain, Workload};
use crate::reason::reasons;
use crate::snapshot::{Facet, NamespacePolicies, Site, Snapshot, selects};

pub use attested::{Admission, Admissions, Sources};
pub use changes::{Changes, changes};
pub use modes::{PlaintextMode, PlaintextModes, plaintext_modes};
pub use mtls::mtls_mode;

/// What is known of a connection at the server's node.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionFacts<'a> {
    /// The pod it is for.
    pub destination: &'a Workload,
    /// The port the application listens on.
    pub port: u16,
    /// Who the peer proved to be; `None` for plaintext.
    pub peer: Option<&'a Identity>,
    /// The peer's address.
    pub source: IpAddr,
}

/// Whether a connection may be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It may.
    Allow {
        /// The policy that allowed it; `None` where nothing restricts the workload.
        policy: Option<ObjectName>,
    },
    /// It may not.
    Deny {
        /// Why.
        reason: DenyReason,
        /// The policy that refused it; `None` where the refusal is that none allowed it.
        policy: Option<ObjectName>,
    },
}

reasons! {
    /// Why a connection is denied.
    DenyReason {
        /// Plaintext where mTLS is strict.
        StrictMtls = "strict_mtls", "plaintext where mTLS is strict; enrol the client or set the port to Permissive";
        /// A policy that selects the workload was not understood.
        InvalidPolicy = "invalid_policy", "a policy that selects the workload was not understood; see `weft check`";
        /// A DENY policy matches.
        DenyPolicy = "deny_policy", "a DENY policy matches";
        /// ALLOW policies select the workload and none matches.
        NotAllowed = "not_allowed", "ALLOW policies select the workload and none matches";
    }
}

/// A verdict, and what policies in audit mode would have made of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The verdict.
    pub verdict: Verdict,
    /// Policies in audit mode that would have refused, by name.
    pub audited: Vec<ObjectName>,
}

impl Decision {
    /// Whether the connection may be made.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::Allow { .. })
    }
}

/// Policies whose rules match a connection, the first of each kind by name.
#[derive(Default)]
struct Matches {
    deny: Option<usize>,
    allow: Option<usize>,
    audited_deny: Vec<usize>,
    audited_allow: bool,
}

/// Judges a connection. Costs what its facts lead to, not the number of policies.
#[must_use]
pub fn authorize(snapshot: &Snapshot, facts: &ConnectionFacts<'_>) -> Decision {
    let deny = |reason, policy| Verdict::Deny { reason, policy };
    let Some(policies) = snapshot.policies_in(&facts.destination.name.namespace) else {
        return Decision { verdict: Verdict::Allow { policy: None }, audited: Vec::new() };
    };
    let name = |index: usize| policies.authorization[index].name.clone();
    if facts.peer.is_none() {
        let (mode, source) = mtls::mode(policies, facts.destination, facts.port);
        if mode == MtlsMode::Strict {
            return Decision { verdict: deny(DenyReason::StrictMtls, source.cloned()), audited: Vec::new() };
        }
    }
    let standing = policies.standing(facts.destination);
    if !standing.selected {
        return Decision { verdict: Verdict::Allow { policy: None }, audited: Vec::new() };
    }
    let matches = matches(policies, facts, snapshot.trust_domain());
    let mut audited = matches.audited_deny;
    let allowed = matches.allow.is_some() || matches.audited_allow;
    let refuses = |index: &usize| !allowed || !policies.authorization[*index].valid;
    audited.extend(standing.audited.iter().copied().filter(refuses));
    audited.sort_unstable();
    audited.dedup();
    let verdict = match (standing.invalid, matches.deny, matches.allow) {
        (Some(index), ..) => deny(DenyReason::InvalidPolicy, Some(name(index))),
        (None, Some(index), _) => deny(DenyReason::DenyPolicy, Some(name(index))),
        (None, None, None) if standing.restricted => deny(DenyReason::NotAllowed, None),
        (None, None, allow) => Verdict::Allow { policy: allow.map(name) },
    };
    Decision { verdict, audited: audited.into_iter().map(name).collect() }
}

/// Finds the policies that match, by way of the clauses its facts lead to.
fn matches(policies: &NamespacePolicies, facts: &ConnectionFacts<'_>, domain: &TrustDomain) -> Matches {
    let mut found = Matches::default();
    let source = facts.source.to_canonical();
    let mut look = |facet: &Facet| {
        for site in policies.sites(facet) {
            let policy = &policies.authorization[site.policy];
            if !selects(policy, facts.destination) || !matches_at(&policy.rules[site.rule], *site, facts, domain) {
                continue;
            }
            let first = |held: Option<usize>| Some(held.map_or(site.policy, |held| held.min(site.policy)));
            match (policy.action, policy.audit) {
                (Action::Deny, false) => found.deny = first(found.deny),
                (Action::Allow, false) => found.allow = first(found.allow),
                (Action::Deny, true) => found.audited_deny.push(site.policy),
                (Action::Allow, true) => found.audited_allow = true,
            }
        }
    };
    if let Some(peer) = facts.peer {
        look(&Facet::Principal(peer.clone()));
        look(&Facet::Account(account(peer)));
        look(&Facet::Namespace(peer.namespace.clone()));
    }
    policies.blocks(source).for_each(|block| look(&block));
    look(&Facet::Port(facts.port));
    look(&Facet::Any);
    found
}

/// Whether one clause of a rule, and one of its destinations, match.
fn matches_at(rule: &AuthorizationRule, site: Site, facts: &ConnectionFacts<'_>, domain: &TrustDomain) -> bool {
    let to = rule.to.is_empty() || rule.to.iter().any(|to| to.ports.satisfied(|port| *port == facts.port));
    to && site.clause.is_none_or(|clause| matches_peer(&rule.from[clause], facts, domain))
}

/// Whether a `from` clause matches. Namespaces and service accounts mean those of this mesh's trust domain.
fn matches_peer(clause: &PeerMatch, facts: &ConnectionFacts<'_>, domain: &TrustDomain) -> bool {
    let source = facts.source.to_canonical();
    let own = facts.peer.filter(|peer| peer.trust_domain == *domain);
    clause.principals.satisfied(|wanted| facts.peer == Some(wanted))
        && clause.namespaces.satisfied(|wanted| own.is_some_and(|peer| peer.namespace == *wanted))
        && clause.service_accounts.satisfied(|wanted| {
            own.is_some_and(|peer| peer.namespace == wanted.namespace && peer.service_account == wanted.name)
        })
        && clause.ip_blocks.satisfied(|block| block.contains(&source))
}

fn account(peer: &Identity) -> ObjectName {
    ObjectName { namespace: peer.namespace.clone(), name: peer.service_account.clone() }
}

#[cfg(test)]
mod tests;
