//! Objects as they are read from the API server: only the fields the mesh uses. Everything else, `managedFields` and
//! the greater part of a Pod, is passed over while it is parsed and never in memory.
//!
//! They become the typed objects that manifests are read into, so that both go through the same conversions.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::Deserialize;
use serde_json::Value;
use weft_core::model::{self, Place};

pub(super) use super::meta::Meta;
use super::meta::unselected;
use super::text::{First, Text};
use crate::crd::WorkloadSliceSpec;
use crate::resource::{Findings, endpoint_slice, gateway};

/// `v1 Pod`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: Meta,
    pub(super) spec: PodSpec,
    status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodSpec {
    pub(super) node_name: Option<String>,
    service_account_name: Option<String>,
    host_network: Option<bool>,
    // Bookmarks of pods carry `"containers": null`.
    containers: Option<Vec<Container>>,
    init_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    ports: Option<Vec<core::ContainerPort>>,
    startup_probe: Option<core::Probe>,
    readiness_probe: Option<core::Probe>,
    liveness_probe: Option<core::Probe>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<core::PodIP>>,
}

impl From<Container> for core::Container {
    fn from(container: Container) -> Self {
        Self {
            ports: container.ports,
            startup_probe: container.startup_probe,
            readiness_probe: container.readiness_probe,
            liveness_probe: container.liveness_probe,
            ..Self::default()
        }
    }
}

impl From<Pod> for core::Pod {
    fn from(pod: Pod) -> Self {
        let containers = |list: Vec<Container>| list.into_iter().map(Into::into).collect();
        Self {
            metadata: pod.metadata.whole(),
            spec: Some(core::PodSpec {
                node_name: pod.spec.node_name,
                service_account_name: pod.spec.service_account_name,
                host_network: pod.spec.host_network,
                containers: pod.spec.containers.map(containers).unwrap_or_default(),
                init_containers: pod.spec.init_containers.map(containers),
                ..core::PodSpec::default()
            }),
            status: Some(core::PodStatus {
                phase: pod.status.phase,
                pod_ip: pod.status.pod_ip,
                pod_ips: pod.status.pod_ips,
                ..core::PodStatus::default()
            }),
        }
    }
}

/// `v1 Node`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Node {
    pub(super) metadata: Meta,
}

impl From<Node> for core::Node {
    fn from(node: Node) -> Self {
        Self { metadata: node.metadata.whole(), ..Self::default() }
    }
}

/// `v1 Service`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Service {
    #[serde(deserialize_with = "unselected")]
    pub(super) metadata: Meta,
    spec: ServiceSpec,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceSpec {
    #[serde(rename = "type")]
    type_: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    ports: Option<Vec<core::ServicePort>>,
    publish_not_ready_addresses: Option<bool>,
    internal_traffic_policy: Option<String>,
    traffic_distribution: Option<String>,
    session_affinity: Option<String>,
    session_affinity_config: Option<core::SessionAffinityConfig>,
}

impl From<Service> for core::Service {
    fn from(service: Service) -> Self {
        let spec = service.spec;
        Self {
            metadata: service.metadata.whole(),
            spec: Some(core::ServiceSpec {
                type_: spec.type_,
                cluster_ip: spec.cluster_ip,
                cluster_ips: spec.cluster_ips,
                ports: spec.ports,
                publish_not_ready_addresses: spec.publish_not_ready_addresses,
                internal_traffic_policy: spec.internal_traffic_policy,
                traffic_distribution: spec.traffic_distribution,
                session_affinity: spec.session_affinity,
                session_affinity_config: spec.session_affinity_config,
                ..core::ServiceSpec::default()
            }),
            status: None,
        }
    }
}

/// `discovery.k8s.io/v1 EndpointSlice`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct EndpointSlice {
    #[serde(deserialize_with = "unselected")]
    pub(super) metadata: Meta,
    address_type: String,
    endpoints: Option<Vec<Endpoint>>,
    ports: Option<Vec<discovery::EndpointPort>>,
}

/// An endpoint without its `targetRef`, with few pieces of memory: most of what a big cluster tells is changed slices.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Option<First>,
    conditions: Option<discovery::EndpointConditions>,
    node_name: Option<Text>,
    zone: Option<Text>,
    hints: Option<discovery::EndpointHints>,
}

impl endpoint_slice::Endpoint for Endpoint {
    fn address(&self) -> Option<&str> {
        self.addresses.as_ref()?.0.as_deref()
    }

    fn conditions(&self) -> Option<&discovery::EndpointConditions> {
        self.conditions.as_ref()
    }

    fn place(&self) -> Place {
        Place {
            node: self.node_name.as_ref().map(|node| node.0.clone()),
            zone: self.zone.as_ref().map(|zone| zone.0.clone()),
            hints: self.hints.as_ref().and_then(endpoint_slice::hints),
        }
    }
}

impl EndpointSlice {
    pub(super) fn convert(self, findings: &mut Findings) -> Option<model::EndpointSlice> {
        let content = endpoint_slice::Content {
            address_type: &self.address_type,
            ports: self.ports.as_deref(),
            endpoints: self.endpoints.as_deref(),
        };
        endpoint_slice::convert_content(&self.metadata.whole(), &content, findings)
    }
}

/// `weft.dev WorkloadSlice`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WorkloadSlice {
    pub(super) metadata: Meta,
    pub(super) spec: WorkloadSliceSpec,
}

/// What of a route or a policy is not the model's.
///
/// Whatever can be read: who its status is about has to be known of those too that are not understood.
#[derive(Deserialize)]
pub(super) struct Attached {
    metadata: AttachedMeta,
    #[serde(default)]
    spec: Value,
    #[serde(default)]
    status: AttachedStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AttachedMeta {
    #[serde(default)]
    resource_version: String,
    generation: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AttachedStatus {
    #[serde(alias = "parents", alias = "ancestors", alias = "conditions")]
    said: Option<Vec<Value>>,
}

impl From<Attached> for super::item::Attached {
    fn from(object: Attached) -> Self {
        let lists = ["parentRefs", "targetRefs"].map(|list| object.spec[list].as_array());
        Self {
            revision: object.metadata.resource_version,
            generation: object.metadata.generation,
            to: lists
                .into_iter()
                .flatten()
                .flatten()
                .map(gateway::leniently)
                .filter(|to| !to.name.is_empty())
                .collect(),
            said: object.status.said.unwrap_or_default(),
        }
    }
}
