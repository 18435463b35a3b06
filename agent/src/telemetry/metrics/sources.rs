//! Counters that others keep, read at each scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use crate::telemetry::logging::LevelHandle;

/// Reads the kernel's counters: the name of a verdict and how often it was given.
pub type VerdictSource = Box<dyn Fn() -> Vec<(&'static str, u64)> + Send + Sync>;

/// The kernel's counters, read at each scrape.
pub(super) struct Verdicts(pub(super) VerdictSource);

impl fmt::Debug for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verdicts").finish_non_exhaustive()
    }
}

impl Collector for Verdicts {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "Decisions of the eBPF programs, by verdict";
        let mut family = encoder.encode_descriptor("weft_steering_verdicts", help, None, MetricType::Counter)?;
        for (verdict, count) in (self.0)() {
            ConstCounter::new(count).encode(family.encode_family(&[("verdict", verdict)])?)?;
        }
        Ok(())
    }
}

/// Log lines nobody read, read at each scrape.
#[derive(Debug)]
pub(super) struct DroppedLines(pub(super) LevelHandle);

impl Collector for DroppedLines {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "Log lines dropped because standard error was not read fast enough";
        let counter = ConstCounter::new(self.0.dropped_lines());
        counter.encode(encoder.encode_descriptor("weft_log_lines_dropped", help, None, counter.metric_type())?)
    }
}
