//! How objects fit together, beyond what each of them says: references that lead nowhere, routes of which one hides
//! another, addresses that two claim.
//!
//! All of it is worth a warning and nothing more: a missing half may be on its way, and each has a defined meaning while
//! the mesh runs (docs/decisions.md). Read by `weft check` and by the running agent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use weft_core::model::{BackendRef, EndpointSlice, ObjectName, ParentRef, TcpRoute};
use weft_core::snapshot::{Attachment, Snapshot};

use crate::manifests::{ObjectRef, Problem, Severity, report};
use crate::resource::Kind;

/// Time between two looks at the least, and how many times as long as a look takes: half a percent of a core.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_FACTOR: u32 = 200;

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
        for (parent, attachment) in route.parents.iter().zip(self.snapshot.attachments(route)) {
            if let Some(reason) = unattached(parent, &attachment) {
                self.note(Kind::TcpRoute, &route.name, reason);
            }
        }
        for backend in &route.backends {
            self.backend(route, backend);
        }
        if !route.backends.iter().any(|backend| backend.weight.0 > 0) {
            self.note(Kind::TcpRoute, &route.name, "has no backend with a weight: every connection is refused".into());
        }
    }

    fn backend(&mut self, route: &TcpRoute, backend: &BackendRef) {
        let BackendRef { service: to, port, .. } = backend;
        match self.snapshot.service(to) {
            None => self.note(Kind::TcpRoute, &route.name, format!("sends to Service {to}, which does not exist")),
            Some(found) if !found.ports.iter().any(|p| p.port == *port) => {
                let reason = format!("sends to port {port} of Service {to}, which has no such TCP port");
                self.note(Kind::TcpRoute, &route.name, reason);
            }
            Some(_) => {}
        }
        if !self.snapshot.is_granted(route, backend) {
            let reason = format!("sends to Service {to}, and no ReferenceGrant in {} allows it", to.namespace);
            self.note(Kind::TcpRoute, &route.name, format!("{reason}: its share is refused"));
        }
    }
}

/// Why a route has no effect on a parent, if so.
fn unattached(parent: &ParentRef, attachment: &Attachment) -> Option<String> {
    let service = &parent.service;
    Some(match attachment {
        Attachment::Accepted => return None,
        Attachment::NoService => format!("is attached to Service {service}, which does not exist"),
        Attachment::NoPort => {
            let port = parent.port.unwrap_or_default();
            format!("is attached to port {port} of Service {service}, which has no such TCP port")
        }
        Attachment::OtherNamespace => format!("is not in the namespace of its parent {service}: it has no effect"),
        Attachment::Superseded(other) => format!("has no effect on {service}: TCPRoute {other} comes first"),
    })
}

fn reference(kind: Kind, name: &ObjectName) -> ObjectRef {
    ObjectRef { kind, namespace: name.namespace.to_string(), name: name.name.to_string() }
}
