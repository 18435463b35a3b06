//! What routes of Gateway API have in common: the parents they are attached to and the backends they name.
//!
//! The generated types of its kinds repeat each other field by field. They are brought to HTTPRoute's by way of
//! their JSON, so that each thing is understood in one place.

use gateway_api::apis::experimental::httproutes::{HttpRouteParentRefs, HttpRouteRulesBackendRefs};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_core::model::{BackendRef, ObjectName, ParentRef, Weight};

use super::{Finding, Findings, fields};

/// A parentRef of any kind of route.
pub type Parent = HttpRouteParentRefs;

/// The same object in another's type.
///
/// # Errors
/// When the types differ in more than their names.
pub(super) fn same<T: Serialize, U: DeserializeOwned>(value: &T) -> Result<U, serde_json::Error> {
    serde_json::from_value(serde_json::to_value(value)?)
}

/// Whether a parentRef names a Service. The defaults of a parentRef are a Gateway's.
#[must_use]
pub fn is_service(parent: &Parent) -> bool {
    matches!(parent.group.as_deref(), Some("" | "core")) && parent.kind.as_deref() == Some("Service")
}

/// Whether a finding is about what kind of object a backendRef names.
#[must_use]
pub fn is_backend_kind(finding: &Finding) -> bool {
    finding.path.contains(".backendRefs[") && finding.path.ends_with(".kind")
}

/// What of a parentRef can be read.
#[must_use]
pub fn leniently(parent: &Value) -> Parent {
    let text = |field: &str| parent[field].as_str().map(str::to_owned);
    Parent {
        group: text("group"),
        kind: text("kind"),
        name: text("name").unwrap_or_default(),
        namespace: text("namespace"),
        port: parent["port"].as_i64().and_then(|port| i32::try_from(port).ok()),
        section_name: text("sectionName"),
    }
}

/// Whether a finding is about something in a route's spec that nothing here goes by.
#[must_use]
pub fn is_passed_over(finding: &Finding) -> bool {
    let judged = ["spec.rules", "spec.parentRefs", "spec.hostnames"];
    finding.warning && finding.path.starts_with("spec.") && !judged.iter().any(|own| finding.path.starts_with(own))
}

/// The parents that are Services, of a list of parentRefs. Others (a Gateway) are somebody else's. One whose port cannot be
/// understood stands for all ports: whatever the route becomes then refuses.
pub(super) fn parents(given: &Value, namespace: &str, findings: &mut Findings) -> Vec<ParentRef> {
    let mut found = Vec::new();
    match given {
        Value::Null => {}
        Value::Array(given) => {
            for (index, given) in given.iter().enumerate() {
                found.extend(parent(&format!("spec.parentRefs[{index}]"), given, namespace, findings));
            }
        }
        _ => findings.error("spec.parentRefs", "is not a list of parents"),
    }
    found
}

fn parent(path: &str, raw: &Value, namespace: &str, findings: &mut Findings) -> Option<ParentRef> {
    let parent = leniently(raw);
    if !is_service(&parent) {
        findings
            .warning(path, "is not a Service (group: \"\", kind: Service): this parent is left to its own controller");
        return None;
    }
    let _: Option<Parent> = fields::whole(path, raw, findings);
    let service = ObjectName::new(parent.namespace.as_deref().unwrap_or(namespace), &parent.name);
    let service = findings.keep(format!("{path}.name"), service)?;
    let port = parent.port.and_then(|port| findings.port(format!("{path}.port"), port));
    Some(ParentRef { service, port, section: parent.section_name.map(Into::into) })
}

/// What a backendRef names, if that is no Service.
pub(super) fn foreign(backend: &HttpRouteRulesBackendRefs) -> Option<String> {
    let group = backend.group.as_deref().unwrap_or_default();
    let kind = backend.kind.as_deref().unwrap_or("Service");
    let service = matches!(group, "" | "core") && kind == "Service";
    (!service).then(|| format!("{kind:?} of group {group:?}"))
}

/// A Service port with a share, at `path`; its filters are not looked at.
pub(super) fn backend(
    path: &str,
    backend: &HttpRouteRulesBackendRefs,
    namespace: &str,
    findings: &mut Findings,
) -> Option<BackendRef> {
    let at = |field: &str| format!("{path}{field}");
    if let Some(what) = foreign(backend) {
        findings.error(at(".kind"), format!("{what} is not supported: use a Service"));
        return None;
    }
    let service = ObjectName::new(backend.namespace.as_deref().unwrap_or(namespace), &backend.name);
    let service = findings.keep(at(".name"), service);
    let port = match backend.port {
        Some(port) => findings.port(at(".port"), port),
        None => {
            findings.error(at(""), "has no port: a Service as backend needs one");
            None
        }
    };
    let weight = weight(path, backend, findings);
    Some(BackendRef { service: service?, port: port?, weight: weight? })
}

/// The share of a backendRef at `path`.
pub(super) fn weight(path: &str, backend: &HttpRouteRulesBackendRefs, findings: &mut Findings) -> Option<Weight> {
    let weight = backend.weight.unwrap_or(1);
    let weight = u32::try_from(weight)
        .ok()
        .filter(|weight| *weight <= Weight::MAX)
        .ok_or_else(|| format!("{weight} is not a weight: use 0 to {}", Weight::MAX));
    findings.keep(format!("{path}.weight"), weight).map(Weight)
}
