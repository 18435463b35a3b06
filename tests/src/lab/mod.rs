//! The lab: nodes and pods on one kernel, real processes in them, and one agent a node.
//!
//! [`Lab::new`] makes the fabric; [`Lab::node`] and [`Lab::pod`] add to it; [`Lab::start_agents`] starts the mesh as a user
//! would. [`Lab::finish`] takes everything down and fails on whatever was left behind, so a journey need not check for leaks
//! itself; a lab that is dropped before is only cleared.

mod agent;
mod api_server;
pub mod cgroup;
mod cluster;
mod controller;
mod entries;
mod issuer;
mod kubectl;
mod kubelet;
mod manifests;
mod mesh;
mod netns;
mod node;
mod objects;
mod pod;
mod pod_spec;
mod process;
mod rundir;
mod service;
mod shared;
mod state;
mod teardown;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub use agent::{Agent, AgentOptions};
pub use api_server::ApiServer;
pub use controller::Controller;
pub use issuer::Issuer;
pub use kubelet::{AgentPod, ControllerPod, PartialPod, shipped};
pub use manifests::{MESH, Manifests};
pub use netns::NetNs;
pub use node::{Layout, Node};
pub use pod::Pod;
pub use pod_spec::PodSpec;
pub use process::{Process, binary};
pub use service::{Endpoint, Service, ServiceSpec};
pub use state::NetState;

use rundir::RunDir;

/// The namespace pods and services are in unless told otherwise.
pub const NAMESPACE: &str = "demo";

/// A lab. Dropping it removes all it made; [`Lab::finish`] also judges what the mesh left behind.
pub struct Lab {
    run: RunDir,
    fabric: NetNs,
    manifests: Manifests,
    contents: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    services: Vec<Service>,
    namespaces: Vec<String>,
    agents: Vec<Agent>,
    holders: Vec<(String, Process)>,
    issuers: Vec<Issuer>,
    processes: Vec<Process>,
    controllers: Vec<Controller>,
    expected_errors: Vec<String>,
    next: u16,
    torn_down: bool,
}

impl Lab {
    /// An empty lab: a run directory, a cgroup and a fabric to join nodes.
    ///
    /// # Errors
    /// When a privilege or a kernel feature is missing, with the remedy.
    pub fn new(name: &str) -> Result<Self> {
        cluster::demand_double("is configured by a directory of manifests")?;
        let lab = Self::bare(name)?;
        lab.namespace(NAMESPACE)?;
        Ok(lab)
    }

    fn bare(name: &str) -> Result<Self> {
        let run = RunDir::create(name)?;
        std::fs::create_dir(run.path().join("logs"))?;
        let fabric = NetNs::create(&run.path().join("netns/fabric"))?;
        fabric.ip(&["link add br0 type bridge".into(), "link set br0 up".into()])?;
        let manifests = Manifests::new(run.path(), None);
        Ok(Self { run, fabric, manifests, contents: Mutex::default() })
    }

    /// The directory that holds all of the lab's files.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.run.path()
    }

    /// The manifests all agents read.
    #[must_use]
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// The namespace whose bridge joins the nodes: every packet between two nodes passes it.
    #[must_use]
    pub fn fabric(&self) -> &NetNs {
        &self.fabric
    }

    /// Adds a node.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn node(&self, name: &str) -> Result<Node> {
        self.node_with(name, Layout::default())
    }

    /// Adds a node whose pods are linked to it so.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn node_with(&self, name: &str, layout: Layout) -> Result<Node> {
        let mut contents = self.contents();
        let node = Node::create(&self.run, &self.fabric, name, layout, &contents.nodes)?;
        contents.nodes.push(node.clone());
        drop(contents);
        if self.is_shared() {
            self.manifests
                .put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {}}}))?;
        }
        Ok(node)
    }

    /// Describes a pod on a node; [`PodSpec::create`] makes it.
    #[must_use]
    pub fn pod<'a>(&'a self, node: &Node, name: &str) -> PodSpec<'a> {
        PodSpec::new(self, node, name)
    }

    /// Describes a Service; [`ServiceSpec::create`] makes it.
    #[must_use]
    pub fn service<'a>(&'a self, name: &str) -> ServiceSpec<'a> {
        ServiceSpec::new(self, name)
    }

    /// Adds a Namespace; harmless when it exists.
    ///
    /// # Errors
    /// When its manifest cannot be written.
    pub fn namespace(&self, name: &str) -> Result<()> {
        let mut contents = self.contents();
        if contents.namespaces.iter().any(|known| known == name) {
            return Ok(());
        }
        contents.namespaces.push(name.to_owned());
        self.manifests.put(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}
        }))
    }

    /// Says which zone a node is in, as its Node object does.
    ///
    /// # Errors
    /// When the object cannot be written.
    pub fn zone(&self, node: &Node, zone: &str) -> Result<()> {
        self.manifests.put(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": node.name(), "labels": {"topology.kubernetes.io/zone": zone}}
        }))
    }

    /// Labels a Namespace into or out of the mesh, as `kubectl label` would.
    ///
    /// # Errors
    /// When its manifest cannot be written.
    pub fn label_namespace(&self, name: &str, meshed: bool) -> Result<()> {
        self.manifests.change("Namespace", "", name, |object| {
            let labels = &mut object["metadata"]["labels"];
            if meshed {
                labels[MESH] = Value::from("enabled");
            } else if let Some(labels) = labels.as_object_mut() {
                labels.remove(MESH);
            }
        })
    }

    /// Labels [`NAMESPACE`] into the mesh and waits until its pods are live on every node that has an agent.
    ///
    /// # Errors
    /// When they do not become live.
    pub fn mesh(&self) -> Result<()> {
        self.label_namespace(NAMESPACE, true)?;
        let pods = self.contents().pods.clone();
        for pod in pods.iter().filter(|pod| pod.namespace() == NAMESPACE && self.agent_on(pod.node()).is_some()) {
            self.wait_live(pod)?;
        }
        Ok(())
    }

    /// Declares that logs may hold ERROR lines with this text; without it they fail the test.
    pub fn expect_error(&self, text: &str) {
        self.contents().expected_errors.push(text.to_owned());
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.run.path().join("logs").join(format!("{name}.log"))
    }
}

/// Runs a short command to its end, with `input` on its standard input; yields its standard output.
pub(crate) fn run_command(command: &[String], input: &str) -> Result<String> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {program}: `cargo xtask setup` installs what the lab needs"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(|| format!("writing to {program}"))?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
        bail!("{command:?} failed: {}\n{input}", said.join("\n"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
