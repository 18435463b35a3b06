//! Who will never speak mTLS to a meshed pod: kubelet, and whoever comes from outside the cluster by a port of a node or a
//! load balancer. Of them only kubelet's probes are exempt from strict ports and policies.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_core::model::ObjectName;
use weft_core::policy::{ConnectionFacts, DenyReason, PlaintextMode, Verdict, authorize, plaintext_modes};

use super::judge::After;
use super::pod::Pod;
use crate::install::check::{Finding, some};

pub(super) fn findings(after: &After<'_>) -> Vec<Finding> {
    let mut findings = kubelet(after);
    findings.extend(host_ports(after));
    findings.extend(services(after));
    findings
}

/// The judgement of a plaintext connection, if it is refused.
pub(super) fn refused(
    after: &After<'_>,
    destination: &Pod,
    port: u16,
    source: IpAddr,
) -> Option<(DenyReason, Option<ObjectName>)> {
    let facts = ConnectionFacts { destination: &destination.workload, port, peer: None, source };
    match authorize(&after.snapshot, &facts).verdict {
        Verdict::Deny { reason, policy } => Some((reason, policy)),
        Verdict::Allow { .. } => None,
    }
}

/// A policy by kind and name.
pub(super) fn policy(reason: DenyReason, name: Option<&ObjectName>) -> String {
    match (reason, name) {
        (DenyReason::StrictMtls, Some(name)) => format!("PeerAuthentication {name}"),
        (_, Some(name)) => format!("AuthorizationPolicy {name}"),
        (_, None) => "the namespace's AuthorizationPolicies".to_owned(),
    }
}

fn kubelet(after: &After<'_>) -> Vec<Finding> {
    let mut found: BTreeMap<(String, u16, String, bool), Vec<&Pod>> = BTreeMap::new();
    for pod in after.joining.iter().map(|placed| placed.pod) {
        let source = pod.node_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let probed = |port: &u16| pod.workload.probe_ports.contains(port);
        for handler in pod.handlers.iter().filter(|handler| !probed(&handler.port)) {
            if let Some((reason, name)) = refused(after, pod, handler.port, source) {
                let (by, strict) = (policy(reason, name.as_ref()), reason == DenyReason::StrictMtls);
                found.entry((handler.what.clone(), handler.port, by, strict)).or_default().push(pod);
            }
        }
    }
    let finding = |((what, port, by, strict), pods): ((String, u16, String, bool), Vec<&Pod>)| {
        let remedy = if strict {
            format!("set portLevelMtls {{\"{port}\": {{mode: Permissive}}}} for it, or make it run a program (exec)")
        } else {
            format!("let the nodes' addresses in to port {port} (from.ipBlocks), or make it run a program (exec)")
        };
        Finding::wrong(
            format!("{}: the {what} (port {port}) comes from kubelet in plaintext, which {by} refuses", names(&pods)),
            remedy,
        )
    };
    found.into_iter().map(finding).collect()
}

fn names(pods: &[&Pod]) -> String {
    some(&pods.iter().map(ToString::to_string).collect::<Vec<_>>())
}

/// What happens to plaintext at a port of a pod.
fn mode(after: &After<'_>, pod: &Pod, port: u16) -> PlaintextMode {
    let modes = plaintext_modes(&after.snapshot, &pod.workload);
    modes.ports.get(&port).copied().unwrap_or(modes.default)
}

/// What there is to say of plaintext from outside to a port.
fn from_outside(mode: PlaintextMode, way: &str, port: u16) -> Finding {
    match mode {
        PlaintextMode::Refuse => Finding::wrong(
            format!(
                "{way} leads to port {port}, which is Strict: whoever comes by it from outside the mesh would be refused"
            ),
            format!("set portLevelMtls {{\"{port}\": {{mode: Permissive}}}}, or have them come by a meshed gateway"),
        ),
        PlaintextMode::Judge => Finding::remark(
            format!("{way} leads to port {port}: who comes by it has no identity, and AuthorizationPolicies decide"),
            "see that they allow its addresses (from.ipBlocks), if they are to",
        ),
        PlaintextMode::Pass => Finding::remark(
            format!("{way} leads to port {port}: what comes by it from outside the mesh stays plaintext"),
            "nothing to do, unless the port is to be Strict",
        ),
    }
}

fn host_ports(after: &After<'_>) -> Vec<Finding> {
    let mut found: BTreeMap<(u16, u16, String), (PlaintextMode, Vec<&Pod>)> = BTreeMap::new();
    for pod in after.joining.iter().map(|placed| placed.pod) {
        for (port, host) in pod.ports.iter().filter_map(|port| Some((port, port.host?))) {
            let entry = found.entry((host, port.number, port.container.clone()));
            entry.or_insert_with(|| (mode(after, pod, port.number), Vec::new())).1.push(pod);
        }
    }
    let finding = |((host, port, container), (mode, pods)): ((u16, u16, String), (PlaintextMode, Vec<&Pod>))| {
        from_outside(mode, &format!("{}: hostPort {host} of container {container}", names(&pods)), port)
    };
    found.into_iter().map(finding).collect()
}

/// Whether a Service is one by which people come from outside the cluster.
fn is_outward(spec: &core::ServiceSpec) -> bool {
    let typed = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    typed || spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty())
}

/// The ports of a pod behind a Service, if it selects it.
pub(super) fn behind(service: &core::Service, pod: &Pod) -> Vec<u16> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let Some(selector) = spec.selector.as_ref().filter(|selector| !selector.is_empty()) else { return Vec::new() };
    if !selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)) {
        return Vec::new();
    }
    let tcp = spec.ports.iter().flatten().filter(|port| port.protocol.as_deref().is_none_or(|p| p == "TCP"));
    tcp.filter_map(|port| pod.port(port.target_port.as_ref().unwrap_or(&IntOrString::Int(port.port)))).collect()
}

fn services(after: &After<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in after.cluster.services.iter().filter(|s| s.spec.as_ref().is_some_and(is_outward)) {
        let mut ports: BTreeMap<u16, PlaintextMode> = BTreeMap::new();
        for pod in after.joining.iter().map(|placed| placed.pod) {
            for port in behind(service, pod) {
                let (mode, worst) = (mode(after, pod, port), ports.entry(port).or_insert(PlaintextMode::Pass));
                if *worst != PlaintextMode::Refuse && mode != PlaintextMode::Pass {
                    *worst = mode;
                }
            }
        }
        let kind = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()).unwrap_or("ClusterIP");
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let way = format!("Service {}/{name} ({kind})", after.namespace);
        findings.extend(ports.into_iter().map(|(port, mode)| from_outside(mode, &way, port)));
    }
    findings
}
