//! Tunnels: many connections, each a stream, in one mutually authenticated TLS connection per pair of pods.
//!
//! `pool` hands the outbound half a stream to a workload on another node, dialling a tunnel when there is none to
//! share (`dialled`); `server` receives tunnels on port 15008 of a pod's address and hands each stream to a handler. Both
//! speak one of two protocols over `tls`, agreed on in its handshake: `weft`, whose rules are `mux`, between Weft agents,
//! and `hbone`, with the headers of `codec`, with everyone else. A [`Stream`] is the same to its user. Who may connect where
//! is decided by the callers. Bytes are moved by [`crate::relay`].

pub mod codec;
pub mod mux;

mod budget;
mod buffer;
mod connect;
mod dialled;
mod error;
mod hbone;
mod io;
mod pool;
mod protocol;
mod server;
mod settings;
mod shared;
mod stream;
mod tls;
mod weft;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use weft_core::model::Identity;

pub use budget::Budget;
pub use connect::{ConnectRequest, Dial};
pub use error::{Refusal, RequestError, TunnelError};
pub use io::StreamIo;
pub use pool::Pool;
pub use protocol::{Protocol, Protocols};
pub use server::{HANDSHAKES_MAX, Incoming, ServerContext, serve};
pub use settings::{Keepalive, PoolSettings, ServerSettings};
pub(crate) use shared::Lease;
pub use shared::Standing;
pub(crate) use stream::Body;
pub use stream::Stream;
pub(crate) use weft::{App, Drained, Handle, Sent};

/// Where a pod's node accepts tunnels for it.
pub const HBONE_PORT: u16 = 15008;

/// Ports of a pod that mesh implementations keep for themselves: no tunnel leads to them.
pub const RESERVED_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];

/// Which end of a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// This node dialled.
    Client,
    /// This node accepted.
    Server,
}

impl Side {
    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// A tunnel or request that was turned away.
#[derive(Debug)]
pub struct Rejection {
    /// The peer's address.
    pub source: SocketAddr,
    /// Which address of which pod it came to.
    pub destination: SocketAddr,
    /// Who it is, if it had proved that.
    pub peer: Option<Identity>,
    /// Why; label, text and status come from here.
    pub error: TunnelError,
}

/// What a tunnel's owner wants to hear, to count and log. Called on the data path: must not block.
pub trait Events: Send + Sync + 'static {
    /// A tunnel is up.
    fn opened(&self, _side: Side, _protocol: Protocol) {}
    /// A tunnel that was up is gone.
    fn closed(&self, _side: Side, _protocol: Protocol, _reason: Option<&TunnelError>) {}
    /// A tunnel this node dialled did not come about, although TCP did.
    fn failed(&self, _to: SocketAddr, _error: &TunnelError) {}
    /// A tunnel or a request on one was turned away by this end.
    fn rejected(&self, _rejection: &Rejection) {}
}

impl Events for () {}
