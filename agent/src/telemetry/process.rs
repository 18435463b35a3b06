//! The process's own memory, descriptors and start, from `/proc/self`, under the names every Prometheus client uses.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
pub struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let measured = [
            ("process_open_fds", "Number of open file descriptors", open_descriptors()),
            ("process_max_fds", "Maximum number of open file descriptors", descriptor_limit()),
            ("process_resident_memory_bytes", "Resident memory size in bytes", resident_bytes()),
            ("process_threads", "Number of threads", threads()),
        ];
        for (name, help, value) in measured {
            let Some(value) = value.and_then(|value| i64::try_from(value).ok()) else { continue };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

fn open_descriptors() -> Option<u64> {
    // The listing itself holds one.
    Some((fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

fn descriptor_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn status(field: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

fn resident_bytes() -> Option<u64> {
    status("VmRSS").map(|kibibytes| kibibytes * 1024)
}

fn threads() -> Option<u64> {
    status("Threads")
}
