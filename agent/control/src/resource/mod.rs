//! Kubernetes objects become the model: one file per kind, each a function from the typed object to a
//! [`Resource`](weft_core::snapshot::Resource).
//!
//! Shared by every source of configuration. A conversion never guesses: what it does not understand it writes into
//! [`Findings`] with the path of the field, and the source decides what stays in force. Policies and routes become
//! something even when they are wrong: what refuses.

pub mod authorization_policy;
pub mod backend_traffic_policy;
pub mod endpoint_slice;
mod fields;
mod findings;
pub mod gateway;
pub mod grpc_route;
mod http_filter;
mod http_match;
pub mod http_route;
pub mod namespace;
pub mod node;
pub mod peer_authentication;
pub mod pod;
pub mod reference_grant;
mod route;
pub mod service;
mod session;
pub mod tcp_route;
pub mod traffic_policy;
pub mod workload_slice;

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_core::model::{Labels, MeshLabel, ObjectName, Selector};

use super::crd::PodSelector;

pub use findings::{Finding, Findings};

/// Who says in the status of Gateway API's objects what the mesh makes of them, among other controllers.
pub const CONTROLLER: &str = "weft.dev/controller";
/// `weft.dev/mesh`, on a Namespace or Pod: `enabled` or `disabled`.
pub const MESH_LABEL: &str = "weft.dev/mesh";
/// `weft.dev/status`, on a Pod: how it stands, as its node's agent writes it.
pub const STATUS_ANNOTATION: &str = "weft.dev/status";
/// `weft.dev/weight`, on a Pod: its share among the endpoints of a backend.
pub const WEIGHT_ANNOTATION: &str = "weft.dev/weight";
/// `weft.dev/netns`, on a Pod of a standalone agent: the path of its network namespace.
pub const NETNS_ANNOTATION: &str = "weft.dev/netns";

/// `weft.dev/fast-path`, on a Namespace or Service: `disabled` keeps connections off the same-node fast path.
pub const FAST_PATH_ANNOTATION: &str = "weft.dev/fast-path";

/// `weft.dev/l7`, on a Namespace or Service: `enabled` has the mesh find out what ports without `appProtocol` speak.
pub const L7_ANNOTATION: &str = "weft.dev/l7";

/// The kinds the mesh reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Kind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Node`: its zone.
    Node,
    /// `v1 Pod`.
    Pod,
    /// `v1 ServiceAccount`: nothing of it is needed but that it exists.
    ServiceAccount,
    /// `v1 Service`.
    Service,
    /// `discovery.k8s.io/v1 EndpointSlice`.
    EndpointSlice,
    /// `gateway.networking.k8s.io TCPRoute`.
    TcpRoute,
    /// `gateway.networking.k8s.io HTTPRoute`.
    HttpRoute,
    /// `gateway.networking.k8s.io GRPCRoute`.
    GrpcRoute,
    /// `gateway.networking.k8s.io ReferenceGrant`.
    ReferenceGrant,
    /// `weft.dev AuthorizationPolicy`.
    AuthorizationPolicy,
    /// `weft.dev PeerAuthentication`.
    PeerAuthentication,
    /// `weft.dev TrafficPolicy`.
    TrafficPolicy,
    /// `gateway.networking.x-k8s.io XBackendTrafficPolicy`.
    BackendTrafficPolicy,
    /// `weft.dev WorkloadSlice`.
    WorkloadSlice,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::ServiceAccount,
        Self::Service,
        Self::EndpointSlice,
        Self::TcpRoute,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::ReferenceGrant,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
        Self::TrafficPolicy,
        Self::BackendTrafficPolicy,
        Self::WorkloadSlice,
    ];

    /// The `kind` of a manifest.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::ServiceAccount => "ServiceAccount",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::TcpRoute => "TCPRoute",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::ReferenceGrant => "ReferenceGrant",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::BackendTrafficPolicy => "XBackendTrafficPolicy",
            Self::WorkloadSlice => "WorkloadSlice",
        }
    }

    /// The API group (empty: core) and the versions that are read.
    #[must_use]
    pub fn group(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Namespace | Self::Node | Self::Pod | Self::ServiceAccount | Self::Service => ("", &["v1"]),
            Self::EndpointSlice => ("discovery.k8s.io", &["v1"]),
            Self::TcpRoute => ("gateway.networking.k8s.io", &["v1alpha2"]),
            Self::HttpRoute => ("gateway.networking.k8s.io", &["v1", "v1beta1"]),
            Self::GrpcRoute => ("gateway.networking.k8s.io", &["v1"]),
            Self::BackendTrafficPolicy => ("gateway.networking.x-k8s.io", &["v1alpha1"]),
            Self::ReferenceGrant => ("gateway.networking.k8s.io", &["v1", "v1beta1", "v1alpha2"]),
            Self::AuthorizationPolicy | Self::PeerAuthentication | Self::TrafficPolicy | Self::WorkloadSlice => {
                (super::crd::GROUP, &[super::crd::VERSION])
            }
        }
    }

    /// Its name in the API server's paths.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::ServiceAccount => "serviceaccounts",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::TcpRoute => "tcproutes",
            Self::HttpRoute => "httproutes",
            Self::GrpcRoute => "grpcroutes",
            Self::ReferenceGrant => "referencegrants",
            Self::AuthorizationPolicy => "authorizationpolicies",
            Self::PeerAuthentication => "peerauthentications",
            Self::TrafficPolicy => "trafficpolicies",
            Self::BackendTrafficPolicy => "xbackendtrafficpolicies",
            Self::WorkloadSlice => "workloadslices",
        }
    }

    /// Whether an object of it that is wrong, and never was right, stands in force as what refuses.
    #[must_use]
    pub fn fails_closed(self) -> bool {
        matches!(self, Self::AuthorizationPolicy | Self::HttpRoute | Self::GrpcRoute)
    }

    /// Whether it is a route of Gateway API.
    #[must_use]
    pub fn is_route(self) -> bool {
        matches!(self, Self::TcpRoute | Self::HttpRoute | Self::GrpcRoute)
    }

    /// Whether its objects live outside namespaces.
    #[must_use]
    pub fn cluster_scoped(self) -> bool {
        matches!(self, Self::Namespace | Self::Node)
    }
}

/// The namespace and name of an object; `default` where a manifest gives no namespace, as kubectl does.
pub(crate) fn object_name(metadata: &ObjectMeta, findings: &mut Findings) -> Option<ObjectName> {
    let name = metadata.name.as_deref().unwrap_or_default();
    findings.keep("metadata.name", ObjectName::new(namespace_of(metadata), name))
}

/// The namespace an object is in.
pub(crate) fn namespace_of(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
}

/// When an object was created, in seconds since the epoch; 0 where a manifest does not say.
pub(crate) fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// Labels as the model holds them.
pub(crate) fn labels(metadata: &ObjectMeta) -> Labels {
    let labels = metadata.labels.iter().flatten();
    labels.map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str()))).collect()
}

/// A selector's labels.
pub(crate) fn selector(selector: Option<&PodSelector>) -> Selector {
    let labels: Option<&BTreeMap<String, String>> = selector.map(|selector| &selector.match_labels);
    Selector(labels.into_iter().flatten().map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str()))).collect())
}

/// `weft.dev/mesh`.
pub(crate) fn mesh_label(metadata: &ObjectMeta, findings: &mut Findings) -> Option<MeshLabel> {
    match metadata.labels.as_ref()?.get(MESH_LABEL)?.as_str() {
        "enabled" => Some(MeshLabel::Enabled),
        "disabled" => Some(MeshLabel::Disabled),
        other => {
            let path = format!("metadata.labels[{MESH_LABEL}]");
            findings.error(path, format!("{other:?} is neither \"enabled\" nor \"disabled\""));
            None
        }
    }
}

/// `weft.dev/fast-path`: whether connections may go directly between pods of one node.
pub(crate) fn fast_path(metadata: &ObjectMeta, findings: &mut Findings) -> bool {
    match metadata.annotations.as_ref().and_then(|all| all.get(FAST_PATH_ANNOTATION)).map(String::as_str) {
        None | Some("enabled") => true,
        Some("disabled") => false,
        Some(other) => {
            let path = format!("metadata.annotations[{FAST_PATH_ANNOTATION}]");
            findings.error(path, format!("{other:?} is neither \"enabled\" nor \"disabled\""));
            false
        }
    }
}

/// `weft.dev/l7`: whether it is to be found out what ports speak that nothing is said of.
pub(crate) fn detect(metadata: &ObjectMeta, findings: &mut Findings) -> Option<bool> {
    match metadata.annotations.as_ref()?.get(L7_ANNOTATION)?.as_str() {
        "enabled" => Some(true),
        "disabled" => Some(false),
        other => {
            let path = format!("metadata.annotations[{L7_ANNOTATION}]");
            findings.error(path, format!("{other:?} is neither \"enabled\" nor \"disabled\""));
            None
        }
    }
}

#[cfg(test)]
mod tests;
