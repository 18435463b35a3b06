//! `WorkloadSlice`: which pods of a node its agent serves right now.
//!
//! Written by agents, read by agents; a person has no reason to write one. An agent that dies leaves its slice in
//! place on purpose: the kernel goes on steering, so its pods are still served.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The pods a node's agent has enrolled, as it publishes them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "WorkloadSlice",
    plural = "workloadslices",
    namespaced,
    doc = "The pods that a node's agent serves.",
    printcolumn(name = "Node", type_ = "string", json_path = ".spec.node"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadSliceSpec {
    /// The node.
    pub node: String,
    /// Its pods.
    #[serde(default)]
    pub workloads: Vec<SliceWorkload>,
}

/// One pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SliceWorkload {
    /// Its UID.
    pub uid: String,
    /// Whether its HBONE port is served and its connections are captured.
    pub live: bool,
}
