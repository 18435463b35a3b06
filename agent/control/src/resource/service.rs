//! `v1 Service`: virtual addresses and TCP ports, and which endpoints a connection may get.

use std::time::Duration;

use k8s_openapi::api::core::v1 as api;
use weft_core::model::{Preference, Service, ServicePort};

use super::Findings;

/// Annotations that leave hints to Kubernetes' own allocation by zones; they go before `trafficDistribution`.
const TOPOLOGY_MODES: [&str; 2] = ["service.kubernetes.io/topology-mode", "service.kubernetes.io/topology-aware-hints"];

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
    let (prefers, local_only, affinity) =
        (prefers(object, findings), local_only(spec, findings), affinity(spec, findings));
    Some(Service {
        name: name?,
        cluster_ips,
        ports,
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        fast_path,
        detect: super::detect(&object.metadata, findings),
        local_only,
        prefers,
        affinity,
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
    addresses.shrink_to_fit();
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
    ports.shrink_to_fit();
    ports
}

fn prefers(object: &api::Service, findings: &mut Findings) -> Preference {
    let allocated = |key: &str| {
        let mode = object.metadata.annotations.as_ref().and_then(|all| all.get(key));
        mode.is_some_and(|mode| mode.eq_ignore_ascii_case("auto"))
    };
    if TOPOLOGY_MODES.iter().any(|key| allocated(key)) {
        return Preference::None;
    }
    match object.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref()) {
        None => Preference::None,
        Some("PreferSameZone" | "PreferClose") => Preference::SameZone,
        Some("PreferSameNode") => Preference::SameNode,
        Some(other) => {
            let reason =
                format!("{other:?} is not known, and no endpoint is preferred: use PreferSameZone or PreferSameNode");
            findings.warning("spec.trafficDistribution", reason);
            Preference::None
        }
    }
}

fn local_only(spec: &api::ServiceSpec, findings: &mut Findings) -> bool {
    match spec.internal_traffic_policy.as_deref() {
        None | Some("Cluster") => false,
        Some("Local") => true,
        Some(other) => {
            findings.error("spec.internalTrafficPolicy", format!("{other:?} is neither \"Cluster\" nor \"Local\""));
            false
        }
    }
}

fn affinity(spec: &api::ServiceSpec, findings: &mut Findings) -> Option<Duration> {
    match spec.session_affinity.as_deref() {
        None | Some("None") => return None,
        Some("ClientIP") => {}
        Some(other) => {
            findings.error("spec.sessionAffinity", format!("{other:?} is neither \"None\" nor \"ClientIP\""));
            return None;
        }
    }
    let given = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let Some(seconds) = given else { return Some(Service::AFFINITY) };
    let path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    let checked = u64::try_from(seconds).ok().filter(|seconds| (1..=86_400).contains(seconds));
    findings.keep(path, checked.ok_or_else(|| format!("{seconds} is not from 1 to 86400"))).map(Duration::from_secs)
}
