//! `TrafficPolicy`: how connections are spread over a Service's endpoints.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Balancing settings of the Services it targets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    shortname = "tp",
    category = "weft",
    namespaced,
    doc = "How connections are spread over the endpoints of Services.",
    printcolumn(
        name = "Algorithm",
        type_ = "string",
        json_path = ".spec.loadBalancer.algorithm",
        description = "how endpoints are chosen"
    ),
    printcolumn = r#"{"name": "Services", "type": "string", "jsonPath": ".spec.targetRefs[*].name"}"#,
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// Services of the policy's own namespace.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.all(target, target.group == '' && target.kind == 'Service')")
        .message("only Services (group \"\", kind Service) can be targeted"))]
    pub target_refs: Vec<TargetRef>,
    /// How endpoints are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// Empty, the core group.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `Service`.
    #[serde(default = "service_kind")]
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

fn service_kind() -> String {
    "Service".to_owned()
}

/// How endpoints are chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoadBalancer {
    /// The algorithm.
    pub algorithm: AlgorithmName,
}

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AlgorithmName {
    /// Of two random endpoints, the one that has answered faster and has less in flight. The default.
    PeakEwma,
    /// Of two random endpoints, the one with fewer connections in flight per weight.
    LeastRequest,
    /// Smooth weighted round robin.
    RoundRobin,
    /// Weighted random.
    Random,
}
