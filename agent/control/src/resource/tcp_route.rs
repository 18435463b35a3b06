//! `gateway.networking.k8s.io TCPRoute` with a Service as parent (GAMMA).

use gateway_api::apis::experimental::tcproutes as api;
use serde_json::Value;
use weft_core::model::TcpRoute;

use super::{Findings, fields, gateway};

/// Finds fields that are passed over: they say something about connections that is not done.
pub(crate) fn unknown_fields(raw: &Value, object: &api::TcpRoute, findings: &mut Findings) {
    let mut own = Findings::default();
    fields::unknown("spec", &raw["spec"], &object.spec, &mut own);
    own.into_vec().into_iter().for_each(|finding| findings.warning(finding.path, finding.reason));
}

/// Converts a TCPRoute. Parents that are no Service (a Gateway) are somebody else's.
pub fn convert(object: &api::TcpRoute, findings: &mut Findings) -> Option<TcpRoute> {
    let name = super::object_name(&object.metadata, findings);
    let namespace = super::namespace_of(&object.metadata);
    let parents = findings.keep("spec.parentRefs", serde_json::to_value(&object.spec.parent_refs)).unwrap_or_default();
    let parents = gateway::parents(&parents, namespace, findings);
    if object.spec.rules.len() > 1 {
        findings.warning("spec.rules[1]", "never applies: a TCPRoute's first rule takes every connection");
    }
    let mut backends = Vec::new();
    match object.spec.rules.first() {
        None => findings.error("spec.rules", "is empty: a TCPRoute needs one rule with its backendRefs"),
        Some(rule) => {
            for (i, backend) in rule.backend_refs.iter().enumerate() {
                let path = format!("spec.rules[0].backendRefs[{i}]");
                if let Some(backend) = findings.keep(&path, gateway::same(backend)) {
                    backends.extend(gateway::backend(&path, &backend, namespace, findings));
                }
            }
        }
    }
    if parents.is_empty() && !findings.invalid() {
        return None;
    }
    Some(TcpRoute { name: name?, parents, backends, created: super::created(&object.metadata) })
}
