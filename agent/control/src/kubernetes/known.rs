//! What of one kind is in force, so that a complete new list leads to the difference and nothing more, and what is
//! wrong with any of it.
//!
//! Only names are held here; the objects themselves are in the snapshot, which leaves alone what is put again unchanged.

use std::collections::{BTreeMap, HashSet};

use foldhash::quality::RandomState;
use weft_core::snapshot::{Delta, Key, Resource};

use super::item::Item;
use super::names::Names;
use crate::manifests::{ObjectRef, Problem, REFUSING_ROUTE, Severity};
use crate::resource::{Finding, Kind};

/// What stands for a file in problems of objects that come from the API server.
pub(super) const PLACE: &str = "kubernetes";

type Keys = HashSet<Key, RandomState>;

/// The objects of one kind that are in force.
#[derive(Debug, Default)]
pub struct Known {
    keys: Keys,
    /// Of those, the ones that never were right: a later version takes their place, right or wrong.
    wrong: Keys,
    problems: BTreeMap<ObjectRef, Vec<Problem>>,
}

impl Known {
    /// An object is there and looks like this.
    pub fn put(&mut self, item: Item, deltas: &mut Vec<Delta>) {
        let Item { object, resource, valid, findings, .. } = item;
        // That of the resource shares its names with it.
        let Some(key) = resource.as_ref().map(Resource::key).or_else(|| key_of(&object)) else { return };
        let stays = !valid && self.keys.contains(&key) && !self.wrong.contains(&key);
        // A Pod with a wrong label or annotation is a pod all the same: to leave it out would send it plaintext.
        let usable = valid || object.kind.fails_closed() || matches!(object.kind, Kind::Pod | Kind::Namespace);
        let resource = resource.filter(|_| usable && !stays);
        self.note(&object, findings, valid, stays, resource.is_some());
        match resource {
            _ if stays => {}
            Some(resource) => {
                if valid {
                    self.wrong.remove(&key);
                } else {
                    self.wrong.insert(key.clone());
                }
                self.keys.insert(key);
                deltas.push(Delta::Put(resource));
            }
            None => {
                self.wrong.remove(&key);
                if self.keys.remove(&key) {
                    deltas.push(Delta::Remove(key));
                }
            }
        }
    }

    /// An object is no longer there.
    pub fn remove(&mut self, object: &ObjectRef, deltas: &mut Vec<Delta>) {
        self.problems.remove(object);
        if let Some(key) = key_of(object).filter(|key| self.keys.remove(key)) {
            self.wrong.remove(&key);
            deltas.push(Delta::Remove(key));
        }
    }

    /// These are all there are.
    pub fn keep_only(&mut self, names: &Names, deltas: &mut Vec<Delta>) {
        let present = names.places();
        self.keys.retain(|key| {
            let stays = present.contains(&place_of(key));
            if !stays {
                self.wrong.remove(key);
                deltas.push(Delta::Remove(key.clone()));
            }
            stays
        });
        self.problems.retain(|object, _| present.contains(&(&*object.namespace, &*object.name)));
    }

    /// Whether nothing is in force.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All that is wrong, by object.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }

    fn note(&mut self, object: &ObjectRef, findings: Vec<Finding>, valid: bool, stays: bool, used: bool) {
        if findings.is_empty() {
            self.problems.remove(object);
            return;
        }
        let consequence = match (valid, stays, object.kind) {
            (true, ..) => "",
            (_, true, _) => "; the last good version stays in force",
            (.., Kind::AuthorizationPolicy) => "; until it is mended, what it selects refuses every connection",
            (.., Kind::HttpRoute | Kind::GrpcRoute) if used => REFUSING_ROUTE,
            _ if used => "; it is used without that",
            _ => "; it is left out",
        };
        let problem = |finding: Finding| {
            let (severity, consequence) =
                if finding.warning { (Severity::Warning, "") } else { (Severity::Error, consequence) };
            let consequence = if finding.of_rule { "" } else { consequence };
            let reason = format!("{finding}{consequence}");
            Problem { file: PLACE.into(), line: None, severity, object: Some(object.clone()), reason }
        };
        self.problems.insert(object.clone(), findings.into_iter().map(problem).collect());
    }
}

/// Namespace and name of the object that became what a key names; no namespace where its kind has none.
fn place_of(key: &Key) -> (&str, &str) {
    let name = match key {
        Key::Namespace(name) => return ("", name.as_str()),
        Key::Node(name) | Key::Liveness(name) | Key::Peers(name) => return ("", name),
        Key::HttpRoute(id) => &id.name,
        Key::TrafficPolicy(id) => &id.name,
        Key::Workload(name)
        | Key::Service(name)
        | Key::EndpointSlice(name)
        | Key::TcpRoute(name)
        | Key::ReferenceGrant(name)
        | Key::AuthorizationPolicy(name)
        | Key::PeerAuthentication(name) => name,
    };
    (name.namespace.as_str(), name.name.as_str())
}

/// The key of the resource an object becomes; `None` for names Kubernetes would not give.
fn key_of(object: &ObjectRef) -> Option<Key> {
    use weft_core::model::{HttpKind, HttpRouteId, Name, ObjectName, TrafficKind, TrafficPolicyId};
    if object.kind == Kind::Namespace {
        return Name::new(&object.name).ok().map(Key::Namespace);
    }
    if object.kind == Kind::Node {
        return Some(Key::Node(object.name.as_str().into()));
    }
    let name = ObjectName::new(&object.namespace, &object.name).ok()?;
    Some(match object.kind {
        Kind::Pod => Key::Workload(name),
        Kind::Service => Key::Service(name),
        Kind::EndpointSlice => Key::EndpointSlice(name),
        Kind::TcpRoute => Key::TcpRoute(name),
        Kind::HttpRoute => Key::HttpRoute(HttpRouteId { kind: HttpKind::Http, name }),
        Kind::GrpcRoute => Key::HttpRoute(HttpRouteId { kind: HttpKind::Grpc, name }),
        Kind::ReferenceGrant => Key::ReferenceGrant(name),
        Kind::AuthorizationPolicy => Key::AuthorizationPolicy(name),
        Kind::PeerAuthentication => Key::PeerAuthentication(name),
        Kind::TrafficPolicy => Key::TrafficPolicy(TrafficPolicyId { kind: TrafficKind::Weft, name }),
        Kind::BackendTrafficPolicy => Key::TrafficPolicy(TrafficPolicyId { kind: TrafficKind::Gateway, name }),
        // What slices say is merged with the Pods (`peers`); accounts become nothing.
        Kind::Namespace | Kind::Node | Kind::ServiceAccount | Kind::WorkloadSlice => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::read::Reader;

    fn items(kind: Kind, objects: &[&str]) -> Vec<Item> {
        let list = format!(r#"{{"metadata": {{"resourceVersion": "7"}}, "items": [{}]}}"#, objects.join(","));
        (Reader::of(kind).page)(kind, list.as_bytes()).unwrap().items
    }

    impl Known {
        /// A list is read from its beginning to its end.
        fn replace(&mut self, items: Vec<Item>, deltas: &mut Vec<Delta>) {
            let names: Names = items.iter().map(|item| &item.object).collect();
            items.into_iter().for_each(|item| self.put(item, deltas));
            self.keep_only(&names, deltas);
        }
    }

    fn namespace(name: &str, mesh: &str) -> String {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{name}", "labels": {{"weft.dev/mesh": "{mesh}"}}}}}}"#
        )
    }

    fn changes(deltas: &[Delta]) -> Vec<String> {
        let mut changes: Vec<_> = deltas
            .iter()
            .map(|delta| match delta {
                Delta::Put(resource) => format!("put {:?}", resource.key()),
                Delta::Remove(key) => format!("remove {key:?}"),
            })
            .collect();
        changes.sort();
        changes
    }

    #[test]
    fn a_new_list_removes_what_it_lacks_and_nothing_else() {
        let mut known = Known::default();
        let mut deltas = Vec::new();
        let all = [namespace("a", "enabled"), namespace("b", "enabled"), namespace("c", "enabled")];
        known.replace(items(Kind::Namespace, &all.each_ref().map(String::as_str)), &mut deltas);
        assert_eq!(deltas.len(), 3);
        deltas.clear();
        known.replace(items(Kind::Namespace, &[&all[0], &all[2]]), &mut deltas);
        assert_eq!(changes(&deltas), ["put Namespace(\"a\")", "put Namespace(\"c\")", "remove Namespace(\"b\")"]);
    }

    #[test]
    fn what_is_wrong_leaves_the_last_good_version_and_is_reported_until_it_is_mended() {
        let mut known = Known::default();
        let mut deltas = Vec::new();
        known.replace(items(Kind::Namespace, &[&namespace("a", "enabled")]), &mut deltas);
        deltas.clear();
        known.replace(items(Kind::Namespace, &[&namespace("a", "enable")]), &mut deltas);
        assert_eq!(deltas, []);
        let problems: Vec<_> = known.problems().map(ToString::to_string).collect();
        assert!(problems[0].contains("Namespace a: metadata.labels[weft.dev/mesh]"), "{problems:?}");
        assert!(problems[0].ends_with("the last good version stays in force"), "{problems:?}");
        known.replace(items(Kind::Namespace, &[&namespace("a", "disabled")]), &mut deltas);
        assert_eq!((deltas.len(), known.problems().count()), (1, 0));
    }

    #[test]
    fn a_policy_written_past_validation_refuses_until_it_is_mended_or_gone() {
        let mut known = Known::default();
        let mut deltas = Vec::new();
        let policy = r#"{"apiVersion": "weft.dev/v1alpha1", "kind": "AuthorizationPolicy",
            "metadata": {"name": "p", "namespace": "demo"}, "spec": {"action": "Allow", "rules": [{"form": []}]}}"#;
        known.replace(items(Kind::AuthorizationPolicy, &[policy]), &mut deltas);
        let [Delta::Put(Resource::AuthorizationPolicy(held))] = &deltas[..] else { panic!("{deltas:?}") };
        assert!(!held.valid);
        assert!(known.problems().next().unwrap().reason.contains("refuses every connection"));
        deltas.clear();
        known.remove(
            &ObjectRef { kind: Kind::AuthorizationPolicy, namespace: "demo".into(), name: "p".into() },
            &mut deltas,
        );
        assert_eq!((deltas.len(), known.problems().count(), known.is_empty()), (1, 0, true));
    }

    #[test]
    fn a_route_that_never_was_right_refuses_and_one_that_was_stays() {
        let mut known = Known::default();
        let mut deltas = Vec::new();
        let route = |parent: &str, rules: &str| {
            format!(
                r#"{{"metadata": {{"name": "r", "namespace": "demo"}}, "spec": {{"rules": {rules},
                "parentRefs": [{{"group": "", "kind": "Service", "name": "{parent}"}}]}}}}"#
            )
        };
        let mut put = |object: String| {
            deltas.clear();
            known.put(items(Kind::HttpRoute, &[&object]).remove(0), &mut deltas);
            let said: Vec<_> = known.problems().map(ToString::to_string).collect();
            let routes = deltas.iter().map(|delta| match delta {
                Delta::Put(Resource::HttpRoute(route)) => {
                    let refused = route.rules.iter().filter(|rule| rule.unsupported.is_some()).count();
                    (route.parents[0].service.name.to_string(), route.rules.len(), refused)
                }
                delta => panic!("{delta:?}"),
            });
            (routes.collect::<Vec<_>>(), said)
        };
        let (routes, said) = put(route("a", "7"));
        assert_eq!(routes, [("a".into(), 1, 1)]);
        assert!(said[0].contains("requests to its parents that no other route takes are refused"), "{said:?}");
        assert_eq!(put(route("b", "7")).0, [("b".into(), 1, 1)], "nothing good stands in its way");
        let (routes, said) = put(route("b", r#"[{"filters": [{"type": "Teleport"}]}, {"backendRefs": []}]"#));
        assert_eq!(routes, [("b".into(), 2, 1)]);
        assert!(said[0].contains("error") && said[0].ends_with("the rule's requests are refused"), "{said:?}");
        let (routes, said) = put(route("b", "7"));
        assert_eq!(routes, []);
        assert!(said[0].ends_with("the last good version stays in force"), "{said:?}");
    }

    #[test]
    fn a_service_that_becomes_an_external_name_is_removed() {
        let mut known = Known::default();
        let mut deltas = Vec::new();
        let service = |spec: &str| format!(r#"{{"metadata": {{"name": "s", "namespace": "demo"}}, "spec": {spec}}}"#);
        known.replace(
            items(Kind::Service, &[&service(r#"{"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}"#)]),
            &mut deltas,
        );
        deltas.clear();
        known.replace(
            items(Kind::Service, &[&service(r#"{"type": "ExternalName", "externalName": "example.com"}"#)]),
            &mut deltas,
        );
        assert_eq!(changes(&deltas).len(), 1);
        assert!(matches!(deltas[0], Delta::Remove(_)));
    }
}
