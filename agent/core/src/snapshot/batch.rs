//! Applying deltas: each changes a primary table and its indexes and marks what depends on it; `settle` then computes
//! what is marked, once, however many deltas marked it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::index::{Backed, Revised};
use super::peers::PeerSlice;
use super::{Delta, Family, Key, Primary, Resource, ServicePortKey, Snapshot};
use crate::model::{
    AuthorizationPolicy, EndpointSlice, HttpRoute, HttpRouteId, Name, Node, NodeLiveness, ObjectName,
    PeerAuthentication, ReferenceGrant, Service, TcpRoute, TrafficPolicy, TrafficPolicyId, TrafficTarget, Workload,
};

/// What has to be computed anew.
#[derive(Default)]
pub(super) struct Marks {
    /// Addresses whose owner or liveness may have changed.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Services whose endpoints may have changed.
    pub(super) services: BTreeSet<ObjectName>,
    /// Services whose routes may divide differently.
    pub(super) splits: BTreeSet<ObjectName>,
    /// Namespaces whose policies changed.
    pub(super) policies: BTreeSet<Name>,
}

/// A snapshot in the making.
pub(super) struct Batch {
    pub(super) next: Snapshot,
    pub(super) marks: Marks,
}

/// See [`Snapshot::apply`].
pub(super) fn apply(snapshot: &Snapshot, deltas: impl IntoIterator<Item = Delta>) -> Snapshot {
    let mut batch = Batch { next: snapshot.clone(), marks: Marks::default() };
    for delta in deltas {
        match delta {
            Delta::Put(resource) => batch.put(resource),
            Delta::Remove(key) => batch.remove(key),
        }
    }
    batch.settle();
    batch.next.generation += 1;
    batch.next
}

impl Batch {
    fn put(&mut self, resource: Resource) {
        match resource {
            Resource::Namespace(r) => _ = self.next.primary.namespaces.insert(r.name.clone(), Arc::new(r)),
            Resource::Node(r) => self.node(&r.name.clone(), Some(r)),
            Resource::Workload(r) => self.workload(&r.name.clone(), Some(canonical_workload(r))),
            Resource::Liveness(r) => self.liveness(&r.node.clone(), Some(r)),
            Resource::Peers(r) => self.peers(&r.name().clone(), Some(r)),
            Resource::Service(r) => self.service(&r.name.clone(), Some(canonical_service(r))),
            Resource::EndpointSlice(r) => self.slice(&r.name.clone(), Some(r)),
            Resource::TcpRoute(r) => self.route(&r.name.clone(), Some(r)),
            Resource::HttpRoute(r) => self.http_route(&r.id.clone(), Some(r)),
            Resource::ReferenceGrant(r) => self.grant(&r.name.clone(), Some(r)),
            Resource::AuthorizationPolicy(r) => self.authorization(&r.name.clone(), Some(r)),
            Resource::PeerAuthentication(r) => self.authentication(&r.name.clone(), Some(r)),
            Resource::TrafficPolicy(r) => self.traffic(&r.id.clone(), Some(r)),
        }
    }

    fn remove(&mut self, key: Key) {
        match key {
            Key::Namespace(name) => _ = self.next.primary.namespaces.remove(&name),
            Key::Node(name) => self.node(&name, None),
            Key::Workload(name) => self.workload(&name, None),
            Key::Liveness(node) => self.liveness(&node, None),
            Key::Peers(name) => self.peers(&name, None),
            Key::Service(name) => self.service(&name, None),
            Key::EndpointSlice(name) => self.slice(&name, None),
            Key::TcpRoute(name) => self.route(&name, None),
            Key::HttpRoute(id) => self.http_route(&id, None),
            Key::ReferenceGrant(name) => self.grant(&name, None),
            Key::AuthorizationPolicy(name) => self.authorization(&name, None),
            Key::PeerAuthentication(name) => self.authentication(&name, None),
            Key::TrafficPolicy(name) => self.traffic(&name, None),
        }
    }

    /// Another zone of any node concerns the endpoints of every service: rare, and cheaper than to know whose.
    fn node(&mut self, name: &Arc<str>, new: Option<Node>) {
        let tables = &mut self.next.primary;
        if unchanged(tables.nodes.get(name), new.as_ref()) {
            return;
        }
        match new {
            Some(new) => _ = tables.nodes.insert(name.clone(), Arc::new(new)),
            None => _ = tables.nodes.remove(name),
        }
        self.marks.services.extend(tables.services.values().map(|held| held.object.name.clone()));
    }

    fn workload(&mut self, name: &ObjectName, new: Option<Workload>) {
        let tables = &mut self.next.primary;
        if unchanged(tables.workloads.get(name), new.as_ref()) {
            return;
        }
        if let Some(old) = tables.workloads.remove(name) {
            for ip in &old.addresses {
                tables.workloads_at.remove(*ip, name);
                self.marks.addresses.insert(*ip);
            }
            tables.workloads_by_uid.remove(&old.uid, name);
            tables.workloads_on.remove(&old.node, name);
        }
        if let Some(new) = new.map(Arc::new) {
            for ip in &new.addresses {
                tables.workloads_at.insert(*ip, new.clone());
                self.marks.addresses.insert(*ip);
            }
            tables.workloads_by_uid.insert(&new.uid, new.clone());
            tables.workloads_on.insert(&new.node, new.clone());
            tables.workloads.insert(name.clone(), new);
        }
    }

    fn peers(&mut self, name: &Arc<str>, new: Option<PeerSlice>) {
        for changed in self.next.primary.peers.replace(name, new) {
            self.marks.addresses.extend(changed.addresses());
        }
    }

    /// Marks the addresses of the pods whose liveness changed, and of no others.
    fn liveness(&mut self, node: &Arc<str>, new: Option<NodeLiveness>) {
        let tables = &mut self.next.primary;
        if unchanged(tables.liveness.get(node), new.as_ref()) {
            return;
        }
        let old = tables.liveness.remove(node);
        let (none, new) = (BTreeSet::new(), new.map(Arc::new));
        let before = old.as_ref().map_or(&none, |n| &n.live);
        let after = new.as_ref().map_or(&none, |n| &n.live);
        for uid in before.symmetric_difference(after) {
            for workload in tables.workloads_by_uid.at(uid) {
                self.marks.addresses.extend(&workload.addresses);
            }
        }
        if let Some(new) = new {
            tables.liveness.insert(node.clone(), new);
        }
    }

    fn service(&mut self, name: &ObjectName, new: Option<Service>) {
        let tables = &mut self.next.primary;
        let old = tables.services.get(name).map(|held| held.object.clone());
        if unchanged(old.as_ref(), new.as_ref()) {
            return;
        }
        if new.is_none() {
            self.next.derived.http.remove(name);
            self.next.derived.traffic.remove(name);
        }
        if let Some(old) = old {
            tables.services.remove(name);
            for ip in &old.cluster_ips {
                tables.services_at.remove(*ip, name);
                self.marks.addresses.insert(*ip);
            }
            let kept = new.as_ref().map_or(&[][..], |new| &new.ports);
            for port in old.ports.iter().filter(|old| !kept.iter().any(|new| new.port == old.port)) {
                for family in Family::ALL {
                    let key = ServicePortKey { service: name.clone(), port: port.port, family };
                    self.next.derived.splits.remove(&key);
                }
            }
        }
        if let Some(new) = new.map(Arc::new) {
            for ip in &new.cluster_ips {
                tables.services_at.insert(*ip, new.clone());
                self.marks.addresses.insert(*ip);
            }
            tables.services.insert(Revised { object: new, revision: 0 });
        }
        self.marks.services.insert(name.clone());
        self.marks.splits.insert(name.clone());
        let dependent = tables.routes_to.at(name).iter().flat_map(|route| &route.parents);
        self.marks.splits.extend(dependent.map(|parent| parent.service.clone()));
        self.marks.splits.extend(tables.http.sending_to(name).cloned());
    }

    fn slice(&mut self, name: &ObjectName, new: Option<EndpointSlice>) {
        let tables = &mut self.next.primary;
        if unchanged(tables.slices.get(name), new.as_ref()) {
            return;
        }
        let old = tables.slices.remove(name);
        let new = new.map(Arc::new);
        let moved = old.as_ref().map(|old| &old.service) != new.as_ref().map(|new| &new.service);
        let before = old.as_ref().map(|old| addresses(old)).unwrap_or_default();
        let after = new.as_ref().map(|new| addresses(new)).unwrap_or_default();
        if let Some(old) = &old {
            if moved {
                tables.slices_of.remove(&old.service, name);
            }
            self.marks.services.insert(old.service.clone());
        }
        if let Some(new) = new {
            tables.slices_of.insert(&new.service, new.clone());
            self.marks.services.insert(new.service.clone());
            // Which addresses a Service has seldom changes with the condition of its endpoints.
            let backed = Arc::new(Backed { name: new.service.clone() });
            let come = after.iter().filter(|address| moved || !before.contains(address));
            come.for_each(|address| tables.backed_at.insert(*address, backed.clone()));
            tables.slices.insert(new);
        }
        if let Some(old) = old {
            let gone = before.iter().filter(|address| moved || !after.contains(address));
            let others: Vec<_> = tables.slices_of.at(&old.service).iter().filter(|other| other.name != *name).collect();
            let elsewhere: BTreeSet<_> = others.iter().flat_map(|other| addresses(other)).collect();
            gone.filter(|address| !elsewhere.contains(address))
                .for_each(|address| tables.backed_at.remove(*address, &old.service));
        }
    }

    fn route(&mut self, name: &ObjectName, new: Option<TcpRoute>) {
        let tables = &mut self.next.primary;
        if unchanged(tables.routes.get(name), new.as_ref()) {
            return;
        }
        if let Some(old) = tables.routes.remove(name) {
            for parent in &old.parents {
                tables.routes_of.remove(&parent.service, name);
                self.marks.splits.insert(parent.service.clone());
            }
            for backend in &old.backends {
                tables.routes_to.remove(&backend.service, name);
                tables.routes_into.remove(&backend.service.namespace, name);
            }
        }
        if let Some(new) = new.map(Arc::new) {
            for parent in &new.parents {
                tables.routes_of.insert(&parent.service, new.clone());
                self.marks.splits.insert(parent.service.clone());
            }
            for backend in &new.backends {
                tables.routes_to.insert(&backend.service, new.clone());
                if backend.service.namespace != name.namespace {
                    tables.routes_into.insert(&backend.service.namespace, new.clone());
                }
            }
            tables.routes.insert(name.clone(), new);
        }
    }

    fn http_route(&mut self, id: &HttpRouteId, new: Option<HttpRoute>) {
        if !unchanged(self.next.primary.http.routes.get(id), new.as_ref()) {
            self.marks.splits.extend(self.next.primary.http.set(id, new));
        }
    }

    fn grant(&mut self, name: &ObjectName, new: Option<ReferenceGrant>) {
        let tables = &mut self.next.primary;
        if unchanged(tables.grants.get(name), new.as_ref()) {
            return;
        }
        if tables.grants.remove(name).is_some() {
            tables.grants_in.remove(&name.namespace, name);
        }
        if let Some(new) = new.map(Arc::new) {
            tables.grants_in.insert(&name.namespace, new.clone());
            tables.grants.insert(name.clone(), new);
        }
        let dependent = tables.routes_into.at(&name.namespace).iter().flat_map(|route| &route.parents);
        self.marks.splits.extend(dependent.map(|parent| parent.service.clone()));
        self.marks.splits.extend(tables.http.sending_into(&name.namespace).cloned());
    }

    fn authorization(&mut self, name: &ObjectName, new: Option<AuthorizationPolicy>) {
        let tables = &mut self.next.primary;
        if unchanged(tables.authorization.get(name), new.as_ref()) {
            return;
        }
        if tables.authorization.remove(name).is_some() {
            tables.authorization_in.remove(&name.namespace, name);
        }
        if let Some(new) = new.map(Arc::new) {
            tables.authorization_in.insert(&name.namespace, new.clone());
            tables.authorization.insert(name.clone(), new);
        }
        self.marks.policies.insert(name.namespace.clone());
    }

    fn authentication(&mut self, name: &ObjectName, new: Option<PeerAuthentication>) {
        let tables = &mut self.next.primary;
        if unchanged(tables.authentication.get(name), new.as_ref()) {
            return;
        }
        if tables.authentication.remove(name).is_some() {
            tables.authentication_in.remove(&name.namespace, name);
        }
        if let Some(new) = new.map(Arc::new) {
            tables.authentication_in.insert(&name.namespace, new.clone());
            tables.authentication.insert(name.clone(), new);
        }
        self.marks.policies.insert(name.namespace.clone());
    }

    /// A target outside the policy's namespace is none: a tenant must not tune another's services.
    fn traffic(&mut self, id: &TrafficPolicyId, new: Option<TrafficPolicy>) {
        let tables = &mut self.next.primary;
        if unchanged(tables.traffic.get(id), new.as_ref()) {
            return;
        }
        if let Some(old) = tables.traffic.remove(id) {
            for target in &old.targets {
                match target {
                    TrafficTarget::Service(service, _) => tables.traffic_for.remove(service, id),
                    TrafficTarget::Route(route, _) => tables.traffic_for_routes.remove(route, id),
                }
                self.marks.splits.extend(concerned(tables, target));
            }
        }
        if let Some(new) = new.map(Arc::new) {
            for target in &new.targets {
                match target {
                    TrafficTarget::Service(service, _) if service.namespace == id.name.namespace => {
                        tables.traffic_for.insert(service, new.clone());
                    }
                    TrafficTarget::Route(route, _) if route.name.namespace == id.name.namespace => {
                        tables.traffic_for_routes.insert(route, new.clone());
                    }
                    _ => continue,
                }
                self.marks.splits.extend(concerned(tables, target));
            }
            tables.traffic.insert(id.clone(), new);
        }
    }
}

/// The services whose traffic a target is about.
fn concerned(tables: &Primary, target: &TrafficTarget) -> Vec<ObjectName> {
    match target {
        // A rule that keeps clients by what they show is refused where its backend keeps them by their address.
        TrafficTarget::Service(service, _) => {
            tables.http.sending_to(service).cloned().chain([service.clone()]).collect()
        }
        TrafficTarget::Route(id, _) => {
            let parents = tables.http.routes.get(id).map_or(&[][..], |route| &route.parents);
            parents.iter().map(|parent| parent.service.clone()).collect()
        }
    }
}

/// Where a slice has endpoints.
fn addresses(slice: &EndpointSlice) -> BTreeSet<IpAddr> {
    slice.endpoints.iter().map(|endpoint| endpoint.address.to_canonical()).collect()
}

/// Whether a delta says what is held already, as a resync does for nearly everything.
fn unchanged<T: PartialEq>(held: Option<&Arc<T>>, new: Option<&T>) -> bool {
    held.map(|held| &**held) == new
}

/// Addresses as the indexes hold them: a v4-mapped v6 address is the v4 one.
fn canonical_workload(mut workload: Workload) -> Workload {
    workload.addresses.iter_mut().for_each(|ip| *ip = ip.to_canonical());
    workload
}

fn canonical_service(mut service: Service) -> Service {
    service.cluster_ips.iter_mut().for_each(|ip| *ip = ip.to_canonical());
    service
}
