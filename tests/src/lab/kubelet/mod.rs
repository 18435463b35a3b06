//! What `deploy/weft.yaml` installs, on the lab's nodes: its pods' containers as kubelet and a runtime would make them of
//! that very manifest (capabilities, mounts, read-only root, seccomp, environment, probes' ports), run by crun.
//!
//! What differs from a cluster: host paths are the lab's own directories, the host's cgroups are the node's, Services are
//! named in `/etc/hosts`, and the image is `WEFT_TEST_ROOTFS` (an unpacked archive of `cargo xtask image`) or the built
//! program beside the host's libraries.

mod bundle;
mod deployment;
mod sandbox;
mod seccomp;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::agent::{Agent, Inner};
use super::{Lab, Node, Process};
use crate::wait;
pub use deployment::ControllerPod;
use sandbox::Sandbox;

/// The namespace of the installation.
pub(super) const NAMESPACE: &str = "weft-system";
/// The DaemonSet.
const NAME: &str = "weft-agent";
/// Time for a container to start or to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// A pod of the DaemonSet.
#[derive(Clone)]
pub struct AgentPod {
    name: String,
    node: Node,
    hold: Process,
    agent: Agent,
}

impl AgentPod {
    /// Its agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// Its holder.
    #[must_use]
    pub fn holder(&self) -> &Process {
        &self.hold
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }
}

/// Compiled in: a journey is about the manifests it was built with.
const MANIFESTS: &str = include_str!("../../../../deploy/weft.yaml");

/// The objects of the shipped manifests.
///
/// # Errors
/// When they cannot be read.
pub fn shipped() -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(MANIFESTS).context("deploy/weft.yaml")
}

/// The shipped object of this kind and name.
fn find(kind: &str, name: &str) -> Result<Value> {
    let found = shipped()?.into_iter().find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.with_context(|| format!("deploy/weft.yaml has no {kind} {name}"))
}

impl Lab {
    /// Puts what is shipped into the API server, all but the kinds, the DaemonSet and the Deployment.
    pub(super) fn install_manifests(&self) -> Result<()> {
        let api = self.api().context("a lab without an API server")?;
        let apart = ["CustomResourceDefinition", "DaemonSet", "Deployment"];
        let objects = shipped()?.into_iter().filter(|object| !apart.iter().any(|kind| object["kind"] == *kind));
        objects.into_iter().try_for_each(|object| api.put(&object))
    }

    /// Puts the DaemonSet into the API server, and runs its pod on every node.
    ///
    /// # Errors
    /// When a pod does not become ready.
    pub fn start_daemonset(&self) -> Result<Vec<AgentPod>> {
        let api = self.api().context("a lab without an API server")?;
        api.put(&find("DaemonSet", NAME)?)?;
        let nodes = self.contents().nodes.clone();
        let pods: Vec<_> = nodes.iter().map(|node| self.launch_agent_pod(node)).collect::<Result<_>>()?;
        pods.iter().try_for_each(|pod| self.see_ready(pod))?;
        Ok(pods)
    }

    /// Starts one more pod of the DaemonSet on a node, beside any that runs there, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_agent_pod(&self, node: &Node) -> Result<AgentPod> {
        let pod = self.launch_agent_pod(node)?;
        self.see_ready(&pod)?;
        Ok(pod)
    }

    /// Waits until an agent's pod is ready, and says so in its status.
    fn see_ready(&self, pod: &AgentPod) -> Result<()> {
        pod.agent.wait_ready()?;
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{}/status", pod.name);
        let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        self.api().context("no API server")?.merge(&path, &ready).map(drop)
    }

    fn launch_agent_pod(&self, node: &Node) -> Result<AgentPod> {
        let sandbox = self.agent_sandbox(node)?;
        let hold = sandbox.start(self, "hold")?;
        self.contents().holders.push((node.name().to_owned(), hold.clone()));
        let socket = sandbox.directory.join("hold.sock");
        wait::until("the holder's socket", PATIENCE, || match hold.exited() {
            Some(status) => bail!("the holder ended with {status}:\n{}", hold.log()),
            None if socket.exists() => Ok(()),
            None => bail!("{} does not exist", socket.display()),
        })?;
        let agent = self.launch_agent_in(&sandbox)?;
        Ok(AgentPod { name: sandbox.name.clone(), node: node.clone(), hold, agent })
    }

    fn launch_agent_in(&self, sandbox: &Sandbox) -> Result<Agent> {
        let process = sandbox.start(self, "agent")?;
        let (node, directory) = (sandbox.node.clone(), sandbox.directory.clone());
        let agent = Agent { inner: Arc::new(Inner { node, process, directory, baseline: Mutex::new(None) }) };
        self.contents().agents.push(agent.clone());
        Ok(agent)
    }

    /// Starts only the holder of a further pod on a node, as in the moment before its agent starts.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn start_holder_of_next_pod(&self, node: &Node) -> Result<PartialPod> {
        let before = self.holder_on(node).map(|holder| holder.log().len());
        let sandbox = self.agent_sandbox(node)?;
        let hold = sandbox.start(self, "hold")?;
        self.contents().holders.push((node.name().to_owned(), hold.clone()));
        wait::holds("the new holder to hold", || hold.log().contains("holding listeners"))?;
        ensure!(before.is_some(), "no holder ran on {}", node.name());
        Ok(PartialPod { sandbox, hold })
    }

    /// Starts the agent of a pod whose holder runs already.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch_agent_of(&self, pod: PartialPod) -> Result<AgentPod> {
        let agent = self.launch_agent_in(&pod.sandbox)?;
        Ok(AgentPod { name: pod.sandbox.name.clone(), node: pod.sandbox.node, hold: pod.hold, agent })
    }

    /// Deletes a pod of the DaemonSet as kubelet does it: the containers are told to stop, the sidecar last.
    ///
    /// # Errors
    /// When one does not stop in time or not well.
    pub fn end_agent_pod(&self, pod: &AgentPod) -> Result<()> {
        let status = pod.agent.process().terminate(PATIENCE)?;
        ensure!(status.success(), "{} ended with {status}", pod.agent.process().name());
        self.end_holder(&pod.hold)?;
        self.api().context("no API server")?.remove("Pod", NAMESPACE, &pod.name)
    }

    /// Ends a holder.
    ///
    /// # Errors
    /// When it stays.
    pub fn end_holder(&self, holder: &Process) -> Result<()> {
        holder.terminate(PATIENCE).map(drop)
    }

    /// Deletes the DaemonSet; its pods are not touched, which is kubelet's to do.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn delete_daemonset(&self) -> Result<()> {
        self.api().context("no API server")?.remove("DaemonSet", NAMESPACE, NAME)
    }

    /// The object of a node's pod of the DaemonSet, and all that kubelet makes before its first container.
    fn agent_sandbox(&self, node: &Node) -> Result<Sandbox> {
        let api = self.api().context("a lab without an API server")?;
        let template = find("DaemonSet", NAME)?["spec"]["template"].clone();
        let name = format!("{NAME}-{}-{}", node.name(), self.contents().holders.len());
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": template["metadata"]["labels"]},
            "status": {"phase": "Running", "podIP": node.addresses().0, "podIPs": [{"ip": node.addresses().0}]}
        });
        object["spec"]["nodeName"] = json!(node.name());
        api.put(&object)?;
        let made = api.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"))?;
        let uid = made["metadata"]["uid"].as_str().context("a pod without UID")?.to_owned();
        let directory = self.directory().join("nodes").join(node.name());
        std::fs::create_dir_all(directory.join("state"))?;
        let host = vec![
            ("/run/weft".into(), directory.clone()),
            ("/var/lib/weft".into(), directory.join("state")),
            ("/sys/fs/bpf".into(), self.directory().join("bpf")),
            ("/sys/fs/cgroup".into(), sandbox::shown(node.cgroup())?),
            ("/proc/sys/net".into(), "/proc/sys/net".into()),
        ];
        let home = directory.join("pods").join(&name);
        let netns = node.netns().clone();
        Sandbox { name, uid, node: node.clone(), netns, spec: template["spec"].clone(), host, directory, home }
            .made(self)
    }
}

/// A pod of which only the holder runs.
pub struct PartialPod {
    sandbox: Sandbox,
    hold: Process,
}
