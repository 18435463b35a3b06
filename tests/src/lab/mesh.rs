//! Starting the mesh on the lab's nodes, and waiting for what it publishes about their pods.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::agent::{Agent, AgentOptions, Inner, METRICS_PORT, READY};
use super::process::Place;
use super::{Lab, Node, Pod, Process, binary, cgroup};
use crate::wait;

/// Time for a label to take effect.
const ENROLMENT: Duration = Duration::from_secs(30);

impl Lab {
    /// Starts a holder and an agent on every node and waits until all are ready.
    ///
    /// # Errors
    /// When one does not become ready.
    pub fn start_agents(&self) -> Result<Vec<Agent>> {
        self.start_agents_with(&AgentOptions::default())
    }

    /// The same, all of them with these options.
    ///
    /// # Errors
    /// As [`Self::start_agents`].
    pub fn start_agents_with(&self, options: &AgentOptions) -> Result<Vec<Agent>> {
        let nodes = self.contents().nodes.clone();
        let agents: Vec<_> =
            nodes.iter().map(|node| self.launch_agent(node, options.clone())).collect::<Result<_>>()?;
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
        let mut command = options.clock.as_deref().map(faketime).transpose()?.unwrap_or_default();
        command.extend([binary("weft")?.display().to_string(), "agent".into()]);
        let source = match self.api() {
            Some(api) => ("--kubeconfig", api.kubeconfig().display().to_string()),
            None => ("--manifests", self.manifests.directory().display().to_string()),
        };
        for (option, value) in [
            ("--node-name", node.name().to_owned()),
            source,
            ("--status", self.run.path().join("status").display().to_string()),
            ("--state", path("state")),
            ("--bpffs", self.run.path().join("bpf").display().to_string()),
            ("--instance", node.name().to_owned()),
            ("--cgroup", node.cgroup().display().to_string()),
            ("--admin-socket", path("admin.sock")),
            ("--hold-socket", path("hold.sock")),
            ("--metrics-address", format!("[::]:{METRICS_PORT}")),
        ] {
            command.extend([option.to_owned(), value]);
        }
        if !options.arguments.iter().any(|argument| argument == "--unenrol-grace") {
            command.extend(["--unenrol-grace".to_owned(), "1s".to_owned()]);
        }
        if !options.arguments.iter().any(|argument| argument == "--ca-address") {
            command.extend(["--ca".to_owned(), self.run.path().join("ca").display().to_string()]);
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
}

/// What has a program run with another wall clock.
fn faketime(clock: &str) -> Result<Vec<String>> {
    let library = format!("/usr/lib/{}-linux-gnu/faketime/libfaketimeMT.so.1", std::env::consts::ARCH);
    ensure!(Path::new(&library).exists(), "{library} is missing: cargo xtask setup");
    let set = [
        format!("LD_PRELOAD={library}"),
        format!("FAKETIME={clock}"),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        "DONT_FAKE_MONOTONIC=1".into(),
        "NO_FAKE_STAT=1".into(),
    ];
    Ok(["/usr/bin/env".to_owned()].into_iter().chain(set).collect())
}

impl Lab {
    /// Whether a pod's agent has published it live.
    #[must_use]
    pub fn is_live(&self, pod: &Pod) -> bool {
        if let Some(api) = self.api() {
            return api.mark(pod).is_ok_and(|mark| mark.as_deref() == Some("enrolled"));
        }
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
