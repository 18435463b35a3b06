//! The CustomResourceDefinitions of `weft.dev/v1alpha1`, as Rust types.
//!
//! The API server's schema, `weft crds` and the manifests a person writes are all derived from these. A field nobody
//! knows is an error wherever it stands: a policy that says `principal:` for `principals:` must not pass for one that
//! says nothing. What the types cannot express (a malformed address block) is judged when they become the model, in
//! [`resource`](super::resource).
#![allow(unreachable_pub, reason = "KubeSchema repeats each struct where nobody can name it")]

mod authorization_policy;
mod peer_authentication;
mod traffic_policy;
mod traffic_settings;
mod workload_slice;

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use authorization_policy::{
    AuthorizationPolicy, AuthorizationPolicySpec, PolicyAction, PolicyPeer, PolicyPorts, PolicyRule,
};
pub use peer_authentication::{Mtls, MtlsModeName, PeerAuthentication, PeerAuthenticationSpec, PortKey};
pub use traffic_policy::{AlgorithmName, HashOn, LoadBalancer, TargetRef, TrafficPolicy, TrafficPolicySpec};
pub use traffic_settings::{
    FailureStatuses, FallbackSpec, FaultAbort, FaultDelay, FaultSpec, GrpcCheckSpec, HealthCheckSpec, HttpCheckSpec,
    KeepaliveSpec, LimitsSpec, OutlierDetection, RateLimitSpec, RetryBudgetSpec, RetrySpec, SpilloverSpec,
    SuccessRateSpec, TcpCheckSpec,
};
pub use workload_slice::{PODS_MAX, SlicePod, SliceWorkload, WorkloadSlice, WorkloadSliceSpec};

/// The API group of every kind here.
pub const GROUP: &str = "weft.dev";
/// Their only version so far.
pub const VERSION: &str = "v1alpha1";

/// Selects pods of the object's own namespace; absent or empty selects all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSelector {
    /// Labels a pod must carry, every one of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

/// What has become of a policy, as the controller says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// `Accepted`: whether the mesh goes by it, and if not, why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<PolicyCondition>,
}

/// A condition as those of Kubernetes' own kinds (`metav1.Condition`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCondition {
    /// What is said: `Accepted`.
    #[serde(rename = "type")]
    #[schemars(length(max = 316))]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(regex(pattern = r"^(True|False|Unknown)$"))]
    pub status: String,
    /// Why, in a word.
    #[schemars(length(min = 1, max = 1024))]
    pub reason: String,
    /// Why, for people.
    #[schemars(length(max = 32768))]
    pub message: String,
    /// When it last turned.
    #[schemars(extend("format" = "date-time"))]
    pub last_transition_time: String,
    /// The `metadata.generation` it is said of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

/// The definitions to install in a cluster, in the order of their names.
#[must_use]
pub fn definitions() -> Vec<CustomResourceDefinition> {
    vec![AuthorizationPolicy::crd(), PeerAuthentication::crd(), TrafficPolicy::crd(), WorkloadSlice::crd()]
}

/// The definitions as one YAML stream, for `weft crds`.
///
/// # Errors
/// Only if a definition cannot be written as YAML, which would be a fault of this crate.
pub fn definitions_yaml() -> Result<String, serde_saphyr::SerializeError> {
    let mut out = String::new();
    for definition in definitions() {
        out.push_str("---\n");
        out.push_str(&serde_saphyr::to_string(&definition)?);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_structural_and_read_back() {
        let yaml = definitions_yaml().unwrap();
        let read: Vec<CustomResourceDefinition> = serde_saphyr::from_multiple(&yaml).unwrap();
        assert_eq!(read.len(), 4);
        for definition in read {
            assert_eq!(definition.spec.group, GROUP);
            let version = &definition.spec.versions[0];
            let schema = serde_json::to_string(version.schema.as_ref().unwrap()).unwrap();
            // The API server refuses these beside `properties` in a structural schema.
            assert!(!schema.contains("\"additionalProperties\":false"), "{}: {schema}", definition.spec.names.kind);
            assert!(!schema.contains("\"$ref\""), "{}", definition.spec.names.kind);
        }
    }

    #[test]
    fn unknown_fields_are_refused_at_every_depth() {
        let top = "apiVersion: weft.dev/v1alpha1\nkind: PeerAuthentication\nmetadata: {name: a}\n";
        assert!(
            serde_saphyr::from_str::<PeerAuthentication>(&format!("{top}spec: {{mtls: {{mode: Strict}}}}")).is_ok()
        );
        for spec in ["{mtl: {mode: Strict}}", "{mtls: {mod: Strict}}", "{selector: {matchLabel: {a: b}}}"] {
            let text = format!("{top}spec: {spec}");
            assert!(serde_saphyr::from_str::<PeerAuthentication>(&text).is_err(), "{spec}");
        }
    }
}
