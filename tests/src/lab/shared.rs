//! A cluster that was there before the lab and stays when it goes. The lab makes its objects there beside those of others,
//! marks what is in no namespace as its own, refuses to touch anything else, and takes all of it away at the end.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use weft_apiserver::contract::Kubeconfig;

use super::api_server::{ADDRESS, PORT};
use super::objects::{CRDS, place_of};
use super::{ApiServer, Lab, binary};
use crate::wait;

/// What names the kubeconfig of the cluster that journeys shall use in the place of the double.
pub(super) const KUBECONFIG: &str = "WEFT_TEST_KUBECONFIG";
/// The label of what a lab has made in a cluster; its value is the lab's.
const MARK: &str = "weft.dev/lab";
/// What is in no namespace, as `kubectl` lists it.
const KINDS: &str = "namespaces,nodes,clusterroles,clusterrolebindings,customresourcedefinitions";
/// Where that is served.
const COLLECTIONS: [&str; 5] = [
    "/api/v1/namespaces",
    "/api/v1/nodes",
    "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
    CRDS,
];
const NAMESPACES: &str = "/api/v1/namespaces/";
/// Time a cluster gets to empty a namespace.
const DELETION: Duration = Duration::from_secs(180);

/// A cluster that is elsewhere.
pub(super) struct Upstream {
    kubeconfig: PathBuf,
    /// File of the network namespace it is dialled in.
    netns: PathBuf,
}

impl Upstream {
    /// That of the environment, dialled from where this process was started.
    pub(super) fn named() -> Option<Self> {
        let kubeconfig = std::env::var_os(KUBECONFIG)?;
        let own = Path::new("/proc").join(std::process::id().to_string()).join("ns/net");
        Some(Self::of(Path::new(&kubeconfig), &own))
    }

    pub(super) fn of(kubeconfig: &Path, netns: &Path) -> Self {
        Self { kubeconfig: kubeconfig.to_owned(), netns: netns.to_owned() }
    }

    /// Writes the kubeconfig by which the lab reaches it, and yields what carries the connections.
    pub(super) fn forwarded(&self, kubeconfig: &Path) -> Result<Vec<String>> {
        let read = Kubeconfig::read(&self.kubeconfig)?;
        std::fs::write(kubeconfig, read.through((ADDRESS, PORT).into())).context("writing a kubeconfig")?;
        let program = binary("lab-app")?.display().to_string();
        let (listen, from) = (format!("{ADDRESS}:{PORT}"), self.netns.display().to_string());
        let words = [&program, "forward", "--listen", &listen, "--from", &from, "--to", &read.address()];
        Ok(words.map(str::to_owned).into())
    }
}

/// What a lab has made in a cluster.
pub(super) struct Shared {
    /// The value of [`MARK`].
    tag: String,
    /// The cluster, for a person to read.
    name: String,
    /// Paths of what is in no namespace, in the order it was made.
    made: Mutex<Vec<String>>,
}

impl Shared {
    pub(super) fn new(lab: &Lab, upstream: &Upstream) -> Result<Self> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        let run = lab.directory().file_name().and_then(|name| name.to_str()).unwrap_or("lab").to_owned();
        let name = format!("the cluster of {}", upstream.kubeconfig.display());
        Ok(Self { tag: format!("{now:x}-{run}"), name, made: Mutex::default() })
    }

    fn made(&self) -> Vec<String> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails for a request that only the double understands, and for one that changes what is not the lab's.
    pub(super) fn demand_harmless(&self, method: &str, path: &str) -> Result<()> {
        if path.starts_with("/test/") {
            bail!("{method} {path} is for the double, and this is {}: this journey is not to be run there", self.name);
        }
        let ours = |made: &String| {
            path == made
                || path.strip_prefix(made.as_str()).is_some_and(|rest| rest.starts_with('/'))
                || made.strip_prefix(NAMESPACES).is_some_and(|name| path.contains(&format!("/namespaces/{name}/")))
        };
        ensure!(
            method == "GET" || self.made().iter().any(ours),
            "{method} {path}: the lab has not made that in {}",
            self.name
        );
        Ok(())
    }

    /// Why the lab does not go on where it found this object.
    fn in_the_way(&self, kind: &str, name: &str, live: &Value) -> String {
        let remedy = match live["metadata"]["labels"][MARK].as_str() {
            Some(tag) => format!(
                "It was made by lab {tag}, which is running or was ended before it could clear up; if no such test runs: \
                 kubectl delete {KINDS} -l {MARK}"
            ),
            None => format!(
                "The lab touches nothing it has not made. Use a cluster without it (one with a mesh in use is none to test in), \
                 or, if nobody needs it: kubectl delete {} {name}",
                kind.to_lowercase()
            ),
        };
        format!("{kind} {name} is in {} already. {remedy}", self.name)
    }
}

impl ApiServer {
    /// An object as it has to be in a cluster whose own components look at it too: marked as the lab's, a Node that is ready
    /// and that nothing is scheduled to, a Pod that no taint of its node evicts.
    pub(super) fn adapted(&self, object: &Value) -> Value {
        let mut object = object.clone();
        let Some(shared) = &self.shared else { return object };
        if object["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
            object["metadata"]["labels"][MARK] = shared.tag.as_str().into();
        }
        match object["kind"].as_str() {
            Some("Node") => {
                object["spec"] = json!({
                    "unschedulable": true, "taints": [{"key": MARK, "value": "pods-of-the-lab-only", "effect": "NoSchedule"}]
                });
                let ready = json!({"type": "Ready", "status": "True", "reason": "Lab", "message": "a node of a lab"});
                object["status"] = json!({"conditions": [ready]});
            }
            Some("Pod") => object["spec"]["tolerations"] = json!([{"operator": "Exists"}]),
            _ => (),
        }
        object
    }

    /// Notes that an object is about to be made, if it is one to be taken away by itself.
    pub(super) fn claim(&self, object: &Value, path: &str) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        if object["metadata"]["namespace"].as_str().is_none_or(str::is_empty) {
            shared.made.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
            return Ok(());
        }
        shared.demand_harmless("POST", path)
    }

    /// Fails for an object that is there and that another has made.
    pub(super) fn demand_own(&self, object: &Value, path: &str, live: &Value) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        if object["metadata"]["namespace"].as_str().is_some_and(|namespace| !namespace.is_empty()) {
            return shared.demand_harmless("PUT", path);
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let kind = object["kind"].as_str().unwrap_or_default();
        ensure!(live["metadata"]["labels"][MARK] == shared.tag, "{}", shared.in_the_way(kind, name, live));
        Ok(())
    }

    /// Whether the cluster has an object of this name that the lab has not made and may use.
    pub(super) fn has_of_others(&self, object: &Value) -> Result<bool> {
        let Some(shared) = &self.shared else { return Ok(false) };
        let (collection, name) = place_of(object)?;
        let (status, live) = self.ask("GET", &format!("{collection}/{name}"), "application/json", None)?;
        Ok(status == 200 && live["metadata"]["labels"][MARK] != shared.tag)
    }

    /// Fails with the first of these objects that is there already, and where the lab's addresses cannot be had.
    pub(super) fn demand_room(&self, wanted: &[Value]) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        for object in wanted.iter().filter(|object| object["metadata"]["namespace"].is_null()) {
            let (collection, name) = place_of(object)?;
            let (status, live) = self.ask("GET", &format!("{collection}/{name}"), "application/json", None)?;
            let kind = object["kind"].as_str().unwrap_or_default();
            ensure!(status == 404, "{}", shared.in_the_way(kind, &name, &live));
        }
        self.demand_addresses(shared)
    }

    fn demand_addresses(&self, shared: &Shared) -> Result<()> {
        let (v4, v6) = super::service::addresses(0xff, true);
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"generateName": "weft-lab-", "namespace": "default"},
            "spec": {"clusterIP": v4, "clusterIPs": [v4, v6], "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack", "ports": [{"port": 80}]}
        });
        let path = "/api/v1/namespaces/default/services?dryRun=All";
        let (status, answer) = self.ask("POST", path, "application/json", Some(service.to_string()))?;
        ensure!(
            status < 300,
            "{} gives no Service the addresses {v4} and {v6}, and the lab's have such: it has to be dual-stack, with the \
             service ranges 10.96.0.0/16 and fd00:10:96::/112 (kind's with `ipFamily: dual`). It says: {status} {answer}",
            shared.name
        );
        let pods = self.get("/api/v1/pods")?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let ips = pod["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|ip| ip["ip"].as_str());
            let taken = ips.into_iter().find(|ip| (1..=9).any(|node| ip.starts_with(&format!("10.244.{node}."))));
            ensure!(
                taken.is_none(),
                "pod {}/{} of {} has {taken:?}, an address of the lab's own pods: use a cluster of one node, or with another pod range",
                pod["metadata"]["namespace"],
                pod["metadata"]["name"],
                shared.name
            );
        }
        Ok(())
    }

    /// Takes away what the lab has made in a cluster that stays, and waits until it is gone.
    ///
    /// # Errors
    /// What is left.
    pub(super) fn clear(&self) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let made = shared.made();
        let (namespaces, others): (Vec<_>, Vec<_>) = made.iter().rev().partition(|path| path.starts_with(NAMESPACES));
        for namespace in &namespaces {
            // No kubelet says that they have ended.
            let now = json!({"gracePeriodSeconds": 0}).to_string();
            self.ask("DELETE", &format!("{namespace}/pods"), "application/json", Some(now))?;
        }
        for paths in [namespaces, others] {
            paths.iter().try_for_each(|path| self.delete_own(path, &shared.tag))?;
            for path in paths {
                wait::until(&format!("{path} to be gone from {}", shared.name), DELETION, || {
                    let (status, live) = self.ask("GET", path, "application/json", None)?;
                    ensure!(status == 404 || live["metadata"]["labels"][MARK] != shared.tag, "{}", live["status"]);
                    Ok(())
                })?;
            }
        }
        for collection in COLLECTIONS {
            let left = self.get(&format!("{collection}?labelSelector={MARK}={}", shared.tag))?;
            let names: Vec<_> =
                left["items"].as_array().into_iter().flatten().map(|o| &o["metadata"]["name"]).collect();
            ensure!(names.is_empty(), "left in {}: {collection} {names:?}", shared.name);
        }
        Ok(())
    }

    fn delete_own(&self, path: &str, tag: &str) -> Result<()> {
        let (status, live) = self.ask("GET", path, "application/json", None)?;
        if status == 404 || live["metadata"]["labels"][MARK] != tag {
            return Ok(());
        }
        let (status, answer) = self.ask("DELETE", path, "application/json", None)?;
        ensure!(status < 300 || status == 404, "DELETE {path}: {status} {answer}");
        Ok(())
    }
}

impl Lab {
    /// Whether the API server is that of a cluster which others use too.
    pub(super) fn is_shared(&self) -> bool {
        self.api().is_some_and(|api| api.shared.is_some())
    }
}
