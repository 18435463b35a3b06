//! Whether a manifest says nothing the API does not know: what a typed object cannot hold is lost on the way through it,
//! and what is lost was a mistake. As strict as `kubectl apply --validate`, without a server.

use k8s_openapi::api::{apps, coordination, core, networking, policy, rbac};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is wrong with an object: its type does not take it, or does not know a field.
pub(super) fn problems(object: &Value) -> Vec<String> {
    let Some(read) = object["kind"].as_str().and_then(reader) else {
        return vec![format!("kind {} is not known here", object["kind"])];
    };
    match read(object) {
        Err(problem) => vec![problem],
        Ok(kept) => {
            let mut lost = Vec::new();
            compare(object, &kept, "", &mut lost);
            lost
        }
    }
}

type Reader = fn(&Value) -> Result<Value, String>;

fn reader(kind: &str) -> Option<Reader> {
    Some(match kind {
        "Namespace" => through::<core::v1::Namespace>,
        "ServiceAccount" => through::<core::v1::ServiceAccount>,
        "Secret" => through::<core::v1::Secret>,
        "ConfigMap" => through::<core::v1::ConfigMap>,
        "Service" => through::<core::v1::Service>,
        "ClusterRole" => through::<rbac::v1::ClusterRole>,
        "ClusterRoleBinding" => through::<rbac::v1::ClusterRoleBinding>,
        "Role" => through::<rbac::v1::Role>,
        "RoleBinding" => through::<rbac::v1::RoleBinding>,
        "NetworkPolicy" => through::<networking::v1::NetworkPolicy>,
        "PodDisruptionBudget" => through::<policy::v1::PodDisruptionBudget>,
        "Deployment" => through::<apps::v1::Deployment>,
        "DaemonSet" => through::<apps::v1::DaemonSet>,
        "Lease" => through::<coordination::v1::Lease>,
        "CustomResourceDefinition" => through::<CustomResourceDefinition>,
        "ServiceMonitor" => through::<Operated<monitoring::ServiceMonitor>>,
        "PrometheusRule" => through::<Operated<monitoring::Rules>>,
        _ => return None,
    })
}

/// An object of the Prometheus operator.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Operated<S> {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    spec: S,
}

/// Of the Prometheus operator's kinds what the chart uses, as its API reference (v0.80) has it; a field that is not here is
/// unknown, whether the operator knows it or not.
mod monitoring {
    use std::collections::BTreeMap;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use serde::{Deserialize, Serialize};

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    pub(super) struct ServiceMonitor {
        job_label: String,
        selector: LabelSelector,
        endpoints: Vec<Endpoint>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Endpoint {
        port: String,
        interval: String,
        relabelings: Vec<Relabeling>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Relabeling {
        source_labels: Vec<String>,
        target_label: String,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    pub(super) struct Rules {
        groups: Vec<Group>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Group {
        name: String,
        rules: Vec<Rule>,
    }

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        alert: String,
        expr: String,
        #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
        lasting: Option<String>,
        annotations: BTreeMap<String, String>,
    }
}

fn through<T: Serialize + DeserializeOwned>(object: &Value) -> Result<Value, String> {
    let typed = T::deserialize(object).map_err(|error| error.to_string())?;
    serde_json::to_value(&typed).map_err(|error| error.to_string())
}

/// Names what of `given` is not in `kept`.
fn compare(given: &Value, kept: &Value, path: &str, lost: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), _) => {
            for (key, value) in given.iter().filter(|(_, value)| !value.is_null()) {
                match kept.get(key) {
                    Some(kept) => compare(value, kept, &format!("{path}.{key}"), lost),
                    None => lost.push(format!("{path}.{key} is no field of the API")),
                }
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, (given, kept)) in given.iter().zip(kept).enumerate() {
                compare(given, kept, &format!("{path}[{index}]"), lost);
            }
        }
        _ => {}
    }
}
