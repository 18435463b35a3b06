//! Defaults of the built-in kinds other than Pod: what the API server writes into an object where its author wrote nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pod;
use crate::json::{as_object, at, default as fill, items, object, text};

/// Addresses are given out at commit; everything else of a Service is here.
pub(crate) fn service(service: &mut Value) {
    let external = text(service, &["spec", "type"]) == Some("ExternalName");
    for port in items(service, &["spec", "ports"]) {
        let port = as_object(port);
        fill(port, "protocol", "TCP");
        let number = port.get("port").cloned().unwrap_or_default();
        fill(port, "targetPort", number);
    }
    let spec = object(service, "spec");
    fill(spec, "type", "ClusterIP");
    fill(spec, "sessionAffinity", "None");
    if external {
        return;
    }
    if spec.get("sessionAffinity").and_then(Value::as_str) == Some("ClientIP") {
        fill(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    fill(spec, "internalTrafficPolicy", "Cluster");
    if matches!(spec.get("type").and_then(Value::as_str), Some("NodePort" | "LoadBalancer")) {
        fill(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec.get("type").and_then(Value::as_str) == Some("LoadBalancer") {
        fill(spec, "allocateLoadBalancerNodePorts", true);
    }
}

pub(crate) fn namespace(namespace: &mut Value) {
    let name = text(namespace, &["metadata", "name"]).unwrap_or_default().to_owned();
    let labels = as_object(object(namespace, "metadata").entry("labels").or_insert_with(|| json!({})));
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    fill(object(namespace, "spec"), "finalizers", json!(["kubernetes"]));
}

pub(crate) fn secret(secret: &mut Value) {
    let secret = as_object(secret);
    fill(secret, "type", "Opaque");
    if let Some(Value::Object(plain)) = secret.remove("stringData") {
        let data = as_object(secret.entry("data").or_insert_with(|| json!({})));
        for (key, value) in plain {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or_default()).into());
        }
    }
}

pub(crate) fn endpoint_slice(slice: &mut Value) {
    for port in items(slice, &["ports"]) {
        let port = as_object(port);
        fill(port, "name", "");
        fill(port, "protocol", "TCP");
    }
}

pub(crate) fn definition(definition: &mut Value) {
    let spec = object(definition, "spec");
    fill(spec, "conversion", json!({"strategy": "None"}));
    let names = as_object(spec.entry("names").or_insert_with(|| json!({})));
    let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
    fill(names, "singular", kind.to_lowercase());
    fill(names, "listKind", format!("{kind}List"));
    for version in spec.get_mut("versions").and_then(Value::as_array_mut).into_iter().flatten() {
        for column in items(version, &["additionalPrinterColumns"]) {
            // Priority 0 is Go's zero, and left out.
            as_object(column).retain(|field, value| field != "priority" || *value != json!(0));
        }
    }
    if let Some(stored) = spec.get("versions").and_then(Value::as_array).and_then(|versions| {
        versions.iter().find(|version| version.get("storage") == Some(&Value::Bool(true)))?.get("name").cloned()
    }) {
        let status = object(definition, "status");
        let versions = as_list(status.entry("storedVersions").or_insert_with(|| json!([])));
        if !versions.contains(&stored) {
            versions.push(stored);
        }
    }
}

/// Of a definition nobody has looked at yet.
pub(crate) fn definition_status() -> Value {
    json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []})
}

pub(crate) fn deployment(deployment: &mut Value) {
    replicated(deployment);
    let spec = object(deployment, "spec");
    fill(spec, "strategy", rolling(25));
    fill(spec, "revisionHistoryLimit", 10);
    fill(spec, "progressDeadlineSeconds", 600);
}

fn rolling(percent: u8) -> Value {
    let share = format!("{percent}%");
    json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": share, "maxSurge": share}})
}

pub(crate) fn daemon_set(set: &mut Value) {
    template(set);
    let spec = object(set, "spec");
    fill(
        spec,
        "updateStrategy",
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}),
    );
    fill(spec, "revisionHistoryLimit", 10);
}

pub(crate) fn replicated(workload: &mut Value) {
    template(workload);
    fill(object(workload, "spec"), "replicas", 1);
}

/// The pod template of a workload.
pub(crate) fn template(workload: &mut Value) {
    if at(workload, &["spec", "template"]).is_some_and(Value::is_object)
        && let Some(template) = workload.get_mut("spec").and_then(|spec| spec.get_mut("template"))
    {
        pod::spec(object(template, "spec"));
    }
}

pub(crate) fn network_policy(policy: &mut Value) {
    let has_egress = at(policy, &["spec", "egress"]).is_some_and(|rules| !rules.is_null());
    for list in ["ingress", "egress"] {
        for rule in items(policy, &["spec", list]) {
            for port in items(rule, &["ports"]) {
                fill(as_object(port), "protocol", "TCP");
            }
        }
    }
    let types = if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    fill(object(policy, "spec"), "policyTypes", types);
}

pub(crate) fn binding(binding: &mut Value) {
    for subject in items(binding, &["subjects"]) {
        let of_rbac = text(subject, &["kind"]) != Some("ServiceAccount");
        if of_rbac {
            fill(as_object(subject), "apiGroup", "rbac.authorization.k8s.io");
        }
    }
    fill(object(binding, "roleRef"), "apiGroup", "rbac.authorization.k8s.io");
}

fn as_list(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = json!([]);
    }
    match value {
        Value::Array(list) => list,
        _ => unreachable!("made a list above"),
    }
}
