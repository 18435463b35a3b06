//! One connection as it is counted and logged, from its accept to its end, the same for both halves.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use weft_core::model::{Identity, ObjectName, Workload};

use crate::relay::{End, Flow};
use crate::telemetry::access::{self, ConnectionRecord, Direction, Ending, Path, Peer};
use crate::telemetry::{ConnectionLabels, ConnectionSeries, Metrics, Party, Reporter, Security, TunnelDirection};
use crate::tunnel::{Events, Protocol, Rejection, Side, TunnelError};

/// The bytes of a connection, and how many of them the metrics have been told.
#[derive(Debug)]
pub struct Meter {
    /// What the relay counts, and what ends it: near is the app or the plaintext client.
    pub flow: Arc<Flow>,
    /// Whether near is the destination, so that the relay's directions are the reverse of the connection's.
    near_is_destination: bool,
    series: OnceLock<ConnectionSeries>,
    told: Mutex<(u64, u64)>,
}

impl Meter {
    fn new(near_is_destination: bool) -> Self {
        Self { flow: Arc::default(), near_is_destination, series: OnceLock::new(), told: Mutex::default() }
    }

    /// Bytes so far: from source to destination, and back.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let (out, back) = (self.flow.traffic.sent(), self.flow.traffic.received());
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

/// A connection that is being made.
pub struct Observed {
    metrics: Metrics,
    /// What will be logged of it.
    pub record: ConnectionRecord,
    /// Who connects, for the metrics.
    pub source: Party,
    /// Who is connected to, for the metrics.
    pub destination: Party,
    near_is_destination: bool,
    begun: Instant,
}

impl Observed {
    /// A connection just accepted, from `source`. `near_is_destination` where the relay's first side is the app that is served.
    #[must_use]
    pub fn new(
        metrics: &Metrics,
        direction: Direction,
        path: Path,
        source: SocketAddr,
        near_is_destination: bool,
    ) -> Self {
        let record = ConnectionRecord {
            direction,
            path,
            tunnel_protocol: None,
            source: Peer { address: source, workload: None, identity: None },
            destination: None,
            original_destination: None,
            service: None,
            attempts: 0,
            policy: None,
        };
        Self {
            metrics: metrics.clone(),
            record,
            source: Party::unknown(),
            destination: Party::unknown(),
            near_is_destination,
            begun: Instant::now(),
        }
    }

    /// Who connects.
    pub fn source(&mut self, workload: Option<&Arc<Workload>>, identity: Option<&Identity>) {
        (self.record.source, self.source) = known(self.record.source.address, workload, identity);
    }

    /// Who is connected to.
    pub fn destination(&mut self, address: SocketAddr, workload: Option<&Arc<Workload>>, identity: Option<&Identity>) {
        let (peer, party) = known(address, workload, identity);
        (self.record.destination, self.destination) = (Some(peer), party);
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

    /// As one of the open connections of the pod with this UID.
    #[must_use]
    pub fn connection(&self, pod: &Arc<str>) -> Connection {
        Connection {
            pod: Arc::clone(pod),
            record: self.record.clone(),
            meter: Meter::new(self.near_is_destination),
            begun: self.begun,
        }
    }

    /// Both sides are connected: `connection` is counted from here on.
    pub fn opened(self, connection: &Connection) {
        let series = self.series();
        series.opened();
        let _ = connection.meter.series.set(series);
    }

    /// It never was connected.
    pub fn failed(self, reason: &'static str, error: String) {
        self.series().failed(reason);
        let duration = self.begun.elapsed();
        let ending = Ending { sent: 0, received: 0, duration, round_trip: None, end: reason, error: Some(error) };
        access::log(&self.record, &ending);
    }
}

/// A connection from when it is let in to its end: one block of memory for the registry, the relay and the log, since there
/// may be many that idle.
#[derive(Debug)]
pub struct Connection {
    /// UID of the pod of this node it belongs to.
    pub pod: Arc<str>,
    /// Who talks to whom, and how.
    pub record: ConnectionRecord,
    /// Its bytes, and what ends it.
    pub meter: Meter,
    /// When it was accepted.
    pub begun: Instant,
}

impl Connection {
    /// The client's address.
    #[must_use]
    pub fn source(&self) -> SocketAddr {
        self.record.source.address
    }

    /// The address the client dialled (outbound) or the app listens on (inbound).
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        let far = self.record.destination.as_ref().map(|peer| peer.address);
        self.record.original_destination.or(far).unwrap_or(self.source())
    }

    /// The endpoint an outbound connection was given to.
    #[must_use]
    pub fn endpoint(&self) -> Option<SocketAddr> {
        let outbound = self.record.direction == Direction::Outbound;
        self.record.destination.as_ref().filter(|_| outbound).map(|peer| peer.address)
    }

    /// The pod of this node it belongs to.
    #[must_use]
    pub fn pod_name(&self) -> Option<&ObjectName> {
        self.ends()[0]?.workload.as_ref().map(|workload| &workload.name)
    }

    /// The other's identity, from its certificate (inbound) or as demanded of it (outbound); `None` in plaintext.
    #[must_use]
    pub fn peer(&self) -> Option<&Identity> {
        self.ends()[1]?.identity.as_ref()
    }

    /// The pod's end and the other.
    fn ends(&self) -> [Option<&Peer>; 2] {
        let (source, destination) = (Some(&self.record.source), self.record.destination.as_ref());
        match self.record.direction {
            Direction::Outbound => [source, destination],
            Direction::Inbound => [destination, source],
        }
    }

    /// The relay is done.
    pub fn ended(&self, end: End) {
        self.meter.flush();
        let label = match end {
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
        let (sent, received) = self.meter.bytes();
        let duration = self.begun.elapsed();
        access::log(&self.record, &Ending { sent, received, duration, round_trip: None, end: label, error: None });
    }
}

fn known(address: SocketAddr, workload: Option<&Arc<Workload>>, identity: Option<&Identity>) -> (Peer, Party) {
    let party = match workload {
        Some(workload) => Party::of(workload, identity),
        None => Party::unknown(),
    };
    (Peer { address, workload: workload.cloned(), identity: identity.cloned() }, party)
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
