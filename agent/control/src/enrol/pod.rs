//! A Pod, as far as judging what the label does to it goes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use weft_core::model::Workload;

use crate::resource::{self, Findings};

/// Containers of other meshes that take a pod's connections, and what marks a pod theirs without one.
const PROXIES: [&str; 2] = ["istio-proxy", "linkerd-proxy"];
const AMBIENT: (&str, &str) = ("ambient.istio.io/redirection", "enabled");

/// A pod.
#[derive(Debug)]
pub(super) struct Pod {
    /// As the mesh knows it.
    pub(super) workload: Workload,
    pub(super) labels: BTreeMap<String, String>,
    /// Its node's address: kubelet's, as far as anybody can say.
    pub(super) node_address: Option<IpAddr>,
    /// Its TCP ports.
    pub(super) ports: Vec<Port>,
    /// Hooks that kubelet calls over the network. Its probes are exempt from policy (`Workload::probe_ports`).
    pub(super) handlers: Vec<Handler>,
    pub(super) runtime_class: Option<String>,
    /// The other mesh's proxy in it.
    pub(super) proxy: Option<String>,
    /// It has ended.
    pub(super) over: bool,
}

/// A TCP port that a container declares.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) container: String,
    pub(super) name: Option<String>,
    pub(super) number: u16,
    /// The port of its node that leads to it.
    pub(super) host: Option<u16>,
}

/// A lifecycle hook that kubelet makes over the network.
#[derive(Debug)]
pub(super) struct Handler {
    /// Which, of which container.
    pub(super) what: String,
    pub(super) port: u16,
}

impl Pod {
    /// Reads a Pod; `None` if it cannot be one of the mesh's, which its API server would not have taken.
    pub(super) fn of(object: &core::Pod) -> Option<Self> {
        let workload = resource::pod::convert(object, &mut Findings::default())?;
        let (spec, status) = (object.spec.as_ref()?, object.status.as_ref());
        let containers: Vec<_> = spec.init_containers.iter().flatten().chain(&spec.containers).collect();
        let ports: Vec<_> = containers.iter().flat_map(|container| ports(container)).collect();
        let annotations = object.metadata.annotations.as_ref();
        let ambient = annotations.and_then(|all| all.get(AMBIENT.0)).is_some_and(|value| value == AMBIENT.1);
        let proxy = containers.iter().map(|container| &container.name).find(|name| PROXIES.contains(&name.as_str()));
        Some(Self {
            labels: object.metadata.labels.clone().unwrap_or_default(),
            node_address: status.and_then(|s| s.host_ip.as_deref()).and_then(|text| text.parse().ok()),
            handlers: containers.iter().flat_map(|container| handlers(container, &ports)).collect(),
            ports,
            runtime_class: spec.runtime_class_name.clone(),
            proxy: proxy.cloned().or_else(|| ambient.then(|| "ztunnel".to_owned())),
            over: matches!(status.and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed")),
            workload,
        })
    }

    /// Whether these are one pod.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.workload.name == other.workload.name
    }

    /// The number of a port of this pod that goes by number or name.
    pub(super) fn port(&self, wanted: &IntOrString) -> Option<u16> {
        numbered(wanted, self.ports.iter())
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.workload.name)
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

fn numbered<'a>(wanted: &IntOrString, mut ports: impl Iterator<Item = &'a Port>) -> Option<u16> {
    match wanted {
        IntOrString::Int(port) => number(*port),
        IntOrString::String(name) => ports.find(|port| port.name.as_ref() == Some(name)).map(|port| port.number),
    }
}

fn ports(container: &core::Container) -> Vec<Port> {
    let tcp = container.ports.iter().flatten().filter(|port| port.protocol.as_deref().is_none_or(|p| p == "TCP"));
    tcp.filter_map(|port| {
        Some(Port {
            container: container.name.clone(),
            name: port.name.clone(),
            number: number(port.container_port)?,
            host: port.host_port.and_then(number),
        })
    })
    .collect()
}

fn handlers(container: &core::Container, ports: &[Port]) -> Vec<Handler> {
    let own = || ports.iter().filter(|port| port.container == container.name);
    // One with a host of its own does not go to the pod.
    let find = |host: Option<&String>, port: &IntOrString| host.is_none().then(|| numbered(port, own())).flatten();
    let hook =
        |hook: &core::LifecycleHandler| hook.http_get.as_ref().and_then(|get| find(get.host.as_ref(), &get.port));
    let lifecycle = container.lifecycle.as_ref();
    let all = [
        ("postStart hook", lifecycle.and_then(|l| l.post_start.as_ref()).and_then(hook)),
        ("preStop hook", lifecycle.and_then(|l| l.pre_stop.as_ref()).and_then(hook)),
    ];
    let found = all.into_iter().filter_map(|(kind, port)| Some((kind, port?)));
    found.map(|(kind, port)| Handler { what: format!("{kind} of container {}", container.name), port }).collect()
}
