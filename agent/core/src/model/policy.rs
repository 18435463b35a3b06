//! Policies that are not about who may connect: mTLS modes and balancing.

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

/// How a service's endpoints are chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum Algorithm {
    /// Two random ready endpoints, the one with the lower peak-EWMA cost wins.
    #[default]
    PeakEwma,
    /// Two random ready endpoints, the one with fewer connections in flight per weight wins.
    LeastRequest,
    /// Smooth weighted round robin.
    RoundRobin,
    /// Weighted random.
    Random,
}

/// `weft.dev/v1alpha1 TrafficPolicy`: balancing settings of the Services it targets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrafficPolicy {
    /// Namespace and name.
    pub name: ObjectName,
    /// The Services it is for, all of its own namespace.
    pub targets: Vec<ObjectName>,
    /// Their algorithm.
    pub algorithm: Algorithm,
}
