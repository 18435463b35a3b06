//! The cluster that is followed: namespaces, nodes, Deployments' pods, their Services and EndpointSlices, as an API server
//! hands them out, with the labels, annotations, statuses and `managedFields` that make up most of their size.
//!
//! Every pod is in the mesh and live, which is the most an agent can have to know of it.

use std::io::Write;

use anyhow::Result;
use serde_json::{Value, json};

/// How big the cluster is.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Size {
    /// Services, of one Deployment and one EndpointSlice each.
    pub services: usize,
    /// Pods of each.
    pub replicas: usize,
    /// Nodes they are spread over.
    pub nodes: usize,
    /// Namespaces they are in.
    pub namespaces: usize,
}

impl Size {
    /// Pods there are.
    #[must_use]
    pub const fn pods(&self) -> usize {
        self.services * self.replicas
    }

    /// Writes every object, one a line; yields how many there are and how many bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, out: &mut impl Write) -> Result<(usize, usize)> {
        let namespaces = (0..self.namespaces).map(namespace);
        let nodes = (0..self.nodes).map(node);
        let services = (0..self.services).map(|service| self.service(service));
        let slices = (0..self.services).map(|service| self.slice(service, 0, 0));
        let pods = (0..self.pods()).map(|pod| self.pod(pod));
        let (mut count, mut bytes) = (0, 0);
        for object in namespaces.chain(nodes).chain(services).chain(slices).chain(pods) {
            let line = object.to_string();
            writeln!(out, "{line}")?;
            (count, bytes) = (count + 1, bytes + line.len());
        }
        Ok((count, bytes))
    }

    /// The namespace of a Service.
    #[must_use]
    pub fn namespace_of(&self, service: usize) -> String {
        format!("team-{:02}", service % self.namespaces)
    }

    /// A Pod, by its number.
    #[must_use]
    pub fn pod(&self, pod: usize) -> Value {
        let service = pod / self.replicas;
        let (name, app, namespace) = (self.pod_name(pod), app(service), self.namespace_of(service));
        let ip = address(pod);
        let mut metadata = metadata(&name, &namespace, uid(1, pod), &labels(service));
        metadata["generateName"] = format!("{app}-{:010x}-", 0x7d9f_8c6b_u64 + service as u64).into();
        metadata["labels"]["pod-template-hash"] = format!("{:010x}", 0x7d9f_8c6b_u64 + service as u64).into();
        metadata["annotations"] = json!({
            "weft.dev/status": "enrolled",
            "checksum/config": format!("{:064x}", service),
            "prometheus.io/scrape": "true", "prometheus.io/port": "9102", "prometheus.io/path": "/metrics",
            "cni.projectcalico.org/containerID": format!("{:064x}", pod),
            "cni.projectcalico.org/podIP": format!("{ip}/32"), "cni.projectcalico.org/podIPs": format!("{ip}/32"),
        });
        metadata["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-{:010x}", 0x7d9f_8c6b_u64 + service as u64),
            "uid": uid(2, service), "controller": true, "blockOwnerDeletion": true
        }]);
        metadata["managedFields"] = json!([
            managed("kube-controller-manager", "v1", "", &["metadata", "spec"], 14),
            managed("weft-agent", "v1", "", &["metadata"], 1),
            managed("kubelet", "v1", "status", &["status"], 12),
        ]);
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": spec(&app, &format!("node-{:03}", pod % self.nodes)),
            "status": status(&ip, pod)
        })
    }

    /// Where a Pod is: its namespace and name.
    #[must_use]
    pub fn pod_place(&self, pod: usize) -> (String, String) {
        (self.namespace_of(pod / self.replicas), self.pod_name(pod))
    }

    fn pod_name(&self, pod: usize) -> String {
        let service = pod / self.replicas;
        let suffix: String = (0..5).map(|at| LETTERS[((pod * 7919) >> (at * 3)) % LETTERS.len()] as char).collect();
        format!("{}-{:010x}-{suffix}", app(service), 0x7d9f_8c6b_u64 + service as u64)
    }

    /// A Service.
    #[must_use]
    pub fn service(&self, service: usize) -> Value {
        let (app, namespace) = (app(service), self.namespace_of(service));
        let ip = virtual_address(service);
        let mut metadata = metadata(&app, &namespace, uid(3, service), &labels(service));
        let spec = json!({
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None",
            "selector": {"app.kubernetes.io/name": app, "app.kubernetes.io/instance": app},
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http", "appProtocol": "http"},
                {"name": "metrics", "protocol": "TCP", "port": 9102, "targetPort": "metrics"}
            ]
        });
        let applied = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"annotations": {}, "labels": labels(service),
            "name": app, "namespace": namespace}, "spec": spec});
        metadata["annotations"] = json!({
            "kubectl.kubernetes.io/last-applied-configuration": applied.to_string(),
            "meta.helm.sh/release-name": app, "meta.helm.sh/release-namespace": namespace,
            "argocd.argoproj.io/tracking-id": format!("{app}:/Service:{namespace}/{app}"),
            "prometheus.io/scrape": "true", "prometheus.io/port": "9102",
        });
        metadata["managedFields"] = json!([
            managed("argocd-controller", "v1", "", &["metadata", "spec"], 22),
            managed("kube-controller-manager", "v1", "", &["metadata"], 6),
        ]);
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec, "status": {"loadBalancer": {}}})
    }

    /// The EndpointSlice of a Service; the endpoints of the set bits of `unready` are not ready. `round` tells its writes apart.
    #[must_use]
    pub fn slice(&self, service: usize, unready: u32, round: u64) -> Value {
        let (app, namespace) = (app(service), self.namespace_of(service));
        let mut metadata = metadata(&slice_name(service), &namespace, uid(4, service), &labels(service));
        metadata["generateName"] = format!("{app}-").into();
        metadata["labels"]["kubernetes.io/service-name"] = app.as_str().into();
        metadata["labels"]["endpointslice.kubernetes.io/managed-by"] = "endpointslice-controller.k8s.io".into();
        let changed = format!("2026-11-22T{:02}:{:02}:{:02}Z", round / 3600 % 24, round / 60 % 60, round % 60);
        metadata["annotations"] = json!({"endpoints.kubernetes.io/last-change-trigger-time": changed});
        metadata["ownerReferences"] = json!([{
            "apiVersion": "v1", "kind": "Service", "name": app, "uid": uid(3, service), "controller": true,
            "blockOwnerDeletion": true
        }]);
        metadata["managedFields"] = json!([managed(
            "kube-controller-manager",
            "discovery.k8s.io/v1",
            "",
            &["metadata", "endpoints", "ports"],
            20
        )]);
        let endpoints: Vec<Value> =
            (0..self.replicas).map(|at| self.endpoint(service * self.replicas + at, unready >> at & 1 == 0)).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080, "appProtocol": "http"}, {"name": "metrics", "protocol": "TCP", "port": 9102}],
            "endpoints": endpoints
        })
    }

    fn endpoint(&self, pod: usize, ready: bool) -> Value {
        let node = pod % self.nodes;
        json!({
            "addresses": [address(pod)], "conditions": {"ready": ready, "serving": ready, "terminating": false},
            "nodeName": format!("node-{node:03}"), "zone": zone(node),
            "targetRef": {
                "kind": "Pod", "namespace": self.namespace_of(pod / self.replicas), "name": self.pod_name(pod), "uid": uid(1, pod)
            }
        })
    }
}

/// What Kubernetes ends generated names with.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The name of the EndpointSlice of a Service.
#[must_use]
pub(super) fn slice_name(service: usize) -> String {
    format!(
        "{}-{}",
        app(service),
        (0..5).map(|at| LETTERS[(service >> (at * 3)) % LETTERS.len()] as char).collect::<String>()
    )
}

fn app(service: usize) -> String {
    const WORDS: [&str; 8] = [
        "checkout",
        "inventory",
        "recommendation",
        "payment-gateway",
        "cart",
        "search-indexer",
        "notification",
        "ledger",
    ];
    format!("{}-{service:05}", WORDS[service % WORDS.len()])
}

/// Of the range Kubernetes' providers give to pods beyond RFC 1918.
fn address(pod: usize) -> String {
    format!("100.{}.{}.{}", 64 + (pod >> 16), pod >> 8 & 255, pod & 255)
}

fn virtual_address(service: usize) -> String {
    format!("172.{}.{}.{}", 20 + (service >> 16), service >> 8 & 255, service & 255)
}

fn zone(node: usize) -> String {
    format!("eu-central-1{}", ["a", "b", "c"][node % 3])
}

fn uid(kind: usize, number: usize) -> String {
    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:04x}{:08x}",
        mixed >> 32,
        mixed >> 16 & 0xffff,
        mixed & 0xfff,
        kind,
        kind,
        number
    )
}

fn labels(service: usize) -> Value {
    let app = app(service);
    json!({
        "app.kubernetes.io/name": app, "app.kubernetes.io/instance": app, "app.kubernetes.io/version": "2.41.7",
        "app.kubernetes.io/component": "backend", "app.kubernetes.io/part-of": "webshop",
        "app.kubernetes.io/managed-by": "Helm", "helm.sh/chart": format!("{app}-2.41.7"),
        "team": format!("team-{:02}", service % 100), "cost-center": "cc-4711", "tier": "gold"
    })
}

fn metadata(name: &str, namespace: &str, uid: String, labels: &Value) -> Value {
    json!({
        "name": name, "namespace": namespace, "uid": uid, "creationTimestamp": "2026-11-01T08:15:30Z", "generation": 1,
        "labels": labels
    })
}

/// Who owns which fields, as every write through the API leaves it.
fn managed(manager: &str, version: &str, subresource: &str, roots: &[&str], fields: usize) -> Value {
    let mut owned = json!({});
    for root in roots {
        for field in 0..fields {
            owned[format!("f:{root}")][format!("f:{}", FIELDS[field % FIELDS.len()])] = json!({".": {}, "f:value": {}});
        }
    }
    let mut entry = json!({
        "manager": manager, "operation": "Update", "apiVersion": version, "time": "2026-11-01T08:15:31Z",
        "fieldsType": "FieldsV1", "fieldsV1": owned
    });
    if !subresource.is_empty() {
        entry["subresource"] = subresource.into();
    }
    entry
}

const FIELDS: [&str; 22] = [
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/version",
    "app.kubernetes.io/component",
    "app.kubernetes.io/part-of",
    "app.kubernetes.io/managed-by",
    "helm.sh/chart",
    "ownerReferences",
    "generateName",
    "containers",
    "dnsPolicy",
    "enableServiceLinks",
    "restartPolicy",
    "schedulerName",
    "securityContext",
    "tolerations",
    "terminationGracePeriodSeconds",
    "volumes",
    "serviceAccountName",
    "conditions",
    "containerStatuses",
    "podIPs",
];

fn namespace(number: usize) -> Value {
    let name = format!("team-{number:02}");
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": name, "uid": uid(5, number), "creationTimestamp": "2026-01-10T10:00:00Z", "labels": {
            "kubernetes.io/metadata.name": name, "weft.dev/mesh": "enabled", "team": name
        }},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}
    })
}

fn node(number: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("node-{number:03}"), "uid": uid(6, number), "creationTimestamp": "2026-01-10T10:00:00Z",
            "labels": {"topology.kubernetes.io/zone": zone(number), "kubernetes.io/hostname": format!("node-{number:03}")}},
        "spec": {}, "status": {}
    })
}

fn spec(app: &str, node: &str) -> Value {
    let probe = |path: &str| {
        json!({"httpGet": {"path": path, "port": "http", "scheme": "HTTP"}, "timeoutSeconds": 1,
        "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
    };
    let variable = |name: &str, key: &str| json!({"name": name, "valueFrom": {"secretKeyRef": {"name": format!("{app}-credentials"), "key": key}}});
    json!({
        "nodeName": node, "serviceAccountName": app, "serviceAccount": app, "restartPolicy": "Always", "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler", "enableServiceLinks": true, "preemptionPolicy": "PreemptLowerPriority", "priority": 0,
        "terminationGracePeriodSeconds": 30, "securityContext": {"runAsNonRoot": true, "fsGroup": 1000},
        "tolerations": [
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
        ],
        "containers": [{
            "name": "app", "image": format!("registry.example.com/webshop/{app}:2.41.7"), "imagePullPolicy": "IfNotPresent",
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}, {"name": "metrics", "containerPort": 9102, "protocol": "TCP"}],
            "env": [variable("DATABASE_URL", "database-url"), variable("DATABASE_PASSWORD", "password"),
                {"name": "LOG_LEVEL", "value": "info"}, {"name": "JAVA_OPTS", "value": "-XX:MaxRAMPercentage=75 -XX:+UseG1GC"}],
            "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"memory": "1Gi"}},
            "livenessProbe": probe("/healthz"), "readinessProbe": probe("/readyz"),
            "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            "volumeMounts": [{"name": "config", "mountPath": "/etc/app", "readOnly": true},
                {"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "readOnly": true}]
        }],
        "volumes": [
            {"name": "config", "configMap": {"name": app, "defaultMode": 420}},
            {"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
            ]}}
        ]
    })
}

fn status(ip: &str, pod: usize) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-11-01T08:15:40Z"});
    let conditions: Vec<Value> =
        ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition).into();
    json!({
        "phase": "Running", "conditions": conditions, "hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.1"}], "podIP": ip,
        "podIPs": [{"ip": ip}], "startTime": "2026-11-01T08:15:31Z", "qosClass": "Burstable",
        "containerStatuses": [{
            "name": "app", "ready": true, "started": true, "restartCount": 0, "lastState": {},
            "image": "registry.example.com/webshop/app:2.41.7", "imageID": format!("registry.example.com/webshop/app@sha256:{:064x}", 7),
            "containerID": format!("containerd://{:064x}", pod), "state": {"running": {"startedAt": "2026-11-01T08:15:38Z"}}
        }]
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SIZE: Size = Size { services: 10_000, replicas: 5, nodes: 100, namespaces: 100 };

    #[test]
    fn objects_are_of_the_size_of_real_ones() {
        for object in [SIZE.pod(31_415), SIZE.service(2_718), SIZE.slice(2_718, 0, 0)] {
            let bytes = object.to_string().len();
            assert!(bytes >= 4096, "{}: {bytes} bytes", object["kind"]);
        }
    }

    #[test]
    fn no_two_objects_are_one() {
        let size = Size { services: 2_000, ..SIZE };
        let pods: Vec<Value> = (0..size.pods()).map(|pod| size.pod(pod)).collect();
        for pointer in ["/metadata/uid", "/status/podIP"] {
            let found: BTreeSet<_> = pods.iter().map(|pod| pod.pointer(pointer).unwrap().as_str().unwrap()).collect();
            assert_eq!(found.len(), pods.len(), "{pointer}");
        }
        let names: BTreeSet<_> =
            pods.iter().map(|pod| (pod["metadata"]["namespace"].as_str(), pod["metadata"]["name"].as_str())).collect();
        assert_eq!(names.len(), pods.len());
    }

    #[test]
    fn a_slice_lists_its_services_pods() {
        let slice = SIZE.slice(77, 0b10, 1);
        for (at, endpoint) in slice["endpoints"].as_array().unwrap().iter().enumerate() {
            let pod = SIZE.pod(77 * 5 + at);
            assert_eq!(endpoint["addresses"][0], pod["status"]["podIP"]);
            assert_eq!(endpoint["targetRef"]["name"], pod["metadata"]["name"]);
            assert_eq!(endpoint["nodeName"], pod["spec"]["nodeName"]);
            assert_eq!(endpoint["conditions"]["ready"], at != 1);
        }
    }
}
