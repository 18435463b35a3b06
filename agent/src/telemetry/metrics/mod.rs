//! The agent's metrics, in one place so that their names and labels can be read in one place.
//!
//! Names begin with `weft_`; labels of connections are those of Istio's standard metrics, so that dashboards written for
//! it need another prefix and nothing else. The data path holds handles and adds to atomics; a scrape reads them.

mod cluster;
mod connections;
mod health;
mod labels;
mod pods;
mod ports;
mod requests;
mod sources;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use weft_core::model::Identity;
use weft_core::snapshot::{ServicePortKey, Snapshot};

pub use connections::{ConnectionLabels, ConnectionSeries, Party, Reporter, SERIES_MAX, Security};
pub use labels::TunnelDirection;
pub use pods::PodCounts;
pub use ports::PortSource;
pub use requests::RequestSeries;
pub use sources::VerdictSource;

use labels::{DirectionReason, IdentityLabel, Reason, ResultLabel, SeverityLabel, TunnelEnd, TunnelLabels};
use sources::{DroppedLines, Verdicts};

use super::http::Exposition;
use super::logging::LevelHandle;
use weft_control::kubernetes::Health;
use weft_control::manifests::{Problem, Severity};

/// All metrics. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Mutex<Registry>,
    connections: Arc<connections::Connections>,
    requests: Arc<requests::Requests>,
    tunnels_opened: Family<TunnelLabels, Counter>,
    tunnels_closed: Family<TunnelEnd, Counter>,
    tunnels_open: Family<TunnelLabels, Gauge>,
    handshake_failures: Family<DirectionReason, Counter>,
    inbound_rejections: Family<Reason, Counter>,
    certificate_expiry: Family<IdentityLabel, Gauge>,
    certificate_failures: Family<Reason, Counter>,
    detections: Family<ResultLabel, Counter>,
    health: health::Health,
    pods: pods::Pods,
    enrolment_failures: Family<Reason, Counter>,
    config_problems: Family<SeverityLabel, Gauge>,
    generation: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Creates the metrics, all at zero.
    #[must_use]
    pub fn new() -> Self {
        let inner = Inner {
            registry: Mutex::new(Registry::default()),
            connections: Arc::default(),
            requests: Arc::default(),
            tunnels_opened: Family::default(),
            tunnels_closed: Family::default(),
            tunnels_open: Family::default(),
            handshake_failures: Family::default(),
            inbound_rejections: Family::default(),
            certificate_expiry: Family::default(),
            certificate_failures: Family::default(),
            detections: Family::default(),
            health: health::Health::default(),
            pods: pods::Pods::default(),
            enrolment_failures: Family::default(),
            config_problems: Family::default(),
            generation: Gauge::default(),
        };
        inner.register();
        Self { inner: Arc::new(inner) }
    }

    /// The series of one pair of workloads; hold on to it for the life of the connection.
    #[must_use]
    pub fn connection(&self, labels: &ConnectionLabels) -> ConnectionSeries {
        self.inner.connections.series(labels)
    }

    /// The series of requests of one pair of workloads; hold on to it while there are any.
    #[must_use]
    pub fn request(&self, labels: &ConnectionLabels, protocol: &'static str) -> RequestSeries {
        self.inner.requests.series(labels, protocol)
    }

    /// A tunnel was opened, speaking `tunnel_protocol`; its end is [`Self::tunnel_closed`].
    pub fn tunnel_opened(&self, direction: TunnelDirection, tunnel_protocol: &'static str) {
        let labels = TunnelLabels { direction, tunnel_protocol };
        self.inner.tunnels_opened.get_or_create(&labels).inc();
        self.inner.tunnels_open.get_or_create(&labels).inc();
    }

    /// A tunnel ended; `reason` is one word.
    pub fn tunnel_closed(&self, direction: TunnelDirection, tunnel_protocol: &'static str, reason: &'static str) {
        self.inner.tunnels_closed.get_or_create(&TunnelEnd { direction, tunnel_protocol, reason }).inc();
        self.inner.tunnels_open.get_or_create(&TunnelLabels { direction, tunnel_protocol }).dec();
    }

    /// A TLS or HTTP/2 handshake failed; `reason` is one word.
    pub fn handshake_failed(&self, direction: TunnelDirection, reason: &'static str) {
        self.inner.handshake_failures.get_or_create(&DirectionReason { direction, reason }).inc();
    }

    /// Something a peer sent was refused before it became a connection; `reason` is one word.
    pub fn inbound_rejected(&self, reason: &'static str) {
        self.inner.inbound_rejections.get_or_create(&Reason { reason }).inc();
    }

    /// An identity has a certificate, good until `expiry`.
    pub fn certificate(&self, identity: &Identity, expiry: SystemTime) {
        let seconds = expiry.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        let label = IdentityLabel { identity: identity.to_string() };
        self.inner.certificate_expiry.get_or_create(&label).set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    /// The agent holds no certificate of this identity any more.
    pub fn certificate_forgotten(&self, identity: &Identity) {
        self.inner.certificate_expiry.remove(&IdentityLabel { identity: identity.to_string() });
    }

    /// A certificate could not be had; `reason` is one word.
    pub fn certificate_failed(&self, reason: &'static str) {
        self.inner.certificate_failures.get_or_create(&Reason { reason }).inc();
    }

    /// Policy refused a connection to `destination`, or ended one.
    pub fn policy_denied(&self, reason: &'static str, destination: &Party) {
        self.inner.connections.denied(reason, destination);
    }

    /// It was looked at what a connection speaks; `result` is one word.
    pub fn detected(&self, result: &'static str) {
        self.inner.detections.get_or_create(&ResultLabel { result }).inc();
    }

    /// An endpoint was checked; `reason` is one word, and empty where all went well.
    pub fn health_checked(&self, key: &ServicePortKey, good: bool, reason: &'static str) {
        self.inner.health.checked(key, good, reason);
    }

    /// So many endpoints of a service port are unhealthy now.
    pub fn unhealthy_endpoints(&self, key: &ServicePortKey, count: usize) {
        self.inner.health.unhealthy(key, count);
    }

    /// The endpoints of a service port are not checked any more.
    pub fn health_forgotten(&self, key: &ServicePortKey) {
        self.inner.health.forget(key);
    }

    /// How the pods of this node stand.
    pub fn pods(&self, counts: &PodCounts) {
        self.inner.pods.set(counts);
    }

    /// A pod could not be enrolled, or not un-enrolled; `reason` is one word.
    pub fn enrolment_failed(&self, reason: &'static str) {
        self.inner.enrolment_failures.get_or_create(&Reason { reason }).inc();
    }

    /// What is wrong with the configuration now.
    pub fn config_problems(&self, problems: &[Problem]) {
        for severity in [Severity::Error, Severity::Warning] {
            let count = problems.iter().filter(|problem| problem.severity == severity).count();
            let label = SeverityLabel { severity: severity.as_str() };
            self.inner.config_problems.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// The generation of the snapshot in force.
    pub fn snapshot_generation(&self, generation: u64) {
        self.inner.generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
    }

    /// Where the kernel's verdict counters are read at each scrape.
    pub fn verdicts(&self, source: VerdictSource) {
        self.registry(|registry| registry.register_collector(Box::new(Verdicts(source))));
    }

    /// Where it is read what service ports speak, at each scrape.
    pub fn service_ports(&self, source: PortSource) {
        self.registry(|registry| registry.register_collector(Box::new(ports::Ports(source))));
    }

    /// How fresh what is known of the cluster is, for each scrape.
    pub fn kubernetes(&self, health: Health) {
        self.registry(|registry| registry.register_collector(Box::new(cluster::Watches(health))));
    }

    /// Where the number of dropped log lines is read at each scrape.
    pub fn log(&self, levels: LevelHandle) {
        self.registry(|registry| registry.register_collector(Box::new(DroppedLines(levels))));
    }

    /// Removes the series of workloads that have been gone for five minutes, several scrapes; call it now and then.
    pub fn sweep(&self, snapshot: &Snapshot, now: Instant) {
        let alive = snapshot.owners().map(|(namespace, owner)| (namespace.as_str(), owner)).collect();
        self.inner.connections.sweep(&alive, now);
        self.inner.requests.sweep(&alive, now);
    }

    /// Everything as OpenMetrics text.
    ///
    /// # Errors
    /// Only if a metric cannot be written as text, which would be a fault of this crate.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        let registry = self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner);
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }

    /// What a scrape reads.
    #[must_use]
    pub fn exposition(&self) -> Exposition {
        let metrics = self.clone();
        Arc::new(move || metrics.text())
    }

    fn registry(&self, change: impl FnOnce(&mut Registry)) {
        change(&mut self.inner.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Inner {
    /// The names and what they mean.
    fn register(&self) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("weft_build", "The version that runs", build);
        registry.register_collector(Box::new(super::process::Process));
        registry.register_collector(Box::new(self.connections.clone()));
        registry.register_collector(Box::new(self.requests.clone()));
        let registry = registry.sub_registry_with_prefix("weft");
        registry.register("tunnels_opened", "tunnels opened", self.tunnels_opened.clone());
        registry.register("tunnels_closed", "tunnels closed, by reason", self.tunnels_closed.clone());
        registry.register("tunnels_open", "tunnels open now", self.tunnels_open.clone());
        let help = "TLS and HTTP/2 handshakes that failed, by reason";
        registry.register("handshake_failures", help, self.handshake_failures.clone());
        let help = "Requests and connections of peers refused before they became a connection, by reason";
        registry.register("inbound_rejections", help, self.inbound_rejections.clone());
        let help = "When the certificate of an identity expires, in seconds since the epoch";
        registry.register("certificate_expiry_timestamp_seconds", help, self.certificate_expiry.clone());
        let help = "Certificates that could not be had, by reason";
        registry.register("certificate_failures", help, self.certificate_failures.clone());
        let help = "Connections whose first bytes were looked at to tell what they speak, by what was found";
        registry.register("protocol_detections", help, self.detections.clone());
        self.health.register(registry);
        self.pods.register(registry);
        let help = "Pods that could not be enrolled or un-enrolled, by reason";
        registry.register("enrolment_failures", help, self.enrolment_failures.clone());
        let help = "Problems of the configuration now, by severity";
        registry.register("config_problems", help, self.config_problems.clone());
        registry.register("snapshot_generation", "Changes of the configuration applied", self.generation.clone());
    }
}

#[cfg(test)]
mod tests;
