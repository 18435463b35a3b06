//! Endpoints asked how they are, where a TrafficPolicy says so: by this node for itself, as long as its pods use them, and the
//! same way as its pods reach them, by mutual TLS where they do.
//!
//! What a check means is decided by [`weft_core::balance`]. A check asks as one of the pods that use the service port; one that
//! cannot be made, because that pod is gone or may not connect, tells nothing of the endpoint.

mod probe;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use weft_core::balance::{Balancers, Checkable};
use weft_core::model::HealthCheck;
use weft_core::route::{Protocol, ServicePortKey, Target, protocol};
use weft_core::snapshot::Snapshot;

use crate::dial::{Caller, Dialer};
use crate::drain::Drain;
use crate::pod::{Pod, Snapshots};
use crate::telemetry::Metrics;
use probe::Unwell;

/// How long a service port is checked after a pod has last used it.
const WANTED: Duration = Duration::from_secs(300);
/// Pods remembered that may ask: one is enough, and some leave.
const ASKING_MAX: usize = 8;
/// Checks of one service port under way at once.
const AT_ONCE: usize = 32;

/// All service ports that are checked.
pub struct Checks {
    snapshots: Snapshots,
    balancers: Arc<Balancers>,
    dialer: Arc<Dialer>,
    metrics: Metrics,
    drain: Drain,
    ports: Mutex<HashMap<ServicePortKey, Users>>,
    /// Tells that there is another snapshot.
    news: watch::Sender<()>,
}

/// What the checks of a service port go by, for the moment.
struct Wanted {
    snapshot: Arc<Snapshot>,
    settings: Arc<HealthCheck>,
    pod: Arc<Pod>,
    /// As long as it is the same, so are the endpoints.
    revision: Option<u64>,
}

/// What the last round of checks was about.
struct Known {
    settings: Arc<HealthCheck>,
    revision: Option<u64>,
    endpoints: HashSet<Checkable>,
}

/// The checks of a service port that are under way.
struct UnderWay {
    key: ServicePortKey,
    turns: Arc<Semaphore>,
    tasks: JoinSet<()>,
}

/// The pods that use a service port, the last one last.
#[derive(Default)]
struct Users {
    pods: Vec<Weak<Pod>>,
    used: Option<Instant>,
}

impl Users {
    fn note(&mut self, pod: &Arc<Pod>, now: Instant) {
        self.used = Some(now);
        if self.pods.last().is_some_and(|last| std::ptr::eq(last.as_ptr(), Arc::as_ptr(pod))) {
            return;
        }
        self.pods.retain(|known| known.strong_count() > 0 && !std::ptr::eq(known.as_ptr(), Arc::as_ptr(pod)));
        if self.pods.len() >= ASKING_MAX {
            self.pods.remove(0);
        }
        self.pods.push(Arc::downgrade(pod));
    }

    /// Who may ask: the one that used it last and is still there.
    fn pod(&self, snapshot: &Snapshot, now: Instant) -> Option<Arc<Pod>> {
        self.used.filter(|used| now.saturating_duration_since(*used) < WANTED)?;
        self.pods.iter().rev().filter_map(Weak::upgrade).find(|pod| pod.workload(snapshot).is_some())
    }
}

impl Checks {
    /// None yet.
    #[must_use]
    pub fn new(
        snapshots: Snapshots,
        balancers: Arc<Balancers>,
        dialer: Arc<Dialer>,
        metrics: Metrics,
        drain: Drain,
    ) -> Arc<Self> {
        let (ports, news) = (Mutex::default(), watch::Sender::new(()));
        Arc::new(Self { snapshots, balancers, dialer, metrics, drain, ports, news })
    }

    fn ports(&self) -> MutexGuard<'_, HashMap<ServicePortKey, Users>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod uses a service port whose endpoints are to be checked: they are, from now on.
    pub fn used(self: &Arc<Self>, key: &ServicePortKey, pod: &Arc<Pod>) {
        let mut ports = self.ports();
        let now = Instant::now();
        if let Some(users) = ports.get_mut(key) {
            return users.note(pod, now);
        }
        let mut users = Users::default();
        users.note(pod, now);
        ports.insert(key.clone(), users);
        let (checks, key, draining) = (Arc::clone(self), key.clone(), self.drain.draining());
        tokio::spawn(draining.run_until_cancelled_owned(async move { checks.run(key).await }));
    }

    /// There is another snapshot: endpoints that are new in it are checked at once where their service port is.
    pub fn sync(&self) {
        self.news.send_replace(());
    }

    /// Checks a service port as long as it is used and is to be checked.
    async fn run(self: Arc<Self>, key: ServicePortKey) {
        tracing::debug!(service = %key, "its endpoints are checked from now on");
        let mut news = self.news.subscribe();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut under_way = UnderWay { key, turns, tasks: JoinSet::new() };
        let mut first = true;
        while let Some(wanted) = self.wanted(&under_way.key) {
            let next = tokio::time::Instant::now() + wanted.settings.interval;
            // Spread, so that nodes and endpoints do not move in step; the first time at once.
            let spread = if std::mem::take(&mut first) { Duration::ZERO } else { wanted.settings.interval / 5 };
            let endpoints = self.begin(&mut under_way, &wanted, &HashSet::new(), spread);
            let known = Known { settings: Arc::clone(&wanted.settings), revision: wanted.revision, endpoints };
            // Nothing of a pod is held while nobody is asked in its name: it may leave.
            drop(wanted);
            let Some(()) = self.await_round(&mut under_way, &mut news, known, next).await else { break };
        }
        let key = under_way.key;
        self.balancers.unchecked(&key);
        self.metrics.health_forgotten(&key);
        tracing::debug!(service = %key, "its endpoints are checked no more");
    }

    /// Waits until it is time for the next round and the last check of this one is done, or until another is to be made by other
    /// settings; endpoints that come meanwhile are checked when they do. `None` if none are to be checked any more.
    async fn await_round(
        self: &Arc<Self>,
        under_way: &mut UnderWay,
        news: &mut watch::Receiver<()>,
        mut known: Known,
        next: tokio::time::Instant,
    ) -> Option<()> {
        let mut due = pin!(tokio::time::sleep_until(next));
        loop {
            tokio::select! {
                () = due.as_mut(), if under_way.tasks.is_empty() => return Some(()),
                Some(_) = under_way.tasks.join_next() => {}
                Ok(()) = news.changed() => {
                    let wanted = self.wanted(&under_way.key)?;
                    if wanted.settings != known.settings {
                        return Some(());
                    }
                    if wanted.revision != known.revision {
                        known.endpoints = self.begin(under_way, &wanted, &known.endpoints, Duration::ZERO);
                        known.revision = wanted.revision;
                    }
                }
            }
        }
    }

    /// What to check, and by what, or the end of it.
    fn wanted(&self, key: &ServicePortKey) -> Option<Wanted> {
        let snapshot = (self.snapshots)();
        let mut ports = self.ports();
        let settings = snapshot.traffic(&key.service, key.port).and_then(|traffic| traffic.health.clone());
        let pod = ports.get(key).and_then(|users| users.pod(&snapshot, Instant::now()));
        let wanted = settings.zip(pod);
        if wanted.is_none() {
            ports.remove(key);
        }
        drop(ports);
        let (settings, pod) = wanted?;
        let revision = snapshot.revision(&key.service);
        Some(Wanted { snapshot, settings, pod, revision })
    }

    /// Begins to check all endpoints but those `known`, each at some moment within `spread`. Returns all.
    fn begin(
        self: &Arc<Self>,
        under_way: &mut UnderWay,
        wanted: &Wanted,
        known: &HashSet<Checkable>,
        spread: Duration,
    ) -> HashSet<Checkable> {
        let all = self.balancers.to_check(&wanted.snapshot, &under_way.key, Instant::now());
        for endpoint in all.iter().filter(|one| !known.contains(*one)) {
            let endpoint = endpoint.clone();
            let (checks, key, snapshot) = (Arc::clone(self), under_way.key.clone(), Arc::clone(&wanted.snapshot));
            let (settings, pod, turns) =
                (Arc::clone(&wanted.settings), Arc::clone(&wanted.pod), Arc::clone(&under_way.turns));
            under_way.tasks.spawn(async move {
                tokio::time::sleep(spread.mul_f64(rand::random())).await;
                let _turn = turns.acquire().await;
                checks.check(&key, &snapshot, &settings, &pod, &endpoint).await;
            });
        }
        all.into_iter().collect()
    }

    async fn check(
        &self,
        key: &ServicePortKey,
        snapshot: &Snapshot,
        settings: &HealthCheck,
        pod: &Pod,
        endpoint: &Checkable,
    ) {
        let (Some(workload), Some(own)) = (pod.workload(snapshot), pod.addresses.first()) else { return };
        let caller = Caller { pod, workload, client: SocketAddr::new(*own, 0) };
        let target = Target::at(snapshot, endpoint.0);
        let http2 = matches!(
            protocol(snapshot, key, None),
            Protocol::Http(weft_core::route::HttpBecause::DeclaredHttp2 | weft_core::route::HttpBecause::DeclaredGrpc)
        );
        let asked = probe::ask(&self.dialer, &caller, &target, &settings.probe, http2);
        let outcome = match tokio::time::timeout(settings.timeout, asked).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Unwell::Late),
        };
        let good = match &outcome {
            Ok(()) => true,
            Err(unwell) if unwell.is_endpoints_fault() => false,
            Err(unwell) => {
                tracing::debug!(service = %key, endpoint = %endpoint.0, %unwell, "a check could not be made");
                return;
            }
        };
        let reason = outcome.as_ref().err().map_or("", Unwell::label);
        self.metrics.health_checked(key, good, reason);
        let changed = self.balancers.checked(key, endpoint, good, settings, Instant::now());
        if let Some(healthy) = changed {
            let why = outcome.err().map(|unwell| unwell.to_string());
            tracing::info!(service = %key, endpoint = %endpoint.0, healthy, why, "what checks find of an endpoint has changed");
        }
        self.metrics.unhealthy_endpoints(key, self.balancers.unhealthy(key));
    }
}
