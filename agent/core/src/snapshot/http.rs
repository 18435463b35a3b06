//! HTTPRoutes and GRPCRoutes: which decide for a service port, and for whom (`sides`).
//!
//! Routes of one kind and one side are merged, by the precedence of [`HttpRouter`]; where there are GRPCRoutes, HTTPRoutes
//! of that side decide nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::sides::{HttpRoutes, by_namespace, covers};
use super::{Attachment, BranchFault, Snapshot, routes, sessions, traffic};
use crate::http::{HttpRoute, HttpRouteId, HttpRouter};
use crate::model::{BackendRef, GrantKind, HttpKind, HttpRule, Name, ObjectName, ParentRef, Service};

/// The routes, and who they name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct HttpTables {
    pub(super) routes: OrdMap<HttpRouteId, Arc<HttpRoute>>,
    /// By the Services they are attached to.
    of: OrdMap<ObjectName, OrdSet<HttpRouteId>>,
    /// By the Services they send to.
    to: OrdMap<ObjectName, OrdSet<HttpRouteId>>,
}

/// By port, for one service.
pub(super) type Ports = BTreeMap<u16, Arc<HttpRoutes>>;

impl HttpTables {
    /// Replaces a route. Answers the Services that the old one or the new one is attached to.
    pub(super) fn set(&mut self, id: &HttpRouteId, new: Option<HttpRoute>) -> BTreeSet<ObjectName> {
        let mut touched = BTreeSet::new();
        if let Some(old) = self.routes.remove(id) {
            for parent in &old.parents {
                leave(&mut self.of, &parent.service, id);
                touched.insert(parent.service.clone());
            }
            old.backends().for_each(|backend| leave(&mut self.to, &backend.service, id));
        }
        if let Some(new) = new.map(Arc::new) {
            for parent in &new.parents {
                self.of.entry(parent.service.clone()).or_default().insert(id.clone());
                touched.insert(parent.service.clone());
            }
            for backend in new.backends() {
                self.to.entry(backend.service.clone()).or_default().insert(id.clone());
            }
            self.routes.insert(id.clone(), new);
        }
        touched
    }

    /// The Services whose requests a change of the Service `name` may concern, as a backend.
    pub(super) fn sending_to(&self, name: &ObjectName) -> impl Iterator<Item = &ObjectName> {
        self.parents(self.to.get(name).into_iter().flatten())
    }

    /// The Services whose requests a change of a namespace's grants may concern.
    pub(super) fn sending_into<'a>(&'a self, namespace: &'a Name) -> impl Iterator<Item = &'a ObjectName> {
        let there = self.to.iter().filter(move |(service, _)| service.namespace == *namespace);
        self.parents(there.flat_map(|(_, ids)| ids))
    }

    fn parents<'a>(&'a self, ids: impl Iterator<Item = &'a HttpRouteId>) -> impl Iterator<Item = &'a ObjectName> {
        ids.filter_map(|id| self.routes.get(id)).flat_map(|route| &route.parents).map(|parent| &parent.service)
    }

    /// The routes attached to a port of a Service.
    fn covering<'a>(&'a self, service: &'a Service, port: u16) -> impl Iterator<Item = &'a Arc<HttpRoute>> {
        let attached = self.of.get(&service.name).into_iter().flatten().filter_map(|id| self.routes.get(id));
        attached.filter(move |route| covers(&route.parents, service, port))
    }
}

/// The routes attached to a port of a Service, if it exists.
fn covering<'a>(
    snapshot: &'a Snapshot,
    service: &ObjectName,
    port: u16,
) -> impl Iterator<Item = &'a Arc<HttpRoute>> + use<'a> {
    snapshot.service(service).into_iter().flat_map(move |service| snapshot.primary.http.covering(service, port))
}

fn leave(index: &mut OrdMap<ObjectName, OrdSet<HttpRouteId>>, service: &ObjectName, id: &HttpRouteId) {
    if let Some(ids) = index.get_mut(service) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(service);
        }
    }
}

/// What decides for one port of a Service.
pub(super) fn resolve(snapshot: &Snapshot, service: &ObjectName, port: u16) -> Option<HttpRoutes> {
    let mut found = HttpRoutes::default();
    let covering = covering(snapshot, service, port);
    for (namespace, routes) in by_namespace(covering, |route| &route.id.name) {
        let kind = routes.iter().map(|route| route.id.kind).min()?;
        let deciding = routes.into_iter().filter(|route| route.id.kind == kind);
        let fault = |route: &HttpRoute, backend: &BackendRef| fault(snapshot, route, backend);
        let clash = |rule: &HttpRule| sessions::of_rule(snapshot, service, rule).map(|clash| clash.to_string().into());
        let router = HttpRouter::new(deciding, fault, |route, rule| traffic::of_rule(snapshot, route, rule), clash);
        found.set(service, namespace, router);
    }
    found.if_any()
}

/// Why no request can go to a backend of a route, if so.
pub(super) fn fault(snapshot: &Snapshot, route: &HttpRoute, backend: &BackendRef) -> Option<BranchFault> {
    let kind = match route.id.kind {
        HttpKind::Grpc => GrantKind::Grpc,
        HttpKind::Http => GrantKind::Http,
    };
    routes::fault(snapshot, (kind, &route.id.name.namespace), backend)
}

/// The first of the routes that decide for the requests of a namespace's clients to one port of a Service.
pub(super) fn decider(snapshot: &Snapshot, service: &ObjectName, port: u16, client: &Name) -> Option<ObjectName> {
    let first = |namespace: &Name| {
        let covering = covering(snapshot, service, port);
        covering.map(|route| &route.id).filter(|id| id.name.namespace == *namespace).min()
    };
    first(client).or_else(|| first(&service.namespace)).map(|id| id.name.clone())
}

/// What each parent of a route makes of it, in the order of its `parents`.
pub(super) fn attachments(snapshot: &Snapshot, route: &HttpRoute) -> Vec<Attachment> {
    route.parents.iter().map(|parent| attachment(snapshot, route, parent)).collect()
}

fn attachment(snapshot: &Snapshot, route: &HttpRoute, parent: &ParentRef) -> Attachment {
    let Some(service) = snapshot.service(&parent.service) else { return Attachment::NoService };
    let mut superseder = None;
    for port in service.ports.iter().filter(|port| parent.takes(port)) {
        let beside = snapshot.primary.http.covering(service, port.port);
        let side = beside.filter(|other| other.id.name.namespace == route.id.name.namespace);
        match side.min_by_key(|other| other.id.kind) {
            Some(first) if first.id.kind != route.id.kind => superseder = Some(first.id.name.clone()),
            _ => return Attachment::Accepted,
        }
    }
    superseder.map_or(Attachment::NoPort, Attachment::Superseded)
}
