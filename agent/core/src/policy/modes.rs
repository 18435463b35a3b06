//! What the kernel is told about plaintext to a pod's ports: pass, ask the proxy, or refuse.
//!
//! The table is exact where it says Pass or Refuse: Pass only where [`super::authorize`] allows every plaintext
//! connection and has nothing to report of it, Refuse only where it denies every one for being plaintext.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Action, AuthorizationPolicy, MtlsMode, Workload};
use crate::snapshot::{NamespacePolicies, Snapshot};

use super::mtls;

/// What happens to a plaintext connection before user space sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum PlaintextMode {
    /// Nothing could refuse it: it goes straight to the application.
    Pass,
    /// Some policy has a say: the proxy judges it.
    Judge,
    /// mTLS is strict: the kernel refuses it.
    Refuse,
}

/// Modes of a pod's ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlaintextModes {
    /// Every port not listed.
    pub default: PlaintextMode,
    /// Ports whose mode is another.
    pub ports: BTreeMap<u16, PlaintextMode>,
}

/// The plaintext modes of a pod.
#[must_use]
pub fn plaintext_modes(snapshot: &Snapshot, w: &Workload) -> PlaintextModes {
    let Some(policies) = snapshot.policies_in(&w.name.namespace) else {
        return PlaintextModes { default: PlaintextMode::Pass, ports: BTreeMap::new() };
    };
    let judging: Vec<&AuthorizationPolicy> = policies.selecting(w).map(|policy| &**policy).collect();
    let default = combine(mtls::default_mode(policies, w), judging.iter().any(|policy| has_a_say(policy, None)));
    let mut ports = BTreeMap::new();
    for port in named_ports(policies, w, &judging) {
        let says = judging.iter().any(|policy| has_a_say(policy, Some(port)));
        let mode = combine(mtls::mode(policies, w, port).0, says);
        if mode != default {
            ports.insert(port, mode);
        }
    }
    PlaintextModes { default, ports }
}

fn combine(mtls: MtlsMode, judged: bool) -> PlaintextMode {
    match (mtls, judged) {
        (MtlsMode::Strict, _) => PlaintextMode::Refuse,
        (MtlsMode::Permissive, true) => PlaintextMode::Judge,
        (MtlsMode::Permissive, false) => PlaintextMode::Pass,
    }
}

/// Whether a policy could refuse, or report, a connection to `port` (`None`: to a port that no policy names).
///
/// An ALLOW policy restricts every port of what it selects. A DENY policy concerns the ports its rules can match.
fn has_a_say(policy: &AuthorizationPolicy, port: Option<u16>) -> bool {
    if !policy.valid || policy.action == Action::Allow {
        return true;
    }
    let reaches = |any: &[u16]| any.is_empty() || port.is_some_and(|port| any.contains(&port));
    let excluded = |none: &[u16]| port.is_some_and(|port| none.contains(&port));
    policy
        .rules
        .iter()
        .any(|rule| rule.to.is_empty() || rule.to.iter().any(|to| reaches(&to.ports.any) && !excluded(&to.ports.none)))
}

/// Ports that some policy of the workload names.
fn named_ports(policies: &NamespacePolicies, w: &Workload, judging: &[&AuthorizationPolicy]) -> BTreeSet<u16> {
    let of_mtls = policies.authenticating(w).flat_map(|policy| policy.ports.keys().copied());
    let clauses = judging.iter().flat_map(|policy| &policy.rules).flat_map(|rule| &rule.to);
    of_mtls.chain(clauses.flat_map(|to| to.ports.any.iter().chain(&to.ports.none)).copied()).collect()
}
