//! Endpoints asked how they are, where a TrafficPolicy says so: by this node for itself, as long as its pods use them, and the
//! same way as its pods reach them, by mutual TLS where they do.
//!
//! What a check means is decided by [`weft_core::balance`]. A check asks as one of the pods that use the service port; one that
//! cannot be made, because that pod is gone or may not connect, tells nothing of the endpoint.

mod probe;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
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
        Arc::new(Self { snapshots, balancers, dialer, metrics, drain, ports: Mutex::default() })
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

    /// Checks a service port as long as it is used and is to be checked.
    async fn run(self: Arc<Self>, key: ServicePortKey) {
        tracing::debug!(service = %key, "its endpoints are checked from now on");
        let mut first = true;
        while let Some((snapshot, settings, pod)) = self.wanted(&key) {
            let begun = tokio::time::Instant::now();
            self.round(&key, &snapshot, &settings, &pod, std::mem::take(&mut first)).await;
            drop(pod);
            tokio::time::sleep_until(begun + settings.interval).await;
        }
        self.balancers.unchecked(&key);
        self.metrics.health_forgotten(&key);
        tracing::debug!(service = %key, "its endpoints are checked no more");
    }

    /// What to check by, or the end of it.
    fn wanted(&self, key: &ServicePortKey) -> Option<(Arc<Snapshot>, Arc<HealthCheck>, Arc<Pod>)> {
        let snapshot = (self.snapshots)();
        let mut ports = self.ports();
        let settings = snapshot.traffic(&key.service, key.port).and_then(|traffic| traffic.health.clone());
        let pod = ports.get(key).and_then(|users| users.pod(&snapshot, Instant::now()));
        let wanted = settings.zip(pod);
        if wanted.is_none() {
            ports.remove(key);
        }
        wanted.map(|(settings, pod)| (snapshot, settings, pod))
    }

    /// Checks every endpoint once, spread over a fifth of the interval so that nodes and endpoints do not move in step; the
    /// first time at once.
    async fn round(
        self: &Arc<Self>,
        key: &ServicePortKey,
        snapshot: &Arc<Snapshot>,
        settings: &Arc<HealthCheck>,
        pod: &Arc<Pod>,
        first: bool,
    ) {
        let (turns, mut under_way) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
        for endpoint in self.balancers.to_check(snapshot, key) {
            let wait = if first { Duration::ZERO } else { (settings.interval / 5).mul_f64(rand::random()) };
            let (checks, key, snapshot) = (Arc::clone(self), key.clone(), Arc::clone(snapshot));
            let (settings, pod, turns) = (Arc::clone(settings), Arc::clone(pod), Arc::clone(&turns));
            under_way.spawn(async move {
                tokio::time::sleep(wait).await;
                let _turn = turns.acquire().await;
                checks.check(&key, &snapshot, &settings, &pod, &endpoint).await;
            });
        }
        under_way.join_all().await;
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
