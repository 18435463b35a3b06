//! Agents and holders: the real `weft` binary, one of each a node, and what can be asked of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::process::Place;
use super::{Lab, Node, Pod, Process, binary, cgroup, run_command};
use crate::metrics::Metrics;
use crate::wait;

/// Time an agent gets to load its programs and say that it is ready, on a machine busy with other labs.
const READY: Duration = Duration::from_secs(60);

/// Time for a label to take effect.
const ENROLMENT: Duration = Duration::from_secs(30);

const METRICS_PORT: u16 = 15020;

/// An agent. Clones are the same agent.
#[derive(Clone)]
pub struct Agent {
    inner: Arc<Inner>,
}

struct Inner {
    node: Node,
    process: Process,
    directory: PathBuf,
    baseline: Mutex<Option<BTreeMap<String, usize>>>,
}

/// How to start an agent, where it differs from the usual.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// Extra arguments.
    pub arguments: Vec<String>,
}

impl AgentOptions {
    /// With these arguments after the usual ones.
    #[must_use]
    pub fn with(arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(|&argument| argument.to_owned()).collect() }
    }
}

impl Lab {
    /// Starts a holder and an agent on every node and waits until all are ready.
    ///
    /// # Errors
    /// When one does not become ready.
    pub fn start_agents(&self) -> Result<Vec<Agent>> {
        let nodes = self.contents().nodes.clone();
        let agents: Vec<_> =
            nodes.iter().map(|node| self.launch_agent(node, AgentOptions::default())).collect::<Result<_>>()?;
        agents.iter().try_for_each(Agent::wait_ready)?;
        Ok(agents)
    }

    /// Starts an agent (and the node's holder, if it has none) and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start_agent(&self, node: &Node, options: AgentOptions) -> Result<Agent> {
        let agent = self.launch_agent(node, options)?;
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts an agent without waiting: a successor, or one that is expected to fail.
    ///
    /// # Errors
    /// When a process cannot be started.
    pub fn launch_agent(&self, node: &Node, options: AgentOptions) -> Result<Agent> {
        self.ensure_holder(node)?;
        let number = self.contents().agents.len();
        let name = format!("agent-{}-{number}", node.name());
        let directory = self.node_directory(node)?;
        let own_cgroup = node.cgroup().join(&name);
        cgroup::create(&own_cgroup)?;
        let path = |name: &str| directory.join(name).display().to_string();
        let mut command = vec![binary("weft")?.display().to_string(), "agent".into()];
        for (option, value) in [
            ("--node", node.name().to_owned()),
            ("--manifests", self.manifests.directory().display().to_string()),
            ("--status", self.run.path().join("status").display().to_string()),
            ("--state", path("state")),
            ("--ca", self.run.path().join("ca").display().to_string()),
            ("--bpffs", self.run.path().join("bpf").display().to_string()),
            ("--instance", node.name().to_owned()),
            ("--cgroup", node.cgroup().display().to_string()),
            ("--admin-socket", path("admin.sock")),
            ("--hold-socket", path("hold.sock")),
            ("--metrics-address", format!("[::]:{METRICS_PORT}")),
        ] {
            command.extend([option.to_owned(), value]);
        }
        command.extend(options.arguments);
        let log = self.log_path(&name);
        let process = Process::start(Place { name, netns: node.netns(), cgroup: &own_cgroup, log }, &command)?;
        let agent =
            Agent { inner: Arc::new(Inner { node: node.clone(), process, directory, baseline: Mutex::new(None) }) };
        self.contents().agents.push(agent.clone());
        Ok(agent)
    }

    fn ensure_holder(&self, node: &Node) -> Result<()> {
        let running = self.holder_on(node).is_some_and(|holder| holder.exited().is_none());
        if running {
            return Ok(());
        }
        let name = format!("hold-{}", node.name());
        let socket = self.node_directory(node)?.join("hold.sock");
        let own_cgroup = node.cgroup().join(&name);
        cgroup::create(&own_cgroup)?;
        let command =
            [binary("weft")?.display().to_string(), "hold".into(), "--socket".into(), socket.display().to_string()];
        let log = self.log_path(&name);
        let process = Process::start(Place { name, netns: node.netns(), cgroup: &own_cgroup, log }, &command)?;
        self.contents().holders.push((node.name().to_owned(), process.clone()));
        wait::until("the holder's socket", READY, || match process.exited() {
            Some(status) => bail!("the holder ended with {status}:\n{}", process.log()),
            None if socket.exists() => Ok(()),
            None => bail!("{} does not exist", socket.display()),
        })
    }

    /// The holder of a node, if it has one.
    #[must_use]
    pub fn holder_on(&self, node: &Node) -> Option<Process> {
        self.contents().holders.iter().rev().find(|(name, _)| name == node.name()).map(|(_, process)| process.clone())
    }

    /// The newest agent of a node that is running.
    #[must_use]
    pub fn agent_on(&self, node: &Node) -> Option<Agent> {
        let contents = self.contents();
        contents
            .agents
            .iter()
            .rev()
            .find(|agent| agent.inner.node.name() == node.name() && agent.process().exited().is_none())
            .cloned()
    }

    fn node_directory(&self, node: &Node) -> Result<PathBuf> {
        let directory = self.run.path().join("nodes").join(node.name());
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// Whether a pod's agent has published it live.
    #[must_use]
    pub fn is_live(&self, pod: &Pod) -> bool {
        let file = self.run.path().join("status").join(format!("{}.yaml", pod.node().name()));
        std::fs::read_to_string(file).is_ok_and(|text| text.contains(pod.uid()))
    }

    /// Waits until a pod is live, and every running agent knows it.
    ///
    /// # Errors
    /// When it does not become live.
    pub fn wait_live(&self, pod: &Pod) -> Result<()> {
        wait::until(&format!("{} to be live", pod.name()), ENROLMENT, || {
            if !self.is_live(pod) {
                bail!("its agent has not published it");
            }
            self.every_agent_knows(pod, true)
        })
    }

    /// Waits until a pod is published live no more, and every running agent knows it.
    ///
    /// # Errors
    /// When it stays live.
    pub fn wait_not_live(&self, pod: &Pod) -> Result<()> {
        wait::until(&format!("{} to be withdrawn", pod.name()), ENROLMENT, || {
            if self.is_live(pod) {
                bail!("its agent still publishes it");
            }
            self.every_agent_knows(pod, false)
        })
    }

    fn every_agent_knows(&self, pod: &Pod, live: bool) -> Result<()> {
        let agents: Vec<_> =
            self.contents().agents.iter().filter(|agent| agent.process().exited().is_none()).cloned().collect();
        for agent in agents {
            if agent.workload_is_live(pod)? != live {
                bail!("{} has not heard yet", agent.process().name());
            }
        }
        Ok(())
    }

    /// Waits until nothing of the mesh is left in a pod's network namespace.
    ///
    /// # Errors
    /// When something stays: what it is.
    pub fn wait_restored(&self, pod: &Pod) -> Result<()> {
        wait::until(&format!("{} to be as it was before the mesh", pod.name()), ENROLMENT, || {
            let difference = pod.before().difference(&super::NetState::of(pod.netns())?);
            if difference.is_empty() { Ok(()) } else { bail!("{}", difference.join("\n")) }
        })
    }
}

impl Agent {
    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.inner.process
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// Its state directory.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.inner.directory.join("state")
    }

    /// Its admin socket.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.inner.directory.join("admin.sock")
    }

    /// Waits until it reports ready.
    ///
    /// # Errors
    /// When it ends, or the deadline passes.
    pub fn wait_ready(&self) -> Result<()> {
        let name = self.process().name().to_owned();
        wait::until(&format!("{name} to be ready"), READY, || {
            if self.process().exited().is_none() {
                return self.get("/readyz").map(|_| None);
            }
            Ok(self.process().exited())
        })
        .and_then(|ended| match ended {
            None => Ok(()),
            Some(status) => bail!("{name} ended with {status}:\n{}", tail(&self.process().log())),
        })?;
        let mut baseline = self.inner.baseline.lock().unwrap_or_else(PoisonError::into_inner);
        *baseline = Some(self.descriptor_kinds()?);
        Ok(())
    }

    /// Its metrics, by HTTP from its node.
    ///
    /// # Errors
    /// When the port does not answer.
    pub fn metrics(&self) -> Result<Metrics> {
        self.get("/metrics").map(|text| Metrics::parse(&text))
    }

    /// The kernel's verdict counters by name.
    ///
    /// # Errors
    /// When the port does not answer.
    pub fn verdicts(&self) -> Result<BTreeMap<String, u64>> {
        Ok(self.metrics()?.by_label("weft_steering_verdicts_total", "verdict"))
    }

    fn get(&self, path: &str) -> Result<String> {
        let path = path.to_owned();
        self.node().netns().run(move || crate::metrics::get((Ipv4Addr::LOCALHOST, METRICS_PORT).into(), &path))
    }

    /// Runs the `weft` command line against this agent (`["workloads"]`); yields its output.
    ///
    /// # Errors
    /// When it exits non-zero.
    pub fn weft(&self, arguments: &[&str]) -> Result<String> {
        let mut command = vec![binary("weft")?.display().to_string()];
        command.extend(arguments.iter().map(|&argument| argument.to_owned()));
        command.extend(["--admin-socket".to_owned(), self.admin_socket().display().to_string()]);
        run_command(&command, "")
    }

    /// Asks its admin socket, as root on the node may: `GET /workloads`, `GET /connections`, ….
    ///
    /// # Errors
    /// When it does not answer, or not with 200.
    pub fn ask(&self, path: &str) -> Result<Value> {
        let mut stream = UnixStream::connect(self.admin_socket()).context("connecting to the admin socket")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let body = crate::metrics::exchange(&mut stream, path)?;
        serde_json::from_str(&body).with_context(|| format!("the answer to {path}"))
    }

    /// Runs `weft check` on a directory of manifests.
    ///
    /// # Errors
    /// What it finds wrong.
    pub fn check(directory: &Path) -> Result<String> {
        run_command(
            &[
                binary("weft")?.display().to_string(),
                "check".into(),
                "--manifests".into(),
                directory.display().to_string(),
            ],
            "",
        )
    }

    fn workload_is_live(&self, pod: &Pod) -> Result<bool> {
        let workloads = self.ask("/workloads")?;
        let workload = workloads.as_array().into_iter().flatten().find(|workload| workload["uid"] == pod.uid());
        Ok(workload.is_some_and(|workload| workload["mesh"] == "live"))
    }

    /// Its descriptors counted by kind.
    ///
    /// # Errors
    /// When it has ended.
    pub fn descriptor_kinds(&self) -> Result<BTreeMap<String, usize>> {
        let mut kinds = BTreeMap::new();
        for target in self.process().descriptors()? {
            let kind = target.split([':', '[']).next().unwrap_or_default().to_owned();
            let kind = if kind == "anon_inode" { target } else { kind };
            *kinds.entry(kind).or_default() += 1;
        }
        Ok(kinds)
    }

    /// The descriptors it had when it became ready.
    pub(super) fn baseline(&self) -> Option<BTreeMap<String, usize>> {
        self.inner.baseline.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
