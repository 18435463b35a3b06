//! What is counted of certificates and roots.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::telemetry::Telemetry;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Clones share them.
#[derive(Clone)]
pub(super) struct Metrics {
    issued: Counter,
    refused: Family<Reason, Counter>,
    seconds: Histogram,
    anchors: Gauge,
    root_expiry: Gauge,
    root_problem: Gauge,
}

impl Metrics {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let metrics = Self {
            issued: Counter::default(),
            refused: Family::default(),
            // 1 ms to 8 s: an answer takes two requests to the API server.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            anchors: Gauge::default(),
            root_expiry: Gauge::default(),
            root_problem: Gauge::default(),
        };
        telemetry.register(|registry| {
            let registry = registry.sub_registry_with_prefix("weft_controller");
            registry.register("certificates_issued", "Certificates that were signed", metrics.issued.clone());
            let help = "Requests for certificates that were refused, by reason";
            registry.register("certificates_refused", help, metrics.refused.clone());
            registry.register(
                "certificate_seconds",
                "Time to answer a request for a certificate",
                metrics.seconds.clone(),
            );
            registry.register("roots", "Roots that the mesh trusts now", metrics.anchors.clone());
            let help = "When the certificate that signs expires, in seconds since the epoch";
            registry.register("root_expiry_timestamp_seconds", help, metrics.root_expiry.clone());
            let help = "1 while the root cannot be read, made or published";
            registry.register("root_problem", help, metrics.root_problem.clone());
        });
        metrics
    }

    pub(super) fn answered(&self, refused: Option<&'static str>, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        match refused {
            None => _ = self.issued.inc(),
            Some(reason) => _ = self.refused.get_or_create(&Reason { reason }).inc(),
        }
    }

    pub(super) fn root(&self, anchors: usize, expiry: SystemTime) {
        let seconds = expiry.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
        self.anchors.set(i64::try_from(anchors).unwrap_or(i64::MAX));
        self.root_expiry.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    }

    pub(super) fn root_problem(&self, problem: bool) {
        self.root_problem.set(problem.into());
    }
}
