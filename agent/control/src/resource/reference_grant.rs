//! `gateway.networking.k8s.io ReferenceGrant`: lets routes of other namespaces name Services of this one.

use gateway_api::apis::experimental::referencegrants as api;
use weft_core::model::{GrantKind, Name, ReferenceGrant};

use super::Findings;

/// Converts a ReferenceGrant; one that is not about routes and Services says nothing here.
pub fn convert(object: &api::ReferenceGrant, findings: &mut Findings) -> Option<ReferenceGrant> {
    let name = super::object_name(&object.metadata, findings);
    let mut from = Vec::new();
    for (i, peer) in object.spec.from.iter().enumerate() {
        let kind = GrantKind::ALL.into_iter().find(|kind| kind.as_str() == peer.kind);
        if let (Some(kind), "gateway.networking.k8s.io") = (kind, peer.group.as_str()) {
            let namespace = findings.keep(format!("spec.from[{i}].namespace"), Name::new(&peer.namespace));
            from.extend(namespace.map(|namespace| (kind, namespace)));
        }
    }
    let mut to = Vec::new();
    let (mut any_service, mut every_service) = (false, false);
    for (i, target) in object.spec.to.iter().enumerate() {
        if !matches!(target.group.as_str(), "" | "core") || target.kind != "Service" {
            continue;
        }
        any_service = true;
        match target.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => to.extend(findings.keep(format!("spec.to[{i}].name"), Name::new(name))),
            None => every_service = true,
        }
    }
    // An empty list of the model means any Service: a grant whose targets are all something else must not become one.
    if from.is_empty() || !any_service || findings.invalid() {
        return None;
    }
    if every_service {
        to.clear();
    }
    Some(ReferenceGrant { name: name?, from, to })
}
