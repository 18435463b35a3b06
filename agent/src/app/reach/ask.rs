//! The dials of a look at a pod's tunnel port: from inside other pods' network namespaces, from their addresses, as the
//! network and its policies see those pods.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::task::JoinSet;
use weft_core::model::ObjectName;

use super::judge::{Met, Seen, tells};
use crate::sys::{self, NetNs, diag, socket};
use crate::tunnel::HBONE_PORT;

/// Time for an answer: the kernel sends a SYN again after one second, and after another.
const ANSWER: Duration = Duration::from_millis(2500);
/// Other ports that are tried at once.
const OTHERS: usize = 4;

/// A pod from which another is dialled.
#[derive(Clone)]
pub(super) struct Witness {
    pub(super) name: ObjectName,
    pub(super) netns: Arc<NetNs>,
    pub(super) address: IpAddr,
}

/// The pod that is dialled.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) netns: Arc<NetNs>,
    pub(super) address: IpAddr,
    /// What its containers declare.
    pub(super) declared: Vec<u16>,
}

/// Has all witnesses dial; in their order, what each of them saw.
pub(super) async fn ask(asked: Asked, witnesses: Vec<Witness>) -> Vec<Seen> {
    let asked = Arc::new(asked);
    let mut looks = JoinSet::new();
    for (number, witness) in witnesses.into_iter().enumerate() {
        let asked = Arc::clone(&asked);
        looks.spawn(async move { (number, look(&witness, &asked).await) });
    }
    let mut seen = looks.join_all().await;
    seen.sort_by_key(|(number, _)| *number);
    seen.into_iter().map(|(_, seen)| seen).collect()
}

async fn look(witness: &Witness, asked: &Asked) -> Seen {
    let (tunnel, accepted) = dial(witness, SocketAddr::new(asked.address, HBONE_PORT)).await;
    if let Some(accepted) = accepted {
        // Nothing was said, and nothing is to linger in the witness's namespace.
        let _ = socket::reset_on_close(&accepted);
    }
    let mut other = None;
    if tunnel != Met::Accepted {
        let mut dials = JoinSet::new();
        for port in other_ports(asked) {
            let (witness, to) = (witness.clone(), SocketAddr::new(asked.address, port));
            dials.spawn(async move { (port, dial(&witness, to).await.0) });
        }
        while let Some(Ok((port, met))) = dials.join_next().await {
            if other.is_none() || tells(tunnel, met) {
                other = Some((port, met));
            }
            if tells(tunnel, met) {
                break;
            }
        }
    }
    Seen { witness: witness.name.clone(), tunnel, other }
}

async fn dial(witness: &Witness, to: SocketAddr) -> (Met, Option<TcpStream>) {
    match sys::dial::tunnel(&witness.netns, witness.address, to, ANSWER).await {
        Ok(stream) => (Met::Accepted, Some(stream)),
        Err(error) => (met(&error), None),
    }
}

fn met(error: &io::Error) -> Met {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Met::Refused,
        // What an ICMP error of something on the way becomes.
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable | io::ErrorKind::PermissionDenied => {
            Met::Refused
        }
        _ => Met::Silence,
    }
}

/// Ports at which the pod should answer: those it listens on, the declared ones first, then declared ones nobody listens on.
fn other_ports(asked: &Asked) -> Vec<u16> {
    let listeners = diag::listeners(&asked.netns).unwrap_or_default();
    let reachable = |ip: IpAddr| ip.is_unspecified() || ip == asked.address;
    let open: BTreeSet<u16> =
        listeners.iter().filter(|l| reachable(l.local.ip())).map(|listener| listener.local.port()).collect();
    let (listened, silent): (Vec<u16>, Vec<u16>) = asked.declared.iter().partition(|port| open.contains(port));
    let undeclared = open.iter().filter(|port| !listened.contains(port)).copied();
    let mut ports: Vec<u16> = listened.iter().copied().chain(undeclared).chain(silent).collect();
    ports.retain(|port| *port != HBONE_PORT);
    ports.truncate(OTHERS);
    ports
}
