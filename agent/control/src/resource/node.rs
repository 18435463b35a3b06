//! `v1 Node`: the zone it is in, and whether the mesh is switched off on it.

use k8s_openapi::api::core::v1 as api;
use weft_core::model::{Name, Node, OFF_LABEL};

use super::Findings;

/// The label that names a node's zone.
pub const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// Converts a Node.
pub fn convert(object: &api::Node, findings: &mut Findings) -> Option<Node> {
    let metadata = &object.metadata;
    let name = findings.keep("metadata.name", Name::new(metadata.name.as_deref().unwrap_or_default()))?;
    let label = |key| metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let zone = label(ZONE_LABEL).filter(|zone| !zone.is_empty()).map(|zone| zone.as_str().into());
    Some(Node { name: name.as_str().into(), zone, off: label(OFF_LABEL).is_some_and(|value| value == "true") })
}
