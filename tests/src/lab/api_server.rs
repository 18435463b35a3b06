//! The API server of a lab, at one address of the nodes' network: the double, or a way to a cluster that is elsewhere; and
//! requests to it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_apiserver::contract::Target;

use super::objects::CRDS;
use super::process::Place;
use super::shared::{Shared, Upstream};
use super::{Lab, NetNs, Process, binary, cgroup};
use crate::wait;

/// Where the API server listens; nodes are `172.18.0.1` and on.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 254);
/// And at which port.
pub(super) const PORT: u16 = 6443;
/// Time to start.
const START: Duration = Duration::from_secs(30);

/// The API server of a lab.
#[derive(Clone)]
pub struct ApiServer {
    process: Process,
    network: NetNs,
    /// Of `system:admin`, or whoever administers the cluster.
    admin: PathBuf,
    /// Of the agents' service account.
    pub(super) agents: PathBuf,
    /// Of the controller's.
    pub(super) controllers: PathBuf,
    /// What is kept in mind of a cluster that is not the lab's own.
    pub(super) shared: Option<Arc<Shared>>,
}

/// What serves the lab.
pub(super) enum Origin<'a> {
    /// The double, with these objects in it from the start.
    Double(Option<&'a Path>),
    /// A cluster that was there before.
    Real(&'a Upstream),
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").field("kubeconfig", &self.admin).finish_non_exhaustive()
    }
}

impl ApiServer {
    pub(super) fn start(lab: &Lab, origin: &Origin<'_>) -> Result<Self> {
        lab.fabric.ip(&[format!("addr add {ADDRESS}/24 dev br0")])?;
        let [admin, agents, controllers] =
            ["kubeconfig", "kubeconfig-agents", "kubeconfig-controllers"].map(|name| lab.run.path().join(name));
        let own_cgroup = lab.run.cgroup().join("apiserver");
        cgroup::create(&own_cgroup)?;
        let (command, shared) = match origin {
            Origin::Double(objects) => (double(&admin, *objects)?, None),
            Origin::Real(upstream) => (upstream.forwarded(&admin)?, Some(Arc::new(Shared::new(lab, upstream)?))),
        };
        let log = lab.log_path("apiserver");
        let place = Place { name: "apiserver".into(), netns: &lab.fabric, cgroup: &own_cgroup, log };
        let (process, network) = (Process::start(place, &command)?, lab.fabric.clone());
        let server = Self { process, network, admin, agents, controllers, shared };
        wait::until("the API server to serve", START, || {
            if let Some(status) = server.process.exited() {
                bail!("it ended with {status}: {}", server.process.log());
            }
            server.get("/api/v1/namespaces").map(drop).with_context(|| server.process.log())
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

    pub(super) fn serves(&self, definition: &Value) -> Result<()> {
        let name = definition["metadata"]["name"].as_str().unwrap_or_default();
        wait::until(&format!("{name} to be served"), START, || {
            let now = self.get(&format!("{CRDS}/{name}"))?;
            let conditions = now["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let served = conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True");
            if served { Ok(()) } else { bail!("{}", now["status"]) }
        })
    }

    /// The kubeconfig of `system:admin`, or of whoever administers a cluster that is not the lab's own.
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

    /// Sends a request as the administrator; yields the status and the answer.
    ///
    /// # Errors
    /// When there is no answer, and when in a cluster that is not the lab's own it would order a fault or change what the lab
    /// has not made.
    pub fn send(&self, method: &str, path: &str, kind: &str, body: Option<String>) -> Result<(u16, Value)> {
        if let Some(shared) = &self.shared {
            shared.demand_harmless(method, path)?;
        }
        self.ask(method, path, kind, body)
    }

    /// As [`Self::send`], whatever it does.
    pub(super) fn ask(&self, method: &str, path: &str, kind: &str, body: Option<String>) -> Result<(u16, Value)> {
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
}

/// What starts the double.
fn double(kubeconfig: &Path, objects: Option<&Path>) -> Result<Vec<String>> {
    let address = SocketAddr::from((ADDRESS, PORT)).to_string();
    let program = binary("weft-apiserver")?.display().to_string();
    let kubeconfig = kubeconfig.display().to_string();
    let words = [&program, "serve", "--tls", "--rbac", "--listen", &address, "--kubeconfig", &kubeconfig];
    let mut command: Vec<String> = words.map(str::to_owned).into();
    if let Some(objects) = objects {
        command.extend(["--restore".to_owned(), objects.display().to_string()]);
    }
    Ok(command)
}
