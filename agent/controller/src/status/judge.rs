//! The entries of `status.parents` of a route, or `status.ancestors` of a policy, as they should be: one for each Service it is
//! attached to, beside those of other controllers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use weft_control::kubernetes::Attached;
use weft_control::manifests::ObjectRef;
use weft_control::resource::gateway::{self, Parent};
use weft_control::resource::{CONTROLLER, Finding, Kind};
use weft_core::snapshot::Snapshot;

use super::{Model, own, policies, routes};

/// Clients are asked to keep their endpoint in two ways at once. GEP-1619 asks for a status and names no reason.
pub(super) const INCOMPATIBLE: &str = "IncompatibleSessionAffinity";
/// Entries of a policy's status at the most, those of all controllers together.
const ANCESTORS_MAX: usize = 16;

/// A condition's status, reason and message.
pub(super) type Verdict = (bool, &'static str, String);
/// Conditions by their types.
pub(super) type Judged = Vec<(&'static str, Verdict)>;

/// A route or a policy, and what its conversion made of it.
pub(super) struct Seen {
    pub(super) facts: Attached,
    pub(super) findings: Vec<Finding>,
    pub(super) model: Option<Model>,
}

/// What the list of a kind's status is called, and what in each of its entries says whom it is about.
pub(super) fn list_of(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        _ if own::is_own(kind) => ("conditions", "type"),
        Kind::BackendTrafficPolicy => ("ancestors", "ancestorRef"),
        _ => ("parents", "parentRef"),
    }
}

/// That list as it should be; `None` if it is so.
pub(super) fn entries(snapshot: &Snapshot, object: &ObjectRef, seen: &Seen, now: Timestamp) -> Option<Vec<Value>> {
    let current = &seen.facts.said;
    if own::is_own(object.kind) {
        let wanted = conditions(seen, own::judge(snapshot, object.kind, seen), now);
        let mut next = keep_times(json!({"conditions": wanted}), &json!({"conditions": current}));
        let Value::Array(next) = next["conditions"].take() else { return None };
        return (next != *current).then_some(next);
    }
    let (_, whom) = list_of(object.kind);
    let mut wanted = ours(snapshot, object, seen, now);
    let mut next = Vec::new();
    // Everything keeps its place: a controller that sorts the list otherwise would write it again.
    for entry in current {
        if entry["controllerName"] != CONTROLLER {
            next.push(entry.clone());
        } else if let Some(at) = wanted.iter().position(|ours| ours[whom] == entry[whom]) {
            next.push(keep_times(wanted.remove(at), entry));
        }
    }
    next.append(&mut wanted);
    if object.kind == Kind::BackendTrafficPolicy {
        next.truncate(ANCESTORS_MAX);
    }
    (next != *current).then_some(next)
}

/// The entries of this controller: one for each Service it is attached to.
fn ours(snapshot: &Snapshot, object: &ObjectRef, seen: &Seen, now: Timestamp) -> Vec<Value> {
    let services: Vec<_> = seen.facts.to.iter().filter(|parent| gateway::is_service(parent)).collect();
    // One for each that is a Service: a route one of whose parents is malformed is no model.
    let judged = match &seen.model {
        Some(Model::Tcp(route)) => routes::tcp(snapshot, seen, route),
        Some(Model::Http(route)) => routes::http(snapshot, seen, route),
        Some(Model::Policy(policy)) => policies::judge(snapshot, policy),
        Some(Model::Alone) => Vec::new(),
        None if object.kind == Kind::BackendTrafficPolicy => policies::none(seen, services.len()),
        None => routes::none(snapshot, object.kind, seen, services.len()),
    };
    let (_, whom) = list_of(object.kind);
    let entry = |(service, judged): (&&Parent, Judged)| {
        let mut about = (*service).clone();
        if object.kind == Kind::BackendTrafficPolicy {
            about.namespace = Some(object.namespace.clone());
        }
        json!({"controllerName": CONTROLLER, whom: about, "conditions": conditions(seen, judged, now)})
    };
    services.iter().zip(judged).map(entry).collect()
}

fn conditions(seen: &Seen, judged: Judged, now: Timestamp) -> Vec<Condition> {
    let condition = |(kind, (holds, reason, message)): (&str, Verdict)| Condition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: seen.facts.generation,
        last_transition_time: Time(now),
    };
    judged.into_iter().map(condition).collect()
}

/// Not accepted, for what is wrong with the object itself; `otherwise` is what comes of it where it never was right.
pub(super) fn misunderstood(seen: &Seen, reason: &'static str, otherwise: &str) -> Verdict {
    let wrong = seen.findings.iter().filter(|finding| !finding.warning);
    let text: Vec<_> = wrong.map(ToString::to_string).collect();
    let last = "mend it, until then the last good version, if any, stays in force";
    (false, reason, format!("{}; {last}{otherwise}", text.join("; ")))
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
