//! What service ports speak, and why: counted when somebody asks.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads how many service ports speak what: by protocol and the reason why, each one word.
pub type PortSource = Box<dyn Fn() -> BTreeMap<(&'static str, &'static str), u64> + Send + Sync>;

pub(super) struct Ports(pub(super) PortSource);

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").finish_non_exhaustive()
    }
}

impl Collector for Ports {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let help = "Service ports, by what they speak and why";
        let mut family = encoder.encode_descriptor("weft_service_ports", help, None, MetricType::Gauge)?;
        for ((protocol, because), count) in (self.0)() {
            let count = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            count.encode(family.encode_family(&[("protocol", protocol), ("because", because)])?)?;
        }
        Ok(())
    }
}
