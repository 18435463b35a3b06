//! The immutable index over everything the mesh knows; every decision reads one.
//!
//! `snapshot.apply(deltas)` gives the next snapshot and leaves the old one as it was: the maps share structure, so that
//! an update costs what it touches. The result depends on what the deltas leave true, never on their order or grouping:
//! primary tables hold the resources, secondary indexes list claimants by name, and whatever is derived from several
//! resources is computed anew from those tables when one of them changes.
//!
//! Two pods can claim one address for a moment (an address is reused before the old pod's removal arrives). The winner
//! is the one its node's agent publishes as live, else one that is not on the host's network, else the smallest name.

mod batch;
mod endpoints;
mod http;
mod index;
mod news;
mod peers;
mod pods;
mod policies;
mod resource;
mod routes;
mod routing;
mod sessions;
mod settle;
mod sides;
mod table;
mod topology;
mod traffic;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;

use crate::model::{
    AuthorizationPolicy, EndpointSlice, HttpRouteId, Identity, MeshLabel, Name, Namespace, Node, NodeLiveness,
    OFF_LABEL, ObjectName, PeerAuthentication, ReferenceGrant, Service, TcpRoute, TrafficPolicy, TrafficPolicyId,
    TrustDomain, Workload,
};
use index::{Addressed, Addresses, Backed, Index, Revised};
use peers::Peers;
use table::Table;

pub use endpoints::{Endpoint, EndpointSet, Family, Fitness, ServicePortKey};
pub use peers::PeerSlice;
pub(crate) use policies::{Facet, NamespacePolicies, Site, selects};
pub use resource::{Delta, Key, Resource};
pub use routes::{Attachment, Branch, BranchFault, Split};
pub use sessions::SessionClash;
pub use sides::{HttpRoutes, Sides};
pub use topology::{Here, Proximity};
pub use traffic::PolicyAttachment;

/// Everything the mesh knows at one moment. Cloning one is cheap; so is keeping an old one.
#[derive(Clone, Debug)]
pub struct Snapshot {
    trust_domain: TrustDomain,
    here: Here,
    generation: u64,
    primary: Primary,
    derived: Derived,
}

/// The resources, and indexes that list them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Primary {
    namespaces: OrdMap<Name, Arc<Namespace>>,
    nodes: OrdMap<Arc<str>, Arc<Node>>,
    liveness: OrdMap<Arc<str>, Arc<NodeLiveness>>,
    workloads: OrdMap<ObjectName, Arc<Workload>>,
    peers: Peers,
    services: Table<Revised<Service>>,
    slices: Table<Arc<EndpointSlice>>,
    routes: OrdMap<ObjectName, Arc<TcpRoute>>,
    http: http::HttpTables,
    grants: OrdMap<ObjectName, Arc<ReferenceGrant>>,
    authorization: OrdMap<ObjectName, Arc<AuthorizationPolicy>>,
    authentication: OrdMap<ObjectName, Arc<PeerAuthentication>>,
    traffic: OrdMap<TrafficPolicyId, Arc<TrafficPolicy>>,

    workloads_at: Addressed<Workload>,
    workloads_by_uid: Index<Arc<str>, Workload>,
    workloads_on: Index<Arc<str>, Workload>,
    services_at: Addressed<Service>,
    slices_of: Index<ObjectName, EndpointSlice>,
    backed_at: Addressed<Backed>,
    routes_of: Index<ObjectName, TcpRoute>,
    routes_to: Index<ObjectName, TcpRoute>,
    routes_into: Index<Name, TcpRoute>,
    grants_in: Index<Name, ReferenceGrant>,
    authorization_in: Index<Name, AuthorizationPolicy>,
    authentication_in: Index<Name, PeerAuthentication>,
    traffic_for: Index<ObjectName, TrafficPolicy>,
    traffic_for_routes: Index<HttpRouteId, TrafficPolicy>,
}

/// What follows from the primary tables, kept up by [`settle`].
#[derive(Clone, Debug, Default, PartialEq)]
struct Derived {
    splits: OrdMap<ServicePortKey, Sides<Split>>,
    http: OrdMap<ObjectName, http::Ports>,
    traffic: OrdMap<ObjectName, traffic::Ports>,
    destinations: Addresses,
    policies: OrdMap<Name, Arc<NamespacePolicies>>,
}

/// Two snapshots are equal when they know the same, however they came to know it.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.here == other.here
            && self.primary == other.primary
            && self.derived == other.derived
    }
}

impl Snapshot {
    /// A snapshot that knows nothing but the mesh's trust domain, and is nowhere: no endpoint is nearer than another.
    #[must_use]
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self::on(trust_domain, Here::default())
    }

    /// A snapshot that knows nothing but the mesh's trust domain and where the connections begin for which it decides.
    #[must_use]
    pub fn on(trust_domain: TrustDomain, here: Here) -> Self {
        Self { trust_domain, here, generation: 0, primary: Primary::default(), derived: Derived::default() }
    }

    /// The snapshot after `deltas`. Costs what they touch: at most the endpoints of the services, the policies of the
    /// namespaces and the pods of the nodes they name.
    #[must_use]
    pub fn apply(&self, deltas: impl IntoIterator<Item = Delta>) -> Self {
        batch::apply(self, deltas)
    }

    /// Whether applying a delta would change nothing.
    #[must_use]
    pub fn knows(&self, delta: &Delta) -> bool {
        news::is_known(self, delta)
    }

    /// How many times [`Self::apply`] led here: of two snapshots of one line, the higher is the newer.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The mesh's trust domain.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Where the connections begin for which this snapshot decides.
    #[must_use]
    pub fn here(&self) -> &Here {
        &self.here
    }

    /// The zone they begin in: the one that was set, or else that of the node.
    #[must_use]
    pub fn zone(&self) -> Option<&Arc<str>> {
        self.here.zone.as_ref().or_else(|| self.zone_of(&self.here.node))
    }

    /// The zone of a node, by its label.
    fn zone_of(&self, node: &str) -> Option<&Arc<str>> {
        self.primary.nodes.get(node)?.zone.as_ref()
    }

    /// The identity a pod holds: that of its service account.
    #[must_use]
    pub fn identity_of(&self, w: &Workload) -> Identity {
        Identity {
            trust_domain: self.trust_domain.clone(),
            namespace: w.name.namespace.clone(),
            service_account: w.service_account.clone(),
        }
    }

    /// Whether a pod is to be enrolled: labelled so (the pod's label wins over its namespace's), with a network of its
    /// own and an address.
    #[must_use]
    pub fn wants_mesh(&self, w: &Workload) -> bool {
        self.is_labelled(w) && !w.host_network && !w.addresses.is_empty()
    }

    /// Whether a pod is asked into the mesh: by its own label, or else by its namespace's.
    #[must_use]
    pub fn is_labelled(&self, w: &Workload) -> bool {
        let label = w.mesh.or_else(|| self.primary.namespaces.get(&w.name.namespace).and_then(|n| n.mesh));
        label == Some(MeshLabel::Enabled)
    }

    /// Whether the mesh is switched off everywhere, by [`OFF_LABEL`] on the namespace it is in itself.
    #[must_use]
    pub fn is_off(&self, own: &Name) -> bool {
        self.primary
            .namespaces
            .get(own)
            .and_then(|own| own.labels.get(OFF_LABEL))
            .is_some_and(|value| &**value == "true")
    }

    /// Whether the mesh is switched off on a node, by [`OFF_LABEL`] on its Node.
    #[must_use]
    pub fn is_node_off(&self, node: &str) -> bool {
        self.primary.nodes.get(node).is_some_and(|node| node.off)
    }

    /// The addresses the mesh takes connections to: services' virtual ones and those of live pods, in order.
    pub fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        self.derived.destinations.iter()
    }

    /// Whether the mesh takes connections to `ip`.
    #[must_use]
    pub fn is_destination(&self, ip: IpAddr) -> bool {
        self.derived.destinations.contains(ip)
    }

    /// What `older` lacks and what it has too many of, among [`Self::destinations`]: `(added, removed)`. Costs the
    /// difference, not the whole.
    #[must_use]
    pub fn destination_changes(&self, older: &Self) -> (Vec<IpAddr>, Vec<IpAddr>) {
        self.derived.destinations.changes(&older.derived.destinations)
    }

    /// All services, by name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.primary.services.values().map(|held| &held.object)
    }

    /// The service of this name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.primary.services.get(name).map(|held| &held.object)
    }

    /// The services that claim `ip` as a virtual address, by name; where there are several, the first with the dialled
    /// port has it.
    #[must_use]
    pub fn services_at(&self, ip: IpAddr) -> &[Arc<Service>] {
        self.primary.services_at.at(ip)
    }

    /// The namespace of this name.
    #[must_use]
    pub fn namespace(&self, name: &Name) -> Option<&Arc<Namespace>> {
        self.primary.namespaces.get(name)
    }

    /// The services that list an endpoint at `ip`, by name and each once.
    #[must_use]
    pub fn services_with_endpoint_at(&self, ip: IpAddr) -> BTreeSet<&ObjectName> {
        self.primary.backed_at.at(ip).iter().map(|backed| &backed.name).collect()
    }

    /// An endpoint slice.
    #[must_use]
    pub fn slice(&self, name: &ObjectName) -> Option<&EndpointSlice> {
        self.primary.slices.get(name).map(|slice| &**slice)
    }

    /// The endpoints of a service port; `None` where there is no such service or port. Worked out by each call: of ten
    /// thousand services a node calls a few, and [`crate::balance`] keeps those until their [`Self::revision`] is another.
    #[must_use]
    pub fn endpoints(&self, key: &ServicePortKey) -> Option<EndpointSet> {
        let service = self.service(&key.service)?;
        let port = service.ports.iter().find(|port| port.port == key.port)?;
        Some(endpoints::resolve(self, service, port, key.family))
    }

    /// Whether there is such a service port.
    #[must_use]
    pub fn has_port(&self, key: &ServicePortKey) -> bool {
        self.service(&key.service).is_some_and(|service| service.ports.iter().any(|port| port.port == key.port))
    }

    /// When the endpoints of a service last changed, as a generation; `None` where there is no such service. Among snapshots
    /// that hold the very same service, those with the same revision have the same endpoints.
    #[must_use]
    pub fn revision(&self, service: &ObjectName) -> Option<u64> {
        self.primary.services.get(service).map(|held| held.revision)
    }

    /// All endpoint slices, by name.
    pub fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.primary.slices.values()
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.primary.namespaces.values()
    }

    /// What each node's agent publishes, by node.
    pub fn liveness(&self) -> impl Iterator<Item = &Arc<NodeLiveness>> {
        self.primary.liveness.values()
    }

    /// The policies of a namespace, indexed; `None` where it has none.
    pub(crate) fn policies_in(&self, namespace: &Name) -> Option<&Arc<NamespacePolicies>> {
        self.derived.policies.get(namespace)
    }

    /// The policies of every namespace that has any.
    pub(crate) fn policy_table(&self) -> &OrdMap<Name, Arc<NamespacePolicies>> {
        &self.derived.policies
    }

    /// All pods, as a table that can be compared with another snapshot's.
    pub(crate) fn workload_table(&self) -> &OrdMap<ObjectName, Arc<Workload>> {
        &self.primary.workloads
    }
}

#[cfg(test)]
mod tests;
