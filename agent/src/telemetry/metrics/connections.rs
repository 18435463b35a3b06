//! Metrics of connections: one series for each pair of workloads, and not one more than [`SERIES_MAX`].
//!
//! A series is a handful of atomics behind a handle the connection holds; looking it up is the only lock. Labels name
//! workloads, never addresses or ports of peers, so that their number follows the size of the mesh and not its traffic.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelSetEncoder, LabelValueEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use weft_core::model::{Identity, ObjectName, Workload};

use crate::telemetry::access::Path;

/// The most series of connections; what comes after them is counted under the workload `other`.
pub const SERIES_MAX: usize = 10_000;
/// How long the series of a workload that is gone are kept, so that its last numbers are scraped.
const GRACE: Duration = Duration::from_secs(300);
/// What is not known.
const UNKNOWN: &str = "unknown";
/// What is beyond [`SERIES_MAX`].
const OTHER: &str = "other";

/// Which end of the connection counts it. A connection between two meshed pods is counted at both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reporter {
    /// The node of the client.
    Source,
    /// The node of the server.
    Destination,
}

impl EncodeLabelValue for Reporter {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), fmt::Error> {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
        .encode(encoder)
    }
}

/// How the connection was protected on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Security {
    /// mTLS.
    MutualTls,
    /// Plaintext.
    None,
}

impl EncodeLabelValue for Security {
    fn encode(&self, encoder: &mut LabelValueEncoder) -> Result<(), fmt::Error> {
        match self {
            Self::MutualTls => "mutual_tls",
            Self::None => "none",
        }
        .encode(encoder)
    }
}

/// One end of a connection, as labels.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Party {
    /// The workload's name (its owner's, not the pod's).
    pub workload: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// The identity it proved; `unknown` for plaintext.
    pub principal: Arc<str>,
}

impl Party {
    /// A workload of the mesh; `identity` only if it was proved.
    #[must_use]
    pub fn of(workload: &Workload, identity: Option<&Identity>) -> Self {
        let principal = identity.map_or_else(|| UNKNOWN.into(), |identity| identity.to_string().into());
        Self { workload: workload.owner.clone(), namespace: workload.name.namespace.as_str().into(), principal }
    }

    /// A peer the mesh knows nothing about.
    #[must_use]
    pub fn unknown() -> Self {
        Self { workload: UNKNOWN.into(), namespace: UNKNOWN.into(), principal: UNKNOWN.into() }
    }

    fn other() -> Self {
        Self { workload: OTHER.into(), namespace: OTHER.into(), principal: OTHER.into() }
    }

    fn is_gone(&self, alive: &HashSet<(&str, &str)>) -> bool {
        let named = ![UNKNOWN, OTHER].contains(&&*self.workload);
        named && !alive.contains(&(&*self.namespace, &*self.workload))
    }
}

/// What connections are counted by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConnectionLabels {
    /// Which end counts.
    pub reporter: Reporter,
    /// Who connected.
    pub source: Party,
    /// Who was connected to.
    pub destination: Party,
    /// The service that was dialled, if it was one.
    pub service: Option<ObjectName>,
    /// How it was protected.
    pub security: Security,
    /// The path it took.
    pub path: Path,
}

impl ConnectionLabels {
    /// The same without what there is too much of.
    pub(super) fn collapsed(&self) -> Self {
        Self { source: Party::other(), destination: Party::other(), service: None, ..*self }
    }
}

impl ConnectionLabels {
    /// Whether one of its ends is none of those workloads.
    pub(super) fn is_gone(&self, alive: &HashSet<(&str, &str)>) -> bool {
        self.source.is_gone(alive) || self.destination.is_gone(alive)
    }
}

impl EncodeLabelSet for ConnectionLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), fmt::Error> {
        let (source, destination) = (&self.source, &self.destination);
        let name = self.service.as_ref().map_or(UNKNOWN, |service| service.name.as_str());
        let namespace = self.service.as_ref().map_or(UNKNOWN, |service| service.namespace.as_str());
        ("reporter", self.reporter).encode(encoder.encode_label())?;
        for (label, value) in [
            ("source_workload", &*source.workload),
            ("source_workload_namespace", &*source.namespace),
            ("source_principal", &*source.principal),
            ("destination_workload", &*destination.workload),
            ("destination_workload_namespace", &*destination.namespace),
            ("destination_principal", &*destination.principal),
            ("destination_service_name", name),
            ("destination_service_namespace", namespace),
        ] {
            (label, value).encode(encoder.encode_label())?;
        }
        ("connection_security_policy", self.security).encode(encoder.encode_label())?;
        ("path", self.path.as_str()).encode(encoder.encode_label())
    }
}

/// Counters by a reason of one word.
type Reasons = Mutex<BTreeMap<&'static str, u64>>;

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    closed: Reasons,
    failed: Reasons,
    gone_since: Mutex<Option<Instant>>,
}

/// The counters of one pair of workloads.
#[derive(Clone, Debug)]
pub struct ConnectionSeries(Arc<Counts>);

impl ConnectionSeries {
    /// The connection reached its destination; its end is [`Self::closed`].
    pub fn opened(&self) {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// An open connection ended; `reason` is one word.
    pub fn closed(&self, reason: &'static str) {
        *lock(&self.0.closed).entry(reason).or_default() += 1;
    }

    /// The connection did not reach its destination; `reason` is one word.
    pub fn failed(&self, reason: &'static str) {
        *lock(&self.0.failed).entry(reason).or_default() += 1;
    }

    /// Bytes went from source to destination.
    pub fn sent(&self, bytes: u64) {
        self.0.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes went from destination to source.
    pub fn received(&self, bytes: u64) {
        self.0.received.fetch_add(bytes, Ordering::Relaxed);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A denial: why, and at whose door.
type Denial = (&'static str, Party);

/// All series.
#[derive(Debug, Default)]
pub(super) struct Connections {
    series: Mutex<HashMap<ConnectionLabels, Arc<Counts>>>,
    denials: Mutex<HashMap<Denial, (u64, Option<Instant>)>>,
}

impl Connections {
    pub(super) fn series(&self, labels: &ConnectionLabels) -> ConnectionSeries {
        let mut series = lock(&self.series);
        if let Some(counts) = series.get(labels) {
            return ConnectionSeries(counts.clone());
        }
        let labels = if series.len() < SERIES_MAX { labels.clone() } else { labels.collapsed() };
        ConnectionSeries(series.entry(labels).or_default().clone())
    }

    pub(super) fn denied(&self, reason: &'static str, destination: &Party) {
        let mut denials = lock(&self.denials);
        let mut label = (reason, Party { principal: UNKNOWN.into(), ..destination.clone() });
        if denials.len() >= SERIES_MAX && !denials.contains_key(&label) {
            label.1 = Party::other();
        }
        denials.entry(label).or_default().0 += 1;
    }

    /// Forgets series of workloads gone for [`GRACE`].
    pub(super) fn sweep(&self, alive: &HashSet<(&str, &str)>, now: Instant) {
        lock(&self.series).retain(|labels, counts| keep(labels.is_gone(alive), &mut lock(&counts.gone_since), now));
        lock(&self.denials).retain(|(_, party), (_, since)| keep(party.is_gone(alive), since, now));
    }

    fn totals(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        total: impl Fn(&Counts) -> u64,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, counts) in &*lock(&self.series) {
            ConstCounter::new(total(counts)).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn by_reason(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        reasons: impl Fn(&Counts) -> &Reasons,
    ) -> Result<(), fmt::Error> {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, counts) in &*lock(&self.series) {
            for (reason, count) in &*lock(reasons(counts)) {
                let labels = WithReason { labels, reason };
                ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Whether to keep what has been `gone` since a moment that is noted here.
pub(super) fn keep(gone: bool, since: &mut Option<Instant>, now: Instant) -> bool {
    *since = gone.then(|| since.unwrap_or(now));
    since.is_none_or(|since| now.saturating_duration_since(since) < GRACE)
}

struct WithReason<'a> {
    labels: &'a ConnectionLabels,
    reason: &'static str,
}

impl EncodeLabelSet for WithReason<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder) -> Result<(), fmt::Error> {
        self.labels.encode(encoder)?;
        ("reason", self.reason).encode(encoder.encode_label())
    }
}

impl Collector for Connections {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let opened = ("weft_tcp_connections_opened", "TCP connections that reached their destination");
        self.totals(&mut encoder, opened, |counts| counts.opened.load(Ordering::Relaxed))?;
        let sent = ("weft_tcp_sent_bytes", "Bytes from source to destination");
        self.totals(&mut encoder, sent, |counts| counts.sent.load(Ordering::Relaxed))?;
        let received = ("weft_tcp_received_bytes", "Bytes from destination to source");
        self.totals(&mut encoder, received, |counts| counts.received.load(Ordering::Relaxed))?;
        let closed = ("weft_tcp_connections_closed", "TCP connections that ended, by reason");
        self.by_reason(&mut encoder, closed, |counts| &counts.closed)?;
        let failed = ("weft_tcp_connections_failed", "TCP connections that did not reach their destination, by reason");
        self.by_reason(&mut encoder, failed, |counts| &counts.failed)?;
        let help = "Connections refused or ended by policy, by reason and destination";
        let mut family = encoder.encode_descriptor("weft_policy_denials", help, None, MetricType::Counter)?;
        for ((reason, party), (count, _)) in &*lock(&self.denials) {
            let labels = [
                ("reason", *reason),
                ("destination_workload", &*party.workload),
                ("destination_workload_namespace", &*party.namespace),
            ];
            ConstCounter::new(*count).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
