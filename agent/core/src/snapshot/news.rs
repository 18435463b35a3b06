//! Whether a delta says anything new: a source repeats itself (a Pod's status changes every few seconds), and what is
//! known already is not worth a generation.

use std::sync::Arc;

use super::{Delta, Key, Resource, Snapshot};

pub(super) fn is_known(snapshot: &Snapshot, delta: &Delta) -> bool {
    match delta {
        Delta::Put(resource) => holds(snapshot, resource),
        Delta::Remove(key) => lacks(snapshot, key),
    }
}

fn holds(snapshot: &Snapshot, resource: &Resource) -> bool {
    let tables = &snapshot.primary;
    match resource {
        Resource::Namespace(r) => same(tables.namespaces.get(&r.name), r),
        Resource::Node(r) => same(tables.nodes.get(&r.name), r),
        Resource::Workload(r) => same(tables.workloads.get(&r.name), r),
        Resource::Liveness(r) => same(tables.liveness.get(&r.node), r),
        Resource::Peers(r) => same(tables.peers.slice(r.name()), r),
        Resource::Service(r) => same(tables.services.get(&r.name).map(|held| &held.object), r),
        Resource::EndpointSlice(r) => same(tables.slices.get(&r.name), r),
        Resource::TcpRoute(r) => same(tables.routes.get(&r.name), r),
        Resource::HttpRoute(r) => same(tables.http.routes.get(&r.id), r),
        Resource::ReferenceGrant(r) => same(tables.grants.get(&r.name), r),
        Resource::AuthorizationPolicy(r) => same(tables.authorization.get(&r.name), r),
        Resource::PeerAuthentication(r) => same(tables.authentication.get(&r.name), r),
        Resource::TrafficPolicy(r) => same(tables.traffic.get(&r.id), r),
    }
}

fn lacks(snapshot: &Snapshot, key: &Key) -> bool {
    let tables = &snapshot.primary;
    match key {
        Key::Namespace(name) => !tables.namespaces.contains_key(name),
        Key::Node(name) => !tables.nodes.contains_key(name),
        Key::Workload(name) => !tables.workloads.contains_key(name),
        Key::Liveness(node) => !tables.liveness.contains_key(node),
        Key::Peers(name) => tables.peers.slice(name).is_none(),
        Key::Service(name) => !tables.services.contains(name),
        Key::EndpointSlice(name) => !tables.slices.contains(name),
        Key::TcpRoute(name) => !tables.routes.contains_key(name),
        Key::HttpRoute(id) => !tables.http.routes.contains_key(id),
        Key::ReferenceGrant(name) => !tables.grants.contains_key(name),
        Key::AuthorizationPolicy(name) => !tables.authorization.contains_key(name),
        Key::PeerAuthentication(name) => !tables.authentication.contains_key(name),
        Key::TrafficPolicy(name) => !tables.traffic.contains_key(name),
    }
}

fn same<T: PartialEq>(held: Option<&Arc<T>>, new: &T) -> bool {
    held.is_some_and(|held| **held == *new)
}
