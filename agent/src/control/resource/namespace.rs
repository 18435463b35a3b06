//! `v1 Namespace`: its `weft.dev/mesh` label decides for its pods.

use k8s_openapi::api::core::v1 as api;
use weft_core::model::{Name, Namespace};

use super::Findings;

/// Converts a Namespace.
pub fn convert(object: &api::Namespace, findings: &mut Findings) -> Option<Namespace> {
    let metadata = &object.metadata;
    let mesh = super::mesh_label(metadata, findings);
    let name = findings.keep("metadata.name", Name::new(metadata.name.as_deref().unwrap_or_default()))?;
    Some(Namespace { name, mesh, labels: super::labels(metadata) })
}
