//! Workloads (pods), their namespaces, and which of them a node's agent serves.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use super::name::{Labels, Name, ObjectName};

/// `weft.dev/mesh` on a Namespace or Pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum MeshLabel {
    /// The workload is to be enrolled.
    Enabled,
    /// The workload stays out; on a pod it wins over the namespace.
    Disabled,
}

/// A namespace: its labels decide enrolment for its pods.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    /// Its name.
    pub name: Name,
    /// `weft.dev/mesh`, if set.
    pub mesh: Option<MeshLabel>,
    /// All labels.
    pub labels: Labels,
    /// Connections of its pods and to its Services may take the same-node fast path (`weft.dev/fast-path: disabled` says
    /// they may not).
    pub fast_path: bool,
    /// `weft.dev/l7`: whether it is to be found out what the ports of its Services speak.
    pub detect: Option<bool>,
}

/// `true` on the namespace the mesh itself is in takes every pod of the cluster out of the mesh, on a Node those of that node.
pub const OFF_LABEL: &str = "weft.dev/disabled";

/// A node, as far as its agent cares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name, as in the pods' `spec.nodeName`.
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<Arc<str>>,
    /// Label [`OFF_LABEL`]: its pods stay out of the mesh.
    pub off: bool,
}

/// A share of traffic relative to the other endpoints of a backend (`weft.dev/weight` on a Pod; 1 where absent, 0 gets nothing).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Weight(pub u32);

impl Weight {
    /// The largest weight accepted, that of Gateway API's `backendRefs.weight`.
    pub const MAX: u32 = 1_000_000;
}

impl Default for Weight {
    fn default() -> Self {
        Self(1)
    }
}

/// A pod, as far as the mesh cares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workload {
    /// Namespace and pod name.
    pub name: ObjectName,
    /// The pod's UID; where a manifest has none, its namespace and name.
    pub uid: Arc<str>,
    /// The pod's addresses, the primary one first; empty until it has one.
    pub addresses: Vec<IpAddr>,
    /// The service account whose identity it holds (`default` where absent).
    pub service_account: Name,
    /// The node it runs on.
    pub node: Arc<str>,
    /// The name shown as the workload in metrics: owner or `app.kubernetes.io/name`/`app` label, else the pod's.
    pub owner: Arc<str>,
    /// Labels, for selectors.
    pub labels: Labels,
    /// Weight among the endpoints of one backend.
    pub weight: Weight,
    /// `weft.dev/mesh` on the pod.
    pub mesh: Option<MeshLabel>,
    /// Path of its network namespace (annotation `weft.dev/netns`), standalone only.
    pub netns: Option<PathBuf>,
    /// Shares the node's network namespace and so cannot be enrolled.
    pub host_network: bool,
    /// Ports its containers declare; the agent's listeners keep clear of them.
    pub declared_ports: Vec<u16>,
    /// Ports kubelet probes: the pod's own node may connect to them in plaintext whatever policy says.
    pub probe_ports: Vec<u16>,
}

/// Which pods a node's agent serves right now: published by that agent, once capture is live, and withdrawn first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeLiveness {
    /// The node whose agent says so.
    pub node: Arc<str>,
    /// UIDs of the pods whose HBONE port is served and whose connections are captured.
    pub live: BTreeSet<Arc<str>>,
}
