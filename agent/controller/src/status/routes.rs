//! What becomes of a route, in the words of Gateway API.
//!
//! | what the snapshot says | condition |
//! |---|---|
//! | it decides for a port of the Service | `Accepted` |
//! | no such Service, or no such port of it | not accepted, `NoMatchingParent` |
//! | another route decides everywhere | not accepted, `Superseded` (ours: Gateway API has no word for it) |
//! | of its rules all ask for what cannot be done | not accepted, `UnsupportedValue` |
//! | or all ask for `sessionPersistence` where a Service has `sessionAffinity: ClientIP`, or the like | not accepted, `IncompatibleSessionAffinity` (ours) |
//! | some do either | accepted, and `PartiallyInvalid` |
//! | something beside its rules is not known, and passed over | accepted, and `PartiallyInvalid` |
//! | it cannot be understood | not accepted, `UnsupportedValue` |
//! | a backend is missing, or its port | references not resolved, `BackendNotFound` |
//! | a backend is in another namespace without a ReferenceGrant | references not resolved, `RefNotPermitted` |
//! | a backend is no Service | references not resolved, `InvalidKind` |

use weft_control::resource::{Kind, gateway};
use weft_core::model::{BackendRef, HttpRoute, ParentRef, TcpRoute};
use weft_core::snapshot::{Attachment, BranchFault, Snapshot};

use super::Model;
use super::judge::{INCOMPATIBLE, Judged, Seen, Verdict, misunderstood};

/// What each parent of a TCPRoute makes of it.
pub(super) fn tcp(snapshot: &Snapshot, seen: &Seen, route: &TcpRoute) -> Vec<Judged> {
    let resolved = resolved(snapshot, seen);
    let judged = |of: &Attachment| vec![("Accepted", accepted(of)), ("ResolvedRefs", resolved.clone())];
    snapshot.attachments(route).iter().map(judged).collect()
}

/// What each parent of a route of requests makes of it.
pub(super) fn http(snapshot: &Snapshot, seen: &Seen, route: &HttpRoute) -> Vec<Judged> {
    let resolved = resolved(snapshot, seen);
    let attachments = snapshot.http_attachments(route);
    let judged = |(parent, of): (&ParentRef, &Attachment)| {
        let (accepted, partly) = of_requests(snapshot, seen, route, (parent, of));
        let partly = partly.map(|partly| ("PartiallyInvalid", partly));
        [("Accepted", accepted), ("ResolvedRefs", resolved.clone())].into_iter().chain(partly).collect()
    };
    route.parents.iter().zip(&attachments).map(judged).collect()
}

/// What each of `parents` makes of a route that cannot be understood.
pub(super) fn none(snapshot: &Snapshot, kind: Kind, seen: &Seen, parents: usize) -> Vec<Judged> {
    let otherwise =
        if kind.fails_closed() { "; without one, requests that no other route takes are refused" } else { "" };
    let accepted = misunderstood(seen, "UnsupportedValue", otherwise);
    vec![vec![("Accepted", accepted), ("ResolvedRefs", resolved(snapshot, seen))]; parents]
}

fn accepted(attachment: &Attachment) -> Verdict {
    match attachment {
        Attachment::Accepted => (true, "Accepted", "the route decides for connections to the Service".into()),
        Attachment::NoService => (false, "NoMatchingParent", "the Service does not exist".into()),
        Attachment::NoPort => (false, "NoMatchingParent", "the Service has no such port".into()),
        Attachment::Superseded(other) => {
            (false, "Superseded", format!("{other} decides: it is older, or of smaller name"))
        }
    }
}

/// What a parent makes of a route of requests, and `PartiallyInvalid` where some of its rules are refused there.
fn of_requests(
    snapshot: &Snapshot,
    seen: &Seen,
    route: &HttpRoute,
    (parent, attachment): (&ParentRef, &Attachment),
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
    let passed_over = seen.findings.iter().filter(|finding| gateway::is_passed_over(finding));
    let mut texts: Vec<_> = passed_over.map(|finding| format!("{finding}; it is passed over")).collect();
    if refused > 0 {
        // How Gateway API has the message begin, so that it is told from a route that falls back to what it was.
        texts.insert(0, format!("Dropped Rule: {faults}; the requests such a rule takes are refused"));
    } else {
        reason = "UnsupportedValue";
    }
    let partly = (accepted.0 && !texts.is_empty()).then(|| (true, reason, texts.join("; ")));
    (accepted, partly)
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
        // Of backends it says nothing.
        Model::Policy(_) | Model::Alone => None,
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
