//! `PeerAuthentication`: whether workloads accept plaintext.

use std::collections::BTreeMap;
use std::fmt;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::{PodSelector, PolicyStatus};

/// The mTLS mode of a namespace, of workloads in it, or of single ports of theirs; the most specific one applies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema, CustomResource)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "PeerAuthentication",
    plural = "peerauthentications",
    shortname = "pa",
    category = "weft",
    namespaced,
    status = "PolicyStatus",
    doc = "Whether workloads accept plaintext.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mtls.mode",
        description = "the mode of every port"
    ),
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "whether the mesh goes by it"}"#,
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("has(self.mtls) || has(self.portLevelMtls)")
    .message("it says nothing: set mtls.mode or portLevelMtls"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAuthenticationSpec {
    /// The workloads it is for; absent means every one of its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PodSelector>,
    /// The mode of every port that `portLevelMtls` does not name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,
    /// Modes by port number, as the workload listens on it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Mtls>", extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(port, port.matches('^[1-9][0-9]{0,4}$') && int(port) <= 65535)")
        .message("its keys are port numbers, 1 to 65535"))]
    pub port_level_mtls: BTreeMap<PortKey, Mtls>,
}

/// A port number as the key of a map. In JSON that is a string; in YAML people write `8080:` without quotes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PortKey(pub String);

impl<'de> Deserialize<'de> for PortKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PortKeyVisitor)
    }
}

struct PortKeyVisitor;

impl Visitor<'_> for PortKeyVisitor {
    type Value = PortKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a port number")
    }

    fn visit_str<E>(self, text: &str) -> Result<PortKey, E> {
        Ok(PortKey(text.to_owned()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<PortKey, E> {
        Ok(PortKey(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<PortKey, E> {
        Ok(PortKey(number.to_string()))
    }
}

/// An mTLS setting.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mtls {
    /// The mode.
    pub mode: MtlsModeName,
}

/// What happens to plaintext.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MtlsModeName {
    /// It is refused.
    Strict,
    /// It is accepted beside mTLS.
    Permissive,
}
