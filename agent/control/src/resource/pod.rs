//! `v1 Pod`: a workload.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_core::model::{Name, Weight, Workload};

use super::{Findings, NETNS_ANNOTATION, WEIGHT_ANNOTATION};

/// Converts a Pod.
pub fn convert(object: &api::Pod, findings: &mut Findings) -> Option<Workload> {
    let metadata = &object.metadata;
    let spec = object.spec.as_ref();
    let name = super::object_name(metadata, findings);
    let account = spec.and_then(|s| s.service_account_name.as_deref()).filter(|account| !account.is_empty());
    let service_account = findings.keep("spec.serviceAccountName", Name::new(account.unwrap_or("default")));
    let weight = weight(object, findings);
    let netns = netns(object, findings);
    let mesh = super::mesh_label(metadata, findings);
    let addresses = addresses(object, findings);
    let declared_ports = declared_ports(object, findings);
    let (name, service_account) = (name?, service_account?);
    Some(Workload {
        uid: metadata.uid.as_deref().map_or_else(|| name.to_string().into(), Arc::from),
        addresses,
        service_account,
        node: spec.and_then(|s| s.node_name.as_deref()).unwrap_or_default().into(),
        owner: owner(object),
        labels: super::labels(metadata),
        weight,
        mesh,
        netns,
        host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
        declared_ports,
        probe_ports: probe_ports(object),
        name,
    })
}

/// A pod that has ended keeps its addresses in its status although another may have them by now: it has none here.
fn addresses(object: &api::Pod, findings: &mut Findings) -> Vec<IpAddr> {
    let Some(status) = &object.status else { return Vec::new() };
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    let listed = status.pod_ips.iter().flatten().enumerate().map(|(i, p)| (format!("status.podIPs[{i}].ip"), &p.ip));
    let primary = status.pod_ip.iter().map(|ip| ("status.podIP".to_owned(), ip));
    for (path, text) in primary.chain(listed).filter(|(_, text)| !text.is_empty()) {
        if let Some(address) = findings.address(&path, text).filter(|address| !addresses.contains(address)) {
            addresses.push(address);
        }
    }
    addresses
}

fn annotation<'a>(object: &'a api::Pod, key: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn weight(object: &api::Pod, findings: &mut Findings) -> Weight {
    let Some(text) = annotation(object, WEIGHT_ANNOTATION) else { return Weight::default() };
    let parsed = text.parse::<u32>().ok().filter(|weight| *weight <= Weight::MAX);
    let path = format!("metadata.annotations[{WEIGHT_ANNOTATION}]");
    let reason = || format!("{text:?} is not a weight: use 0 to {}", Weight::MAX);
    findings.keep(&path, parsed.ok_or_else(reason)).map_or_else(Weight::default, Weight)
}

fn netns(object: &api::Pod, findings: &mut Findings) -> Option<PathBuf> {
    let path = PathBuf::from(annotation(object, NETNS_ANNOTATION)?);
    if path.is_absolute() {
        return Some(path);
    }
    let reason = format!("{path:?} is not an absolute path, such as /run/netns/shop-cart or /proc/4242/ns/net");
    findings.error(format!("metadata.annotations[{NETNS_ANNOTATION}]"), reason);
    None
}

fn declared_ports(object: &api::Pod, findings: &mut Findings) -> Vec<u16> {
    let Some(spec) = &object.spec else { return Vec::new() };
    let lists = [("initContainers", spec.init_containers.as_deref()), ("containers", Some(&*spec.containers))];
    let mut ports = BTreeSet::new();
    for (list, containers) in lists {
        for (i, container) in containers.unwrap_or_default().iter().enumerate() {
            for (j, port) in container.ports.iter().flatten().enumerate() {
                if port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP") {
                    let path = format!("spec.{list}[{i}].ports[{j}].containerPort");
                    ports.extend(findings.port(&path, port.container_port));
                }
            }
        }
    }
    ports.into_iter().collect()
}

/// Ports of the pod's own addresses that kubelet probes. A port by name is the container's own.
fn probe_ports(object: &api::Pod) -> Vec<u16> {
    let Some(spec) = &object.spec else { return Vec::new() };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let ports: BTreeSet<u16> = containers
        .flat_map(|container| {
            let probes = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
            probes.into_iter().flatten().filter_map(|probe| probe_port(container, probe))
        })
        .collect();
    ports.into_iter().collect()
}

/// The port to which a probe of a container connects, if it does so to the pod: not one that runs a program, or has a host of
/// its own.
pub(crate) fn probe_port(container: &api::Container, probe: &api::Probe) -> Option<u16> {
    let own = |host: &Option<String>| host.as_deref().is_none_or(str::is_empty);
    let http = probe.http_get.as_ref().filter(|get| own(&get.host)).map(|get| &get.port);
    let tcp = || probe.tcp_socket.as_ref().filter(|tcp| own(&tcp.host)).map(|tcp| &tcp.port);
    match http.or_else(tcp) {
        Some(port) => container_port(container, port),
        None => probe.grpc.as_ref().and_then(|grpc| number(grpc.port)),
    }
}

/// A TCP port of a container by number or name.
pub(crate) fn container_port(container: &api::Container, port: &IntOrString) -> Option<u16> {
    let name = match port {
        IntOrString::Int(port) => return number(*port),
        IntOrString::String(name) => name,
    };
    let mut tcp = container.ports.iter().flatten().filter(|port| port.protocol.as_deref().is_none_or(|p| p == "TCP"));
    let named = tcp.find(|port| port.name.as_ref() == Some(name));
    named.and_then(|port| number(port.container_port))
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// The workload's name: what owns the pod, or what its labels call it, or its own name.
///
/// A ReplicaSet's name is its Deployment's with the pod template's hash behind it, and a Job's of a CronJob has the
/// scheduled time there; the hash is taken off, since it would start new series at every roll-out.
fn owner(object: &api::Pod) -> Arc<str> {
    let metadata = &object.metadata;
    let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key)).filter(|v| !v.is_empty());
    let controller = metadata.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    if let Some(owner) = controller {
        let hash = label("pod-template-hash").filter(|_| owner.kind == "ReplicaSet");
        let short = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
        return short.unwrap_or(&owner.name).into();
    }
    let named = label("app.kubernetes.io/name").or_else(|| label("app")).or(metadata.name.as_ref());
    named.map(String::as_str).unwrap_or_default().into()
}
