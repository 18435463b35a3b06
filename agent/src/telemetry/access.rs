//! The access log: one structured line per connection, when it ends.
//!
//! Identities come from certificates, or from the pod the kernel says a connection began in; what a peer writes into a
//! header about itself is not among the fields. Lines have the target `weft::access`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use weft_core::model::{Identity, ObjectName, Workload};

use super::line::Line;

/// Which end of a connection this node served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Direction {
    /// A pod of this node connected.
    Outbound,
    /// A pod of this node was connected to.
    Inbound,
}

impl Direction {
    /// The word in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// How a connection travelled between nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Path {
    /// In a tunnel, with mTLS, whichever protocol the tunnel speaks.
    Tunnel,
    /// Between two pods of this node, past the proxy: the kernel attests who they are. Plaintext, and nobody's certificate.
    SameNode,
    /// To or from a peer outside the mesh, judged by the mesh.
    Plaintext,
    /// To a destination the mesh knows nothing about.
    Passthrough,
    /// Request by request, each by a path of its own.
    Requests,
}

impl Path {
    /// The word in logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::SameNode => "same_node",
            Self::Plaintext => "plaintext",
            Self::Requests => "requests",
            Self::Passthrough => "passthrough",
        }
    }
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address as this node saw it.
    pub address: SocketAddr,
    /// The workload at that address, if the mesh knows one.
    pub workload: Option<Arc<Workload>>,
    /// The identity it proved.
    pub identity: Option<Identity>,
}

/// A connection: who talks to whom, and how.
#[derive(Clone, Debug)]
pub struct ConnectionRecord {
    /// Which end this node served.
    pub direction: Direction,
    /// How it travelled.
    pub path: Path,
    /// What the tunnel spoke, if it travelled in one: `weft/1` or `hbone`.
    pub tunnel_protocol: Option<&'static str>,
    /// Who connected.
    pub source: Peer,
    /// Who was connected to, once that is known.
    pub destination: Option<Peer>,
    /// The address the source dialled.
    pub original_destination: Option<SocketAddr>,
    /// The service that address belongs to.
    pub service: Option<ObjectName>,
    /// How many endpoints were tried.
    pub attempts: u32,
    /// The policy that decided.
    pub policy: Option<ObjectName>,
}

/// What became of a connection.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Bytes from source to destination.
    pub sent: u64,
    /// Bytes from destination to source.
    pub received: u64,
    /// From accept to end.
    pub duration: Duration,
    /// Between the two pods' kernels, smoothed, when the connection was last established in both directions; of those past
    /// the proxy only, for the proxy has two connections.
    pub round_trip: Option<Duration>,
    /// How it ended: one word, as in the metrics.
    pub end: &'static str,
    /// What went wrong, in a sentence, if something did.
    pub error: Option<String>,
}

/// Writes the line: at `info`, or at `warn` if something went wrong.
pub fn log(record: &ConnectionRecord, ending: &Ending) {
    if let Some(mut line) = Line::begin("connection", ending.error.is_some()) {
        record.compose(ending, &mut line);
        line.end();
    }
}

impl ConnectionRecord {
    fn compose(&self, ending: &Ending, line: &mut Line) {
        line.text("direction", self.direction.as_str());
        line.text("path", self.path.as_str());
        if let Some(protocol) = self.tunnel_protocol {
            line.text("tunnel_protocol", protocol);
        }
        self.source.compose(line, ["src_addr", "src_workload", "src_identity"]);
        if let Some(destination) = &self.destination {
            destination.compose(line, ["dst_addr", "dst_workload", "dst_identity"]);
        }
        if let Some(dialled) = &self.original_destination {
            line.shown("original_dst", dialled);
        }
        if let Some(service) = &self.service {
            line.shown("service", service);
        }
        line.number("bytes_sent", ending.sent);
        line.number("bytes_received", ending.received);
        line.number("duration_ms", u64::try_from(ending.duration.as_millis()).unwrap_or(u64::MAX));
        if let Some(round_trip) = ending.round_trip {
            line.number("rtt_us", u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX));
        }
        line.number("attempts", self.attempts.into());
        line.text("end", ending.end);
        if let Some(policy) = &self.policy {
            line.shown("policy", policy);
        }
        if let Some(error) = &ending.error {
            line.text("error", error);
        }
    }
}

impl Peer {
    fn compose(&self, line: &mut Line, [address, workload, identity]: [&str; 3]) {
        line.shown(address, &self.address);
        if let Some(value) = &self.workload {
            line.shown(workload, &value.name);
        }
        if let Some(value) = &self.identity {
            line.shown(identity, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::line::tests::composed;
    use crate::telemetry::logging::Format;

    fn record() -> ConnectionRecord {
        ConnectionRecord {
            direction: Direction::Inbound,
            path: Path::Tunnel,
            tunnel_protocol: Some("weft/1"),
            source: Peer {
                address: "10.0.0.1:4000".parse().unwrap(),
                workload: None,
                identity: Some("spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()),
            },
            destination: Some(Peer { address: "[fd00::2]:8080".parse().unwrap(), workload: None, identity: None }),
            original_destination: None,
            service: None,
            attempts: 1,
            policy: Some(ObjectName::new("shop", "callers").unwrap()),
        }
    }

    #[test]
    fn one_json_line_with_every_field_that_is_known() {
        let (duration, round_trip) = (Duration::from_millis(1234), Some(Duration::from_micros(61)));
        let well = Ending { sent: 5, received: 7, duration, round_trip, end: "fin", error: None };
        let wrong = Ending { error: Some("refused\n\"quoted\"".to_owned()), round_trip: None, ..well.clone() };
        let lines = [well, wrong].map(|ending| {
            let text = composed(Format::Json, ending.error.is_some(), |line| record().compose(&ending, line));
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        });
        let line = &lines[0];
        assert_eq!(line["target"], "weft::access");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["src_identity"], "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!(line["tunnel_protocol"], "weft/1");
        assert_eq!(line["dst_addr"], "[fd00::2]:8080");
        assert_eq!((&line["bytes_sent"], &line["bytes_received"]), (&5.into(), &7.into()));
        assert_eq!((&line["duration_ms"], &line["rtt_us"], &line["end"]), (&1234.into(), &61.into(), &"fin".into()));
        assert!(lines[1].get("rtt_us").is_none(), "what was not measured is not written");
        assert!(line.get("dst_identity").is_none(), "what is not known is not written");
        assert_eq!((&lines[1]["level"], &lines[1]["error"]), (&"WARN".into(), &"refused\n\"quoted\"".into()));
    }
}
