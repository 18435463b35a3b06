//! What many agents cost the API server: the watches of as many agents as a big cluster has nodes, each over a connection of
//! its own, the real controller, and changes of pods as agents make them.
//!
//! The agents are this program's: they watch what a real one watches, by the same code, and do nothing with it. The API server is
//! a double; what is counted is what it was asked and what it sent.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_control::kubernetes::{Client, News, Observed, connect, interests, observe};
use weft_control::resource::Kind;
use weft_tests::lab::Lab;

use super::objects::Size;
use super::stage;
use crate::load::socket::make_room;
use crate::machine::Machine;

/// Time for all agents to have read everything.
const READ: Duration = Duration::from_secs(240);
/// Agents that begin at once.
const AT_ONCE: usize = 16;
/// Changes that come alone, and the pause after each.
const LONE: (usize, Duration) = (10, Duration::from_millis(1500));
/// Time a change gets to reach all agents.
const HEARD: Duration = Duration::from_secs(30);

/// How to run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Crowd {
    /// The cluster: a node for each agent.
    pub size: Size,
    /// Pods that change in a second.
    pub rate: u32,
    /// For so long.
    pub window: Duration,
}

impl Crowd {
    /// So many agents, with five pods each.
    #[must_use]
    pub fn of(agents: usize) -> Self {
        let size = Size { services: (agents / 5).max(1), replicas: 25, nodes: agents, namespaces: 20 };
        Self { size, rate: 20, window: Duration::from_secs(20) }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CrowdReport {
    /// Where and of what.
    pub machine: Machine,
    /// Agents, and pods of the cluster.
    pub agents: usize,
    /// See `agents`.
    pub pods: usize,
    /// Seconds until all had read everything.
    pub first_sync: f64,
    /// Bytes each was sent for it.
    pub first_sync_bytes: f64,
    /// Bytes each agent was sent for a change that came alone.
    pub lone_bytes: f64,
    /// Milliseconds from the change until the last agent had heard, for each.
    pub lone_heard: Vec<f64>,
    /// Changes a second, while pods changed one upon another.
    pub changes: f64,
    /// Bytes a second to each agent then.
    pub bytes: f64,
    /// Requests a second that the API server answered then, the changes themselves left out, by verb and resource.
    pub requests: Vec<(String, f64)>,
    /// News of WorkloadSlices a second to each agent then.
    pub events: f64,
}

/// Agents that watch.
struct Agents {
    /// WorkloadSlices each has heard of since it began.
    heard: Vec<Arc<AtomicU64>>,
    /// Kinds each has read to the end.
    listed: Vec<Arc<AtomicU64>>,
}

impl Agents {
    async fn start(kubeconfig: &Path, count: usize) -> Result<Self> {
        let mut agents = Self { heard: Vec::new(), listed: Vec::new() };
        for number in 0..count {
            let client = connect(Some(kubeconfig), "weft-crowd").await?;
            let Observed { mut news, stop, .. } =
                observe(&client, interests(&format!("node-{number:03}"), "weft-system"));
            let (heard, listed) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
            agents.heard.push(heard.clone());
            agents.listed.push(listed.clone());
            tokio::spawn(async move {
                let _stop = stop;
                while let Some((kind, news)) = news.recv().await {
                    match news {
                        News::Put(_) if kind == Kind::WorkloadSlice => heard.fetch_add(1, Ordering::Relaxed),
                        News::Listed(_) | News::Absent => listed.fetch_add(1, Ordering::Relaxed),
                        _ => 0,
                    };
                }
            });
            // As a rolling update begins them: a few at a time.
            if (number + 1) % AT_ONCE == 0 {
                agents.read(number + 1 - AT_ONCE..number + 1).await?;
            }
        }
        agents.read(0..count).await?;
        Ok(agents)
    }

    async fn read(&self, which: std::ops::Range<usize>) -> Result<()> {
        let (kinds, began) = (interests("", "").count() as u64, Instant::now());
        while !self.listed[which.clone()].iter().all(|listed| listed.load(Ordering::Relaxed) >= kinds) {
            ensure!(began.elapsed() < READ, "not every agent has read everything");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    fn counts(&self) -> Vec<u64> {
        self.heard.iter().map(|heard| heard.load(Ordering::Relaxed)).collect()
    }

    /// Waits until every agent has heard something since `before`.
    async fn all_heard(&self, before: &[u64]) -> Result<()> {
        let began = Instant::now();
        while !self.counts().iter().zip(before).all(|(now, before)| now > before) {
            ensure!(began.elapsed() < HEARD, "not every agent has heard of a change");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }
}

/// What the API server has counted: answers' bytes, and requests by verb and resource.
fn counted(lab: &Lab) -> Result<(u64, Vec<(String, u64)>)> {
    let (status, counts) =
        lab.api().context("no API server")?.send("GET", "/test/counters", "application/json", None)?;
    ensure!(status == 200, "{status}");
    let numbers = |field: &str| -> Vec<(String, u64)> {
        let fields = counts[field].as_object().into_iter().flatten();
        fields.map(|(name, count)| (name.clone(), count.as_u64().unwrap_or_default())).collect()
    };
    let watches =
        numbers("bytes").into_iter().filter(|(name, _)| name.starts_with("watch ") || name.starts_with("list "));
    Ok((watches.map(|(_, bytes)| bytes).sum(), numbers("requests")))
}

/// Runs it, saying what it is at.
///
/// # Errors
/// When a part does not start, or an agent does not hear of a change.
pub fn crowd(settings: &Crowd, say: &dyn Fn(&str)) -> Result<CrowdReport> {
    let agents = settings.size.nodes;
    // A connection each at both ends, and what the lab takes.
    make_room(agents as u64 * 4 + 4096)?;
    let mut report =
        CrowdReport { machine: Machine::now(), agents, pods: settings.size.pods(), ..CrowdReport::default() };
    say("making the cluster");
    let stage::Cluster { lab, objects, .. } = stage::cluster("crowd", &settings.size)?;
    let _ = std::fs::remove_file(objects);
    let kubeconfig = lab.api().context("no API server")?.admin().to_owned();
    say(&format!("starting {agents} agents"));
    let (done, lab) = {
        let (settings, lab) = (settings.clone(), Arc::new(lab));
        let within = lab.clone();
        let done = lab.fabric().run(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let done = runtime.block_on(measure(&within, &kubeconfig, &settings, &mut report));
            runtime.shutdown_timeout(Duration::from_secs(5));
            drop(within);
            done.map(|()| report)
        })?;
        (done, lab)
    };
    if let Err(problem) = Arc::into_inner(lab).map_or(Ok(()), Lab::finish) {
        say(&format!("taking the stage down: {problem:#}"));
    }
    Ok(done)
}

async fn measure(lab: &Lab, kubeconfig: &Path, settings: &Crowd, report: &mut CrowdReport) -> Result<()> {
    let agents = settings.size.nodes as f64;
    let began = Instant::now();
    let (before, _) = counted(lab)?;
    let crowd = Agents::start(kubeconfig, settings.size.nodes).await?;
    report.first_sync = began.elapsed().as_secs_f64();
    report.first_sync_bytes = (counted(lab)?.0 - before) as f64 / agents;
    let client = connect(Some(kubeconfig), "weft-crowd-changes").await?;
    let (before, _) = counted(lab)?;
    for change in 0..LONE.0 {
        let (heard, sent) = (crowd.counts(), Instant::now());
        mark(&client, &settings.size, change, "pending: measured").await?;
        crowd.all_heard(&heard).await?;
        report.lone_heard.push(sent.elapsed().as_secs_f64() * 1000.0);
        tokio::time::sleep(LONE.1).await;
    }
    report.lone_bytes = (counted(lab)?.0 - before) as f64 / agents / LONE.0 as f64;
    let (before, began, heard) = (counted(lab)?, Instant::now(), crowd.counts().iter().sum::<u64>());
    let mut tick = tokio::time::interval(Duration::from_secs(1) / settings.rate);
    let mut changes = 0_usize;
    while began.elapsed() < settings.window {
        tick.tick().await;
        // Spread over the pods, so that nearly every one is in another slice than the one before.
        let pod = LONE.0 + changes * 101 % (settings.size.pods() - LONE.0);
        mark(&client, &settings.size, pod, "pending: measured").await?;
        changes += 1;
    }
    let (after, seconds) = (counted(lab)?, began.elapsed().as_secs_f64());
    report.changes = changes as f64 / seconds;
    report.bytes = (after.0 - before.0) as f64 / agents / seconds;
    report.events = (crowd.counts().iter().sum::<u64>() - heard) as f64 / agents / seconds;
    let asked = |name: &str| before.1.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count);
    let more = after.1.iter().map(|(name, count)| (name.clone(), (count - asked(name)) as f64 / seconds));
    report.requests = more.filter(|(name, rate)| *rate > 0.0 && !name.starts_with("patch pods")).collect();
    Ok(())
}

/// What a pod's agent writes on it.
async fn mark(client: &Client, size: &Size, pod: usize, status: &str) -> Result<()> {
    let (namespace, name) = size.pod_place(pod);
    let body: Value = json!({"metadata": {"annotations": {"weft.dev/status": status}}});
    let request = http::Request::patch(format!("/api/v1/namespaces/{namespace}/pods/{name}/status"))
        .header("content-type", "application/merge-patch+json")
        .body(body.to_string().into_bytes())?;
    client.request_text(request).await.with_context(|| format!("writing {namespace}/{name}")).map(drop)
}

impl CrowdReport {
    /// As text.
    #[must_use]
    pub fn render(&self) -> String {
        let kilobytes = |bytes: f64| format!("{:.1} kB", bytes / 1e3);
        let latest = self.lone_heard.iter().copied().fold(0.0, f64::max);
        let all: f64 = self.requests.iter().map(|(_, rate)| rate).sum();
        let mut lines = vec![
            format!(
                "{}, commit {}: {} agents, {} pods",
                self.machine.began, self.machine.commit, self.agents, self.pods
            ),
            format!(
                "  first sync of all, a few at a time    {:.1} s, {} each",
                self.first_sync,
                kilobytes(self.first_sync_bytes)
            ),
            format!("  a change that comes alone, each agent {}", kilobytes(self.lone_bytes)),
            format!("  until the last agent has heard        {latest:.0} ms at most, of {}", self.lone_heard.len()),
            format!(
                "  {:.1} changes a second, each agent      {}/s in {:.1} events",
                self.changes,
                kilobytes(self.bytes),
                self.events
            ),
            format!("  requests then, the changes left out   {all:.1}/s"),
        ];
        lines.extend(self.requests.iter().map(|(name, rate)| format!("    {name:<40} {rate:.2}/s")));
        lines.join("\n") + "\n"
    }
}
