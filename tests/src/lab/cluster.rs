//! A lab that is configured by an API server: the double as a process on the nodes' network, the lab's objects in it, and
//! its pods laid out as kubelet and containerd do it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use gateway_api::apis::experimental::{
    grpcroutes::GrpcRoute, httproutes::HttpRoute, referencegrants::ReferenceGrant, tcproutes::TcpRoute,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};
use weft_apiserver::contract::Target;

use super::process::Place;
use super::{Lab, Manifests, NetNs, Pod, Process, binary, cgroup};
use crate::wait;

/// Where the API server listens; nodes are `172.18.0.1` and on.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 254);
/// How a Pod's annotation says that its agent serves it.
const STATUS: &str = "/metadata/annotations/weft.dev~1status";
/// Time to start.
const START: Duration = Duration::from_secs(30);

/// The API server of a lab.
#[derive(Clone)]
pub struct ApiServer {
    process: Process,
    network: NetNs,
    /// Of `system:admin`.
    admin: PathBuf,
    /// Of the agents' service account.
    agents: PathBuf,
    /// Of the controller's.
    controllers: PathBuf,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("kubeconfig", &self.admin).finish_non_exhaustive()
    }
}

impl Lab {
    /// An empty lab with an API server and a controller, which its agents will follow in the place of a directory of
    /// manifests. The kinds of `weft.dev` are installed from `weft crds`, and Gateway API's kinds of routes and grants.
    ///
    /// # Errors
    /// As [`Lab::new`], and when the server does not start.
    pub fn cluster(name: &str) -> Result<Self> {
        Self::cluster_with(name, None)
    }

    /// As [`Self::cluster`], and these objects (one a line, as a backup of etcd has them) are there from the start.
    ///
    /// # Errors
    /// As [`Self::cluster`].
    pub fn restored_cluster(name: &str, objects: &Path) -> Result<Self> {
        Self::cluster_with(name, Some(objects))
    }

    fn cluster_with(name: &str, objects: Option<&Path>) -> Result<Self> {
        let lab = Self::bare_cluster(name, objects)?;
        lab.install_kinds()?;
        if let Some(api) = lab.api() {
            lab.admit(include_str!("../../../deploy/agent-rbac.yaml"), "weft-agent", &api.agents)?;
            lab.admit(include_str!("../../../deploy/controller-rbac.yaml"), "weft-controller", &api.controllers)?;
        }
        lab.namespace(super::NAMESPACE)?;
        lab.start_controller()?;
        Ok(lab)
    }

    /// As [`Self::cluster`], but what is in it of the mesh is what `deploy/weft.yaml` says: see
    /// [`Lab::start_deployment`] and [`Lab::start_daemonset`].
    ///
    /// # Errors
    /// As [`Lab::cluster`].
    pub fn installed(name: &str) -> Result<Self> {
        let lab = Self::bare_cluster(name, None)?;
        lab.install_kinds()?;
        lab.install()?;
        lab.namespace(super::NAMESPACE)?;
        Ok(lab)
    }

    fn bare_cluster(name: &str, objects: Option<&Path>) -> Result<Self> {
        let mut lab = Self::bare(name)?;
        let server = ApiServer::start(&lab, objects)?;
        lab.manifests = Manifests::new(lab.run.path(), Some(server));
        Ok(lab)
    }

    /// The API server, in a lab that has one.
    #[must_use]
    pub fn api(&self) -> Option<&ApiServer> {
        self.manifests.server()
    }

    /// Puts every object of a file of `deploy/` into the cluster.
    pub(super) fn deploy(&self, file: &str) -> Result<()> {
        let api = self.api().context("a lab without an API server")?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(file).context("a file of deploy/")?;
        objects.iter().try_for_each(|object| api.put(object))
    }

    /// Gives an account the rights of its file in `deploy/` and no other, and who uses this kubeconfig the account.
    fn admit(&self, rights: &str, account: &str, kubeconfig: &Path) -> Result<()> {
        let Some(api) = self.api() else { return Ok(()) };
        self.deploy(rights)?;
        let token = api.token("weft-system", account, &[], &Value::Null)?;
        let mut config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&api.admin)?)?;
        config["users"] = json!([{"name": "admin", "user": {"token": token}}]);
        std::fs::write(kubeconfig, serde_saphyr::to_string(&config)?).context("writing a kubeconfig")
    }

    fn install_kinds(&self) -> Result<()> {
        let Some(api) = self.api() else { return Ok(()) };
        let crds = super::run_command(&[binary("weft")?.display().to_string(), "crds".into()], "")?;
        let mut definitions: Vec<Value> = serde_saphyr::from_multiple(&crds).context("the output of weft crds")?;
        ensure!(!definitions.is_empty(), "weft crds prints nothing");
        for kind in [TcpRoute::crd(), HttpRoute::crd(), GrpcRoute::crd(), ReferenceGrant::crd()] {
            definitions.push(serde_json::to_value(kind)?);
        }
        for definition in &definitions {
            api.put(definition)?;
        }
        definitions.iter().try_for_each(|definition| api.serves(definition))
    }
}

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

impl ApiServer {
    fn start(lab: &Lab, objects: Option<&Path>) -> Result<Self> {
        lab.fabric.ip(&[format!("addr add {ADDRESS}/24 dev br0")])?;
        let [admin, agents, controllers] =
            ["kubeconfig", "kubeconfig-agents", "kubeconfig-controllers"].map(|name| lab.run.path().join(name));
        let own_cgroup = lab.run.cgroup().join("apiserver");
        cgroup::create(&own_cgroup)?;
        let mut command: Vec<String> = [
            &binary("weft-apiserver")?.display().to_string(),
            "serve",
            "--tls",
            "--rbac",
            "--listen",
            &format!("{ADDRESS}:6443"),
            "--kubeconfig",
            &admin.display().to_string(),
        ]
        .map(str::to_owned)
        .into();
        if let Some(objects) = objects {
            command.extend(["--restore".to_owned(), objects.display().to_string()]);
        }
        let log = lab.log_path("apiserver");
        let place = Place { name: "apiserver".into(), netns: &lab.fabric, cgroup: &own_cgroup, log };
        let server =
            Self { process: Process::start(place, &command)?, network: lab.fabric.clone(), admin, agents, controllers };
        wait::until("the API server to serve", START, || {
            if let Some(status) = server.process.exited() {
                bail!("it ended with {status}: {}", server.process.log());
            }
            server.get("/api/v1/namespaces").map(drop)
        })?;
        Ok(server)
    }

    /// Installs a CustomResourceDefinition, and waits until its kind is served.
    ///
    /// # Errors
    /// When the server refuses it, or does not serve it in time.
    pub fn define(&self, definition: &Value) -> Result<()> {
        self.put(definition)?;
        self.serves(definition)
    }

    fn serves(&self, definition: &Value) -> Result<()> {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        wait::until(&format!("{name} to be served"), START, || {
            let now = self.get(&format!("{CRDS}/{name}"))?;
            let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let served = conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True");
            if served { Ok(()) } else { bail!("{}", now["status"]) }
        })
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// The kubeconfig of `system:admin`.
    #[must_use]
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// The network it is on.
    pub(super) fn network(&self) -> &NetNs {
        &self.network
    }

    /// A kubeconfig with the rights of an agent.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.agents
    }

    /// A kubeconfig with the rights of the controller.
    pub(super) fn controllers(&self) -> &Path {
        &self.controllers
    }

    /// Sends a request as `system:admin`; yields the status and the answer.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send(&self, method: &str, path: &str, kind: &str, body: Option<String>) -> Result<(u16, Value)> {
        let (method, path, kind) = (method.parse()?, path.to_owned(), kind.to_owned());
        let target = Target::from_kubeconfig(&self.admin)?;
        self.network.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let reply = runtime.block_on(target.send(method, &path, &[("content-type", &kind)], body))?;
            Ok((reply.status, reply.json()))
        })
    }

    /// A token of a service account, for these audiences (the server's own without any), bound to an object if one is named.
    ///
    /// # Errors
    /// When the server grants none.
    pub fn token(&self, namespace: &str, account: &str, audiences: &[&str], bound: &Value) -> Result<String> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let mut spec = json!({"expirationSeconds": 3600});
        if !audiences.is_empty() {
            spec["audiences"] = json!(audiences);
        }
        if !bound.is_null() {
            spec["boundObjectRef"] = bound.clone();
        }
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let granted = self.done("POST", &path, "application/json", Some(&request))?;
        granted["status"]["token"].as_str().map(str::to_owned).context("the API server gave no token")
    }

    /// The certificate it is trusted by, in PEM.
    ///
    /// # Errors
    /// When its kubeconfig lacks it.
    pub fn authority(&self) -> Result<String> {
        let config: Value = serde_saphyr::from_str(&std::fs::read_to_string(&self.admin)?)?;
        let data = config.pointer("/clusters/0/cluster/certificate-authority-data").and_then(Value::as_str);
        super::run_command(&["base64".into(), "-d".into()], data.context("a kubeconfig without authority")?)
    }

    pub(super) fn done(&self, method: &str, path: &str, kind: &str, body: Option<&Value>) -> Result<Value> {
        let (status, answer) = self.send(method, path, kind, body.map(ToString::to_string))?;
        ensure!(status < 300, "{method} {path}: {status} {answer}");
        Ok(answer)
    }

    /// An object, or a list of them.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, path: &str) -> Result<Value> {
        self.done("GET", path, "application/json", None)
    }

    /// Changes an object by a merge patch.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn merge(&self, path: &str, change: &Value) -> Result<Value> {
        self.done("PATCH", path, "application/merge-patch+json", Some(change))
    }

    /// Orders a fault: see the double's README.
    ///
    /// # Errors
    /// When the server does not obey.
    pub fn order(&self, what: &str, order: &Value) -> Result<()> {
        self.done("POST", &format!("/test/{what}"), "application/json", Some(order)).map(drop)
    }

    /// Creates or replaces an object. Of a Pod only labels and status change, as in a cluster.
    pub(super) fn put(&self, object: &Value) -> Result<()> {
        let (collection, name) = place_of(object)?;
        let path = format!("{collection}/{name}");
        let (status, live) = self.send("GET", &path, "application/json", None)?;
        let is_pod = object["kind"] == "Pod";
        if status == 404 {
            let mut fresh = object.clone();
            if let (true, Some(fields)) = (is_pod, fresh.as_object_mut()) {
                fields.remove("status");
                self.ensure_account(object)?;
            }
            self.done("POST", &collection, "application/json", Some(&fresh))?;
        } else {
            let mut next = if is_pod { live.clone() } else { object.clone() };
            next["metadata"]["labels"] = object["metadata"]["labels"].clone();
            next["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            self.done("PUT", &path, "application/json", Some(&next))?;
        }
        if let (true, Some(status)) = (is_pod, object.get("status")) {
            self.merge(&format!("{path}/status"), &json!({"status": status}))?;
        }
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
fn place_of(object: &Value) -> Result<(String, String)> {
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

/// The cgroup of a pod and of one of its containers, as kubelet and containerd name them with the systemd driver.
pub(super) fn cgroups(node: &Path, uid: &str, container: &str) -> (PathBuf, PathBuf) {
    let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    let pod = node.join("kubepods.slice/kubepods-burstable.slice").join(slice);
    let id: String = container.bytes().chain(uid.bytes()).map(|byte| format!("{byte:02x}")).collect();
    let scope = pod.join(format!("cri-containerd-{:0>64.64}.scope", id));
    (pod, scope)
}
