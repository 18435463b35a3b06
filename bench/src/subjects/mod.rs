//! The ways from a client to a server that are measured, and everything that has to run for them.
//!
//! Every pair of proxies is placed as Weft's agents are: the first inside the client's network namespace, the second inside
//! the server's, so that each subject's bytes cross the same devices: loopback, the wire between the nodes, loopback.

mod certs;
mod ours;
mod pair;
mod peers;
mod stage;
mod ztunnel;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use weft_tests::lab::Pod;

pub use peers::versions;
pub use stage::{Server, Stage};

/// What a subject is compared as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// No proxy.
    Direct,
    /// The plain relay.
    Relay,
    /// Weft.
    Weft,
    /// Another project's proxies with mutual TLS between them.
    Peer,
}

/// What is carried on a way, and measured of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layer {
    /// Connections.
    Connections,
    /// Requests of HTTP, each by its own: a header decides the rule, its backends share by weight.
    Requests,
}

/// A subject as tables and filters know it.
pub struct Known {
    /// Its name.
    pub name: &'static str,
    /// What it is compared as.
    pub kind: Kind,
    /// What is measured of it.
    pub layer: Layer,
    /// What it is.
    pub title: &'static str,
    /// Measures it cannot take part in.
    pub without: &'static [&'static str],
}

/// One way from a client to a server.
pub struct Subject {
    /// Its name in tables and filters.
    pub name: &'static str,
    /// The pod whose processes dial.
    pub client: Pod,
    /// What they dial.
    pub to: SocketAddr,
    /// The cgroups of the processes in between, each alone in its own.
    pub proxies: Vec<PathBuf>,
    /// The cgroup of the server.
    pub server: PathBuf,
}

/// Everything that can be measured, in the order of the tables.
pub const ALL: [Known; 17] = [
    connections("direct", Kind::Direct, "across nodes by the Service's VIP, without a mesh"),
    connections("direct-near", Kind::Direct, "on one node by the Service's VIP, without a mesh"),
    connections("relay", Kind::Relay, "two plain relays, no TLS: the floor of any pair of proxies"),
    connections("weft", Kind::Weft, "across nodes, mutual TLS"),
    connections("weft-near", Kind::Weft, "both pods on one node"),
    connections("weft-pass", Kind::Weft, "to a pod outside the mesh"),
    connections("envoy-tls", Kind::Peer, "Envoy, tcp_proxy, a TLS connection for each"),
    connections("envoy-h2", Kind::Peer, "Envoy, tcp_proxy tunnelled over pooled HTTP/2"),
    connections("haproxy", Kind::Peer, "HAProxy, mode tcp, a TLS connection for each"),
    connections("nginx", Kind::Peer, "nginx stream, a TLS connection for each"),
    connections("ztunnel", Kind::Peer, "ztunnel, HBONE"),
    requests("http-direct", Kind::Direct, "requests across nodes by the Service's VIP, without a mesh"),
    requests("http-weft", Kind::Weft, "requests across nodes, mutual TLS, an HTTPRoute"),
    requests("http-envoy", Kind::Peer, "Envoy, HTTP on the client's side, bytes on the server's, as Weft"),
    requests("http-envoy-both", Kind::Peer, "Envoy, HTTP on both sides, as sidecars"),
    requests("http-haproxy", Kind::Peer, "HAProxy, mode http on the client's side, tcp on the server's"),
    Known {
        without: &["http2", "grpc"],
        ..requests("http-nginx", Kind::Peer, "nginx, http on the client's side, stream on the server's")
    },
];

const fn connections(name: &'static str, kind: Kind, title: &'static str) -> Known {
    Known { name, kind, layer: Layer::Connections, title, without: &[] }
}

const fn requests(name: &'static str, kind: Kind, title: &'static str) -> Known {
    Known { layer: Layer::Requests, ..connections(name, kind, title) }
}

/// What is known of a subject by its name.
#[must_use]
pub fn known(name: &str) -> Option<&'static Known> {
    ALL.iter().find(|known| known.name == name)
}

/// The kind of a subject by its name.
#[must_use]
pub fn kind(name: &str) -> Option<Kind> {
    known(name).map(|known| known.kind)
}

/// A subject that was asked for and is not there.
#[derive(Clone, Debug)]
pub struct Absent {
    /// Its name.
    pub name: &'static str,
    /// Why.
    pub why: String,
}

/// Starts what the wanted subjects of these layers need; one that does not start is absent, and the others are measured.
///
/// # Errors
/// When the stage itself does not stand.
pub fn start(stage: &Stage, wanted: &[String], layers: &[Layer]) -> Result<(Vec<Subject>, Vec<Absent>)> {
    let (mut subjects, mut absent) = (Vec::new(), Vec::new());
    let asked = |known: &Known| {
        layers.contains(&known.layer) && (wanted.is_empty() || wanted.iter().any(|wanted| wanted == known.name))
    };
    for (number, known) in (0..).zip(&ALL).filter(|(_, known)| asked(known)) {
        let (name, pair) = (known.name, pair::Pair::of(stage, known, number));
        let subject = match name {
            "ztunnel" => pair.and_then(|pair| ztunnel::start(&pair)),
            "relay" => pair.and_then(|pair| ours::relay(&pair)),
            _ if known.kind != Kind::Peer => ours::without_pair(stage, name),
            _ => pair.and_then(|pair| peers::start(&pair)),
        };
        match subject {
            Ok(subject) => subjects.push(subject),
            Err(why) => absent.push(Absent { name, why: format!("{why:#}") }),
        }
    }
    Ok((subjects, absent))
}
