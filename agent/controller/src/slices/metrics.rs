//! What is measured of the slices.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::book::Write;
use super::publish::Outcome;
use crate::Telemetry;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Done {
    verb: &'static str,
    result: &'static str,
}

/// Clones share what is counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics {
    pods: Gauge,
    slices: Gauge,
    waiting: Gauge,
    contested: Gauge,
    writes: Family<Done, Counter>,
}

impl Metrics {
    pub(super) fn new(telemetry: &Telemetry) -> Self {
        let metrics = Self::default();
        let Self { pods, slices, waiting, contested, writes } = metrics.clone();
        telemetry.register(|registry| {
            registry.register("weft_controller_pods", "Pods that have an address", pods);
            registry.register("weft_controller_slices", "WorkloadSlices there are", slices);
            registry.register("weft_controller_slices_waiting", "WorkloadSlices that have to be written", waiting);
            registry.register(
                "weft_controller_addresses_contested",
                "Addresses that several pods have at once",
                contested,
            );
            registry.register("weft_controller_slice_writes", "Writes of WorkloadSlices", writes);
        });
        metrics
    }

    pub(super) fn stands(&self, pods: usize, slices: usize, waiting: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.pods.set(number(pods));
        self.slices.set(number(slices));
        self.waiting.set(number(waiting));
    }

    pub(super) fn contested(&self, addresses: usize) {
        self.contested.set(i64::try_from(addresses).unwrap_or(i64::MAX));
    }

    pub(super) fn wrote(&self, write: &Write, outcome: &Outcome) {
        let result = match outcome {
            Outcome::Failed(_) => "failed",
            Outcome::Overtaken(_) => "conflict",
            Outcome::Stored(_) | Outcome::Gone => "done",
        };
        self.writes.get_or_create(&Done { verb: write.verb(), result }).inc();
    }
}
