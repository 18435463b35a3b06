//! `discovery.k8s.io/v1 EndpointSlice`: the endpoints of a Service.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use weft_core::model::{EndpointAddress, EndpointSlice, Hints, ObjectName, Place, SlicePort};

use super::Findings;

/// The label that names the Service a slice belongs to.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What is used of an endpoint, of whatever type it was read into.
pub(crate) trait Endpoint {
    /// Its first address.
    fn address(&self) -> Option<&str>;
    /// Whether it is ready, and the like.
    fn conditions(&self) -> Option<&api::EndpointConditions>;
    /// Where it is, and for whom.
    fn place(&self) -> Place;
}

/// What is used of an EndpointSlice but its metadata.
pub(crate) struct Content<'a, E> {
    pub(crate) address_type: &'a str,
    pub(crate) ports: Option<&'a [api::EndpointPort]>,
    pub(crate) endpoints: Option<&'a [E]>,
}

/// Converts an EndpointSlice. One of FQDNs, and one that belongs to no Service, say nothing the mesh can use.
pub fn convert(object: &api::EndpointSlice, findings: &mut Findings) -> Option<EndpointSlice> {
    let content = Content {
        address_type: &object.address_type,
        ports: object.ports.as_deref(),
        endpoints: object.endpoints.as_deref(),
    };
    convert_content(&object.metadata, &content, findings)
}

/// The same of one read into another type.
pub(crate) fn convert_content<E: Endpoint>(
    metadata: &ObjectMeta,
    content: &Content<'_, E>,
    findings: &mut Findings,
) -> Option<EndpointSlice> {
    let name = super::object_name(metadata, findings);
    if !matches!(content.address_type, "IPv4" | "IPv6") {
        let reason = format!("{:?} endpoints are left out: use IPv4 or IPv6", content.address_type);
        findings.warning("addressType", reason);
        return None;
    }
    let Some(service) = metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL)) else {
        findings.warning("metadata.labels", format!("has no label {SERVICE_LABEL}: it belongs to no Service"));
        return None;
    };
    let service = ObjectName::new(super::namespace_of(metadata), service);
    let service = findings.keep(format_args!("metadata.labels[{SERVICE_LABEL}]"), service);
    let ports = ports(content.ports.unwrap_or_default(), findings);
    let endpoints = content.endpoints.unwrap_or_default().iter().enumerate();
    let mut endpoints: Vec<_> = endpoints.filter_map(|(i, endpoint)| self::endpoint(i, endpoint, findings)).collect();
    // It stays as it is for long, and there are thousands.
    endpoints.shrink_to_fit();
    Some(EndpointSlice { name: name?, service: service?, ports, endpoints })
}

/// A port without a number stands for every port; Kubernetes itself never writes one, so it is left out with a warning.
fn ports(given: &[api::EndpointPort], findings: &mut Findings) -> Vec<SlicePort> {
    let mut ports = Vec::with_capacity(given.len());
    for (i, port) in given.iter().enumerate() {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        match port.port {
            None => findings.warning(format!("ports[{i}].port"), "has no number: the entry is left out"),
            Some(number) => ports.extend(findings.port(format_args!("ports[{i}].port"), number).map(|port_number| {
                SlicePort { name: port.name.as_deref().unwrap_or_default().into(), port: port_number }
            })),
        }
    }
    ports.shrink_to_fit();
    ports
}

/// Kubernetes: an absent `ready` means ready, an absent `serving` serving, an absent `terminating` means not.
fn endpoint(index: usize, endpoint: &impl Endpoint, findings: &mut Findings) -> Option<EndpointAddress> {
    let Some(first) = endpoint.address() else {
        findings.error(format!("endpoints[{index}].addresses"), "is empty: give the endpoint's address");
        return None;
    };
    let address = findings.address(format_args!("endpoints[{index}].addresses[0]"), first)?;
    let conditions = endpoint.conditions();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    Some(EndpointAddress {
        address,
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(true),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        place: Arc::new(endpoint.place()),
    })
}

impl Endpoint for api::Endpoint {
    fn address(&self) -> Option<&str> {
        self.addresses.first().map(String::as_str)
    }

    fn conditions(&self) -> Option<&api::EndpointConditions> {
        self.conditions.as_ref()
    }

    fn place(&self) -> Place {
        Place {
            node: self.node_name.as_deref().map(Into::into),
            zone: self.zone.as_deref().map(Into::into),
            hints: self.hints.as_ref().and_then(hints),
        }
    }
}

/// Hints that name nobody are none.
pub(crate) fn hints(hints: &api::EndpointHints) -> Option<Hints> {
    let zones: Vec<Arc<str>> = hints.for_zones.iter().flatten().map(|zone| zone.name.as_str().into()).collect();
    let nodes: Vec<Arc<str>> = hints.for_nodes.iter().flatten().map(|node| node.name.as_str().into()).collect();
    (!zones.is_empty() || !nodes.is_empty()).then_some(Hints { zones, nodes })
}
