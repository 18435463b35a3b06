//! What becomes of a policy of `weft.dev`: its status is conditions and nothing else, for only this controller says anything of it.
//!
//! | what the snapshot says | condition |
//! |---|---|
//! | the mesh goes by it | `Accepted` |
//! | a Service, port, route or rule it targets is not there | not accepted, `TargetNotFound` |
//! | it cannot be understood | not accepted, `Invalid` |

use weft_control::resource::Kind;
use weft_core::snapshot::Snapshot;

use super::Model;
use super::judge::{Seen, Verdict, misunderstood};

/// Whether a kind is one of these.
pub(super) fn is_own(kind: Kind) -> bool {
    matches!(kind, Kind::TrafficPolicy | Kind::AuthorizationPolicy | Kind::PeerAuthentication)
}

pub(super) fn accepted(snapshot: &Snapshot, kind: Kind, seen: &Seen) -> Verdict {
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

    /// Beside the Service `demo/echo` with a port `http`.
    fn judged(kind: Kind, object: &Value) -> Option<Vec<Value>> {
        let service = json!({"metadata": {"name": "echo", "namespace": "demo"},
            "spec": {"clusterIP": "10.96.0.9", "ports": [{"name": "http", "port": 80}]}});
        let items = [read(Kind::Service, &service), read(kind, object)];
        let deltas = items.into_iter().filter_map(|item| item.resource).map(Delta::Put);
        let snapshot = Snapshot::new(TrustDomain::new("cluster.local").unwrap()).apply(deltas);
        let (name, seen) = seen(&read(kind, object)).unwrap();
        entries(&snapshot, &name, &seen, Timestamp::UNIX_EPOCH)
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
