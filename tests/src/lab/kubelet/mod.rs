//! The DaemonSet of `deploy/weft.yaml` on the lab's nodes: its pod's containers as kubelet and a runtime would make them of
//! that very manifest (capabilities, mounts, read-only root, seccomp, environment, probes' ports), run by crun.
//!
//! What differs from a cluster: host paths are the lab's own directories, the host's cgroups are the node's, and the image
//! is `WEFT_TEST_ROOTFS` (an unpacked archive of `cargo xtask image`) or the built program beside the host's libraries.

mod bundle;
mod seccomp;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::agent::{Agent, Inner};
use super::process::Place;
use super::{Lab, Node, Process, cgroup, cluster};
use crate::wait;
use bundle::{Bundle, Volumes};

/// The namespace of the installation.
const NAMESPACE: &str = "weft-system";
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

/// The objects of the shipped manifests.
///
/// # Errors
/// When they cannot be read.
pub fn shipped() -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy/weft.yaml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_saphyr::from_multiple(&text).context("deploy/weft.yaml")
}

fn daemonset() -> Result<Value> {
    shipped()?.into_iter().find(|o| o["kind"] == "DaemonSet" && o["metadata"]["name"] == NAME).context("no DaemonSet")
}

impl Lab {
    /// Puts the DaemonSet into the API server, and runs its pod on every node.
    ///
    /// # Errors
    /// When a pod does not become ready.
    pub fn start_daemonset(&self) -> Result<Vec<AgentPod>> {
        let api = self.api().context("a lab without an API server")?;
        api.put(&daemonset()?)?;
        let nodes = self.contents().nodes.clone();
        let pods: Vec<_> = nodes.iter().map(|node| self.launch_agent_pod(node)).collect::<Result<_>>()?;
        pods.iter().try_for_each(|pod| pod.agent.wait_ready())?;
        Ok(pods)
    }

    /// Starts one more pod of the DaemonSet on a node, beside any that runs there, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_agent_pod(&self, node: &Node) -> Result<AgentPod> {
        let pod = self.launch_agent_pod(node)?;
        pod.agent.wait_ready()?;
        Ok(pod)
    }

    fn launch_agent_pod(&self, node: &Node) -> Result<AgentPod> {
        let sandbox = self.sandbox(node)?;
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
        let sandbox = self.sandbox(node)?;
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

    /// A pod's object, token and directories, before its first container.
    fn sandbox(&self, node: &Node) -> Result<Sandbox> {
        let api = self.api().context("a lab without an API server")?;
        let spec = daemonset()?["spec"]["template"]["spec"].clone();
        let name = format!("{NAME}-{}-{}", node.name(), self.contents().holders.len());
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod", "spec": spec,
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": daemonset()?["spec"]["template"]["metadata"]["labels"]},
            "status": {"phase": "Running", "podIP": node.addresses().0, "podIPs": [{"ip": node.addresses().0}]}
        });
        object["spec"]["nodeName"] = json!(node.name());
        api.put(&object)?;
        let made = api.get(&format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"))?;
        let uid = made["metadata"]["uid"].as_str().context("a pod without UID")?.to_owned();
        let directory = self.directory().join("nodes").join(node.name());
        let home = directory.join("pods").join(&name);
        std::fs::create_dir_all(home.join("account"))?;
        std::fs::create_dir_all(directory.join("state"))?;
        std::fs::create_dir_all(self.directory().join("ca"))?;
        let sandbox = Sandbox { name, uid, node: node.clone(), spec, directory, home };
        sandbox.write_account(api)?;
        Ok(sandbox)
    }
}

/// A pod of which only the holder runs.
pub struct PartialPod {
    sandbox: Sandbox,
    hold: Process,
}

struct Sandbox {
    name: String,
    uid: String,
    node: Node,
    spec: Value,
    /// The node's own files.
    directory: PathBuf,
    /// The pod's.
    home: PathBuf,
}

impl Sandbox {
    /// What kubelet mounts of the pod's service account: a token bound to the pod, the authority, the namespace.
    fn write_account(&self, api: &cluster::ApiServer) -> Result<()> {
        let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": self.name, "uid": self.uid});
        let account = self.spec["serviceAccountName"].as_str().unwrap_or("default");
        let directory = self.home.join("account");
        std::fs::write(directory.join("token"), api.token(NAMESPACE, account, &[], &bound)?)?;
        std::fs::write(directory.join("ca.crt"), api.authority()?)?;
        std::fs::write(directory.join("namespace"), NAMESPACE)?;
        // Projected tokens: an audience each.
        for volume in self.spec["volumes"].as_array().into_iter().flatten() {
            for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
                let Some(path) = source["serviceAccountToken"]["path"].as_str() else { continue };
                let audience = source["serviceAccountToken"]["audience"].as_str().unwrap_or_default();
                let projected = self.home.join(volume["name"].as_str().unwrap_or_default());
                std::fs::create_dir_all(&projected)?;
                std::fs::write(projected.join(path), api.token(NAMESPACE, account, &[audience], &bound)?)?;
            }
        }
        Ok(())
    }

    /// Makes a container's bundle and has crun run it.
    fn start(&self, lab: &Lab, container: &str) -> Result<Process> {
        let listed = ["initContainers", "containers"].iter().filter_map(|list| self.spec[*list].as_array()).flatten();
        let spec = listed.into_iter().find(|c| c["name"] == container).with_context(|| format!("no {container}"))?;
        // The runtime finds the unified hierarchy where unified machines have it.
        let unified = cgroup::mount_point()?;
        let node_cgroup = Path::new("/sys/fs/cgroup").join(self.node.cgroup().strip_prefix(&unified)?);
        let volumes = Volumes {
            // Nobody issues certificates in the lab's cluster yet: the embedded CA is one for all nodes.
            extra: vec![(lab.directory().join("ca"), "/var/lib/weft/ca".into())],
            host: vec![
                ("/run/weft".into(), self.directory.clone()),
                ("/var/lib/weft".into(), self.directory.join("state")),
                ("/sys/fs/bpf".into(), lab.directory().join("bpf")),
                ("/sys/fs/cgroup".into(), node_cgroup),
                ("/proc/sys/net".into(), "/proc/sys/net".into()),
            ],
            home: self.home.clone(),
        };
        let bundle = Bundle { pod: &self.spec, container: spec, node: &self.node, volumes: &volumes };
        let directory = self.home.join(container);
        bundle.write(&directory)?;
        // As containerd with the systemd driver names it, in a cgroup namespace of its own.
        let own_cgroup = cluster::cgroups(self.node.cgroup(), &self.uid, container).1;
        cgroup::create(&own_cgroup)?;
        let name = format!("{}-{container}", self.name);
        let id = format!("{}-{name}", lab.directory().file_name().and_then(|n| n.to_str()).unwrap_or("lab"));
        let pid_file = directory.join("pid");
        let text = |path: &Path| path.display().to_string();
        let command = [
            // crun refuses machines with both hierarchies. It is shown the unified one only, as nodes have it.
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount --bind \"$0\" /sys/fs/cgroup && exec \"$@\"",
            &text(&unified),
            "crun",
            "--cgroup-manager=disabled",
            "--root",
            &text(&lab.directory().join("crun")),
            "run",
            "--bundle",
            &text(&directory),
            "--pid-file",
            &text(&pid_file),
            &id,
        ]
        .map(str::to_owned);
        let place =
            Place { name: name.clone(), netns: self.node.netns(), cgroup: &own_cgroup, log: lab.log_path(&name) };
        let process = Process::start(place, &command)?;
        let pid = wait::until(&format!("{name} to run"), PATIENCE, || {
            if let Some(status) = process.exited() {
                return Ok(Err(anyhow::anyhow!("{name} ended with {status}: {}", process.log())));
            }
            Ok(Ok(std::fs::read_to_string(&pid_file)?.trim().parse::<i32>()?))
        })??;
        process.waits_for(pid);
        Ok(process)
    }
}
