//! `gateway.networking.k8s.io TCPRoute` with a Service as parent (GAMMA).

use gateway_api::apis::experimental::tcproutes as api;
use weft_core::model::{BackendRef, ObjectName, ParentRef, TcpRoute, Weight};

use super::{Finding, Findings};

/// Converts a TCPRoute. Parents that are no Service (a Gateway) are somebody else's.
pub fn convert(object: &api::TcpRoute, findings: &mut Findings) -> Option<TcpRoute> {
    let name = super::object_name(&object.metadata, findings);
    let namespace = super::namespace_of(&object.metadata);
    let parents = object.spec.parent_refs.iter().flatten().enumerate();
    let parents: Vec<_> = parents.filter_map(|(i, parent)| self::parent(i, parent, namespace, findings)).collect();
    if object.spec.rules.len() > 1 {
        findings.warning("spec.rules[1]", "never applies: a TCPRoute's first rule takes every connection");
    }
    let mut backends = Vec::new();
    match object.spec.rules.first() {
        None => findings.error("spec.rules", "is empty: a TCPRoute needs one rule with its backendRefs"),
        Some(rule) => {
            for (i, backend) in rule.backend_refs.iter().enumerate() {
                backends.extend(self::backend(i, backend, namespace, findings));
            }
        }
    }
    if parents.is_empty() && !findings.invalid() {
        return None;
    }
    let created = object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    Some(TcpRoute { name: name?, parents, backends, created })
}

/// Whether a parentRef names a Service. The defaults of a parentRef are a Gateway's.
#[must_use]
pub fn is_service(parent: &api::TcpRouteParentRefs) -> bool {
    matches!(parent.group.as_deref(), Some("" | "core")) && parent.kind.as_deref() == Some("Service")
}

/// Whether a finding is about what kind of object a backendRef names.
#[must_use]
pub fn is_backend_kind(finding: &Finding) -> bool {
    finding.path.contains(".backendRefs[") && finding.path.ends_with(".kind")
}

fn parent(
    index: usize,
    parent: &api::TcpRouteParentRefs,
    namespace: &str,
    findings: &mut Findings,
) -> Option<ParentRef> {
    if !is_service(parent) {
        let reason = "is not a Service (group: \"\", kind: Service): this parent is left to its own controller";
        findings.warning(format!("spec.parentRefs[{index}]"), reason);
        return None;
    }
    if parent.section_name.is_some() {
        findings.error(format!("spec.parentRefs[{index}].sectionName"), "is not supported: name the port's number");
    }
    let path = format!("spec.parentRefs[{index}].name");
    let service = ObjectName::new(parent.namespace.as_deref().unwrap_or(namespace), &parent.name);
    let service = findings.keep(&path, service)?;
    let port = match parent.port {
        None => None,
        Some(port) => Some(findings.port(&format!("spec.parentRefs[{index}].port"), port)?),
    };
    Some(ParentRef { service, port })
}

fn backend(
    index: usize,
    backend: &api::TcpRouteRulesBackendRefs,
    namespace: &str,
    findings: &mut Findings,
) -> Option<BackendRef> {
    let path = |field: &str| format!("spec.rules[0].backendRefs[{index}]{field}");
    let group = backend.group.as_deref().unwrap_or_default();
    let kind = backend.kind.as_deref().unwrap_or("Service");
    if !matches!(group, "" | "core") || kind != "Service" {
        findings.error(path(".kind"), format!("{kind:?} of group {group:?} is not supported: use a Service"));
        return None;
    }
    let service = ObjectName::new(backend.namespace.as_deref().unwrap_or(namespace), &backend.name);
    let service = findings.keep(&path(".name"), service);
    let port = match backend.port {
        Some(port) => findings.port(&path(".port"), port),
        None => {
            findings.error(path(""), "has no port: a Service as backend needs one");
            None
        }
    };
    let weight = backend.weight.unwrap_or(1);
    let weight = u32::try_from(weight)
        .ok()
        .filter(|weight| *weight <= Weight::MAX)
        .ok_or_else(|| format!("{weight} is not a weight: use 0 to {}", Weight::MAX));
    let weight = findings.keep(&path(".weight"), weight);
    Some(BackendRef { service: service?, port: port?, weight: Weight(weight?) })
}
