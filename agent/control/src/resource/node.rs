//! `v1 Node`: the zone it is in.

use k8s_openapi::api::core::v1 as api;
use weft_core::model::{Name, Node};

use super::Findings;

/// The label that names a node's zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Converts a Node.
pub fn convert(object: &api::Node, findings: &mut Findings) -> Option<Node> {
    let metadata = &object.metadata;
    let name = findings.keep("metadata.name", Name::new(metadata.name.as_deref().unwrap_or_default()))?;
    let zone = metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL)).filter(|zone| !zone.is_empty());
    Some(Node { name: name.as_str().into(), zone: zone.map(|zone| zone.as_str().into()) })
}
