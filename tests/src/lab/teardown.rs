//! Taking a lab down, and judging what the mesh left behind: the checks every journey gets without asking.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::programs::{SchedClassifier, TcAttachType};

use super::netns::{NetNs, NsId};
use super::{Agent, ApiServer, Lab, Node, Pod, cgroup, entries, kubelet, state};
use crate::wait;

/// Time the mesh gets to let go of everything.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// Time the kernel gets to end processes that were killed with their namespaces.
const RELEASE: Duration = Duration::from_secs(10);

/// Lines of each log shown when a lab fails.
const TAIL: usize = 25;

/// Namespaces that are held open.
type Kept = BTreeMap<NsId, File>;

impl Lab {
    /// Takes the lab down and reports everything that was left behind. Every journey ends with it.
    ///
    /// # Errors
    /// What was left behind.
    pub fn finish(self) -> Result<()> {
        let problems = self.tear_down(true);
        if problems.is_empty() { Ok(()) } else { bail!("{}", problems.join("\n")) }
    }

    fn tear_down(&self, judge: bool) -> Vec<String> {
        if std::mem::replace(&mut self.contents().torn_down, true) {
            return Vec::new();
        }
        let mut problems = Vec::new();
        let mut note = |what: &str, outcome: Result<()>| {
            if let Err(problem) = outcome {
                problems.push(format!("{what}: {problem:#}"));
            }
        };
        let namespaces = self.keep_namespaces();
        if judge {
            note("leaving the mesh", self.leave_mesh());
            note("stopping the agents", self.stop_agents());
            note("logs", self.judge_logs());
        }
        note("clearing the cluster", self.api().map_or(Ok(()), ApiServer::clear));
        note("clearing the lab", self.run.remove());
        if judge {
            note("namespaces", wait::until("the lab's namespaces to go", RELEASE, || nobody_holds(&namespaces)));
        }
        problems
    }

    /// Ends the pods' processes, labels everything out of the mesh, and waits until nothing of it is left.
    fn leave_mesh(&self) -> Result<()> {
        let (pods, agents) = {
            let contents = self.contents();
            (contents.pods.clone(), contents.agents.clone())
        };
        let running: Vec<&Agent> = agents.iter().filter(|agent| agent.process().exited().is_none()).collect();
        // Without a controller agents would go on serving whom its slices name.
        let pods: Vec<_> = pods.into_iter().filter(|pod| pod.namespace() != kubelet::NAMESPACE).collect();
        for pod in &pods {
            std::fs::write(pod.cgroup().join("cgroup.kill"), "1").context("ending a pod's processes")?;
        }
        for pod in &pods {
            wait::until("a pod's processes to end", DEADLINE, || match cgroup::members(pod.cgroup()) {
                pids if pids.is_empty() => Ok(()),
                pids => bail!("{pids:?} run in {}", pod.name()),
            })?;
        }
        if running.is_empty() {
            return Ok(());
        }
        self.manifests.unlabel_all()?;
        for pod in pods.iter().filter(|pod| running.iter().any(|agent| agent.node().name() == pod.node().name())) {
            self.wait_restored(pod)?;
            wait::until("the mesh's listeners to close", DEADLINE, || no_listeners(pod))?;
        }
        if running.len() == agents.len() {
            // A dead agent's pins hold what it held; only a successor can clear them.
            entries::all_gone(&self.pinned_maps())?;
        }
        running.iter().try_for_each(|agent| descriptors_returned(agent))
    }

    /// Has every running agent take its pins away, then ends agents and holders.
    fn stop_agents(&self) -> Result<()> {
        let (agents, holders, issuers) = {
            let contents = self.contents();
            (contents.agents.clone(), contents.holders.clone(), contents.issuers.clone())
        };
        self.end_controllers()?;
        for issuer in issuers.iter().filter(|issuer| issuer.process().exited().is_none()) {
            let status = issuer.process().terminate(DEADLINE)?;
            if !status.success() {
                bail!("{} ended with {status} on SIGTERM", issuer.process().name());
            }
        }
        let running: Vec<&Agent> = agents.iter().filter(|agent| agent.process().exited().is_none()).collect();
        for agent in &running {
            agent.weft(&["disable"]).with_context(|| format!("disabling {}", agent.process().name()))?;
            let status = agent.process().terminate(DEADLINE)?;
            if !status.success() {
                bail!("{} ended with {status} on SIGTERM", agent.process().name());
            }
        }
        for (_, holder) in &holders {
            holder.terminate(DEADLINE)?;
        }
        if !running.is_empty() {
            let left = pins(&self.run.path().join("bpf"));
            if !left.is_empty() {
                bail!("pinned and left: {left:?}");
            }
        }
        if running.len() == agents.len() {
            let nodes = self.contents().nodes.clone();
            // The kernel takes a program off a moment after its last reference went.
            wait::until("nothing to look at packets any more", DEADLINE, || {
                nodes.iter().try_for_each(|node| nothing_on_links(node.netns()))
            })?;
        }
        Ok(())
    }

    /// A panic or an ERROR line that no journey announced fails it, whatever else went well.
    fn judge_logs(&self) -> Result<()> {
        let expected = self.contents().expected_errors.clone();
        let mut bad = Vec::new();
        for (name, log) in self.logs() {
            for line in log.lines() {
                let error = line.contains("\"level\":\"ERROR\"") || line.contains(" ERROR ");
                let announced = expected.iter().any(|text| line.contains(text.as_str()));
                if line.contains("panicked at") || (error && !announced) {
                    bad.push(format!("{name}: {line}"));
                }
            }
        }
        if bad.is_empty() { Ok(()) } else { bail!("{}", bad.join("\n")) }
    }

    /// All logs by process name.
    #[must_use]
    pub fn logs(&self) -> Vec<(String, String)> {
        let Ok(entries) = std::fs::read_dir(self.run.path().join("logs")) else { return Vec::new() };
        let mut logs: Vec<_> = entries
            .flatten()
            .map(|entry| {
                let bytes = std::fs::read(entry.path()).unwrap_or_default();
                (entry.file_name().to_string_lossy().into_owned(), String::from_utf8_lossy(&bytes).into_owned())
            })
            .collect();
        logs.sort();
        logs
    }

    fn show_logs(&self) {
        for (name, log) in self.logs() {
            let lines: Vec<&str> = log.lines().collect();
            if !lines.is_empty() {
                eprintln!("---- the end of {name}\n{}", lines[lines.len().saturating_sub(TAIL)..].join("\n"));
            }
        }
    }

    /// The lab's namespaces, held open: the numbers of one that is gone are given to the next, which may be another lab's.
    fn keep_namespaces(&self) -> Kept {
        let contents = self.contents();
        let pods = contents.pods.iter().map(Pod::netns);
        let nodes = contents.nodes.iter().map(Node::netns);
        let all = pods.chain(nodes).chain([&self.fabric]);
        all.filter_map(|netns| Some((netns.id(), File::open(netns.path()).ok()?))).collect()
    }
}

impl Drop for Lab {
    /// A lab dropped before [`Lab::finish`] belongs to a journey that failed: its logs say more than what it left.
    fn drop(&mut self) {
        if self.contents().torn_down {
            return;
        }
        self.show_logs();
        for problem in self.tear_down(false) {
            eprintln!("{problem}");
        }
    }
}

fn no_listeners(pod: &Pod) -> Result<()> {
    match state::listeners(pod.netns())? {
        found if found.is_empty() => Ok(()),
        found => bail!("{} still has {found:?}", pod.name()),
    }
}

/// An agent with no pod enrolled may hold what it held when it became ready, and no namespace of a pod.
fn descriptors_returned(agent: &Agent) -> Result<()> {
    let Some(baseline) = agent.baseline() else { return Ok(()) };
    wait::until("the agent's descriptors to return", DEADLINE, || {
        let now = agent.descriptor_kinds()?;
        let grown: Vec<_> = now
            .iter()
            .filter(|(kind, count)| **count > baseline.get(*kind).copied().unwrap_or_default())
            .map(|(kind, count)| format!("{kind}: {} -> {count}", baseline.get(kind).copied().unwrap_or_default()))
            .collect();
        if grown.is_empty() { Ok(()) } else { bail!("{}: {}", agent.process().name(), grown.join(", ")) }
    })
}

/// Neither a program that looks at packets nor a qdisc for one is on any device of a namespace.
pub(super) fn nothing_on_links(netns: &NetNs) -> Result<()> {
    netns.run(|| {
        for link in super::run_command(&["ip", "-o", "link", "show"].map(str::to_owned), "")?.lines() {
            let name = link.split([':', '@']).nth(1).unwrap_or_default().trim();
            for at in [TcAttachType::Ingress, TcAttachType::Egress] {
                let (_, programs) = SchedClassifier::query_tcx(name, at)?;
                if !programs.is_empty() {
                    bail!("{name} still has {} programs at its {at:?}", programs.len());
                }
            }
        }
        let disciplines = super::run_command(&["tc", "qdisc", "show"].map(str::to_owned), "")?;
        match disciplines.lines().find(|line| line.contains("clsact") || line.contains("ingress")) {
            Some(line) => bail!("a qdisc is left: {line}"),
            None => Ok(()),
        }
    })
}

fn pins(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(pins(&entry.path()));
        } else if entry.path().extension().is_none_or(|extension| extension != "debug") {
            // maps.debug and progs.debug are the file system's own.
            found.push(entry.path().display().to_string());
        }
    }
    found
}

/// No process may live in, or hold open, a namespace the lab made.
fn nobody_holds(namespaces: &Kept) -> Result<()> {
    let descriptors = Path::new("/proc").join(std::process::id().to_string()).join("fd");
    let own = |link: &Path| namespaces.values().any(|file| link == descriptors.join(file.as_raw_fd().to_string()));
    // By identity: the link's text is the name it was opened by, which may be the lab's own file.
    let held = |link: &Path| {
        let found = std::fs::metadata(link).is_ok_and(|found| namespaces.contains_key(&(found.dev(), found.ino())));
        found && !own(link)
    };
    for process in std::fs::read_dir("/proc")?.flatten() {
        let path = process.path();
        if path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.parse::<u32>().is_err()) {
            continue;
        }
        let descriptors = std::fs::read_dir(path.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
        for link in descriptors.chain([path.join("ns/net")]) {
            if held(&link) {
                bail!("{} holds a namespace of the lab", link.display());
            }
        }
    }
    Ok(())
}
