//! `weft.dev WorkloadSlice`: what a node's agent has published.

use std::sync::Arc;

use weft_core::model::NodeLiveness;

use super::Findings;
use crate::crd;

/// Converts a WorkloadSlice.
pub fn convert(object: &crd::WorkloadSlice, findings: &mut Findings) -> Option<NodeLiveness> {
    super::object_name(&object.metadata, findings)?;
    if object.spec.node.is_empty() {
        findings.error("spec.node", "is empty: name the node");
        return None;
    }
    let live = object.spec.workloads.iter().filter(|workload| workload.live);
    let live = live.map(|workload| Arc::from(workload.uid.as_str())).collect();
    Some(NodeLiveness { node: object.spec.node.as_str().into(), live })
}
