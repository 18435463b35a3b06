//! What becomes of a policy of `weft.dev`: its status is conditions and nothing else, for only this controller says anything of it.
//!
//! | what the snapshot says | condition |
//! |---|---|
//! | the mesh goes by it | `Accepted` |
//! | the Service port that is to stand in is not there | references not resolved, `BackendNotFound` |
//! | what its ports speak leaves some of its settings without effect | `SettingsIgnored`, only then |
//! | a Service, port, route or rule it targets is not there | not accepted, `TargetNotFound` |
//! | it cannot be understood | not accepted, `Invalid` |

use weft_control::resource::Kind;
use weft_core::route::without_effect;
use weft_core::snapshot::Snapshot;

use super::Model;
use super::judge::{Judged, Seen, Verdict, misunderstood};

/// Whether a kind is one of these.
pub(super) fn is_own(kind: Kind) -> bool {
    matches!(kind, Kind::TrafficPolicy | Kind::AuthorizationPolicy | Kind::PeerAuthentication)
}

/// Its conditions.
pub(super) fn judge(snapshot: &Snapshot, kind: Kind, seen: &Seen) -> Judged {
    let accepted = ("Accepted", accepted(snapshot, kind, seen));
    let Some(Model::Policy(policy)) = &seen.model else { return vec![accepted] };
    let resolved = policy.traffic.fallback.as_ref().map(|_| match snapshot.absent_fallback(policy) {
        None => (true, "ResolvedRefs", "who is to stand in is there".into()),
        Some(absent) => (false, "BackendNotFound", format!("it falls back to {absent}; until then nobody stands in")),
    });
    let ignored = without_effect(snapshot, policy);
    let ignored =
        (!ignored.is_empty()).then(|| (true, "PortProtocol", format!("without effect: {}", ignored.join("; "))));
    let further = [("ResolvedRefs", resolved), ("SettingsIgnored", ignored)];
    [accepted].into_iter().chain(further.into_iter().filter_map(|(kind, verdict)| Some((kind, verdict?)))).collect()
}

fn accepted(snapshot: &Snapshot, kind: Kind, seen: &Seen) -> Verdict {
    let absent = match &seen.model {
        Some(Model::Policy(policy)) => snapshot.absent_targets(policy),
        Some(_) => Vec::new(),
        None => {
            let refuses = kind == Kind::AuthorizationPolicy;
            return misunderstood(
                seen,
                "Invalid",
                if refuses { ", or else the pods it selects refuse everyone" } else { "" },
            );
        }
    };
    if absent.is_empty() {
        (true, "Accepted", "the mesh goes by it".into())
    } else {
        (false, "TargetNotFound", format!("it is for {}; what of it is there follows it", absent.join(", and for ")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_control::kubernetes::Item;
    use weft_core::model::TrustDomain;
    use weft_core::snapshot::Delta;

    use super::super::judge::entries;
    use super::super::{Timestamp, seen};
    use super::*;

    fn read(kind: Kind, object: &Value) -> Item {
        Item::read(kind, object.to_string().as_bytes()).unwrap()
    }

    fn object(kind: &str, spec: &Value, status: &Value) -> Value {
        json!({"apiVersion": "weft.dev/v1alpha1", "kind": kind, "metadata": {"name": "p", "namespace": "demo", "generation": 2},
            "spec": spec, "status": status})
    }

    /// Beside the Services `demo/echo` with a port `http`, and `demo/raw`.
    fn judged(kind: Kind, object: &Value) -> Option<Vec<Value>> {
        let service = json!({"metadata": {"name": "echo", "namespace": "demo"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]}});
        let raw = json!({"metadata": {"name": "raw", "namespace": "demo"},
            "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 6379, "appProtocol": "redis"}]}});
        let items = [read(Kind::Service, &service), read(Kind::Service, &raw), read(kind, object)];
        let deltas = items.into_iter().filter_map(|item| item.resource).map(Delta::Put);
        let snapshot = Snapshot::new(TrustDomain::new("cluster.local").unwrap()).apply(deltas);
        let (name, seen) = seen(&read(kind, object)).unwrap();
        entries(&snapshot, &name, &seen, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn what_is_not_there_to_stand_in_and_what_does_nothing_are_conditions_of_their_own() {
        let said = |fallback: Value, more: Value| -> Vec<String> {
            let mut spec = json!({"targetRefs": [{"group": "", "kind": "Service", "name": "raw"}], "slowStart": "30s"});
            if !fallback.is_null() {
                spec["fallback"] = fallback;
            }
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let said = judged(Kind::TrafficPolicy, &object("TrafficPolicy", &spec, &json!({}))).unwrap();
            let text =
                |c: &Value| format!("{}={} {}: {}", c["type"], c["status"], c["reason"], c["message"]).replace('"', "");
            said.iter().map(text).collect()
        };
        let none = json!({});
        assert_eq!(said(Value::Null, none.clone()).len(), 1);
        let there = said(json!({"name": "echo", "port": 80}), none.clone());
        assert_eq!(there[1], "ResolvedRefs=True ResolvedRefs: who is to stand in is there");
        for (fallback, says) in [
            (json!({"name": "none", "port": 80}), "it falls back to Service demo/none, which does not exist"),
            (
                json!({"name": "echo", "port": 81}),
                "it falls back to port 81 of Service demo/echo, which has no such TCP port",
            ),
        ] {
            let lost = said(fallback, none.clone());
            assert!(lost[0].starts_with("Accepted=True Accepted"), "{lost:?}");
            assert!(lost[1].starts_with(&format!("ResolvedRefs=False BackendNotFound: {says}")), "{lost:?}");
        }
        let idle = said(Value::Null, json!({"rateLimit": {"requests": 1}, "idleTimeout": "1h"}));
        let wanted = "SettingsIgnored=True PortProtocol: without effect: rateLimit on Service demo/raw, which is carried byte by byte";
        assert!(idle.len() == 2 && idle[1].starts_with(wanted), "{idle:?}");
    }

    #[test]
    fn every_fate_of_a_policy_has_its_reason() {
        let target = |name: &str, section: Value| json!({"targetRefs": [{"group": "", "kind": "Service", "name": name, "sectionName": section}], "slowStart": "30s"});
        let rules = |block: &str| json!({"action": "Allow", "rules": [{"from": [{"ipBlocks": [block]}]}]});
        let cases = [
            (Kind::TrafficPolicy, "TrafficPolicy", target("echo", json!("http")), "Accepted", ""),
            (Kind::TrafficPolicy, "TrafficPolicy", target("none", Value::Null), "TargetNotFound", "Service demo/none"),
            (Kind::TrafficPolicy, "TrafficPolicy", target("echo", json!("grpc")), "TargetNotFound", "port grpc"),
            (Kind::PeerAuthentication, "PeerAuthentication", json!({"mtls": {"mode": "Strict"}}), "Accepted", ""),
            (Kind::PeerAuthentication, "PeerAuthentication", json!({"mtls": {"mode": "Odd"}}), "Invalid", "Odd"),
            (Kind::AuthorizationPolicy, "AuthorizationPolicy", rules("10.0.0.0/8"), "Accepted", ""),
            (Kind::AuthorizationPolicy, "AuthorizationPolicy", rules("10.0.0.0/99"), "Invalid", "refuse everyone"),
        ];
        for (kind, name, spec, reason, says) in cases {
            let said = judged(kind, &object(name, &spec, &json!({}))).unwrap();
            assert_eq!(
                (said.len(), &said[0]["type"], &said[0]["reason"]),
                (1, &json!("Accepted"), &json!(reason)),
                "{spec}"
            );
            assert_eq!(said[0]["status"], if reason == "Accepted" { "True" } else { "False" });
            assert_eq!(said[0]["observedGeneration"], 2);
            assert!(said[0]["message"].as_str().unwrap().contains(says), "{}", said[0]);
            // What stands there already is not written again.
            assert_eq!(judged(kind, &object(name, &spec, &json!({"conditions": said}))), None, "{spec}");
        }
    }
}
