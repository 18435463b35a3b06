//! `discovery.k8s.io/v1 EndpointSlice`: the endpoints of a Service.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as api;
use weft_core::model::{EndpointAddress, EndpointSlice, Hints, ObjectName, Place, SlicePort};

use super::Findings;

/// The label that names the Service a slice belongs to.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Converts an EndpointSlice. One of FQDNs, and one that belongs to no Service, say nothing the mesh can use.
pub fn convert(object: &api::EndpointSlice, findings: &mut Findings) -> Option<EndpointSlice> {
    let name = super::object_name(&object.metadata, findings);
    if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
        let reason = format!("{:?} endpoints are left out: use IPv4 or IPv6", object.address_type);
        findings.warning("addressType", reason);
        return None;
    }
    let Some(service) = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL)) else {
        findings.warning("metadata.labels", format!("has no label {SERVICE_LABEL}: it belongs to no Service"));
        return None;
    };
    let service = ObjectName::new(super::namespace_of(&object.metadata), service);
    let service = findings.keep(&format!("metadata.labels[{SERVICE_LABEL}]"), service);
    let ports = ports(object, findings);
    let endpoints = object.endpoints.iter().flatten().enumerate();
    let mut endpoints: Vec<_> = endpoints.filter_map(|(i, endpoint)| self::endpoint(i, endpoint, findings)).collect();
    // It stays as it is for long, and there are thousands.
    endpoints.shrink_to_fit();
    Some(EndpointSlice { name: name?, service: service?, ports, endpoints })
}

/// A port without a number stands for every port; Kubernetes itself never writes one, so it is left out with a warning.
fn ports(object: &api::EndpointSlice, findings: &mut Findings) -> Vec<SlicePort> {
    let mut ports = Vec::new();
    for (i, port) in object.ports.iter().flatten().enumerate() {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        let path = format!("ports[{i}].port");
        match port.port {
            None => findings.warning(path, "has no number: the entry is left out"),
            Some(number) => ports.extend(findings.port(&path, number).map(|port_number| SlicePort {
                name: port.name.as_deref().unwrap_or_default().into(),
                port: port_number,
            })),
        }
    }
    ports.shrink_to_fit();
    ports
}

/// Kubernetes: an absent `ready` means ready, an absent `serving` serving, an absent `terminating` means not.
fn endpoint(index: usize, endpoint: &api::Endpoint, findings: &mut Findings) -> Option<EndpointAddress> {
    let Some(first) = endpoint.addresses.first() else {
        findings.error(format!("endpoints[{index}].addresses"), "is empty: give the endpoint's address");
        return None;
    };
    let address = findings.address(&format!("endpoints[{index}].addresses[0]"), first)?;
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    Some(EndpointAddress {
        address,
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        place: Arc::new(Place {
            node: endpoint.node_name.as_deref().map(Into::into),
            zone: endpoint.zone.as_deref().map(Into::into),
            hints: endpoint.hints.as_ref().and_then(hints),
        }),
    })
}

/// Hints that name nobody are none.
fn hints(hints: &api::EndpointHints) -> Option<Hints> {
    let zones: Vec<Arc<str>> = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into()).collect();
    let nodes: Vec<Arc<str>> = hints.for_nodes.iter().flatten().map(|node| node.name.as_str().into()).collect();
    (!zones.is_empty() || !nodes.is_empty()).then_some(Hints { zones, nodes })
}
