//! `AuthorizationPolicy`: who may connect to the workloads it selects.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PodSelector, PolicyStatus};

/// Allows or denies connections to the workloads it selects.
///
/// Deny policies are looked at first; then, if any allow policy selects the workload, one of their rules must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "AuthorizationPolicy",
    plural = "authorizationpolicies",
    shortname = "ap",
    category = "weft",
    namespaced,
    status = "PolicyStatus",
    doc = "Who may connect to the workloads it selects.",
    printcolumn(
        name = "Action",
        type_ = "string",
        json_path = ".spec.action",
        description = "what happens to a connection that a rule matches"
    ),
    printcolumn(name = "Audit", type_ = "boolean", json_path = ".spec.audit", description = "whether it only logs"),
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "whether the mesh goes by it"}"#,
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self.action != 'Deny' || size(self.rules) > 0")
    .message("a policy that denies needs rules: without any it denies nothing"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// The workloads it is for; absent means every one of its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PodSelector>,
    /// What happens to a connection that a rule matches.
    pub action: PolicyAction,
    /// Only logs what it would do.
    #[serde(default)]
    pub audit: bool,
    /// A connection matches if one rule does; no rule at all matches nothing.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub rules: Vec<PolicyRule>,
}

/// What a policy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyAction {
    /// Lets the connection through.
    Allow,
    /// Refuses it.
    Deny,
}

/// Matches if one of `from` and one of `to` do.
///
/// In a cluster at least one of them has to be there: an API server that is not asked for strict validation drops fields
/// it does not know, and a rule left with nothing would match everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct PolicyRule {
    /// Peers, any one of them; absent means any peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub from: Option<Vec<PolicyPeer>>,
    /// Ports, any one entry; absent means any port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub to: Option<Vec<PolicyPorts>>,
}

/// A peer: every field that is present must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct PolicyPeer {
    /// SPIFFE IDs in full, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        inner(regex(pattern = r"^spiffe://[a-z0-9._-]+/ns/[a-z0-9.-]+/sa/[a-z0-9.-]+$"))
    )]
    pub principals: Option<Vec<String>>,
    /// SPIFFE IDs that do not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        inner(regex(pattern = r"^spiffe://[a-z0-9._-]+/ns/[a-z0-9.-]+/sa/[a-z0-9.-]+$"))
    )]
    pub not_principals: Option<Vec<String>>,
    /// Namespaces of the peer's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")))]
    pub namespaces: Option<Vec<String>>,
    /// Namespaces that do not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")))]
    pub not_namespaces: Option<Vec<String>>,
    /// Service accounts, `<namespace>/<name>`, or `<name>` for one of the policy's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(regex(pattern = r"^([a-z0-9.-]+/)?[a-z0-9.-]+$")))]
    pub service_accounts: Option<Vec<String>>,
    /// Service accounts that do not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(regex(pattern = r"^([a-z0-9.-]+/)?[a-z0-9.-]+$")))]
    pub not_service_accounts: Option<Vec<String>>,
    /// Address blocks or single addresses of the peer, `10.0.0.0/8` or `fd00::1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(regex(pattern = r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$")))]
    pub ip_blocks: Option<Vec<String>>,
    /// Address blocks that do not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(regex(pattern = r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$")))]
    pub not_ip_blocks: Option<Vec<String>>,
}

/// Ports as the workload listens on them: every field that is present must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub struct PolicyPorts {
    /// Ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(range(min = 1)))]
    pub ports: Option<Vec<u16>>,
    /// Ports that do not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), inner(range(min = 1)))]
    pub not_ports: Option<Vec<u16>>,
}
