//! `weft agent`: makes every room, joins them, and stops them in order. The only place that knows them all.

mod addresses;
mod enrol;
mod judge;
mod leave;
mod look;
mod node;
mod orders;
mod parts;
mod pods;
mod reach;
mod same_node;
mod seek;
mod serve;
mod stop;
mod views;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};
use weft_core::balance::Balancers;
use weft_core::snapshot::{Here, Snapshot};

use crate::admin::{self, Client, Transition};
use crate::config::{self, CaSource, Config};
use crate::dial::{Budget, Dialer, Gates};
use crate::direct::Direct;
use crate::drain::Drain;
use crate::health::Checks;
use crate::http::Http;
use crate::identity::ca::EmbeddedCa;
use crate::identity::{Authority, Identities, RemoteCa, Settings};
use crate::inbound::Inbound;
use crate::live::Live;
use crate::observe::TunnelEvents;
use crate::outbound::Outbound;
use crate::pod::Snapshots;
use crate::sandbox::{Finder, Processes};
use crate::steer::{FlowRecords, SteerConfig, SteerError, Steering, Unclassified};
use crate::sys;
use crate::telemetry::{Metrics, MetricsServer, Readiness, logging};
use crate::tunnel::{Events, Pool, PoolSettings, Protocol, Protocols, ServerSettings};
use crate::workers::Workers;
use weft_control::kubernetes::{self, Health, Installation};
use weft_control::manifests::{self, SourceSettings};
use weft_control::review::Reviewer;
use weft_control::standing::Publisher;
use weft_control::{Source, Store};

use addresses::NodeAddresses;
use node::{Node, Stop};
use parts::Parts;
use pods::Pods;
use same_node::SameNode;

/// Who asks, in the API server's audit log.
const USER_AGENT: &str = concat!("weft-agent/", env!("CARGO_PKG_VERSION"));
/// Threads of what is not a connection, beside the one that decides: the API server's watches, certificates, metrics. They wait
/// for most of their time, and two woke each other for every event of a watch.
const CONTROL_THREADS: usize = 1;
/// How long a successor waits for the running agent to let go.
const HANDOVER_WAIT: Duration = Duration::from_secs(10);

/// Runs the agent until it is told to stop, or has handed over, and its connections have ended or been cut.
///
/// # Errors
/// When it cannot start, in words that say what to do.
pub fn run(config: Config) -> anyhow::Result<()> {
    let levels = logging::init(config.log_format, &config.log_level)?;
    if let Err(error) = sys::limits::raise_open_files() {
        tracing::warn!(%error, "the limit of open files cannot be raised: connections may have to wait for each other");
    }
    sys::memory::limit_arenas(config.workers);
    // Connections have threads of their own, the workers; this is for everything else.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(CONTROL_THREADS).enable_all().build()?;
    let result = runtime.block_on(agent(config, levels));
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

async fn agent(config: Config, levels: logging::LevelHandle) -> anyhow::Result<()> {
    tracing::info!(node = config.node, version = env!("CARGO_PKG_VERSION"), "starting");
    std::fs::create_dir_all(&config.status).with_context(|| format!("cannot create {}", config.status.display()))?;
    let ca: Arc<dyn Authority> = match &config.ca {
        CaSource::Embedded(directory) => Arc::new(EmbeddedCa::open(directory, &config.trust_domain)?),
        CaSource::Remote(settings) => Arc::new(RemoteCa::new(settings.clone())),
    };
    let steering = open_steering(&config).await?;
    let (requests, received) = mpsc::channel(16);
    let admin =
        admin::Server::start(&admin::ServerSettings::for_root(config.admin_socket.clone()), requests, levels.clone())?;
    let readiness = Readiness::new(&[config.source.name(), "enrolment"]);
    let metrics = Metrics::new();
    metrics.log(levels);
    metrics.config_problems(&[]);
    let counters = steering.clone();
    metrics.verdicts(Box::new(move || counters.verdicts().unwrap_or_default()));
    let exporter = match config.metrics {
        Some(address) => Some(MetricsServer::start(address, metrics.exposition(), readiness.clone()).await?),
        None => None,
    };
    let here = Here { node: config.node.as_str().into(), zone: config.zone.as_deref().map(Into::into) };
    let store = Arc::new(Store::new(Snapshot::on(config.trust_domain.clone(), here)));
    let read = Arc::clone(&store);
    metrics.service_ports(Box::new(move || views::protocols(&read.snapshot())));
    let workers = Workers::start(config.workers).context("cannot start the workers")?;
    let Followed { source, cluster, publisher, finder, installation } = configuration(&config).await?;
    if let Some(health) = &cluster {
        metrics.kubernetes(health.clone());
    }
    let parts = Arc::new(make_parts(&config, ca, steering, metrics, (&store, &workers), (finder, publisher)));
    // Where it is off, a predecessor may still have left connections to be reported.
    let (known, pods_known) = oneshot::channel();
    if config.fast_path || parts.steering.follows_flows() {
        tokio::spawn(report(parts.steering.flow_records()?, Arc::clone(&parts.direct), pods_known));
    }
    let (pod_events, pod_events_received) = mpsc::unbounded_channel();
    let holds = config.unclassified == config::Unclassified::Closed;
    let mut node = Node {
        source,
        cluster,
        hook_events: parts.steering.events()?,
        addresses: NodeAddresses::new(&parts.steering).await?,
        pods: Pods::new(Arc::clone(&parts), holds, pod_events),
        pod_events: pod_events_received,
        disabled: orders::marker(&config).exists(),
        told: false,
        looks: 0,
        cleared: false,
        settled: false,
        trimmed: None,
        clock: None,
        deaf_since: None,
        same_node: SameNode::new(&parts.steering, config.fast_path, holds, known)?,
        judged_lately: BTreeSet::new(),
        waiting: Vec::new(),
        requests: received,
        reviewer: Reviewer::new(config.source.name()),
        started: Instant::now(),
        store,
        readiness,
        config,
        parts,
    };
    let stop = node.run().await;
    if let (Stop::Signal, Some(installation)) = (&stop, installation)
        && installation.is_gone().await
    {
        node.retire().await;
    }
    stop::finish(node, stop, admin, exporter).await
}

/// Where the configuration comes from, and what depends on that.
struct Followed {
    source: Source,
    cluster: Option<Health>,
    publisher: Publisher,
    finder: Finder,
    installation: Option<Installation>,
}

async fn configuration(config: &Config) -> anyhow::Result<Followed> {
    Ok(match &config.source {
        config::ConfigSource::Manifests(directory) => Followed {
            source: manifests::follow(SourceSettings::new(vec![directory.clone(), config.status.clone()]))?,
            cluster: None,
            publisher: Publisher::Directory(config.status.clone()),
            finder: Finder::Annotation,
            installation: None,
        },
        config::ConfigSource::Kubernetes { kubeconfig } => {
            let client = kubernetes::connect(kubeconfig.as_deref(), USER_AGENT).await?;
            let cluster = kubernetes::follow(&client, &config.node, config.namespace.as_str());
            Followed {
                source: cluster.source,
                cluster: Some(cluster.health),
                publisher: cluster.publisher,
                finder: Finder::Processes(Processes::default()),
                installation: config.daemonset.as_ref().map(|name| Installation::of(client, name)),
            }
        }
    })
}

/// Passes on what the kernel reports of connections between pods of this node, until a successor does. What was reported
/// while no agent ran waits until it is known whose cookies are whose.
async fn report(mut records: FlowRecords, direct: Arc<Direct>, pods_known: oneshot::Receiver<()>) {
    if pods_known.await.is_err() {
        return;
    }
    while let Some(batch) = records.next().await {
        direct.report(&batch);
    }
}

/// Opens steering; if an agent runs already, asks it to hand over first.
async fn open_steering(config: &Config) -> anyhow::Result<Steering> {
    let settings = SteerConfig {
        bpffs: config.bpffs.clone(),
        instance: config.instance.clone(),
        cgroup: config.cgroup.clone(),
        state: config.state.clone(),
        proc_sys: config.proc_sys.clone(),
        unclassified: match config.unclassified {
            config::Unclassified::Open => Unclassified::Open,
            config::Unclassified::Closed => Unclassified::Closed,
        },
        holder: Some(config.hold_socket.clone()),
        destinations: weft_abi::capacity::DESTINATIONS,
    };
    let deadline = Instant::now() + HANDOVER_WAIT;
    let mut asked = false;
    loop {
        match Steering::open(settings.clone()) {
            Err(SteerError::Owned { path, pid }) if Instant::now() < deadline => {
                if !asked {
                    tracing::info!(pid, "an agent is running: asking it to hand over");
                    let handed: Result<Transition, _> = Client::new(&config.admin_socket).post("/handover").await;
                    match handed {
                        Ok(_) => asked = true,
                        Err(error) => tracing::debug!(%error, lock = %path.display(), "not handed over yet"),
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other.context("cannot steer connections"),
        }
    }
}

fn make_parts(
    config: &Config,
    ca: Arc<dyn Authority>,
    steering: Steering,
    metrics: Metrics,
    (store, workers): (&Arc<Store>, &Arc<Workers>),
    (finder, publisher): (Finder, Publisher),
) -> Parts {
    let lifetime =
        Settings { lifetime: config.certificate_lifetime, metrics: Some(metrics.clone()), ..Settings::default() };
    let identities = Identities::new(ca, lifetime);
    let events: Arc<dyn Events> = Arc::new(TunnelEvents(metrics.clone()));
    let protocols = match config.tunnel_protocols {
        config::TunnelProtocols::Both => Protocols::Both,
        config::TunnelProtocols::Weft => Protocols::Only(Protocol::Weft),
        config::TunnelProtocols::Hbone => Protocols::Only(Protocol::Hbone),
    };
    let pool = PoolSettings { budget: config.connect_timeout, protocols, ..PoolSettings::default() };
    let (live, drain, read) = (Live::new(), Drain::new(), Arc::clone(store));
    let snapshots: Snapshots = Arc::new(move || read.snapshot());
    let balancers = Arc::new(Balancers::new());
    let dialer = Arc::new(Dialer {
        pool: Pool::new(Arc::clone(&identities), pool, Arc::clone(&events)),
        budget: Budget { attempts: config.connect_attempts, each: config.connect_timeout },
        gates: Gates::default(),
    });
    let checks = Checks::new(
        Arc::clone(&snapshots),
        Arc::clone(&balancers),
        Arc::clone(&dialer),
        metrics.clone(),
        drain.clone(),
    );
    let http = Http::new(
        Arc::clone(&snapshots),
        Arc::clone(&balancers),
        Arc::clone(&dialer),
        metrics.clone(),
        drain.clone(),
        Arc::clone(&checks),
        (workers.count(), config.request_head_timeout),
    );
    let outbound = Outbound {
        snapshots: Arc::clone(&snapshots),
        balancers: Arc::clone(&balancers),
        drawn: ArcSwap::default(),
        dialer,
        http,
        detected: Arc::default(),
        checks,
        metrics: metrics.clone(),
        live: Arc::clone(&live),
        drain: drain.clone(),
        workers: Arc::clone(workers),
    };
    let direct = Arc::new(Direct::new(Arc::clone(&snapshots), metrics.clone(), balancers));
    let inbound = Inbound {
        snapshots,
        identities: Arc::clone(&identities),
        metrics: metrics.clone(),
        live: Arc::clone(&live),
        drain,
        tunnels: ServerSettings { protocols, ..ServerSettings::default() },
        events,
        connect_timeout: config.connect_timeout,
        workers: Arc::clone(workers),
    };
    Parts {
        node: config.node.as_str().into(),
        namespace: config.namespace.clone(),
        steering,
        identities,
        outbound: Arc::new(outbound),
        inbound: Arc::new(inbound),
        live,
        direct,
        metrics,
        finder,
        publisher,
        grace: config.unenrol_grace,
        reach_every: config.reach_every,
    }
}
