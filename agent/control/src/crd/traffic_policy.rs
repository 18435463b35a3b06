//! `TrafficPolicy`: how connections and requests are spread over a Service's endpoints, and how much those are asked to bear.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PolicyStatus;
use super::traffic_settings::{
    FallbackSpec, FaultSpec, HealthCheckSpec, KeepaliveSpec, LimitsSpec, OutlierDetection, RateLimitSpec,
    RetryBudgetSpec, RetrySpec, SpilloverSpec,
};

/// Settings of the Services or routes it targets. Of several policies the one for a port or rule comes before one for all, and
/// then the one with the smallest name; each setting is taken from the first that has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    plural = "trafficpolicies",
    shortname = "tp",
    category = "weft",
    namespaced,
    status = "PolicyStatus",
    doc = "How connections and requests are spread over the endpoints of Services, and how much those are asked to bear.",
    printcolumn(
        name = "Algorithm",
        type_ = "string",
        json_path = ".spec.loadBalancer.algorithm",
        description = "how endpoints are chosen"
    ),
    printcolumn = r#"{"name": "Services", "type": "string", "jsonPath": ".spec.targetRefs[*].name"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "whether the mesh goes by it"}"#,
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self.targetRefs.all(t, t.kind == 'Service') || !(has(self.loadBalancer) || has(self.slowStart) || has(self.outlierDetection) || has(self.spillover) || has(self.fallback) || has(self.healthCheck) || has(self.retryBudget) || has(self.limits) || has(self.idleTimeout) || has(self.tcpKeepalive))")
    .message("of a route only fault, rateLimit and retry can be set: target the Service for the rest"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// Services of the policy's own namespace; for `fault`, `rateLimit` and `retry` also HTTPRoutes and GRPCRoutes.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.all(t, (t.group == '' && t.kind == 'Service') || (t.group == 'gateway.networking.k8s.io' && t.kind in ['HTTPRoute', 'GRPCRoute']))")
        .message("only Services (group \"\"), HTTPRoutes and GRPCRoutes (group gateway.networking.k8s.io) can be targeted"))]
    pub target_refs: Vec<TargetRef>,
    /// How endpoints are chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("!has(self.hashOn) || self.algorithm in ['RingHash', 'Maglev']")
        .message("hashOn is for RingHash and Maglev"))]
    #[x_kube(validation = Rule::new("!has(self.hashOn) || [has(self.hashOn.header), has(self.hashOn.cookie), has(self.hashOn.query)].filter(x, x).size() == 1")
        .message("hashOn names one of header, cookie and query"))]
    pub load_balancer: Option<LoadBalancer>,
    /// How long the weight of a new endpoint grows, as `30s`. `0s` turns it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub slow_start: Option<String>,
    /// When an endpoint is left out for what its connections and answers say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// When far endpoints get a part of what near ones would, where a Service prefers those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spillover: Option<SpilloverSpec>,
    /// Which Service stands in while no endpoint of the targets is ready, and neither ejected nor unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<FallbackSpec>,
    /// How endpoints are asked how they are: by each agent, for the Services its own pods use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("[has(self.tcp), has(self.http), has(self.grpc)].filter(x, x).size() == 1")
        .message("healthCheck is one of tcp, http and grpc"))]
    pub health_check: Option<HealthCheckSpec>,
    /// Whether failed requests are sent again, where the rule of their route says nothing about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// How many of the requests to a Service may be retries: each agent counts its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudgetSpec>,
    /// What goes wrong on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("has(self.delay) || has(self.abort)").message("it says nothing: set delay or abort"))]
    pub fault: Option<FaultSpec>,
    /// How many requests each agent lets in. Others are answered with 429.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSpec>,
    /// How much each agent has open at once. What is more waits, or is answered with 503.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("has(self.connections) || has(self.requests)").message("it limits nothing: set connections or requests"))]
    pub limits: Option<LimitsSpec>,
    /// After how long without a byte either way a connection is ended, as `1h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"))]
    pub idle_timeout: Option<String>,
    /// TCP's keepalive, where a socket of the mesh's own is at the other end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<KeepaliveSpec>,
}

/// A Service or a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// Empty, the core group, for a Service.
    #[serde(default)]
    #[schemars(length(max = 253))]
    pub group: String,
    /// `Service`, `HTTPRoute` or `GRPCRoute`.
    #[serde(default = "service_kind")]
    #[schemars(length(max = 63))]
    pub kind: String,
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Only this port of the Service (its name, or its number), or this rule of the route (its name).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
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
    /// What requests have in common that go to the same endpoint; without it, and for connections, the client's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_on: Option<HashOn>,
}

/// What is hashed: one of these. Requests that lack it go by the client's address.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HashOn {
    /// A header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub header: Option<String>,
    /// A cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub cookie: Option<String>,
    /// A parameter of the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub query: Option<String>,
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
    /// Consistent hashing, by points on a ring.
    RingHash,
    /// Consistent hashing, by Maglev's table.
    Maglev,
}
