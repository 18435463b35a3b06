//! What a connection asks of the pool, and who may share a tunnel with it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use nix::sys::socket::{MsgFlags, recv};
use tokio::net::TcpStream;
use weft_core::model::Identity;

use super::codec::Forwarded;
use super::{Budget, TunnelError};
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

/// The most of a client's first bytes that go with an OPEN: a request's head.
const FIRST_MAX: usize = 4 * 1024;

/// What a client has said before its connection is there: sent along, so that a new connection does not wait for the server
/// twice. It stays in the client's socket until the server has accepted: one that refuses has delivered nothing, and another
/// may be asked.
#[derive(Debug)]
pub struct FirstBytes<'a> {
    client: &'a TcpStream,
    /// Sent to a server that has not answered.
    under_way: AtomicUsize,
}

impl<'a> FirstBytes<'a> {
    /// Of a client whose connection nobody has read from.
    #[must_use]
    pub fn of(client: &'a TcpStream) -> Self {
        Self { client, under_way: AtomicUsize::new(0) }
    }

    /// Whether a server may have delivered some although it has not answered: then no other may be asked.
    #[must_use]
    pub fn under_way(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) > 0
    }

    /// Hands what there is to `send`, which answers how many bytes it sends.
    pub(super) fn send<T>(
        &self,
        send: impl FnOnce(&[u8]) -> Result<(T, usize), TunnelError>,
    ) -> Result<T, TunnelError> {
        let mut room = [0; FIRST_MAX];
        // An error or an end shows when the connection is relayed.
        let size = recv(self.client.as_raw_fd(), &mut room, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).unwrap_or(0);
        let (value, sent) = send(&room[..size])?;
        self.under_way.store(sent, Ordering::Relaxed);
        Ok(value)
    }

    /// The server has answered no: it has delivered nothing.
    pub(super) fn refused(&self) {
        self.under_way.store(0, Ordering::Relaxed);
    }

    /// The server has them: answers how many are to be taken off the client's socket.
    pub(super) fn accepted(&self) -> usize {
        self.under_way.swap(0, Ordering::Relaxed)
    }
}

/// One connection that wants to go through a tunnel.
#[derive(Clone)]
pub struct ConnectRequest<'a> {
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
    /// What may go with the request, where the protocol can carry it.
    pub first: Option<&'a FirstBytes<'a>>,
}

impl ConnectRequest<'_> {
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
