//! `v1 Namespace`: its `weft.dev/mesh` label and its `weft.dev/fast-path` annotation decide for its pods.

use k8s_openapi::api::core::v1 as api;
use weft_core::model::{Name, Namespace};

use super::Findings;

/// Converts a Namespace.
pub fn convert(object: &api::Namespace, findings: &mut Findings) -> Option<Namespace> {
    let metadata = &object.metadata;
    let mesh = super::mesh_label(metadata, findings);
    let name = findings.keep("metadata.name", Name::new(metadata.name.as_deref().unwrap_or_default()))?;
    let fast_path = super::fast_path(metadata, findings);
    let detect = super::detect(metadata, findings);
    Some(Namespace { name, mesh, labels: super::labels(metadata), fast_path, detect })
}
