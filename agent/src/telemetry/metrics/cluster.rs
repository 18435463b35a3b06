//! How fresh what is known of the cluster is, read at each scrape.

use std::fmt;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use weft_control::kubernetes::{Health, WatchState};

/// The watches of the API server.
#[derive(Debug)]
pub(super) struct Watches(pub(super) Health);

impl Collector for Watches {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let (watches, now) = (self.0.watches(), Instant::now());
        let help = "Seconds of which changes may have been missed, by kind; 0 while its watch stands";
        let mut stale = encoder.encode_descriptor("weft_kubernetes_stale_seconds", help, None, MetricType::Gauge)?;
        for (kind, watch) in &watches {
            let seconds = match watch.state {
                WatchState::Stale(_) => now.saturating_duration_since(watch.heard).as_secs_f64(),
                _ => 0.0,
            };
            ConstGauge::new(seconds).encode(stale.encode_family(&[("kind", kind.as_str())])?)?;
        }
        if let Some(offset) = self.0.clock_offset() {
            let help = "Seconds by which this node's clock is ahead of the API server's";
            let clock = encoder.encode_descriptor("weft_clock_offset_seconds", help, None, MetricType::Gauge)?;
            ConstGauge::new(offset).encode(clock)?;
        }
        let help = "Times everything of a kind was read anew, the first time included";
        let mut lists = encoder.encode_descriptor("weft_kubernetes_lists", help, None, MetricType::Counter)?;
        for (kind, watch) in &watches {
            ConstCounter::new(watch.lists).encode(lists.encode_family(&[("kind", kind.as_str())])?)?;
        }
        let help = "Times the watch of a kind broke off or could not begin";
        let mut failures = encoder.encode_descriptor("weft_kubernetes_failures", help, None, MetricType::Counter)?;
        for (kind, watch) in &watches {
            ConstCounter::new(watch.failures).encode(failures.encode_family(&[("kind", kind.as_str())])?)?;
        }
        Ok(())
    }
}
