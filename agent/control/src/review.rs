//! How objects fit together, beyond what each of them says: references that lead nowhere, routes of which one hides
//! another, addresses that two claim.
//!
//! All of it is worth a warning and nothing more: a missing half may be on its way, and each has a defined meaning while
//! the mesh runs (docs/decisions.md). Read by `weft check` and by the running agent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_core::model::{
    BackendRef, EndpointSlice, HttpKind, HttpRoute, ObjectName, ParentRef, TcpRoute, TrafficKind, TrafficPolicy,
    TrafficTarget,
};
use weft_core::route::without_effect;
use weft_core::snapshot::{Attachment, BranchFault, PolicyAttachment, Snapshot};

use crate::manifests::{ObjectRef, Problem, Severity, report};
use crate::resource::Kind;

/// Time between two looks at the least, and how many times as long as a look takes: a thousandth of a core. A cluster of 10,000
/// Services that never rests is looked at every few seconds.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_FACTOR: u32 = 1000;

/// Reviews what is known, again after it has changed, and reports what is amiss when it appears and when it is gone.
#[derive(Debug)]
pub struct Reviewer {
    /// What stands for a file in the problems.
    place: Arc<str>,
    problems: watch::Sender<Arc<Vec<Problem>>>,
    /// The generation that was looked at last, and when to look again at the earliest.
    seen: Option<(u64, Instant)>,
}

impl Reviewer {
    /// Has seen nothing; its problems are said to be of `place`.
    #[must_use]
    pub fn new(place: &str) -> Self {
        Self { place: place.into(), problems: watch::Sender::default(), seen: None }
    }

    /// All that is amiss.
    #[must_use]
    pub fn problems(&self) -> Arc<Vec<Problem>> {
        self.problems.borrow().clone()
    }

    /// Looks, if there is something new and it is time. Returns whether the problems are others now.
    pub fn look(&mut self, snapshot: &Snapshot, now: Instant) -> bool {
        if self.seen.is_some_and(|(generation, next)| generation == snapshot.generation() || now < next) {
            return false;
        }
        let before = self.problems();
        let problem = |misfit: Misfit| Problem {
            file: self.place.clone(),
            line: None,
            severity: Severity::Warning,
            object: Some(misfit.object),
            reason: misfit.reason,
        };
        let mut problems: Vec<_> = review(snapshot).into_iter().map(problem).collect();
        problems.sort();
        report(&self.problems, problems);
        self.seen = Some((snapshot.generation(), now + PAUSE.max(now.elapsed() * PAUSE_FACTOR)));
        self.problems() != before
    }
}

/// An object that does not fit the others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misfit {
    /// The object.
    pub object: ObjectRef,
    /// What is amiss, and what comes of it.
    pub reason: String,
}

/// Looks at everything; costs that much.
#[must_use]
pub fn review(snapshot: &Snapshot) -> Vec<Misfit> {
    let mut review = Review { snapshot, misfits: Vec::new() };
    review.addresses();
    snapshot.slices().for_each(|slice| review.slice(slice));
    snapshot.routes().for_each(|route| review.route(route));
    snapshot.all_http_routes().for_each(|route| review.http_route(route));
    snapshot.traffic_policies().for_each(|policy| review.policy(policy));
    review.misfits
}

struct Review<'a> {
    snapshot: &'a Snapshot,
    misfits: Vec<Misfit>,
}

impl Review<'_> {
    fn note(&mut self, kind: Kind, name: &ObjectName, reason: String) {
        self.misfits.push(Misfit { object: reference(kind, name), reason });
    }

    /// Two objects with one address: traffic goes to one of them.
    fn addresses(&mut self) {
        for (ip, pods, services) in self.snapshot.contests() {
            let pods = pods.iter().filter(|pod| !pod.host_network).map(|pod| (Kind::Pod, &pod.name));
            let all: Vec<_> = pods.chain(services.iter().map(|service| (Kind::Service, &service.name))).collect();
            for pair in all.windows(2) {
                let [(other, held), (kind, name)] = pair else { continue };
                self.note(*kind, name, format!("has the address {ip}, and so has {}", reference(*other, held)));
            }
        }
    }

    fn slice(&mut self, slice: &EndpointSlice) {
        if self.snapshot.service(&slice.service).is_none() {
            let reason = format!("belongs to Service {}, which does not exist", slice.service);
            self.note(Kind::EndpointSlice, &slice.name, reason);
        }
    }

    fn route(&mut self, route: &TcpRoute) {
        let name = (Kind::TcpRoute, &route.name);
        self.attached(name, &route.parents, &self.snapshot.attachments(route));
        for (backend, fault) in route.backends.iter().zip(self.snapshot.faults(route)) {
            self.backend(name, backend, fault);
        }
        if !route.backends.iter().any(|backend| backend.weight.0 > 0) {
            self.note(name.0, name.1, "has no backend with a weight: every connection is refused".into());
        }
    }

    fn http_route(&mut self, route: &HttpRoute) {
        let kind = match route.id.kind {
            HttpKind::Http => Kind::HttpRoute,
            HttpKind::Grpc => Kind::GrpcRoute,
        };
        let name = (kind, &route.id.name);
        self.attached(name, &route.parents, &self.snapshot.http_attachments(route));
        for backend in route.backends() {
            self.backend(name, backend, self.snapshot.http_fault(route, backend));
        }
        for (index, rule) in route.rules.iter().enumerate() {
            let clash = route.parents.iter().find_map(|parent| self.snapshot.session_clash(&parent.service, rule));
            if let Some(clash) = clash {
                self.note(
                    kind,
                    name.1,
                    format!("has in rule {index} what cannot be: {clash}; its requests are refused"),
                );
            }
            let answers = rule.unsupported.is_some() || rule.filters.redirect.is_some();
            if !answers && !rule.backends.iter().any(|backend| backend.backend.weight.0 > 0) {
                let reason = format!("has no backend with a weight in rule {index}: every request it takes is refused");
                self.note(kind, name.1, reason);
            }
        }
    }

    /// Of several TrafficPolicies each has its say, of Gateway API's only one.
    fn policy(&mut self, policy: &TrafficPolicy) {
        if policy.id.kind == TrafficKind::Weft {
            for target in self.snapshot.absent_targets(policy) {
                self.note(Kind::TrafficPolicy, &policy.id.name, format!("is for {target}"));
            }
            if let Some(absent) = self.snapshot.absent_fallback(policy) {
                self.note(Kind::TrafficPolicy, &policy.id.name, format!("falls back to {absent}: nobody stands in"));
            }
            for settings in without_effect(self.snapshot, policy) {
                self.note(Kind::TrafficPolicy, &policy.id.name, format!("sets what has no effect: {settings}"));
            }
            return;
        }
        for (target, attachment) in policy.targets.iter().zip(self.snapshot.policy_attachments(policy)) {
            let TrafficTarget::Service(service, _) = target else { continue };
            let reason = match attachment {
                PolicyAttachment::Accepted => continue,
                PolicyAttachment::NoService => format!("is for Service {service}, which does not exist"),
                PolicyAttachment::Conflicted(other) => {
                    format!("has no effect on Service {service}: the policy {other} is older, or of smaller name")
                }
                PolicyAttachment::Clash(clash) => format!("has no effect on Service {service}: {clash}"),
            };
            self.note(Kind::BackendTrafficPolicy, &policy.id.name, reason);
        }
    }

    fn attached(&mut self, (kind, name): (Kind, &ObjectName), parents: &[ParentRef], attachments: &[Attachment]) {
        for (parent, attachment) in parents.iter().zip(attachments) {
            if let Some(reason) = unattached(parent, attachment) {
                self.note(kind, name, reason);
            }
        }
    }

    fn backend(&mut self, (kind, name): (Kind, &ObjectName), backend: &BackendRef, fault: Option<BranchFault>) {
        let BackendRef { service: to, port, .. } = backend;
        let reason = match fault {
            None => return,
            Some(BranchFault::NoService) => format!("sends to Service {to}, which does not exist"),
            Some(BranchFault::NoPort) => {
                format!("sends to port {port} of Service {to}, which has no such TCP port")
            }
            Some(BranchFault::NotGranted) => {
                format!(
                    "sends to Service {to}, and no ReferenceGrant in {} allows it: its share is refused",
                    to.namespace
                )
            }
        };
        self.note(kind, name, reason);
    }
}

/// Why a route has no effect on a parent, if so.
fn unattached(parent: &ParentRef, attachment: &Attachment) -> Option<String> {
    let service = &parent.service;
    Some(match attachment {
        Attachment::Accepted => return None,
        Attachment::NoService => format!("is attached to Service {service}, which does not exist"),
        Attachment::NoPort => {
            let port = match (parent.port, &parent.section) {
                (Some(port), Some(name)) => format!("{port} named {name:?}"),
                (Some(port), None) => port.to_string(),
                (None, name) => name.as_deref().unwrap_or_default().to_owned(),
            };
            format!("is attached to port {port} of Service {service}, which has no such TCP port")
        }
        Attachment::Superseded(other) => format!("has no effect on {service}: the route {other} comes first"),
    })
}

fn reference(kind: Kind, name: &ObjectName) -> ObjectRef {
    ObjectRef { kind, namespace: name.namespace.to_string(), name: name.name.to_string() }
}
