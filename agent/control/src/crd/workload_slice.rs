//! `WorkloadSlice`: which pods there are, where, as whom, and which of them their nodes' agents serve right now.
//!
//! In a cluster the controller writes them, each of up to [`PODS_MAX`] pods of any nodes, and agents read there what they
//! need of every node's pods but their own. Without a cluster each agent writes one about its node's pods, which says only
//! who is served: the Pods themselves are among the manifests. A person has no reason to write one. An agent that dies
//! leaves its word in place on purpose: the kernel goes on steering, so its pods are still served.
//!
//! Fields nobody knows are passed over here: an agent may be older than its controller.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most pods of one slice: at usual names 200 kB, at the longest Kubernetes allows still less than etcd's 1.5 MiB.
pub const PODS_MAX: usize = 1000;

/// Pods, and whether their nodes' agents serve them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "WorkloadSlice",
    plural = "workloadslices",
    namespaced,
    doc = "Pods, and whether their nodes' agents serve them.",
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSliceSpec {
    /// The node of all its pods, where its agent publishes them itself: without a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The pods.
    #[serde(default)]
    #[schemars(length(max = 1000))]
    pub workloads: Vec<SliceWorkload>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SliceWorkload {
    /// Its UID.
    pub uid: String,
    /// Whether its tunnel port is served and its connections are captured.
    pub live: bool,
    /// What its Pod says, for who does not read the Pod itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<SlicePod>,
}

/// What the mesh needs to know of another node's Pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlicePod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
    /// Its node.
    pub node: String,
    /// Its addresses, the primary one first.
    pub ips: Vec<String>,
    /// What it is called in metrics (its Deployment, its StatefulSet), where that is not its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    /// Its weight among the endpoints of a Service, where that is not 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// It is on its node's network.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub host_network: bool,
}
