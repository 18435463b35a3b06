//! The access log: one structured line per connection, when it ends.
//!
//! Identities come from certificates, or from the pod the kernel says a connection began in; what a peer writes into a
//! header about itself is not among the fields. Lines have the target `weft::access`.

use std::net::SocketAddr;
use std::time::Duration;

use weft_core::model::{Identity, ObjectName};

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
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Its address as this node saw it.
    pub address: Option<SocketAddr>,
    /// The workload at that address, if the mesh knows one.
    pub workload: Option<ObjectName>,
    /// The identity it proved.
    pub identity: Option<Identity>,
}

/// What became of a connection.
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
    /// Who was connected to.
    pub destination: Peer,
    /// The address the source dialled.
    pub original_destination: Option<SocketAddr>,
    /// The service that address belongs to.
    pub service: Option<ObjectName>,
    /// Bytes from source to destination.
    pub sent: u64,
    /// Bytes from destination to source.
    pub received: u64,
    /// From accept to end.
    pub duration: Duration,
    /// How many endpoints were tried.
    pub attempts: u32,
    /// How it ended: one word, as in the metrics.
    pub end: &'static str,
    /// What went wrong, in a sentence, if something did.
    pub error: Option<String>,
    /// The policy that decided.
    pub policy: Option<ObjectName>,
}

/// Writes the line: at `info`, or at `warn` if something went wrong.
pub fn log(record: &ConnectionRecord) {
    if let Some(mut line) = Line::begin("connection", record.error.is_some()) {
        record.compose(&mut line);
        line.end();
    }
}

impl ConnectionRecord {
    fn compose(&self, line: &mut Line) {
        line.text("direction", self.direction.as_str());
        line.text("path", self.path.as_str());
        if let Some(protocol) = self.tunnel_protocol {
            line.text("tunnel_protocol", protocol);
        }
        self.source.compose(line, ["src_addr", "src_workload", "src_identity"]);
        self.destination.compose(line, ["dst_addr", "dst_workload", "dst_identity"]);
        if let Some(dialled) = &self.original_destination {
            line.shown("original_dst", dialled);
        }
        if let Some(service) = &self.service {
            line.shown("service", service);
        }
        line.number("bytes_sent", self.sent);
        line.number("bytes_received", self.received);
        line.number("duration_ms", u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX));
        line.number("attempts", self.attempts.into());
        line.text("end", self.end);
        if let Some(policy) = &self.policy {
            line.shown("policy", policy);
        }
        if let Some(error) = &self.error {
            line.text("error", error);
        }
    }
}

impl Peer {
    fn compose(&self, line: &mut Line, [address, workload, identity]: [&str; 3]) {
        if let Some(value) = &self.address {
            line.shown(address, value);
        }
        if let Some(value) = &self.workload {
            line.shown(workload, value);
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
                address: Some("10.0.0.1:4000".parse().unwrap()),
                workload: Some(ObjectName::new("shop", "cart-0").unwrap()),
                identity: Some("spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap()),
            },
            destination: Peer { address: Some("[fd00::2]:8080".parse().unwrap()), ..Peer::default() },
            original_destination: None,
            service: None,
            sent: 5,
            received: 7,
            duration: Duration::from_millis(1234),
            attempts: 1,
            end: "fin",
            error: None,
            policy: Some(ObjectName::new("shop", "callers").unwrap()),
        }
    }

    #[test]
    fn one_json_line_with_every_field_that_is_known() {
        let wrong = ConnectionRecord { error: Some("refused\n\"quoted\"".to_owned()), ..record() };
        let lines = [record(), wrong].map(|record| {
            let text = composed(Format::Json, record.error.is_some(), |line| record.compose(line));
            serde_json::from_str::<serde_json::Value>(&text).unwrap()
        });
        let line = &lines[0];
        assert_eq!(line["target"], "weft::access");
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["src_identity"], "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!(line["tunnel_protocol"], "weft/1");
        assert_eq!(line["dst_addr"], "[fd00::2]:8080");
        assert_eq!((&line["bytes_sent"], &line["bytes_received"]), (&5.into(), &7.into()));
        assert_eq!((&line["duration_ms"], &line["end"]), (&1234.into(), &"fin".into()));
        assert!(line.get("dst_identity").is_none(), "what is not known is not written");
        assert_eq!((&lines[1]["level"], &lines[1]["error"]), (&"WARN".into(), &"refused\n\"quoted\"".into()));
    }
}
