//! `v1 Service`: virtual addresses and TCP ports.

use k8s_openapi::api::core::v1 as api;
use weft_core::model::{Service, ServicePort};

use super::Findings;

/// Converts a Service. An ExternalName has no addresses of its own and is left to DNS.
pub fn convert(object: &api::Service, findings: &mut Findings) -> Option<Service> {
    let name = super::object_name(&object.metadata, findings);
    let spec = object.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let cluster_ips = cluster_ips(spec, findings);
    let ports = ports(spec, findings);
    let fast_path = super::fast_path(&object.metadata, findings);
    Some(Service {
        name: name?,
        cluster_ips,
        ports,
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        fast_path,
    })
}

fn cluster_ips(spec: &api::ServiceSpec, findings: &mut Findings) -> Vec<std::net::IpAddr> {
    let listed = spec.cluster_ips.iter().flatten().enumerate().map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip));
    let single = spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
    let given: Vec<_> = single.chain(listed).filter(|(_, text)| !text.is_empty()).collect();
    if given.is_empty() {
        let reason = "has no cluster IP: the API server assigns one, a directory of manifests must state it \
                      (or \"None\" for a headless Service)";
        findings.warning("spec.clusterIP", reason);
    }
    let mut addresses = Vec::new();
    for (path, text) in given.into_iter().filter(|(_, text)| *text != "None") {
        if let Some(address) = findings.address(&path, text).filter(|address| !addresses.contains(address)) {
            addresses.push(address);
        }
    }
    addresses
}

fn ports(spec: &api::ServiceSpec, findings: &mut Findings) -> Vec<ServicePort> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (i, port) in spec.ports.iter().flatten().enumerate() {
        if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
            continue;
        }
        let path = format!("spec.ports[{i}].port");
        let Some(number) = findings.port(&path, port.port) else { continue };
        let name = port.name.as_deref().unwrap_or_default();
        if ports.iter().any(|other| other.port == number || *other.name == *name) {
            findings.error(path, "repeats the number or the name of an earlier TCP port");
            continue;
        }
        ports.push(ServicePort {
            name: name.into(),
            port: number,
            app_protocol: port.app_protocol.as_deref().map(Into::into),
        });
    }
    ports
}
