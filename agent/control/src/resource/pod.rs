//! `v1 Pod`: a workload.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
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
