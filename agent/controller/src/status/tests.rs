//! Routes and policies, and what is said of them.

use serde_json::{Value, json};
use weft_control::resource::CONTROLLER;
use weft_core::model::TrustDomain;

use super::judge::entries;
use super::*;

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
    let (object, seen) = seen(&item(Kind::TcpRoute, routes[0])).unwrap();
    entries(&snapshot, &object, &seen, Timestamp::UNIX_EPOCH)
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
                &to("far", "other"),
            ),
            1,
            "RefNotPermitted",
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
    let far = json!([{"group": "", "kind": "Service", "name": "far", "namespace": "other"}]);
    let consumer = route("r", &far, &to("echo", "demo"));
    assert_eq!(reasons(judged(&[&consumer])), ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
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
        let (object, seen) = seen(&read).unwrap();
        let deltas = items.chain([read]).filter_map(|item| item.resource).map(Delta::Put);
        let snapshot = Snapshot::new(TrustDomain::new("cluster.local").unwrap()).apply(deltas);
        reasons(entries(&snapshot, &object, &seen, Timestamp::UNIX_EPOCH))
    };
    let good = json!({"backendRefs": [{"name": "echo", "port": 80}]});
    let mut odd = good.clone();
    odd["filters"] = json!([{"type": "ExtensionRef", "extensionRef": {"group": "a", "kind": "B", "name": "c"}}]);
    let whole = ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"];
    assert_eq!(judged(&json!([good])), whole);
    assert_eq!(judged(&json!([good, odd])), [whole[0], whole[1], "PartiallyInvalid=True UnsupportedValue"]);
    assert_eq!(judged(&json!([odd]))[0], "Accepted=False UnsupportedValue");
    // What the types do not have, or the expressions' engine cannot do, is of its rule.
    for odd in [
        json!({"filters": [{"type": "Teleport"}]}),
        json!({"matches": [{"path": {"type": "Glob", "value": "/*"}}]}),
        json!({"matches": [{"path": {"type": "RegularExpression", "value": "/(?!a).*"}}]}),
        json!({"matches": [{"header": []}]}),
    ] {
        assert_eq!(
            judged(&json!([good, odd])),
            [whole[0], whole[1], "PartiallyInvalid=True UnsupportedValue"],
            "{odd}"
        );
        assert_eq!(judged(&json!([odd]))[0], "Accepted=False UnsupportedValue", "{odd}");
    }
    let missing = json!({"backendRefs": [{"name": "echo", "port": 80}, {"name": "none", "port": 80}]});
    assert_eq!(judged(&json!([missing]))[1], "ResolvedRefs=False BackendNotFound");
}

#[test]
fn a_route_that_cannot_be_read_is_told_so_by_its_parents() {
    let good = json!([{"backendRefs": [{"name": "echo", "port": 80}]}]);
    let said = |change: &dyn Fn(&mut Value)| {
        let mut object = http_route(&good);
        change(&mut object);
        let (reference, seen) = seen(&item(Kind::HttpRoute, &object)).unwrap();
        let empty = Snapshot::new(TrustDomain::new("cluster.local").unwrap());
        let snapshot = empty.apply([Delta::Put(item(Kind::Service, &service("demo", "echo")).resource.unwrap())]);
        entries(&snapshot, &reference, &seen, Timestamp::UNIX_EPOCH).unwrap()
    };
    for (change, text) in [
        (&(|o: &mut Value| o["spec"]["rules"] = json!({"0": {}})) as &dyn Fn(&mut Value), "spec.rules: is not a list"),
        (&|o| o["spec"]["parentRefs"][0]["port"] = json!("http"), "spec.parentRefs[0]: invalid type"),
        (&|o| o["spec"]["parentRefs"][0]["only"] = json!("v4"), "spec.parentRefs[0].only: is no field"),
    ] {
        let entries = said(change);
        assert_eq!(entries[0]["parentRef"]["name"], "echo");
        let condition = &entries[0]["conditions"][0];
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("UnsupportedValue")));
        assert_eq!(condition["observedGeneration"], 3);
        let message = condition["message"].as_str().unwrap();
        assert!(message.contains(text) && message.contains("mend it"), "{message}");
    }
    // What says nothing about requests is told, and no more.
    let told = reasons(Some(said(&|o| o["spec"]["hostname"] = json!("a.example"))));
    assert_eq!(told[2], "PartiallyInvalid=True UnsupportedValue");
    let tcp = json!({"metadata": {"name": "r", "namespace": "demo"}, "spec": {"parentRefs": echo(), "rules": 7}});
    let told = reasons(judged(&[&tcp]));
    assert_eq!(told[0], "Accepted=False UnsupportedValue");
}

#[test]
fn sessions_and_affinity_by_address_do_not_go_together() {
    let judged = |affinity: &str, rules: &Value| {
        let read = item(Kind::HttpRoute, &http_route(rules));
        let mut kept = service("demo", "echo");
        kept["spec"]["sessionAffinity"] = affinity.into();
        let (object, seen) = seen(&read).unwrap();
        let deltas = [item(Kind::Service, &kept), read].into_iter().filter_map(|item| item.resource).map(Delta::Put);
        let snapshot = Snapshot::new(TrustDomain::new("cluster.local").unwrap()).apply(deltas);
        reasons(entries(&snapshot, &object, &seen, Timestamp::UNIX_EPOCH))
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
    assert_eq!((&*said[0], &*said[2]), ("Accepted=True Accepted", "PartiallyInvalid=True IncompatibleSessionAffinity"));
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

fn policy(name: &str, target: &str, created: i64, spec: &Value) -> Value {
    let mut object = json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": name, "namespace": "demo", "generation": 2, "creationTimestamp": Timestamp::from_second(created).unwrap().to_string()},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": target}]}});
    object["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    object
}

/// The Service `demo/echo`, and these policies: what is said of the first.
fn judged_policies(policies: &[&Value], affinity: &str) -> Option<Vec<Value>> {
    let mut echo = service("demo", "echo");
    echo["spec"]["sessionAffinity"] = affinity.into();
    let read = policies.iter().map(|policy| item(Kind::BackendTrafficPolicy, policy));
    let deltas = read.chain([item(Kind::Service, &echo)]).filter(|item| item.valid).filter_map(|item| item.resource);
    let snapshot = Snapshot::new(TrustDomain::new("cluster.local").unwrap()).apply(deltas.map(Delta::Put));
    let (object, seen) = seen(&item(Kind::BackendTrafficPolicy, policies[0])).unwrap();
    entries(&snapshot, &object, &seen, Timestamp::UNIX_EPOCH)
}

#[test]
fn every_fate_of_a_policy_has_its_reason() {
    let kept = json!({"sessionPersistence": {"sessionName": "cart"}});
    let good = policy("p", "echo", 9, &kept);
    let said = judged_policies(&[&good], "None").unwrap();
    let whom = json!({"group": "", "kind": "Service", "name": "echo", "namespace": "demo"});
    assert_eq!((&said[0]["ancestorRef"], &said[0]["controllerName"]), (&whom, &json!(CONTROLLER)));
    assert_eq!(said[0]["conditions"][0]["observedGeneration"], 2);
    let wrong = policy("p", "echo", 9, &json!({"retryConstraint": {"budget": {"percent": 101}}}));
    let (older, younger) = (policy("z", "echo", 8, &kept), policy("a", "echo", 10, &kept));
    for (policies, affinity, reason) in [
        (&[&good][..], "None", "True Accepted"),
        (&[&good, &younger], "None", "True Accepted"),
        (&[&good, &older], "None", "False Conflicted"),
        (&[&policy("p", "none", 9, &kept)], "None", "False TargetNotFound"),
        (&[&wrong], "None", "False Invalid"),
        (&[&good], "ClientIP", "False IncompatibleSessionAffinity"),
        (&[&policy("p", "echo", 9, &json!({}))], "ClientIP", "True Accepted"),
    ] {
        assert_eq!(reasons(judged_policies(policies, affinity)), [format!("Accepted={reason}")]);
    }
    // Said once; others' entries stay, and of those there may be too many.
    let mut told = good.clone();
    told["status"] = json!({"ancestors": said});
    assert_eq!(judged_policies(&[&told], "None"), None);
    let foreign = json!({"controllerName": "example.com/other", "ancestorRef": {"name": "gw"}, "conditions": []});
    told["status"] = json!({"ancestors": vec![foreign; 16]});
    assert_eq!(judged_policies(&[&told], "None"), None);
    let gateway = json!({"apiVersion": "gateway.networking.x-k8s.io/v1alpha1", "kind": "XBackendTrafficPolicy",
        "metadata": {"name": "p", "namespace": "demo"},
        "spec": {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"}]}});
    assert_eq!(judged_policies(&[&gateway], "None"), None, "a policy of a Gateway is nobody's here");
}
