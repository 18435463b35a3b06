//! What a source of configuration delivers: resources, the keys that name them, and changes to them.
//!
//! A source says only what is true now; it never says how the indexes are to change.

use std::sync::Arc;

use super::peers::PeerSlice;
use crate::model::{
    AuthorizationPolicy, EndpointSlice, HttpRoute, HttpRouteId, Name, Namespace, Node, NodeLiveness, ObjectName,
    PeerAuthentication, Pool, ReferenceGrant, Service, TcpRoute, TrafficPolicy, TrafficPolicyId, Workload,
};

/// One checked object of the configuration.
#[derive(Clone, PartialEq, Debug)]
pub enum Resource {
    /// A namespace and its mesh label.
    Namespace(Namespace),
    /// A node and its zone.
    Node(Node),
    /// A pod.
    Workload(Workload),
    /// The pods that one node's agent serves.
    Liveness(NodeLiveness),
    /// Pods of other nodes.
    Peers(PeerSlice),
    /// A service.
    Service(Service),
    /// Endpoints of a service.
    EndpointSlice(EndpointSlice),
    /// A route attached to services.
    TcpRoute(TcpRoute),
    /// A route of HTTP requests attached to services.
    HttpRoute(HttpRoute),
    /// Leave for routes of other namespaces to name services of this one.
    ReferenceGrant(ReferenceGrant),
    /// Who may connect.
    AuthorizationPolicy(AuthorizationPolicy),
    /// Whether plaintext is accepted.
    PeerAuthentication(PeerAuthentication),
    /// How endpoints are chosen.
    TrafficPolicy(TrafficPolicy),
}

/// The name of a [`Resource`]; a later one with the same key replaces an earlier one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// A namespace, by name.
    Namespace(Name),
    /// A node, by name.
    Node(Arc<str>),
    /// A pod.
    Workload(ObjectName),
    /// A node's published liveness, by the node's name.
    Liveness(Arc<str>),
    /// A slice of other nodes' pods, by name.
    Peers(Arc<str>),
    /// A service.
    Service(ObjectName),
    /// An endpoint slice.
    EndpointSlice(ObjectName),
    /// A route.
    TcpRoute(ObjectName),
    /// A route of HTTP requests.
    HttpRoute(HttpRouteId),
    /// A reference grant.
    ReferenceGrant(ObjectName),
    /// An authorization policy.
    AuthorizationPolicy(ObjectName),
    /// An mTLS policy.
    PeerAuthentication(ObjectName),
    /// A balancing policy.
    TrafficPolicy(TrafficPolicyId),
}

impl Resource {
    /// Shares the texts it has in common with others, of the kinds there are many of.
    pub fn share(&mut self, pool: &mut Pool) {
        match self {
            Self::Workload(r) => r.share(pool),
            Self::Service(r) => r.share(pool),
            Self::EndpointSlice(r) => r.share(pool),
            _ => {}
        }
    }

    /// The key under which the snapshot holds this resource.
    #[must_use]
    pub fn key(&self) -> Key {
        match self {
            Self::Namespace(r) => Key::Namespace(r.name.clone()),
            Self::Node(r) => Key::Node(r.name.clone()),
            Self::Workload(r) => Key::Workload(r.name.clone()),
            Self::Liveness(r) => Key::Liveness(r.node.clone()),
            Self::Peers(r) => Key::Peers(r.name().clone()),
            Self::Service(r) => Key::Service(r.name.clone()),
            Self::EndpointSlice(r) => Key::EndpointSlice(r.name.clone()),
            Self::TcpRoute(r) => Key::TcpRoute(r.name.clone()),
            Self::HttpRoute(r) => Key::HttpRoute(r.id.clone()),
            Self::ReferenceGrant(r) => Key::ReferenceGrant(r.name.clone()),
            Self::AuthorizationPolicy(r) => Key::AuthorizationPolicy(r.name.clone()),
            Self::PeerAuthentication(r) => Key::PeerAuthentication(r.name.clone()),
            Self::TrafficPolicy(r) => Key::TrafficPolicy(r.id.clone()),
        }
    }
}

/// One change of the configuration.
#[derive(Clone, PartialEq, Debug)]
pub enum Delta {
    /// The resource exists and looks like this.
    Put(Resource),
    /// No resource has this key any more.
    Remove(Key),
}
