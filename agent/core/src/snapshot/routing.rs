//! What a snapshot tells of routes and of policies of traffic: what they make of connections and requests, and what is wrong
//! with them.

use std::sync::Arc;

use super::{
    Attachment, BranchFault, HttpRoutes, PolicyAttachment, ServicePortKey, SessionClash, Sides, Snapshot, Split, http,
    routes, sessions, traffic,
};
use crate::model::{
    Algorithm, BackendRef, HttpRoute, HttpRouteId, HttpRule, Name, ObjectName, TcpRoute, Traffic, TrafficPolicy,
};

impl Snapshot {
    /// How a route divides the connections to a service port that clients of a namespace make; `None` where no route
    /// applies. Without a namespace, those of clients of whom nothing is known.
    #[must_use]
    pub fn split(&self, key: &ServicePortKey, client: Option<&Name>) -> Option<&Arc<Split>> {
        let splits = self.splits(key)?;
        client.map_or_else(|| splits.for_others(), |client| splits.for_client(client))
    }

    /// How routes divide the connections to a service port, by who makes them; `None` where none applies to anybody.
    #[must_use]
    pub fn splits(&self, key: &ServicePortKey) -> Option<&Sides<Split>> {
        self.derived.splits.get(key)
    }

    /// What decides for the HTTP requests to a port of a service; `None` where no route does.
    #[must_use]
    pub fn http_routes(&self, service: &ObjectName, port: u16) -> Option<&Arc<HttpRoutes>> {
        self.derived.http.get(service)?.get(&port)
    }

    /// All routes of HTTP requests, by kind and name.
    pub fn all_http_routes(&self) -> impl Iterator<Item = &Arc<HttpRoute>> {
        self.primary.http.routes.values()
    }

    /// The route of HTTP requests of this kind and name.
    #[must_use]
    pub fn http_route(&self, id: &HttpRouteId) -> Option<&Arc<HttpRoute>> {
        self.primary.http.routes.get(id)
    }

    /// What each parent of a route of HTTP requests makes of it, in the order of its `parents`.
    #[must_use]
    pub fn http_attachments(&self, route: &HttpRoute) -> Vec<Attachment> {
        http::attachments(self, route)
    }

    /// Why a rule's `sessionPersistence` cannot be followed for requests to the Service `parent`, if so; all of them are refused.
    #[must_use]
    pub fn session_clash(&self, parent: &ObjectName, rule: &HttpRule) -> Option<SessionClash> {
        sessions::of_rule(self, parent, rule)
    }

    /// Why no request can go to a backend of a route, if so.
    #[must_use]
    pub fn http_fault(&self, route: &HttpRoute, backend: &BackendRef) -> Option<BranchFault> {
        http::fault(self, route, backend)
    }

    /// All routes, by name.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<TcpRoute>> {
        self.primary.routes.values()
    }

    /// What each parent of a route makes of it, in the order of its `parents`.
    #[must_use]
    pub fn attachments(&self, route: &TcpRoute) -> Vec<Attachment> {
        routes::attachments(self, route)
    }

    /// Why the connections to each backend of a route would be refused, in the order of its `backends`.
    #[must_use]
    pub fn faults(&self, route: &TcpRoute) -> Vec<Option<BranchFault>> {
        routes::faults(self, route)
    }

    /// All policies of traffic, by kind and name.
    pub fn traffic_policies(&self) -> impl Iterator<Item = &Arc<TrafficPolicy>> {
        self.primary.traffic.values()
    }

    /// What each target of a policy of Gateway API makes of it, in the order of its `targets`.
    #[must_use]
    pub fn policy_attachments(&self, policy: &TrafficPolicy) -> Vec<PolicyAttachment> {
        traffic::attachments(self, policy)
    }

    /// The targets of a policy that there are not, each in words.
    #[must_use]
    pub fn absent_targets(&self, policy: &TrafficPolicy) -> Vec<String> {
        traffic::absent(self, policy)
    }

    /// What a policy has stand in for its targets, if there is no such thing, in words.
    #[must_use]
    pub fn absent_fallback(&self, policy: &TrafficPolicy) -> Option<String> {
        traffic::absent_fallback(self, policy)
    }

    /// What TrafficPolicies set for a port of a service; `None` where there are none.
    #[must_use]
    pub fn traffic(&self, service: &ObjectName, port: u16) -> Option<&Arc<Traffic>> {
        self.derived.traffic.get(service)?.get(&port)
    }

    /// How the endpoints of a service port are chosen, where a TrafficPolicy says.
    #[must_use]
    pub fn algorithm(&self, service: &ObjectName, port: u16) -> Option<Algorithm> {
        self.traffic(service, port)?.algorithm
    }
}
