//! Metrics of requests: counts by status and a histogram of durations for each pair of workloads, and not more pairs than
//! [`SERIES_MAX`].
//!
//! What most requests come to is an atomic; the rest is behind a lock of its own.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, EncodeMetric, LabelSetEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::connections::{ConnectionLabels, SERIES_MAX, keep, lock};
use crate::telemetry::requests::RequestEnd;

/// The upper bounds of the histogram, in seconds; durations above the last are in `+Inf` only.
const BOUNDS: [f64; 13] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What requests are counted by beside the workloads: the status, what a gRPC call came to, and the mesh's own word.
type Outcome = (u16, Option<u8>, &'static str);

/// Outcomes that need no lock.
const USUAL: [Outcome; 6] =
    [(200, None, ""), (200, Some(0), ""), (201, None, ""), (204, None, ""), (304, None, ""), (404, None, "")];

#[derive(Debug, Default)]
struct Counts {
    usual: [AtomicU64; USUAL.len()],
    others: Mutex<BTreeMap<Outcome, u64>>,
    durations: [AtomicU64; BOUNDS.len() + 1],
    duration_us: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    gone_since: Mutex<Option<Instant>>,
}

/// The counters of one pair of workloads and one protocol.
#[derive(Clone, Debug)]
pub struct RequestSeries(Arc<Counts>);

impl RequestSeries {
    /// A request has ended.
    pub fn ended(&self, end: &RequestEnd) {
        let counts = &self.0;
        let outcome = (end.status, end.grpc_status, end.error);
        match USUAL.iter().position(|usual| *usual == outcome) {
            Some(at) => _ = counts.usual[at].fetch_add(1, Ordering::Relaxed),
            None => *lock(&counts.others).entry(outcome).or_default() += 1,
        }
        let seconds = end.duration.as_secs_f64();
        let bucket = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        counts.durations[bucket].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(end.duration.as_micros()).unwrap_or(u64::MAX);
        counts.duration_us.fetch_add(micros, Ordering::Relaxed);
        counts.sent.fetch_add(end.sent, Ordering::Relaxed);
        counts.received.fetch_add(end.received, Ordering::Relaxed);
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Labels {
    connection: ConnectionLabels,
    protocol: &'static str,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), fmt::Error> {
        self.connection.encode(encoder)?;
        ("request_protocol", self.protocol).encode(encoder.encode_label())
    }
}

/// All series.
#[derive(Debug, Default)]
pub(super) struct Requests(Mutex<HashMap<Labels, Arc<Counts>>>);

impl Requests {
    pub(super) fn series(&self, connection: &ConnectionLabels, protocol: &'static str) -> RequestSeries {
        let mut series = lock(&self.0);
        let mut labels = Labels { connection: connection.clone(), protocol };
        if series.len() >= SERIES_MAX && !series.contains_key(&labels) {
            labels.connection = connection.collapsed();
        }
        RequestSeries(Arc::clone(series.entry(labels).or_default()))
    }

    /// Forgets series of workloads that have been gone for a while.
    pub(super) fn sweep(&self, alive: &HashSet<(&str, &str)>, now: Instant) {
        lock(&self.0)
            .retain(|labels, counts| keep(labels.connection.is_gone(alive), &mut lock(&counts.gone_since), now));
    }

    fn counts(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Requests, by status; the error is the mesh's own word, empty where it carried the answer";
        let mut family = encoder.encode_descriptor("weft_http_requests", help, None, MetricType::Counter)?;
        for (labels, counts) in &*lock(&self.0) {
            let usual =
                USUAL.iter().zip(&counts.usual).map(|(outcome, count)| (*outcome, count.load(Ordering::Relaxed)));
            let others: Vec<_> = lock(&counts.others).iter().map(|(outcome, count)| (*outcome, *count)).collect();
            for (outcome, count) in usual.filter(|(_, count)| *count > 0).chain(others) {
                ConstCounter::new(count).encode(family.encode_family(&WithOutcome { labels, outcome })?)?;
            }
        }
        Ok(())
    }

    fn bytes(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        of: impl Fn(&Counts) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, counts) in &*lock(&self.0) {
            ConstCounter::new(of(counts)).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn durations(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Seconds from a request's head to the last byte of its response";
        let name = "weft_http_request_duration_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, counts) in &*lock(&self.0) {
            let buckets: Vec<(f64, u64)> = BOUNDS
                .iter()
                .copied()
                .chain([f64::MAX])
                .zip(counts.durations.iter().map(|count| count.load(Ordering::Relaxed)))
                .collect();
            let all = buckets.iter().map(|(_, count)| count).sum();
            let seconds = counts.duration_us.load(Ordering::Relaxed) as f64 / 1e6;
            let mut family = family.encode_family(labels)?;
            family.encode_histogram::<NoLabelSet>(seconds, all, &buckets, None)?;
        }
        Ok(())
    }
}

struct WithOutcome<'a> {
    labels: &'a Labels,
    outcome: Outcome,
}

impl EncodeLabelSet for WithOutcome<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), fmt::Error> {
        let (status, grpc, error) = self.outcome;
        self.labels.encode(encoder)?;
        ("response_code", u64::from(status)).encode(encoder.encode_label())?;
        let grpc = grpc.map(|status| status.to_string()).unwrap_or_default();
        ("grpc_response_status", grpc.as_str()).encode(encoder.encode_label())?;
        ("error", error).encode(encoder.encode_label())
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        self.counts(&mut encoder)?;
        self.durations(&mut encoder)?;
        let sent = ("weft_http_request_bytes", "Bytes of requests' bodies");
        self.bytes(&mut encoder, sent, |counts| counts.sent.load(Ordering::Relaxed))?;
        let received = ("weft_http_response_bytes", "Bytes of responses' bodies");
        self.bytes(&mut encoder, received, |counts| counts.received.load(Ordering::Relaxed))
    }
}
