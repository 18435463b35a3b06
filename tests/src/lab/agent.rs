//! Agents and holders: the real `weft` binary, one of each a node, and what can be asked of them.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Node, Pod, Process, binary, run_command};
use crate::metrics::Metrics;
use crate::wait;

/// Time an agent gets to load its programs and say that it is ready, on a machine busy with other labs.
pub(super) const READY: Duration = Duration::from_secs(60);

pub(super) const METRICS_PORT: u16 = 15020;

/// An agent. Clones are the same agent.
#[derive(Clone)]
pub struct Agent {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) node: Node,
    pub(super) process: Process,
    pub(super) directory: PathBuf,
    pub(super) baseline: Mutex<Option<BTreeMap<String, usize>>>,
}

/// How to start an agent, where it differs from the usual.
#[derive(Clone, Debug, Default)]
pub struct AgentOptions {
    /// Extra arguments.
    pub arguments: Vec<String>,
    /// By how much its clock is off, as libfaketime reads it (`-1h`); what it measures durations by is not.
    pub clock: Option<String>,
}

impl AgentOptions {
    /// With these arguments after the usual ones.
    #[must_use]
    pub fn with(arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(), clock: None }
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

    /// The cgroup it is alone in.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        self.node().cgroup().join(self.process().name())
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
                // A predecessor that has not handed over yet answers at the same addresses.
                let pid = self.ask("/status")?["pid"].clone();
                if pid != self.process().pid() {
                    bail!("process {pid} answers");
                }
                return self.readyz().map(|_| None);
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

    /// What its readiness probe is answered.
    ///
    /// # Errors
    /// When it is not ready, with what it says of that.
    pub fn readyz(&self) -> Result<String> {
        self.get("/readyz")
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

    pub(super) fn workload_is_live(&self, pod: &Pod) -> Result<bool> {
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
