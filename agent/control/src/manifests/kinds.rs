//! Which kind a document is of, and its way from text over the typed object to the model.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use weft_core::model::{ObjectName, Selector};
use weft_core::snapshot::Resource;

use super::document::{Body, Header, Unreadable};
use super::problem::ObjectRef;
use crate::crd::{self, PodSelector};
use crate::resource::{self, Findings, Kind, authorization_policy};

/// What kind a header names.
pub(super) enum Named {
    Known(Kind),
    List,
    /// Somebody else's.
    Foreign,
    Wrong(String),
}

/// Which kind a header names.
pub(super) fn named(header: &Header) -> Named {
    let (Some(version), Some(kind)) = (header.api_version.as_deref(), header.kind.as_deref()) else {
        return Named::Wrong("is not a Kubernetes object: it has no apiVersion and kind".to_owned());
    };
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    if group.is_empty() && kind == "List" {
        return Named::List;
    }
    let known = Kind::ALL.into_iter().find(|known| known.as_str() == kind && known.group().0 == group);
    match known {
        Some(known) if known.group().1.contains(&version) => Named::Known(known),
        Some(known) => {
            let versions = known.group().1.join(" or ");
            Named::Wrong(format!("{kind} of version {version:?} is not supported: use {versions}"))
        }
        None if group == crd::GROUP => {
            let kinds: Vec<_> = Kind::ALL.iter().filter(|k| k.group().0 == group).map(|k| k.as_str()).collect();
            Named::Wrong(format!("{} has no kind {kind:?}: it has {}", crd::GROUP, kinds.join(", ")))
        }
        None => Named::Foreign,
    }
}

/// Which object a header of this kind names; `None` if it has no proper name.
pub(super) fn object_ref(header: &Header, kind: Kind) -> Option<ObjectRef> {
    let metadata = header.metadata.clone().unwrap_or_default();
    let namespace = match metadata.namespace.filter(|namespace| !namespace.is_empty()) {
        _ if kind.cluster_scoped() => String::new(),
        Some(namespace) => namespace,
        None => "default".to_owned(),
    };
    let name = metadata.name?;
    let checked = ObjectName::new(if namespace.is_empty() { "default" } else { &namespace }, &name);
    checked.ok().map(|_| ObjectRef { kind, namespace, name })
}

/// The fields of `metadata` (name and namespace apart) that Kubernetes knows.
const METADATA: [&str; 13] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Looks for fields that would be passed over where the typed objects do not: in `metadata`, where `label:` would mean
/// no labels, and at the top of the mesh's own kinds and of routes.
pub(crate) fn unknown_fields(kind: Kind, header: &Header, body: Body<'_>, findings: &mut Findings) {
    let own = kind.group().0 == crd::GROUP;
    let mut note = |path: String, reason| {
        if own { findings.error(path, reason) } else { findings.warning(path, reason) }
    };
    let metadata = header.metadata.iter().flat_map(|metadata| metadata.others.keys());
    for name in metadata.filter(|name| !METADATA.contains(&name.as_str())) {
        note(format!("metadata[{name}]"), "is no field of metadata");
    }
    if let (true, Ok(top)) = (own || kind.is_route(), body.read::<BTreeMap<String, IgnoredAny>>()) {
        let known = ["apiVersion", "kind", "metadata", "spec", "status"];
        for name in top.keys().filter(|name| !known.contains(&name.as_str())) {
            note(name.clone(), "is no field of this kind");
        }
    }
}

/// The selector of a policy that is wrong elsewhere, so that only what it selects is refused; all where it has none
/// that can be read.
pub(crate) fn selector_of(body: Body<'_>) -> Selector {
    #[derive(Deserialize)]
    struct Policy {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        selector: Option<PodSelector>,
    }
    resource::selector(body.read::<Policy>().ok().and_then(|policy| policy.spec.selector).as_ref())
}

/// The typed object of `body`, as the model has it.
pub(crate) fn convert(kind: Kind, body: Body<'_>, findings: &mut Findings) -> Result<Option<Resource>, Unreadable> {
    use gateway_api::apis::experimental::{
        referencegrants::ReferenceGrant, tcproutes::TcpRoute, xbackendtrafficpolicies::XBackendTrafficPolicy,
    };
    Ok(match kind {
        Kind::Namespace => resource::namespace::convert(&body.read::<Namespace>()?, findings).map(Resource::Namespace),
        Kind::Node => resource::node::convert(&body.read::<Node>()?, findings).map(Resource::Node),
        Kind::Pod => resource::pod::convert(&body.read::<Pod>()?, findings).map(Resource::Workload),
        Kind::ServiceAccount => body.read::<ServiceAccount>().map(|_| None)?,
        Kind::Service => resource::service::convert(&body.read::<Service>()?, findings).map(Resource::Service),
        Kind::EndpointSlice => {
            resource::endpoint_slice::convert(&body.read::<EndpointSlice>()?, findings).map(Resource::EndpointSlice)
        }
        Kind::TcpRoute => {
            let route = body.read::<TcpRoute>()?;
            resource::tcp_route::unknown_fields(&body.read::<Value>()?, &route, findings);
            resource::tcp_route::convert(&route, findings).map(Resource::TcpRoute)
        }
        Kind::HttpRoute => resource::http_route::convert(&body.read::<Value>()?, findings).map(Resource::HttpRoute),
        Kind::GrpcRoute => resource::grpc_route::convert(&body.read::<Value>()?, findings).map(Resource::HttpRoute),
        Kind::ReferenceGrant => {
            resource::reference_grant::convert(&body.read::<ReferenceGrant>()?, findings).map(Resource::ReferenceGrant)
        }
        Kind::AuthorizationPolicy => authorization_policy::convert(&body.read::<crd::AuthorizationPolicy>()?, findings)
            .map(Resource::AuthorizationPolicy),
        Kind::PeerAuthentication => {
            resource::peer_authentication::convert(&body.read::<crd::PeerAuthentication>()?, findings)
                .map(Resource::PeerAuthentication)
        }
        Kind::TrafficPolicy => resource::traffic_policy::convert(&body.read::<crd::TrafficPolicy>()?, findings)
            .map(Resource::TrafficPolicy),
        Kind::BackendTrafficPolicy => {
            resource::backend_traffic_policy::convert(&body.read::<XBackendTrafficPolicy>()?, findings)
                .map(Resource::TrafficPolicy)
        }
        Kind::WorkloadSlice => {
            resource::workload_slice::convert(&body.read::<crd::WorkloadSlice>()?, findings).map(Resource::Liveness)
        }
    })
}
