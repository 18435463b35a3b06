//! What a connection asks of the pool, and who may share a tunnel with it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::net::TcpStream;
use weft_core::model::Identity;

use super::Budget;
use super::codec::Forwarded;
use crate::sys::{NetNs, dial};
use crate::workers;

/// How TCP connections are made: from inside the client pod's network, with its address.
pub trait Dial: Send + Sync + 'static {
    /// Tells the network dialled from apart from others: the netns cookie.
    fn network(&self) -> u64;

    /// Connects `source` to `to`.
    fn dial(&self, source: IpAddr, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

impl Dial for NetNs {
    fn network(&self) -> u64 {
        self.cookie()
    }

    fn dial(&self, source: IpAddr, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>> {
        // The pool's budget ends it sooner.
        dial::tunnel(self, source, to, Duration::from_secs(60)).boxed()
    }
}

/// One connection that wants to go through a tunnel.
#[derive(Clone)]
pub struct ConnectRequest {
    /// Whose certificate to speak with.
    pub source: Identity,
    /// The client pod's network.
    pub dial: Arc<dyn Dial>,
    /// The client pod's address, of the same family as `authority`.
    pub source_address: IpAddr,
    /// The server pod and port.
    pub authority: SocketAddr,
    /// Who must answer there.
    pub server: Identity,
    /// The client, as told to the server.
    pub client: SocketAddr,
    /// The service that was dialled, as told to the server.
    pub host: Option<String>,
    /// What is said about the client's workload, from [`super::codec::format_baggage`].
    pub baggage: Option<Arc<str>>,
    /// What the client pod's slow readers may cost.
    pub budget: Arc<Budget>,
}

impl ConnectRequest {
    pub(super) fn forwarded(&self) -> Forwarded {
        Forwarded { client: self.client, host: self.host.clone() }
    }

    pub(super) fn key(&self) -> Key {
        Key {
            source: self.source.clone(),
            server: self.server.clone(),
            peer: self.authority.ip(),
            source_address: self.source_address,
            network: self.dial.network(),
            worker: workers::number(),
        }
    }
}

/// Connections with the same key may share a tunnel.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    source: Identity,
    server: Identity,
    peer: IpAddr,
    source_address: IpAddr,
    /// The network dialled from.
    pub(super) network: u64,
    /// The thread that drives the tunnel: its streams are on no other.
    worker: usize,
}
