//! One connection as it is counted and logged, from its accept to its end, the same for both halves.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use weft_core::model::{Identity, ObjectName, Workload};

use crate::relay::{End, Outcome, Traffic};
use crate::telemetry::access::{self, ConnectionRecord, Direction, Path, Peer};
use crate::telemetry::{ConnectionLabels, ConnectionSeries, Metrics, Party, Reporter, Security, TunnelDirection};
use crate::tunnel::{Events, Protocol, Rejection, Side, TunnelError};

/// The bytes of a connection, and how many of them the metrics have been told.
#[derive(Debug)]
pub struct Meter {
    /// What the relay counts: near is the app or the plaintext client.
    pub traffic: Arc<Traffic>,
    /// Whether near is the destination, so that the relay's directions are the reverse of the connection's.
    near_is_destination: bool,
    series: OnceLock<ConnectionSeries>,
    told: Mutex<(u64, u64)>,
}

impl Meter {
    fn new(near_is_destination: bool) -> Self {
        Self { traffic: Arc::default(), near_is_destination, series: OnceLock::new(), told: Mutex::default() }
    }

    /// That of a connection whose requests are counted, and not itself.
    #[must_use]
    pub fn of_requests() -> Arc<Self> {
        Arc::new(Self::new(false))
    }

    /// Bytes so far: from source to destination, and back.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let (out, back) = (self.traffic.sent(), self.traffic.received());
        if self.near_is_destination { (back, out) } else { (out, back) }
    }

    /// Tells the metrics what they do not know yet; called now and then while the connection lives, and at its end.
    pub fn flush(&self) {
        let Some(series) = self.series.get() else { return };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.bytes();
        series.sent(now.0.saturating_sub(told.0));
        series.received(now.1.saturating_sub(told.1));
        *told = now;
    }
}

/// A connection that is being carried.
pub struct Observed {
    metrics: Metrics,
    /// The line that will be logged.
    pub record: ConnectionRecord,
    /// Who connects, for the metrics.
    pub source: Party,
    /// Who is connected to, for the metrics.
    pub destination: Party,
    /// Its bytes.
    pub meter: Arc<Meter>,
    begun: Instant,
}

impl Observed {
    /// A connection just accepted. `near_is_destination` where the relay's first side is the app that is served.
    #[must_use]
    pub fn new(metrics: &Metrics, direction: Direction, path: Path, near_is_destination: bool) -> Self {
        let record = ConnectionRecord {
            direction,
            path,
            tunnel_protocol: None,
            source: Peer::default(),
            destination: Peer::default(),
            original_destination: None,
            service: None,
            sent: 0,
            received: 0,
            duration: std::time::Duration::ZERO,
            attempts: 0,
            end: "",
            error: None,
            policy: None,
        };
        Self {
            metrics: metrics.clone(),
            record,
            source: Party::unknown(),
            destination: Party::unknown(),
            meter: Arc::new(Meter::new(near_is_destination)),
            begun: Instant::now(),
        }
    }

    /// Who connects.
    pub fn source(&mut self, address: SocketAddr, workload: Option<&Workload>, identity: Option<&Identity>) {
        (self.record.source, self.source) = known(address, workload, identity);
    }

    /// Who is connected to.
    pub fn destination(&mut self, address: SocketAddr, workload: Option<&Workload>, identity: Option<&Identity>) {
        (self.record.destination, self.destination) = known(address, workload, identity);
    }

    fn series(&self) -> ConnectionSeries {
        let reporter = match self.record.direction {
            Direction::Outbound => Reporter::Source,
            Direction::Inbound => Reporter::Destination,
        };
        self.metrics.connection(&ConnectionLabels {
            reporter,
            source: self.source.clone(),
            destination: self.destination.clone(),
            service: self.record.service.clone(),
            security: if self.record.path == Path::Tunnel { Security::MutualTls } else { Security::None },
            path: self.record.path,
        })
    }

    /// Both sides are connected. What was needed only to find the connection's series is let go: it may last for days.
    #[must_use]
    pub fn opened(self) -> Opened {
        let series = self.series();
        series.opened();
        let _ = self.meter.series.set(series);
        Opened { record: self.record, meter: self.meter, begun: self.begun }
    }

    /// It never was connected.
    pub fn failed(mut self, reason: &'static str, error: String) {
        self.series().failed(reason);
        self.record.error = Some(error);
        log(&mut self.record, self.begun, reason);
    }
}

/// A connection whose sides are connected.
pub struct Opened {
    record: ConnectionRecord,
    /// Its bytes.
    pub meter: Arc<Meter>,
    begun: Instant,
}

impl Opened {
    /// The relay is done.
    pub fn ended(mut self, outcome: &Outcome) {
        self.meter.flush();
        let label = match outcome.end {
            End::Fin => "fin",
            End::Killed => "killed",
            End::Reset(side) => {
                let near = side == crate::relay::Side::Near;
                if near == self.meter.near_is_destination { "reset_by_destination" } else { "reset_by_source" }
            }
        };
        if let Some(series) = self.meter.series.get() {
            series.closed(label);
        }
        (self.record.sent, self.record.received) = self.meter.bytes();
        log(&mut self.record, self.begun, label);
    }
}

fn log(record: &mut ConnectionRecord, begun: Instant, end: &'static str) {
    record.end = end;
    record.duration = begun.elapsed();
    access::log(record);
}

fn known(address: SocketAddr, workload: Option<&Workload>, identity: Option<&Identity>) -> (Peer, Party) {
    let party = match workload {
        Some(workload) => Party::of(workload, identity),
        None => Party::unknown(),
    };
    let name = workload.map(|w: &Workload| -> ObjectName { w.name.clone() });
    (Peer { address: Some(address), workload: name, identity: identity.cloned() }, party)
}

/// A failed connect as a metric label.
pub(crate) fn connect_label(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionRefused => "connection_refused",
        io::ErrorKind::TimedOut => "connect_timeout",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
        io::ErrorKind::ConnectionReset => "connection_reset",
        _ => "connect_failed",
    }
}

/// Tunnels as they are counted and logged.
#[derive(Debug)]
pub struct TunnelEvents(pub Metrics);

const fn direction(side: Side) -> TunnelDirection {
    match side {
        Side::Client => TunnelDirection::Outbound,
        Side::Server => TunnelDirection::Inbound,
    }
}

impl Events for TunnelEvents {
    fn opened(&self, side: Side, protocol: Protocol) {
        self.0.tunnel_opened(direction(side), protocol.label());
    }

    fn closed(&self, side: Side, protocol: Protocol, reason: Option<&TunnelError>) {
        self.0.tunnel_closed(direction(side), protocol.label(), reason.map_or("done", TunnelError::reason));
    }

    fn failed(&self, to: SocketAddr, error: &TunnelError) {
        self.0.handshake_failed(TunnelDirection::Outbound, error.reason());
        tracing::warn!(target: "weft::tunnel", %to, reason = error.reason(), %error, "no tunnel");
    }

    fn rejected(&self, rejection: &Rejection) {
        let reason = rejection.error.reason();
        if matches!(rejection.error, TunnelError::NothingSaid) {
            tracing::debug!(target: "weft::tunnel", source = %rejection.source, destination = %rejection.destination, reason);
            return;
        }
        self.0.inbound_rejected(reason);
        if rejection.peer.is_none() {
            self.0.handshake_failed(TunnelDirection::Inbound, reason);
        }
        tracing::warn!(
            target: "weft::tunnel",
            source = %rejection.source,
            destination = %rejection.destination,
            peer = rejection.peer.as_ref().map(tracing::field::display),
            reason,
            error = %rejection.error,
            "turned away"
        );
    }
}
