//! What the controller says of routes and policies: those that are refused, or do nothing, with the reason in their status.

use std::cmp::Reverse;

use serde_json::Value;

use super::super::InstallError;
use super::super::api::Api;
use super::{Finding, Grade, name, some};
use crate::resource::{CONTROLLER, Kind};

/// Kinds the controller says something of.
const KINDS: [Kind; 7] = [
    Kind::AuthorizationPolicy,
    Kind::PeerAuthentication,
    Kind::TrafficPolicy,
    Kind::BackendTrafficPolicy,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::TcpRoute,
];
/// Findings of one grade that are told one by one.
const TOLD: usize = 20;

pub(super) async fn findings(api: &Api<'_>) -> Result<Vec<Finding>, InstallError> {
    let (mut findings, mut unjudged, mut fine) = (Vec::new(), Vec::new(), 0);
    for kind in KINDS {
        let (group, versions) = kind.group();
        let look = |object: Value| match of(kind, &object) {
            Some(found) if found.is_empty() => fine += 1,
            Some(found) => findings.extend(found),
            None => unjudged.push(titled(kind, &object)),
        };
        match api.each(&format!("/apis/{group}/{}/{}", versions[0], kind.plural()), look).await {
            Err(InstallError::Forbidden { message, .. }) => {
                let what = format!("objects of the kind {} cannot be looked at: {message}", kind.as_str());
                findings.push(Finding::remark(what, "check again with the rights to list them"));
            }
            listed => listed?,
        }
    }
    let mut findings = told(findings);
    if !unjudged.is_empty() {
        let what = format!("the controller has not said what becomes of {}", some(&unjudged));
        findings.push(Finding::remark(what, "check again; if it stays so: its log, and its rights on their status"));
    }
    if fine > 0 {
        findings.push(Finding::well(format!("{fine} routes and policies are in force")));
    }
    Ok(findings)
}

/// The worst first, and not more than a person reads.
fn told(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| Reverse(finding.grade));
    let split = findings.partition_point(|finding| finding.grade == Grade::Wrong);
    let remarks = findings.split_off(split);
    let few = |mut findings: Vec<Finding>| {
        let more = findings.len().saturating_sub(TOLD);
        findings.truncate(TOLD);
        if let Some(last) = findings.last().filter(|_| more > 0).cloned() {
            let what = format!("and {more} more of the kind");
            findings.push(Finding { what, remedy: "mend these, and check again".to_owned(), ..last });
        }
        findings
    };
    few(findings).into_iter().chain(few(remarks)).collect()
}

fn titled(kind: Kind, object: &Value) -> String {
    format!("{} {}/{}", kind.as_str(), object["metadata"]["namespace"].as_str().unwrap_or_default(), name(object))
}

/// What is amiss with an object by its status; `None` if its status does not say yet, or says it of what it was.
fn of(kind: Kind, object: &Value) -> Option<Vec<Finding>> {
    let status = &object["status"];
    let entries = |list: &Value| -> Vec<Value> {
        let ours = list.as_array().into_iter().flatten().filter(|entry| entry["controllerName"] == CONTROLLER);
        ours.flat_map(|entry| entry["conditions"].as_array().cloned().unwrap_or_default()).collect()
    };
    let (conditions, about) = match kind {
        Kind::BackendTrafficPolicy => (entries(&status["ancestors"]), &object["spec"]["targetRefs"]),
        _ if kind.is_route() => (entries(&status["parents"]), &object["spec"]["parentRefs"]),
        _ => (status["conditions"].as_array().cloned().unwrap_or_default(), &Value::Null),
    };
    // A route of Gateways, or a policy of theirs, is nobody's here.
    let service = |about: &Value| about["kind"] == "Service" && matches!(about["group"].as_str(), Some("" | "core"));
    if about.as_array().is_some_and(|all| !all.iter().any(service)) {
        return Some(Vec::new());
    }
    let generation = object["metadata"]["generation"].as_i64();
    if conditions.is_empty() || conditions.iter().any(|c| c["observedGeneration"].as_i64() < generation) {
        return None;
    }
    let mut findings: Vec<Finding> =
        conditions.iter().filter_map(|condition| finding(kind, object, condition)).collect();
    findings.dedup();
    Some(findings)
}

/// What a condition says that is not as it should be.
fn finding(kind: Kind, object: &Value, condition: &Value) -> Option<Finding> {
    let text = |field: &str| condition[field].as_str().unwrap_or_default();
    let wanted = match text("type") {
        "Accepted" | "ResolvedRefs" => "True",
        "PartiallyInvalid" | "SettingsIgnored" => "False",
        _ => return None,
    };
    if text("status") == wanted {
        return None;
    }
    let what = format!("{}: {}: {}", titled(kind, object), text("reason"), text("message"));
    let grade = match text("reason") {
        "Invalid" | "UnsupportedValue" | "InvalidKind" | "IncompatibleSessionAffinity" => Grade::Wrong,
        // What fits nothing may be on its way, or what it is for.
        _ => Grade::Remark,
    };
    Some(Finding { grade, what, remedy: remedy(kind, object, text("reason")) })
}

fn remedy(kind: Kind, object: &Value, reason: &str) -> String {
    let space = object["metadata"]["namespace"].as_str().unwrap_or_default();
    match reason {
        "Invalid" | "UnsupportedValue" | "InvalidKind" => {
            format!("mend it: kubectl -n {space} edit {}.{} {}", kind.plural(), kind.group().0, name(object))
        }
        "IncompatibleSessionAffinity" => {
            "take one of the two away: sessionPersistence, or the Service's sessionAffinity".into()
        }
        "TargetNotFound" | "NoMatchingParent" => "make what it is for, or take that out of it".into(),
        "BackendNotFound" => "make the Service and its port, or take the backend out".into(),
        "RefNotPermitted" => "a ReferenceGrant in the namespace of what it refers to".into(),
        "PortProtocol" => {
            "take the settings out, or say by appProtocol (or weft.dev/l7) that the port speaks HTTP".into()
        }
        "Superseded" | "Conflicted" => "delete one of the two, or have them be about different ports".into(),
        _ => format!("kubectl -n {space} describe {}.{} {}", kind.plural(), kind.group().0, name(object)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(kind: &str, status: &str, reason: &str) -> Value {
        json!({"type": kind, "status": status, "reason": reason, "message": "why", "observedGeneration": 2})
    }

    #[test]
    fn conditions_become_findings_and_old_ones_are_none() {
        let policy = |conditions: Value| {
            let object = json!({"metadata": {"name": "p", "namespace": "demo", "generation": 2}, "status": {"conditions": conditions}});
            of(Kind::TrafficPolicy, &object)
        };
        assert_eq!(policy(json!([condition("Accepted", "True", "Accepted")])), Some(Vec::new()));
        for (reason, grade) in [("Invalid", Grade::Wrong), ("TargetNotFound", Grade::Remark), ("Novel", Grade::Remark)]
        {
            let found = policy(json!([condition("Accepted", "False", reason)])).unwrap();
            assert_eq!((found.len(), found[0].grade, found[0].remedy.is_empty()), (1, grade, false), "{reason}");
            assert_eq!(found[0].what, format!("TrafficPolicy demo/p: {reason}: why"));
        }
        assert_eq!(policy(json!([])), None, "nobody has said anything");
        let mut old = condition("Accepted", "False", "Invalid");
        old["observedGeneration"] = 1.into();
        assert_eq!(policy(json!([old])), None, "said of what it was");
    }

    #[test]
    fn of_a_route_only_our_entries_count() {
        let route = |parent: &Value, entries: Value| {
            let object = json!({"metadata": {"name": "r", "namespace": "demo", "generation": 2},
                "spec": {"parentRefs": [parent]}, "status": {"parents": entries}});
            of(Kind::HttpRoute, &object)
        };
        let (service, gateway) = (json!({"group": "", "kind": "Service", "name": "echo"}), json!({"name": "gw"}));
        let entry = |by: &str, conditions: Value| json!({"controllerName": by, "conditions": conditions});
        let partly = json!([
            condition("Accepted", "True", "Accepted"),
            condition("PartiallyInvalid", "True", "UnsupportedValue")
        ]);
        let found = route(&service, json!([entry("other", json!([])), entry(CONTROLLER, partly)])).unwrap();
        assert_eq!((found.len(), found[0].grade), (1, Grade::Wrong));
        let lost = json!([condition("ResolvedRefs", "False", "BackendNotFound")]);
        // Said by two parents in the same words, it is told once.
        let found = route(&service, json!([entry(CONTROLLER, lost.clone()), entry(CONTROLLER, lost.clone())])).unwrap();
        assert_eq!((found.len(), found[0].grade), (1, Grade::Remark));
        assert_eq!(route(&service, json!([entry("other", lost)])), None);
        assert_eq!(route(&gateway, json!([])), Some(Vec::new()), "a Gateway's is nobody's here");
    }

    #[test]
    fn of_many_some_are_told_and_the_worst_first() {
        let remark = |n: usize| Finding::remark(format!("{n}"), "x");
        let many: Vec<_> = (0..30).map(remark).chain([Finding::wrong("bad", "y")]).collect();
        let told = told(many);
        assert_eq!((told.len(), told[0].what.as_str()), (TOLD + 2, "bad"));
        assert_eq!(told.last().unwrap().what, "and 10 more of the kind");
    }
}
