//! The lab around the agent that is measured: the API server with everything in it, the controller that has published all
//! of it, a client pod on the agent's node and two servers on another.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::time::ClockId;
use nix::unistd::Pid;
use serde_json::{Value, json};
use weft_tests::lab::{Agent, AgentOptions, Lab, Node, Pod, Process, Service, binary};
use weft_tests::wait;

use super::churn::{Churn, Probe};
use super::objects::Size;
use super::report::ScaleReport;
use super::{Settings, WARM_UP, probe};

/// Where servers listen.
const PORT: u16 = 8080;
/// Time the controller gets to publish everything: 20 writes a second.
const PUBLISHED: Duration = Duration::from_secs(120);
/// Time the agent gets to enrol all pods of its node.
const ENROLLED: Duration = Duration::from_secs(60);
/// Pods of one WorkloadSlice.
const FILL: usize = 100;

/// Everything but the agent.
pub(super) struct Stage {
    lab: Lab,
    node: Node,
    client: Pod,
    servers: [Pod; 2],
    service: Service,
    objects: PathBuf,
    /// Pods of the node that are to be enrolled.
    enrolled: usize,
}

/// An API server with a cluster in it, and the controller that has published all of its pods.
pub(super) struct Cluster {
    pub(super) lab: Lab,
    /// The file the objects came from.
    pub(super) objects: PathBuf,
    pub(super) count: usize,
    pub(super) bytes: usize,
}

pub(super) fn cluster(name: &str, size: &Size) -> Result<Cluster> {
    let objects = std::env::temp_dir().join(format!("weft-{name}-{}.jsonl", std::process::id()));
    let mut file = BufWriter::new(File::create(&objects).with_context(|| objects.display().to_string())?);
    let (count, bytes) = size.write(&mut file)?;
    file.flush()?;
    drop(file);
    let lab = Lab::restored_cluster(name, &objects)?;
    let published = size.pods().div_ceil(FILL) as f64;
    wait::until("the controller to publish every pod", PUBLISHED, || {
        let metrics = lab.leader()?.metrics()?;
        let (slices, waiting) =
            (metrics.sum("weft_controller_slices", &[]), metrics.sum("weft_controller_slices_waiting", &[]));
        ensure!(slices >= published && waiting == 0.0, "{slices} slices, {waiting} waiting");
        Ok(())
    })?;
    Ok(Cluster { lab, objects, count, bytes })
}

impl Stage {
    pub(super) fn set(settings: &Settings, report: &mut ScaleReport, say: &dyn Fn(&str)) -> Result<Self> {
        say("starting the API server with everything in it, and the controller");
        let Cluster { lab, objects, count, bytes } = cluster("scale", &settings.size)?;
        (report.objects, report.bytes) = (count, bytes);
        let (near, far) = (lab.node("near")?, lab.node("far")?);
        let client = lab.pod(&near, "client").create()?;
        let servers = [lab.pod(&far, "first").create()?, lab.pod(&far, "second").create()?];
        for server in &servers {
            let listen = format!("0.0.0.0:{PORT}");
            let command = [&instrument()?, "serve", "--listen", &listen, "--name", server.name()];
            let process = server.spawn(&lab, "serve", &command)?;
            wait::until("a server to listen", wait::DEADLINE, || match process.exited() {
                Some(status) => bail!("it ended with {status}: {}", process.log()),
                None => ensure_listens(server),
            })?;
        }
        for number in 0..settings.local {
            lab.pod(&near, &format!("local-{number}")).create()?;
        }
        let service = lab.service("changing").port(80, PORT).pods(&[&servers[0]]).create()?;
        lab.label_namespace(weft_tests::lab::NAMESPACE, true)?;
        Ok(Self { lab, node: near, client, servers, service, objects, enrolled: settings.local + 1 })
    }

    /// Starts the agent and waits until it is ready, which it is when its pod is served.
    pub(super) fn start_agent(&self, report: &mut ScaleReport) -> Result<Agent> {
        let began = Instant::now();
        let agent = self.lab.launch_agent(&self.node, AgentOptions::default())?;
        agent.wait_ready()?;
        report.first_sync = began.elapsed().as_secs_f64();
        report.memory_start = memory(&agent, "VmHWM")?;
        wait::until("the node's pods to be enrolled", ENROLLED, || {
            let enrolled = agent.ask("/status")?["enrolled"].clone();
            ensure!(enrolled == self.enrolled, "{enrolled} are");
            Ok(())
        })?;
        self.lab.wait_live(&self.client)?;
        Ok(agent)
    }

    /// The share of one core a process used in a while.
    pub(super) fn cpu_share(&self, agent: &Agent, window: Duration) -> Result<f64> {
        let (before, began) = (cpu_seconds(agent.process())?, Instant::now());
        std::thread::sleep(window);
        Ok((cpu_seconds(agent.process())? - before) / began.elapsed().as_secs_f64())
    }

    /// Changes endpoints, and counts what that costs the agent.
    pub(super) fn churn(&self, agent: &Agent, settings: &Settings, report: &mut ScaleReport) -> Result<()> {
        let (agent, settings) = (agent.clone(), settings.clone());
        let kubeconfig = self.lab.api().context("a lab without an API server")?.admin().to_owned();
        let before = agent.metrics()?.sum("weft_snapshot_generation", &[]);
        let process = agent.process().clone();
        let (share, written) = self.lab.fabric().run(move || {
            runtime()?.block_on(async {
                let churn = Churn::new(&kubeconfig, settings.size.clone()).await?;
                let count = async {
                    tokio::time::sleep(WARM_UP).await;
                    let (before, began) = (cpu_seconds(&process)?, Instant::now());
                    tokio::time::sleep(settings.window).await;
                    Ok((cpu_seconds(&process)? - before) / began.elapsed().as_secs_f64())
                };
                churn.during(settings.rate, count).await
            })
        })?;
        report.cpu_churn = share;
        report.churn = written;
        report.generations = agent.metrics()?.sum("weft_snapshot_generation", &[]) - before;
        Ok(())
    }

    /// Times changes of the Service the client calls, while endpoints of all others change.
    pub(super) fn time_changes(&self, settings: &Settings, report: &mut ScaleReport) -> Result<()> {
        let to = self.service.v4().to_string();
        let process = self.client.spawn(&self.lab, "watch", &[&instrument()?, "watch", "--to", &to])?;
        let [first, _] = &self.servers;
        wait::until("the client to reach its server", wait::DEADLINE, || {
            let log = process.log();
            ensure!(probe::answers(&log).last().is_some_and(|(_, who)| *who == first.name()), "{log}");
            Ok(())
        })?;
        let read = {
            let process = process.clone();
            move || process.log()
        };
        let probe = Probe {
            namespace: self.service.namespace().to_owned(),
            slice: format!("{}-ipv4", self.service.name()),
            states: self
                .servers
                .iter()
                .map(|server| Ok((server.name().to_owned(), self.slice(server)?)))
                .collect::<Result<_>>()?,
            read: Box::new(read),
        };
        let settings = settings.clone();
        let kubeconfig = self.lab.api().context("a lab without an API server")?.admin().to_owned();
        let (times, written) = self.lab.fabric().run(move || {
            runtime()?.block_on(async {
                let churn = Churn::new(&kubeconfig, settings.size.clone()).await?;
                let timed = async {
                    tokio::time::sleep(WARM_UP).await;
                    churn.time_changes(&probe, settings.changes).await
                };
                churn.during(settings.rate, timed).await
            })
        })?;
        process.kill()?;
        (report.from_sent, report.from_accepted) = times.into_iter().unzip();
        report.churn_timed = written;
        Ok(())
    }

    /// The Service's slice with one server behind it.
    fn slice(&self, server: &Pod) -> Result<Value> {
        Ok(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-ipv4", self.service.name()), "namespace": self.service.namespace(),
                "labels": {"kubernetes.io/service-name": self.service.name()}
            },
            "addressType": "IPv4", "ports": [{"name": "tcp", "protocol": "TCP", "port": PORT}],
            "endpoints": [{
                "addresses": [server.v4(PORT)?.ip().to_string()], "conditions": {"ready": true},
                "nodeName": server.node().name(),
                "targetRef": {"kind": "Pod", "namespace": server.namespace(), "name": server.name(), "uid": server.uid()}
            }]
        }))
    }

    /// What the agent knows, and what it finds wrong.
    pub(super) fn problems(&self, agent: &Agent) -> Result<String> {
        let status = agent.ask("/status")?;
        Ok(status.get("problems").map(ToString::to_string).unwrap_or_default())
    }

    pub(super) fn finish(self) -> Result<()> {
        let _ = std::fs::remove_file(&self.objects);
        self.lab.finish()
    }
}

pub(super) fn ensure_listens(pod: &Pod) -> Result<()> {
    let ports = pod.listening_ports()?;
    ensure!(ports.contains(&PORT), "only {ports:?} are open");
    Ok(())
}

/// This program, to be run inside pods.
pub(super) fn instrument() -> Result<String> {
    Ok(binary("weft-scale")?.display().to_string())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// A line of `/proc/PID/status` in bytes: `VmHWM` is the most that was resident since the process began.
pub(super) fn memory(agent: &Agent, line: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.process().pid()))?;
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    let kilobytes: u64 =
        found.and_then(|text| text.split_whitespace().next()).context("the agent has ended")?.parse()?;
    Ok(kilobytes * 1024)
}

/// Seconds of CPU time of a process, in user space and in the kernel, of threads that have ended too.
fn cpu_seconds(process: &Process) -> Result<f64> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(process.pid())).context("the agent has ended")?;
    Ok(Duration::from(clock.now().context("the agent has ended")?).as_secs_f64())
}
