//! What becomes of a route, in the words of Gateway API.
//!
//! | what the snapshot says | condition |
//! |---|---|
//! | it decides for a port of the Service | `Accepted` |
//! | no such Service, or no such port of it | not accepted, `NoMatchingParent` |
//! | a TCPRoute is not in the Service's namespace | not accepted, `NotAllowedByListeners`: those of consumers are not supported |
//! | another route decides everywhere | not accepted, `Superseded` (ours: Gateway API has no word for it) |
//! | of its rules all ask for what cannot be done | not accepted, `UnsupportedValue` |
//! | or all ask for `sessionPersistence` where a Service has `sessionAffinity: ClientIP`, or the like | not accepted, `IncompatibleSessionAffinity` (ours) |
//! | some do either | accepted, and `PartiallyInvalid` |
//! | it cannot be understood | not accepted, `UnsupportedValue` |
//! | a backend is missing, or its port | references not resolved, `BackendNotFound` |
//! | a backend is in another namespace without a ReferenceGrant | references not resolved, `RefNotPermitted` |
//! | a backend is no Service | references not resolved, `InvalidKind` |

use gateway_api::apis::experimental::httproutes::{HttpRouteStatusParents, HttpRouteStatusParentsParentRef};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;
use weft_control::resource::gateway::{self, Parent};
use weft_core::model::{BackendRef, HttpRoute, ParentRef};
use weft_core::snapshot::{Attachment, BranchFault, Snapshot};

use super::{Model, Seen};

/// Who says so, among other controllers.
pub(super) const CONTROLLER: &str = "weft.dev/controller";

/// Clients are asked to keep their endpoint in two ways at once. GEP-1619 asks for a status and names no reason.
const INCOMPATIBLE: &str = "IncompatibleSessionAffinity";

/// A condition's status, reason and message.
type Verdict = (bool, &'static str, String);

/// `status.parents` as it should be; `None` if it is so.
pub(super) fn parents(snapshot: &Snapshot, seen: &Seen, now: Timestamp) -> Option<Vec<Value>> {
    let current = &seen.facts.parents;
    let mut wanted = ours(snapshot, seen, now);
    let mut next = Vec::new();
    // Everything keeps its place: a controller that sorts the list otherwise would write it again.
    for entry in current {
        if entry["controllerName"] != CONTROLLER {
            next.push(entry.clone());
        } else if let Some(at) = wanted.iter().position(|ours| ours["parentRef"] == entry["parentRef"]) {
            next.push(keep_times(wanted.remove(at), entry));
        }
    }
    next.append(&mut wanted);
    (next != *current).then_some(next)
}

/// The entries of this controller: one for each parent that is a Service.
fn ours(snapshot: &Snapshot, seen: &Seen, now: Timestamp) -> Vec<Value> {
    let services: Vec<_> = seen.facts.parent_refs.iter().filter(|parent| gateway::is_service(parent)).collect();
    // One for each parent that is a Service: a route one of whose parents is malformed is no model.
    let verdicts: Vec<(Verdict, Option<Verdict>)> = match &seen.model {
        Some(Model::Tcp(route)) => snapshot.attachments(route).iter().map(|of| (accepted(of), None)).collect(),
        Some(Model::Http(route)) => {
            let attachments = snapshot.http_attachments(route);
            route
                .parents
                .iter()
                .zip(&attachments)
                .map(|(parent, of)| of_requests(snapshot, route, parent, of))
                .collect()
        }
        None => services.iter().map(|_| (misunderstood(seen), None)).collect(),
    };
    let resolved = resolved(snapshot, seen);
    let generation = seen.facts.generation;
    let condition = |kind: &str, (holds, reason, message): Verdict| Condition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: Time(now),
    };
    let entry = |(parent, (accepted, partly)): (&&Parent, (Verdict, Option<Verdict>))| {
        let partly = partly.map(|verdict| condition("PartiallyInvalid", verdict));
        let conditions = vec![condition("Accepted", accepted), condition("ResolvedRefs", resolved.clone())];
        HttpRouteStatusParents {
            controller_name: CONTROLLER.to_owned(),
            parent_ref: reference(parent),
            conditions: conditions.into_iter().chain(partly).collect(),
        }
    };
    services.iter().zip(verdicts).map(entry).filter_map(|entry| serde_json::to_value(entry).ok()).collect()
}

fn accepted(attachment: &Attachment) -> Verdict {
    match attachment {
        Attachment::Accepted => (true, "Accepted", "the route decides for connections to the Service".into()),
        Attachment::NoService => (false, "NoMatchingParent", "the Service does not exist".into()),
        Attachment::NoPort => (false, "NoMatchingParent", "the Service has no such port".into()),
        Attachment::OtherNamespace => {
            let message = "a route decides for Services of its own namespace only: consumer routes are not supported";
            (false, "NotAllowedByListeners", message.into())
        }
        Attachment::Superseded(other) => {
            (false, "Superseded", format!("{other} decides: it is older, or of smaller name"))
        }
    }
}

/// What a parent makes of a route of requests, and `PartiallyInvalid` where some of its rules are refused there.
fn of_requests(
    snapshot: &Snapshot,
    route: &HttpRoute,
    parent: &ParentRef,
    attachment: &Attachment,
) -> (Verdict, Option<Verdict>) {
    let (mut refused, mut texts, mut reason) = (0, Vec::new(), INCOMPATIBLE);
    for rule in &route.rules {
        let clash = || snapshot.session_clash(&parent.service, rule).map(|clash| clash.to_string());
        let Some(text) = rule.unsupported.as_deref().map(str::to_owned).or_else(clash) else { continue };
        refused += 1;
        if rule.unsupported.is_some() {
            reason = "UnsupportedValue";
        }
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let faults = texts.join("; ");
    if refused > 0 && refused == route.rules.len() {
        return ((false, reason, format!("{faults}; the requests it takes are refused")), None);
    }
    let accepted = accepted(attachment);
    let partly = (true, reason, format!("{faults}; the requests such a rule takes are refused"));
    let partly = (accepted.0 && refused > 0).then_some(partly);
    (accepted, partly)
}

fn misunderstood(seen: &Seen) -> Verdict {
    let wrong = seen.findings.iter().filter(|finding| !finding.warning);
    let text: Vec<_> = wrong.map(|finding| format!("{}: {}", finding.path, finding.reason)).collect();
    (false, "UnsupportedValue", format!("{}; the last good version, if any, stays in force", text.join("; ")))
}

fn resolved(snapshot: &Snapshot, seen: &Seen) -> Verdict {
    if let Some(finding) = seen.findings.iter().find(|finding| gateway::is_backend_kind(finding)) {
        return (false, "InvalidKind", format!("{}: {}", finding.path, finding.reason));
    }
    let Some(model) = &seen.model else {
        return (false, "UnsupportedValue", "the route cannot be understood".into());
    };
    let faulty: Option<(&BackendRef, BranchFault)> = match model {
        Model::Tcp(route) => {
            let faults = snapshot.faults(route);
            route.backends.iter().zip(faults).find_map(|(backend, fault)| Some((backend, fault?)))
        }
        Model::Http(route) => {
            route.backends().find_map(|backend| Some((backend, snapshot.http_fault(route, backend)?)))
        }
    };
    match faulty {
        None => (true, "ResolvedRefs", "every backend is there".into()),
        Some((backend, fault)) => {
            let reason = match fault {
                BranchFault::NotGranted => "RefNotPermitted",
                BranchFault::NoService | BranchFault::NoPort => "BackendNotFound",
            };
            (false, reason, format!("{} port {}: {fault}; its share is refused", backend.service, backend.port))
        }
    }
}

/// An entry with the times of `before` where nothing has turned.
fn keep_times(mut entry: Value, before: &Value) -> Value {
    let old = before["conditions"].as_array();
    for condition in entry["conditions"].as_array_mut().into_iter().flatten() {
        let same = old.into_iter().flatten().find(|old| old["type"] == condition["type"]);
        if let Some(same) = same.filter(|same| same["status"] == condition["status"]) {
            condition["lastTransitionTime"] = same["lastTransitionTime"].clone();
        }
    }
    entry
}

fn reference(parent: &Parent) -> HttpRouteStatusParentsParentRef {
    HttpRouteStatusParentsParentRef {
        group: parent.group.clone(),
        kind: parent.kind.clone(),
        name: parent.name.clone(),
        namespace: parent.namespace.clone(),
        port: parent.port,
        section_name: parent.section_name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use weft_control::kubernetes::Item;
    use weft_control::resource::Kind;
    use weft_core::model::TrustDomain;
    use weft_core::snapshot::Delta;

    fn item(kind: Kind, object: &Value) -> Item {
        Item::read(kind, object.to_string().as_bytes()).unwrap()
    }

    fn service(namespace: &str, name: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}})
    }

    fn route(name: &str, parents: &Value, backends: &Value) -> Value {
        json!({"apiVersion": "gateway.networking.k8s.io/v1alpha2", "kind": "TCPRoute",
            "metadata": {"name": name, "namespace": "demo", "generation": 3},
            "spec": {"parentRefs": parents, "rules": [{"backendRefs": backends}]}})
    }

    /// The Services `demo/echo` and `other/far`, and these routes.
    fn judged(routes: &[&Value]) -> Option<Vec<Value>> {
        let services = [service("demo", "echo"), service("other", "far")];
        let items = services.iter().map(|service| item(Kind::Service, service));
        let routes_read = routes.iter().map(|route| item(Kind::TcpRoute, route));
        let deltas = items.chain(routes_read).filter_map(|item| item.resource).map(Delta::Put);
        let snapshot = Snapshot::new(TrustDomain::new("cluster.local").unwrap()).apply(deltas);
        let (_, seen) = super::super::seen(&item(Kind::TcpRoute, routes[0])).unwrap();
        parents(&snapshot, &seen, Timestamp::UNIX_EPOCH)
    }

    fn echo() -> Value {
        json!([{"group": "", "kind": "Service", "name": "echo", "port": 80}])
    }

    fn reasons(parents: Option<Vec<Value>>) -> Vec<String> {
        let conditions = parents.unwrap()[0]["conditions"].as_array().unwrap().clone();
        conditions.iter().map(|c| format!("{}={} {}", c["type"], c["status"], c["reason"]).replace('"', "")).collect()
    }

    #[test]
    fn every_fate_of_a_route_has_its_reason() {
        let to = |name: &str, namespace: &str| json!([{"name": name, "namespace": namespace, "port": 80}]);
        let good = route("r", &echo(), &to("echo", "demo"));
        assert_eq!(reasons(judged(&[&good])), ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
        let cases = [
            (
                route("r", &json!([{"group": "", "kind": "Service", "name": "none"}]), &to("echo", "demo")),
                0,
                "NoMatchingParent",
            ),
            (
                route("r", &json!([{"group": "", "kind": "Service", "name": "echo", "port": 81}]), &to("echo", "demo")),
                0,
                "NoMatchingParent",
            ),
            (
                route(
                    "r",
                    &json!([{"group": "", "kind": "Service", "name": "far", "namespace": "other"}]),
                    &to("echo", "demo"),
                ),
                0,
                "NotAllowedByListeners",
            ),
            (route("r", &echo(), &json!([{"name": "echo", "port": 80, "weight": -1}])), 0, "UnsupportedValue"),
            (route("r", &echo(), &to("none", "demo")), 1, "BackendNotFound"),
            (route("r", &echo(), &json!([{"name": "echo", "port": 81}])), 1, "BackendNotFound"),
            (route("r", &echo(), &to("far", "other")), 1, "RefNotPermitted"),
            (route("r", &echo(), &json!([{"kind": "Pod", "name": "echo", "port": 80}])), 1, "InvalidKind"),
        ];
        for (route, condition, reason) in cases {
            let said = reasons(judged(&[&route]));
            assert!(said[condition].ends_with(&format!("=False {reason}")), "{said:?}: {route}");
        }
        let later = route("s", &echo(), &to("echo", "demo"));
        assert_eq!(reasons(judged(&[&later, &good]))[0], "Accepted=False Superseded");
    }

    fn http_route(rules: &Value) -> Value {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "demo", "generation": 3},
            "spec": {"parentRefs": echo(), "rules": rules}})
    }

    #[test]
    fn a_route_of_requests_is_judged_rule_by_rule() {
        let judged = |rules: &Value| {
            let read = item(Kind::HttpRoute, &http_route(rules));
            let services = [service("demo", "echo")];
            let items = services.iter().map(|service| item(Kind::Service, service));
            let (_, seen) = super::super::seen(&read).unwrap();
            let deltas = items.chain([read]).filter_map(|item| item.resource).map(Delta::Put);
            let snapshot = Snapshot::new(TrustDomain::new("cluster.local").unwrap()).apply(deltas);
            reasons(parents(&snapshot, &seen, Timestamp::UNIX_EPOCH))
        };
        let good = json!({"backendRefs": [{"name": "echo", "port": 80}]});
        let mut odd = good.clone();
        odd["filters"] = json!([{"type": "ExtensionRef", "extensionRef": {"group": "a", "kind": "B", "name": "c"}}]);
        let whole = ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"];
        assert_eq!(judged(&json!([good])), whole);
        assert_eq!(judged(&json!([good, odd])), [whole[0], whole[1], "PartiallyInvalid=True UnsupportedValue"]);
        assert_eq!(judged(&json!([odd]))[0], "Accepted=False UnsupportedValue");
        let missing = json!({"backendRefs": [{"name": "echo", "port": 80}, {"name": "none", "port": 80}]});
        assert_eq!(judged(&json!([missing]))[1], "ResolvedRefs=False BackendNotFound");
    }

    #[test]
    fn sessions_and_affinity_by_address_do_not_go_together() {
        let judged = |affinity: &str, rules: &Value| {
            let read = item(Kind::HttpRoute, &http_route(rules));
            let mut kept = service("demo", "echo");
            kept["spec"]["sessionAffinity"] = affinity.into();
            let (_, seen) = super::super::seen(&read).unwrap();
            let deltas =
                [item(Kind::Service, &kept), read].into_iter().filter_map(|item| item.resource).map(Delta::Put);
            let snapshot = Snapshot::new(TrustDomain::new("cluster.local").unwrap()).apply(deltas);
            reasons(parents(&snapshot, &seen, Timestamp::UNIX_EPOCH))
        };
        let plain = json!({"backendRefs": [{"name": "echo", "port": 80}]});
        let mut kept = plain.clone();
        kept["sessionPersistence"] = json!({"sessionName": "cart"});
        let mut odd = plain.clone();
        odd["filters"] = json!([{"type": "ExtensionRef", "extensionRef": {"group": "a", "kind": "B", "name": "c"}}]);
        assert_eq!(judged("None", &json!([kept]))[0], "Accepted=True Accepted");
        let said = judged("ClientIP", &json!([kept, kept]));
        assert_eq!(said, ["Accepted=False IncompatibleSessionAffinity", "ResolvedRefs=True ResolvedRefs"]);
        let said = judged("ClientIP", &json!([kept, plain]));
        assert_eq!(
            (&*said[0], &*said[2]),
            ("Accepted=True Accepted", "PartiallyInvalid=True IncompatibleSessionAffinity")
        );
        assert_eq!(judged("ClientIP", &json!([kept, odd]))[0], "Accepted=False UnsupportedValue");
        assert_eq!(judged("ClientIP", &json!([plain])).len(), 2, "one of the two alone is well");
    }

    #[test]
    fn entries_of_others_stay_and_what_is_said_already_is_not_said_again() {
        let mut route = route("r", &echo(), &json!([{"name": "echo", "port": 80}]));
        let foreign =
            json!({"controllerName": "example.com/other", "parentRef": {"name": "gw"}, "conditions": [], "new": 1});
        let stale = json!({"controllerName": CONTROLLER, "parentRef": {"name": "left"}, "conditions": []});
        route["status"] = json!({"parents": [stale, foreign]});
        let next = judged(&[&route]).unwrap();
        assert_eq!((next.len(), &next[0]), (2, &foreign));
        assert_eq!(next[1]["conditions"][0]["observedGeneration"], 3);
        route["status"] = json!({"parents": next});
        assert_eq!(judged(&[&route]), None);
        // Another generation is said; the time at which nothing has turned stays.
        route["status"]["parents"][1]["conditions"][0]["lastTransitionTime"] = "2020-01-01T00:00:00Z".into();
        route["metadata"]["generation"] = 4.into();
        let next = judged(&[&route]).unwrap();
        assert_eq!(next[1]["conditions"][0]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        // A route of a Gateway is nobody's here.
        let gateway = self::route("r", &json!([{"name": "gw"}]), &json!([{"name": "echo", "port": 80}]));
        assert_eq!(judged(&[&gateway]), None);
    }
}
