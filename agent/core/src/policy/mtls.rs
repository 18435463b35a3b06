//! Whether a port takes plaintext: the most specific PeerAuthentication that says anything about it.

use crate::model::{MtlsMode, ObjectName, PeerAuthentication, Workload};
use crate::snapshot::{NamespacePolicies, Snapshot};

/// The mTLS mode of a workload's port.
///
/// A mode for the port wins over one for all ports; within each, a policy that selects workloads wins over one for the
/// namespace; among equals strict wins. Where nothing is said the mode is permissive.
#[must_use]
pub fn mtls_mode(snapshot: &Snapshot, workload: &Workload, port: u16) -> MtlsMode {
    let policies = snapshot.policies_in(&workload.name.namespace);
    policies.map_or(MtlsMode::Permissive, |policies| mode(policies, workload, port).0)
}

/// The mode of a port, and the policy that set it.
pub(super) fn mode<'a>(
    policies: &'a NamespacePolicies,
    workload: &'a Workload,
    port: u16,
) -> (MtlsMode, Option<&'a ObjectName>) {
    strongest(policies, workload, |policy| {
        policy.ports.get(&port).copied().map(|mode| (true, mode)).or_else(|| policy.mode.map(|mode| (false, mode)))
    })
}

/// The mode of every port no policy names.
pub(super) fn default_mode(policies: &NamespacePolicies, workload: &Workload) -> MtlsMode {
    strongest(policies, workload, |policy| policy.mode.map(|mode| (false, mode))).0
}

/// The statement that wins, of those `said` finds: (about the port?, mode).
fn strongest<'a>(
    policies: &'a NamespacePolicies,
    workload: &'a Workload,
    said: impl Fn(&PeerAuthentication) -> Option<(bool, MtlsMode)>,
) -> (MtlsMode, Option<&'a ObjectName>) {
    let statements = policies.authenticating(workload).filter_map(|policy| {
        let (of_port, mode) = said(policy)?;
        let rank = (of_port, !policy.selector.is_empty(), mode == MtlsMode::Strict);
        Some((rank, std::cmp::Reverse(&policy.name), mode))
    });
    statements
        .max_by_key(|(rank, name, _)| (*rank, *name))
        .map_or((MtlsMode::Permissive, None), |(_, name, mode)| (mode, Some(name.0)))
}
