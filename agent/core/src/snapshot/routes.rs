//! Which route a service port's connections follow, and into which branches it divides them (Gateway API, GAMMA).
//!
//! Which of them decide for whom `sides` says. Of several routes of one side for one port the oldest wins, then the
//! smallest name; clients whose requests are routed have no connections to divide.
//!
//! A backend that does not exist, that has no such port or that lies in another namespace without a ReferenceGrant
//! keeps its share, and that share is refused; so is everything when no backend has a weight. Gateway API asks for both.

use std::time::Duration;

use super::sides::{Sides, by_namespace, covers};
use super::{Family, ServicePortKey, Snapshot, http};
use crate::model::{BackendRef, GrantKind, Name, ObjectName, ParentRef, TcpRoute, Weight};

/// How a route divides the connections to a service port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Split {
    /// The route.
    pub route: ObjectName,
    /// Its branches, in the order of its backendRefs.
    pub branches: Vec<Branch>,
    /// How long a client keeps its endpoint after its last connection to the service dialled, if it does.
    pub affinity: Option<Duration>,
}

impl Split {
    /// Whether connections may go to this backend.
    #[must_use]
    pub fn sends_to(&self, backend: &ServicePortKey) -> bool {
        self.branches.iter().any(|branch| branch.backend == *backend && branch.weight.0 > 0 && branch.fault.is_none())
    }
}

/// One backend of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Branch {
    /// Its share; 0 gets nothing.
    pub weight: Weight,
    /// The service port it names.
    pub backend: ServicePortKey,
    /// Why its share is refused, if it is.
    pub fault: Option<BranchFault>,
}

/// Why the connections of a branch are refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, thiserror::Error)]
pub enum BranchFault {
    /// No such Service.
    #[error("the Service does not exist")]
    NoService,
    /// The Service has no such port.
    #[error("the Service has no such port")]
    NoPort,
    /// It lies in another namespace, and no ReferenceGrant there lets the route name it.
    #[error("no ReferenceGrant in the Service's namespace lets routes of that kind and namespace name it")]
    NotGranted,
}

impl BranchFault {
    /// The fault as a metric label, in snake case.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoService => "backend_missing",
            Self::NoPort => "backend_port_missing",
            Self::NotGranted => "backend_not_granted",
        }
    }
}

/// What a parent makes of a route.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// The route decides for at least one port.
    Accepted,
    /// The parent Service does not exist.
    NoService,
    /// The parent Service has no such port.
    NoPort,
    /// On every port it asks for, an older route (or one of smaller name) decides: this one.
    Superseded(ObjectName),
}

/// The splits of one service port, if routes apply to it.
pub(super) fn resolve(snapshot: &Snapshot, key: &ServicePortKey) -> Option<Sides<Split>> {
    let affinity = snapshot.service(&key.service).and_then(|service| service.affinity);
    let mut found = Sides::default();
    for (namespace, routes) in by_namespace(covering(snapshot, key), |route| &route.name) {
        let Some(route) = winner(snapshot, key, namespace, &routes) else { continue };
        let branches = route.backends.iter().map(|backend| branch(snapshot, route, backend, key.family)).collect();
        found.set(&key.service, namespace, Split { route: route.name.clone(), branches, affinity });
    }
    found.if_any()
}

/// The routes attached to a service port, by name.
fn covering<'a>(snapshot: &'a Snapshot, key: &ServicePortKey) -> impl Iterator<Item = &'a TcpRoute> {
    let service = snapshot.service(&key.service);
    let attached = snapshot.primary.routes_of.at(&key.service).iter().map(|route| &**route);
    attached.filter(move |route| service.is_some_and(|service| covers(&route.parents, service, key.port)))
}

/// Of the routes of a namespace that are attached to a service port, the one that decides for those clients it may
/// decide for. For clients whose requests are routed none does.
fn winner<'a>(
    snapshot: &Snapshot,
    key: &ServicePortKey,
    namespace: &Name,
    routes: &[&'a TcpRoute],
) -> Option<&'a TcpRoute> {
    let of_requests = snapshot.http_routes(&key.service, key.port);
    if of_requests.is_some_and(|routes| routes.for_client(namespace).is_some()) {
        return None;
    }
    routes.iter().copied().min_by_key(|route| route.created)
}

fn branch(snapshot: &Snapshot, route: &TcpRoute, backend: &BackendRef, family: Family) -> Branch {
    let fault = fault(snapshot, (GrantKind::Tcp, &route.name.namespace), backend);
    let key = ServicePortKey { service: backend.service.clone(), port: backend.port, family };
    Branch { weight: backend.weight, backend: key, fault }
}

/// Why the connections to each backend of `route` would be refused, in the order of its backendRefs.
pub(super) fn faults(snapshot: &Snapshot, route: &TcpRoute) -> Vec<Option<BranchFault>> {
    route.backends.iter().map(|backend| fault(snapshot, (GrantKind::Tcp, &route.name.namespace), backend)).collect()
}

/// Why nothing can be sent to a backend by a route of this kind and namespace, if so.
pub(super) fn fault(snapshot: &Snapshot, from: (GrantKind, &Name), backend: &BackendRef) -> Option<BranchFault> {
    match snapshot.service(&backend.service) {
        _ if !granted(snapshot, from, backend) => Some(BranchFault::NotGranted),
        None => Some(BranchFault::NoService),
        Some(service) if !service.ports.iter().any(|p| p.port == backend.port) => Some(BranchFault::NoPort),
        Some(_) => None,
    }
}

pub(super) fn granted(snapshot: &Snapshot, from: (GrantKind, &Name), backend: &BackendRef) -> bool {
    let to = &backend.service;
    let asks = |(kind, namespace): &(GrantKind, Name)| (*kind, namespace) == from;
    from.1 == &to.namespace
        || snapshot
            .primary
            .grants_in
            .at(&to.namespace)
            .iter()
            .any(|grant| grant.from.iter().any(asks) && (grant.to.is_empty() || grant.to.contains(&to.name)))
}

/// What each parent of `route` makes of it.
pub(super) fn attachments(snapshot: &Snapshot, route: &TcpRoute) -> Vec<Attachment> {
    route.parents.iter().map(|parent| attachment(snapshot, route, parent)).collect()
}

fn attachment(snapshot: &Snapshot, route: &TcpRoute, parent: &ParentRef) -> Attachment {
    let Some(service) = snapshot.service(&parent.service) else { return Attachment::NoService };
    let side = &route.name.namespace;
    let mut superseder = None;
    for port in service.ports.iter().filter(|port| parent.takes(port)) {
        // Routes know no families: what wins for one wins for both.
        let key = ServicePortKey { service: service.name.clone(), port: port.port, family: Family::V4 };
        let beside: Vec<_> = covering(snapshot, &key).filter(|other| other.name.namespace == *side).collect();
        match winner(snapshot, &key, side, &beside) {
            Some(other) if other.name != route.name => superseder = Some(other.name.clone()),
            Some(_) => return Attachment::Accepted,
            None => superseder = http::decider(snapshot, &service.name, port.port, side),
        }
    }
    superseder.map_or(Attachment::NoPort, Attachment::Superseded)
}
