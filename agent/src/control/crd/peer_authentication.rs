//! `PeerAuthentication`: whether workloads accept plaintext.

use std::collections::BTreeMap;
use std::fmt;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::PodSelector;

/// The mTLS mode of a namespace, of workloads in it, or of single ports of theirs; the most specific one applies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, CustomResource)]
#[kube(
    group = "weft.dev",
    version = "v1alpha1",
    kind = "PeerAuthentication",
    plural = "peerauthentications",
    namespaced
)]
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
    #[schemars(with = "BTreeMap<String, Mtls>")]
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
