//! Connections between pods of this node that went past the proxy: counted, logged, and judged again by policy.
//!
//! The kernel says who they are between and what became of them; nothing of their bytes was ever here. Identities are those
//! of the pods whose namespaces the kernel names, attested by it and by no certificate.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_abi::{Attested, FlowEnd, FlowRecord, Tuple};
use weft_core::balance::Balancers;
use weft_core::model::{Identity, Workload};
use weft_core::policy::{ConnectionFacts, Verdict, authorize};
use weft_core::route::service_port_at;
use weft_core::snapshot::Snapshot;

use crate::pod::{Pod, Snapshots};
use crate::telemetry::access::{self, ConnectionRecord, Direction, Ending, Path, Peer};
use crate::telemetry::{ConnectionLabels, ConnectionSeries, Metrics, Party, Reporter, Security};

/// A pod that takes part, or took part and still has connections.
#[derive(Clone, Debug)]
pub struct Known {
    identity: Identity,
    workload: Arc<Workload>,
}

impl Known {
    /// A pod as `snapshot` has it.
    #[must_use]
    pub fn of(snapshot: &Snapshot, workload: &Arc<Workload>) -> Self {
        Self { identity: snapshot.identity_of(workload), workload: Arc::clone(workload) }
    }

    fn party(&self) -> Party {
        Party::of(&self.workload, Some(&self.identity))
    }

    fn peer(&self, address: SocketAddr) -> Peer {
        Peer { address, workload: Some(Arc::clone(&self.workload)), identity: Some(self.identity.clone()) }
    }
}

/// Pods by the cookies of their namespaces.
#[derive(Debug, Default)]
pub struct KnownPods(Mutex<HashMap<u64, Known>>);

impl KnownPods {
    /// Notes a pod.
    pub fn learn(&self, cookie: u64, known: Known) {
        self.pods().insert(cookie, known);
    }

    /// Keeps only those that are needed.
    pub fn forget(&self, needed: impl Fn(u64) -> bool) {
        self.pods().retain(|cookie, _| needed(*cookie));
    }

    fn find(&self, cookie: u64) -> Option<Known> {
        self.pods().get(&cookie).cloned()
    }

    fn pods(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this room works with.
pub struct Direct {
    /// The pods.
    pub known: KnownPods,
    snapshots: Snapshots,
    metrics: Metrics,
    balancers: Arc<Balancers>,
    series: Mutex<SeriesCache>,
    /// Sockets whose connections policy ended.
    killed: Mutex<HashSet<u64>>,
}

/// Series by who connects to whom by which address, at both ends, for one state of the configuration.
#[derive(Default)]
struct SeriesCache {
    generation: u64,
    series: HashMap<(u64, u64, SocketAddr), [ConnectionSeries; 2]>,
}

impl Direct {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(snapshots: Snapshots, metrics: Metrics, balancers: Arc<Balancers>) -> Self {
        let (known, series, killed) = Default::default();
        Self { known, snapshots, metrics, balancers, series, killed }
    }

    /// Counts and logs what the kernel reports.
    pub fn report(&self, records: &[FlowRecord]) {
        let snapshot = (self.snapshots)();
        for record in records {
            let Some(end) = FlowEnd::from_raw(record.end) else { continue };
            let (source, destination) = (self.known.find(record.source), self.known.find(record.destination));
            let (Some(source), Some(destination)) = (source, destination) else {
                tracing::debug!(
                    source = record.source,
                    destination = record.destination,
                    "a connection of pods unknown"
                );
                continue;
            };
            self.record(&snapshot, record, end, &source, &destination);
        }
    }

    fn record(&self, snapshot: &Snapshot, record: &FlowRecord, end: FlowEnd, source: &Known, destination: &Known) {
        let series = self.series(snapshot, record, source, destination);
        let mut policy = None;
        let (label, error) = match end {
            FlowEnd::Opened => return series.iter().for_each(ConnectionSeries::opened),
            FlowEnd::Finished => ("fin", None),
            FlowEnd::Reset if self.killed().remove(&record.socket) => ("killed", None),
            FlowEnd::Reset => ("reset", None),
            FlowEnd::Refused => {
                // Whom the kernel has refused, the proxy tries before the kernel does again: it can try another.
                if let Some(key) = service_port_at(snapshot, dialled(record)) {
                    self.balancers.refused(&key, server(&record.tuple), Instant::now(), rand::random());
                }
                ("connection_refused", Some("the app does not accept; does it listen on the pod's address?".into()))
            }
            FlowEnd::Denied => {
                let facts = facts(&record.tuple, source, destination);
                match authorize(snapshot, &facts).verdict {
                    Verdict::Deny { reason, policy: by } => {
                        policy = by;
                        self.metrics.policy_denied(reason.label(), &destination.party());
                        (reason.label(), Some(reason.to_string()))
                    }
                    // It was refused by what was in force then.
                    Verdict::Allow { .. } => ("denied", Some("policy refused it".into())),
                }
            }
        };
        for series in &series {
            match error {
                None => {
                    series.sent(record.sent);
                    series.received(record.received);
                    series.closed(label);
                }
                Some(_) => series.failed(label),
            }
        }
        let dialled = dialled(record);
        let connection = ConnectionRecord {
            direction: Direction::Outbound,
            path: Path::SameNode,
            tunnel_protocol: None,
            source: source.peer(client(&record.tuple)),
            destination: Some(destination.peer(server(&record.tuple))),
            original_destination: Some(dialled),
            service: service_port_at(snapshot, dialled).map(|key| key.service),
            attempts: 1,
            policy,
        };
        let duration = Duration::from_nanos(record.lasted);
        let round_trip = (record.rtt_us != 0).then(|| Duration::from_micros(record.rtt_us.into()));
        let (sent, received) = (record.sent, record.received);
        access::log(&connection, &Ending { sent, received, duration, round_trip, end: label, error });
    }

    fn series(
        &self,
        snapshot: &Snapshot,
        record: &FlowRecord,
        source: &Known,
        destination: &Known,
    ) -> [ConnectionSeries; 2] {
        let mut cache = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        // Series of workloads that are gone are dropped; a handle kept over that would count for nobody.
        if cache.generation != snapshot.generation() {
            *cache = SeriesCache { generation: snapshot.generation(), ..SeriesCache::default() };
        }
        let dialled = dialled(record);
        let make = || {
            [Reporter::Source, Reporter::Destination].map(|reporter| {
                self.metrics.connection(&ConnectionLabels {
                    reporter,
                    source: source.party(),
                    destination: destination.party(),
                    service: service_port_at(snapshot, dialled).map(|key| key.service),
                    security: Security::None,
                    path: Path::SameNode,
                })
            })
        };
        cache.series.entry((record.source, record.destination, dialled)).or_insert_with(make).clone()
    }

    /// Both ends of a connection that stands.
    #[must_use]
    pub fn ends(&self, attested: &Attested) -> [Option<(String, Identity)>; 2] {
        [attested.source, attested.destination].map(|cookie| {
            let known = self.known.find(cookie)?;
            Some((known.workload.name.to_string(), known.identity))
        })
    }

    /// Of the connections to `pod`, those that `snapshot` refuses; they are noted as ended by policy.
    #[must_use]
    pub fn doomed(
        &self,
        snapshot: &Snapshot,
        pod: &Pod,
        open: &[(Tuple, Attested)],
    ) -> HashSet<(SocketAddr, SocketAddr)> {
        let Some(workload) = pod.workload(snapshot) else { return HashSet::new() };
        let here = open.iter().filter(|(_, attested)| attested.destination == pod.netns.cookie());
        let refused = here.filter(|(tuple, attested)| {
            // A peer that is not known any more is nobody that policy could let in by name.
            let source = self.known.find(attested.source);
            let (from, to) = (client(tuple), server(tuple));
            let facts = ConnectionFacts {
                destination: workload,
                port: to.port(),
                peer: source.as_ref().map(|known| &known.identity),
                source: from.ip(),
            };
            !authorize(snapshot, &facts).is_allowed()
        });
        let mut killed = self.killed();
        refused
            .map(|(tuple, attested)| {
                killed.insert(attested.socket);
                (server(tuple), client(tuple))
            })
            .collect()
    }

    fn killed(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.killed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn facts<'a>(tuple: &Tuple, source: &'a Known, destination: &'a Known) -> ConnectionFacts<'a> {
    ConnectionFacts {
        destination: &destination.workload,
        port: server(tuple).port(),
        peer: Some(&source.identity),
        source: client(tuple).ip(),
    }
}

/// The client's end of a connection.
#[must_use]
pub fn client(tuple: &Tuple) -> SocketAddr {
    SocketAddr::new(tuple.source.into(), port(tuple.source_port))
}

/// The server's end.
#[must_use]
pub fn server(tuple: &Tuple) -> SocketAddr {
    SocketAddr::new(tuple.destination.into(), port(tuple.destination_port))
}

fn dialled(record: &FlowRecord) -> SocketAddr {
    SocketAddr::new(record.dialled.into(), port(record.dialled_port))
}

/// The programs hold ports in words.
const fn port(word: u32) -> u16 {
    (word & 0xffff) as u16
}
