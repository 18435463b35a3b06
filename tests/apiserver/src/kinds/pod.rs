//! What a pod gains on its way in: the defaults of its type, and what admission adds for its service account.

use serde_json::{Value, json};

use crate::json::{as_object, at, default as fill, items, object, text};

/// Seconds until kubelet renews a projected token; the API server adds seven to an hour so that it can tell its own.
const TOKEN_SECONDS: u64 = 3607;
/// How long a pod stays on a node that is not ready, in seconds.
const TOLERATION_SECONDS: u64 = 300;
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Defaults of `v1.Pod`.
pub(crate) fn default(pod: &mut Value) {
    spec(object(pod, "spec"));
    for condition in items(pod, &["status", "conditions"]) {
        let condition = as_object(condition);
        for time in ["lastProbeTime", "lastTransitionTime"] {
            condition.entry(time).or_insert(Value::Null);
        }
    }
}

/// Defaults of a pod's spec, also inside a template.
pub(crate) fn spec(spec: &mut serde_json::Map<String, Value>) {
    fill(spec, "restartPolicy", "Always");
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "schedulerName", "default-scheduler");
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "securityContext", json!({}));
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        spec.insert("serviceAccount".into(), account);
    }
    for list in ["containers", "initContainers"] {
        let containers = spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        containers.for_each(container);
    }
    for volume in spec.get_mut("volumes").and_then(Value::as_array_mut).into_iter().flatten() {
        for source in ["projected", "configMap", "secret", "downwardAPI"] {
            if let Some(Value::Object(source)) = volume.get_mut(source) {
                fill(source, "defaultMode", 420);
            }
        }
    }
}

fn container(container: &mut Value) {
    let image = text(container, &["image"]).unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let latest = !image.contains('@') && last.split_once(':').is_none_or(|(_, tag)| tag == "latest");
    for port in items(container, &["ports"]) {
        fill(as_object(port), "protocol", "TCP");
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(found) = container.get_mut(probe).filter(|found| found.is_object()) {
            probe_defaults(found);
        }
    }
    let container = as_object(container);
    fill(container, "resources", json!({}));
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    fill(container, "imagePullPolicy", if latest { "Always" } else { "IfNotPresent" });
}

fn probe_defaults(probe: &mut Value) {
    if probe.get("httpGet").is_some_and(Value::is_object) {
        let get = object(probe, "httpGet");
        fill(get, "scheme", "HTTP");
        fill(get, "path", "/");
    }
    let probe = as_object(probe);
    for (field, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        fill(probe, field, value);
    }
}

/// The status a new pod starts with.
pub(crate) fn first_status(pod: &Value) -> Value {
    json!({"phase": "Pending", "qosClass": quality(pod)})
}

/// Quality of service, from requests and limits of cpu and memory.
fn quality(pod: &Value) -> &'static str {
    let containers = at(pod, &["spec", "containers"]).and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
    let amounts = |container: &Value, side: &str| {
        let amount = |name: &str| at(container, &["resources", side, name]).cloned();
        (amount("cpu"), amount("memory"))
    };
    let any = containers.iter().any(|c| ["requests", "limits"].iter().any(|side| amounts(c, side) != (None, None)));
    let guaranteed = !containers.is_empty()
        && containers.iter().all(|container| {
            let (limits, requests) = (amounts(container, "limits"), amounts(container, "requests"));
            let same = |limit: &Option<Value>, request: &Option<Value>| request.is_none() || request == limit;
            limits.0.is_some() && limits.1.is_some() && same(&limits.0, &requests.0) && same(&limits.1, &requests.1)
        });
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Admission of a new pod: its service account's token volume, tolerations, priority. `extra_sources` are ConfigMaps (name
/// and key) that a distribution projects into the token volume beside the cluster's CA.
pub(crate) fn admit(pod: &mut Value, suffix: &str, extra_sources: &[(String, String)]) {
    let spec = object(pod, "spec");
    fill(spec, "serviceAccountName", "default");
    let account = spec.get("serviceAccountName").cloned().unwrap_or_default();
    spec.insert("serviceAccount".into(), account);
    fill(spec, "priority", 0);
    fill(spec, "enableServiceLinks", true);
    fill(spec, "preemptionPolicy", "PreemptLowerPriority");
    let tolerations = as_array(spec, "tolerations");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        if !tolerations.iter().any(|toleration| toleration.get("key").and_then(Value::as_str) == Some(key)) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_SECONDS,
            }));
        }
    }
    if spec.get("automountServiceAccountToken") != Some(&Value::Bool(false)) {
        mount_token(spec, suffix, extra_sources);
    }
}

fn mount_token(spec: &mut serde_json::Map<String, Value>, suffix: &str, extra_sources: &[(String, String)]) {
    let name = format!("kube-api-access-{suffix}");
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = as_array(as_object(container), "volumeMounts");
            if !mounts.iter().any(|mount| mount.get("mountPath").and_then(Value::as_str) == Some(TOKEN_PATH)) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
            }
        }
    }
    let field = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
    let mut sources = vec![
        json!({"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}}),
        json!({"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}),
        json!({"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}}),
    ];
    for (map, key) in extra_sources {
        sources.push(json!({"configMap": {"name": map, "items": [{"key": key, "path": key}]}}));
    }
    as_array(spec, "volumes").push(json!({"name": name, "projected": {"sources": sources, "defaultMode": 420}}));
}

fn as_array<'v>(map: &'v mut serde_json::Map<String, Value>, field: &str) -> &'v mut Vec<Value> {
    let slot = map.entry(field).or_insert_with(|| Value::Array(Vec::new()));
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    match slot {
        Value::Array(list) => list,
        _ => unreachable!("made a list above"),
    }
}
