//! Objects of a lab in its API server: made, changed and taken away, each where its kind is served.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use super::{ApiServer, Pod};

/// How a Pod's annotation says that its agent serves it.
const STATUS: &str = "/metadata/annotations/weft.dev~1status";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
/// Where kinds are defined.
pub(super) const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How often a change is tried again that met another: of somebody who writes all the time.
const ATTEMPTS: usize = 20;

impl ApiServer {
    /// Creates or replaces an object. Of a Pod and of a Node only labels and status change, as in a cluster.
    pub(super) fn put(&self, object: &Value) -> Result<()> {
        let object = &self.adapted(object);
        let (collection, name) = place_of(object)?;
        let path = format!("{collection}/{name}");
        let runs = ["Pod", "Node"].iter().any(|kind| object["kind"] == *kind);
        for attempt in 1.. {
            let (status, live) = self.send("GET", &path, "application/json", None)?;
            if status == 404 {
                self.create(object, &collection, &path, runs)?;
                break;
            }
            self.demand_own(object, &path, &live)?;
            let mut next = if runs { live.clone() } else { object.clone() };
            next["metadata"]["labels"] = object["metadata"]["labels"].clone();
            next["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            let (status, answer) = self.send("PUT", &path, "application/json", Some(next.to_string()))?;
            if status == 409 && attempt < ATTEMPTS {
                continue;
            }
            ensure!(status < 300, "PUT {path}: {status} {answer}");
            break;
        }
        if let (true, Some(status)) = (runs, object.get("status")) {
            self.merge(&format!("{path}/status"), &json!({"status": status}))?;
        }
        Ok(())
    }

    fn create(&self, object: &Value, collection: &str, path: &str, runs: bool) -> Result<()> {
        let mut fresh = object.clone();
        if let (true, Some(fields)) = (runs, fresh.as_object_mut()) {
            fields.remove("status");
        }
        if object["kind"] == "Pod" {
            self.ensure_account(object)?;
        }
        self.claim(object, path)?;
        let (status, answer) = self.ask("POST", collection, "application/json", Some(fresh.to_string()))?;
        ensure!(status < 300, "POST {collection}: {status} {answer}");
        Ok(())
    }

    fn ensure_account(&self, pod: &Value) -> Result<()> {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": pod["spec"]["serviceAccountName"], "namespace": namespace}
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        match self.send("POST", &path, "application/json", Some(account.to_string()))? {
            (201 | 409, _) => Ok(()),
            (status, answer) => bail!("creating a service account: {status} {answer}"),
        }
    }

    /// Deletes an object at once; harmless when there is none.
    pub(super) fn remove(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let object = json!({"kind": kind, "metadata": {"namespace": namespace, "name": name}});
        let path = place_of(&object).map(|(collection, name)| format!("{collection}/{name}"))?;
        let now = json!({"gracePeriodSeconds": 0}).to_string();
        match self.send("DELETE", &path, "application/json", Some(now))? {
            (status, _) if status < 300 || status == 404 => Ok(()),
            (status, answer) => bail!("deleting {path}: {status} {answer}"),
        }
    }

    /// A Pod as the server has it.
    ///
    /// # Errors
    /// When it has none.
    pub fn pod(&self, pod: &Pod) -> Result<Value> {
        self.get(&format!("/api/v1/namespaces/{}/pods/{}", pod.namespace(), pod.name()))
    }

    /// What its agent has written on a Pod.
    ///
    /// # Errors
    /// When there is no such Pod.
    pub fn mark(&self, pod: &Pod) -> Result<Option<String>> {
        Ok(self.pod(pod)?.pointer(STATUS).and_then(Value::as_str).map(str::to_owned))
    }
}

/// Where an object's kind is served, and its name.
pub(super) fn place_of(object: &Value) -> Result<(String, String)> {
    let word = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (root, plural) = match word("/kind") {
        "Namespace" => return Ok(("/api/v1/namespaces".into(), word("/metadata/name").into())),
        "Node" => return Ok(("/api/v1/nodes".into(), word("/metadata/name").into())),
        "CustomResourceDefinition" => return Ok((CRDS.into(), word("/metadata/name").into())),
        "ClusterRole" => return Ok((format!("{RBAC}/clusterroles"), word("/metadata/name").into())),
        "ClusterRoleBinding" => return Ok((format!("{RBAC}/clusterrolebindings"), word("/metadata/name").into())),
        "Role" => (RBAC, "roles"),
        "RoleBinding" => (RBAC, "rolebindings"),
        "DaemonSet" => ("/apis/apps/v1", "daemonsets"),
        "Deployment" => ("/apis/apps/v1", "deployments"),
        "NetworkPolicy" => ("/apis/networking.k8s.io/v1", "networkpolicies"),
        "PodDisruptionBudget" => ("/apis/policy/v1", "poddisruptionbudgets"),
        "ServiceAccount" => ("/api/v1", "serviceaccounts"),
        "Pod" => ("/api/v1", "pods"),
        "Service" => ("/api/v1", "services"),
        "EndpointSlice" => ("/apis/discovery.k8s.io/v1", "endpointslices"),
        "HTTPRoute" => ("/apis/gateway.networking.k8s.io/v1", "httproutes"),
        "GRPCRoute" => ("/apis/gateway.networking.k8s.io/v1", "grpcroutes"),
        "TCPRoute" => ("/apis/gateway.networking.k8s.io/v1alpha2", "tcproutes"),
        "ReferenceGrant" => ("/apis/gateway.networking.k8s.io/v1", "referencegrants"),
        "AuthorizationPolicy" => ("/apis/weft.dev/v1alpha1", "authorizationpolicies"),
        "PeerAuthentication" => ("/apis/weft.dev/v1alpha1", "peerauthentications"),
        "XBackendTrafficPolicy" => ("/apis/gateway.networking.x-k8s.io/v1alpha1", "xbackendtrafficpolicies"),
        "TrafficPolicy" => ("/apis/weft.dev/v1alpha1", "trafficpolicies"),
        other => bail!("the lab does not know where {other:?} is served"),
    };
    let collection = format!("{root}/namespaces/{}/{plural}", word("/metadata/namespace"));
    Ok((collection, word("/metadata/name").into()))
}
