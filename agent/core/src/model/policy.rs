//! mTLS modes: whether plaintext is accepted.

use std::collections::BTreeMap;

use super::name::{ObjectName, Selector};

/// What happens to a plaintext connection to a workload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum MtlsMode {
    /// Plaintext is accepted beside mTLS.
    #[default]
    Permissive,
    /// Plaintext is refused.
    Strict,
}

/// `weft.dev/v1alpha1 PeerAuthentication`: the mTLS mode of a namespace, of the workloads it selects, or of their ports.
///
/// The most specific wins: port, then selector, then namespace, then permissive. Among equals strict wins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAuthentication {
    /// Namespace and name.
    pub name: ObjectName,
    /// The workloads it is for; empty is the whole namespace.
    pub selector: Selector,
    /// The mode for every port; `None` leaves it to the next less specific one.
    pub mode: Option<MtlsMode>,
    /// Modes of single ports.
    pub ports: BTreeMap<u16, MtlsMode>,
}
