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
pub use stage::Stage;

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
pub const ALL: [(&str, Kind, &str); 11] = [
    ("direct", Kind::Direct, "across nodes by the Service's VIP, without a mesh"),
    ("direct-near", Kind::Direct, "on one node by the Service's VIP, without a mesh"),
    ("relay", Kind::Relay, "two plain relays, no TLS: the floor of any pair of proxies"),
    ("weft", Kind::Weft, "across nodes, mutual TLS"),
    ("weft-near", Kind::Weft, "both pods on one node"),
    ("weft-pass", Kind::Weft, "to a pod outside the mesh"),
    ("envoy-tls", Kind::Peer, "Envoy, tcp_proxy, a TLS connection for each"),
    ("envoy-h2", Kind::Peer, "Envoy, tcp_proxy tunnelled over pooled HTTP/2"),
    ("haproxy", Kind::Peer, "HAProxy, mode tcp, a TLS connection for each"),
    ("nginx", Kind::Peer, "nginx stream, a TLS connection for each"),
    ("ztunnel", Kind::Peer, "ztunnel, HBONE"),
];

/// The kind of a subject by its name.
#[must_use]
pub fn kind(name: &str) -> Option<Kind> {
    ALL.iter().find(|(known, ..)| *known == name).map(|(_, kind, _)| *kind)
}

/// A subject that was asked for and is not there.
#[derive(Clone, Debug)]
pub struct Absent {
    /// Its name.
    pub name: &'static str,
    /// Why.
    pub why: String,
}

/// Starts what the wanted subjects need; one that does not start is absent, and the others are measured.
///
/// # Errors
/// When the stage itself does not stand.
pub fn start(stage: &Stage, wanted: &[String]) -> Result<(Vec<Subject>, Vec<Absent>)> {
    let (mut subjects, mut absent) = (Vec::new(), Vec::new());
    for (number, (name, ..)) in ALL.iter().enumerate() {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        let pair = pair::Pair::of(stage, name, u16::try_from(number)?);
        let subject = match *name {
            "ztunnel" => pair.and_then(|pair| ztunnel::start(&pair)),
            "relay" => pair.and_then(|pair| ours::relay(&pair)),
            name if kind(name) != Some(Kind::Peer) => ours::without_pair(stage, name),
            _ => pair.and_then(|pair| peers::start(&pair)),
        };
        match subject {
            Ok(subject) => subjects.push(subject),
            Err(why) => absent.push(Absent { name, why: format!("{why:#}") }),
        }
    }
    Ok((subjects, absent))
}
