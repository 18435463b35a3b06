//! What HTTPRoutes and GRPCRoutes have in common: they are read part by part, and what of them cannot be followed fails closed.
//!
//! A rule of which something is not understood is kept, and its requests are refused: the rest of the route works, and
//! nobody's requests pass by what was meant for them. Where that is so of what the rules stand in (who the route is attached
//! to, most of all) the route is wrong as a whole, and what becomes of it refuses whatever no other route takes.

use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::HttpRouteSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;
use weft_core::model::{HttpKind, HttpMatch, HttpRoute, HttpRouteId, HttpRule};

use super::{Findings, fields, gateway};

/// Reads one rule of a route, at a path.
pub(super) type ReadRule = fn(&HttpRouteId, &str, &Value, &mut Findings) -> HttpRule;

/// Converts a route. Parents that are no Service (a Gateway) are somebody else's.
pub(super) fn convert(kind: HttpKind, object: &Value, rule: ReadRule, findings: &mut Findings) -> Option<HttpRoute> {
    let metadata = metadata(object, findings);
    let name = super::object_name(&metadata, findings);
    let spec = &object["spec"];
    if !spec.is_object() {
        findings.error("spec", "is not an object with fields: give it parentRefs and rules");
    }
    let parents = gateway::parents(&spec["parentRefs"], super::namespace_of(&metadata), findings);
    let id = HttpRouteId { kind, name: name? };
    if parents.is_empty() {
        return None;
    }
    others(spec, findings);
    let mut rules = rules(&id, spec, rule, findings);
    if let Some(wrong) = findings.said_of_the_whole() {
        refuse(&mut rules, &wrong.into());
    }
    let rules = rules.into_iter().map(Arc::new).collect();
    Some(HttpRoute { id, parents, rules, created: super::created(&metadata) })
}

fn metadata(object: &Value, findings: &mut Findings) -> ObjectMeta {
    let given = &object["metadata"];
    let text = |field: &str| given[field].as_str().map(str::to_owned);
    findings.keep("metadata", ObjectMeta::deserialize(given)).unwrap_or_else(|| ObjectMeta {
        name: text("name"),
        namespace: text("namespace"),
        ..ObjectMeta::default()
    })
}

/// What else stands in the spec says nothing about requests to a Service.
fn others(spec: &Value, findings: &mut Findings) {
    let mut own = Findings::default();
    let rest: HttpRouteSpec = fields::read("spec", &without(spec, &["rules", "parentRefs"]), &mut own);
    own.into_vec().into_iter().for_each(|finding| findings.warning(finding.path, finding.reason));
    if rest.hostnames.is_some_and(|names| !names.is_empty()) {
        findings
            .warning("spec.hostnames", "say nothing about requests to a Service: they are told apart by its address");
    }
}

fn rules(route: &HttpRouteId, spec: &Value, rule: ReadRule, findings: &mut Findings) -> Vec<HttpRule> {
    match &spec["rules"] {
        Value::Null => Vec::new(),
        Value::Array(given) => {
            let read = |(index, given)| rule(route, &format!("spec.rules[{index}]"), given, findings);
            given.iter().enumerate().map(read).collect()
        }
        _ => {
            findings.error("spec.rules", "is not a list of rules");
            Vec::new()
        }
    }
}

/// Has a route refuse what its rules would take, and what nobody would.
fn refuse(rules: &mut Vec<HttpRule>, wrong: &Arc<str>) {
    for rule in &mut *rules {
        rule.unsupported.get_or_insert_with(|| wrong.clone());
    }
    let matches = vec![HttpMatch { unclear: true, ..HttpMatch::default() }];
    rules.push(HttpRule { matches, unsupported: Some(wrong.clone()), ..HttpRule::default() });
}

/// An object without some of its fields.
pub(super) fn without(object: &Value, fields: &[&str]) -> Value {
    match object {
        Value::Object(all) => {
            let others = all.iter().filter(|(name, _)| !fields.contains(&name.as_str()));
            Value::Object(others.map(|(name, value)| (name.clone(), value.clone())).collect())
        }
        other => other.clone(),
    }
}
