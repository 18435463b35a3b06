//! HBONE: one HTTP/2 CONNECT stream per connection, many streams per mutually authenticated TLS connection.
//!
//! `pool` hands the outbound half a stream to a workload on another node, dialling a tunnel when there is none to
//! share; `server` receives tunnels on port 15008 of a pod's address and hands each CONNECT to a handler; `codec` reads
//! and writes the headers. Who may connect where is decided by the callers. Bytes are moved by [`crate::relay`].

pub mod codec;

mod client;
mod connect;
mod error;
mod keepalive;
mod pool;
mod request;
mod server;
mod stream;
mod watched;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use weft_core::model::Identity;

pub use connect::{ConnectRequest, Dial};
pub use error::{Refusal, RequestError, TunnelError};
pub use pool::{Pool, PoolSettings};
pub use server::{HANDSHAKES_MAX, Incoming, ServerContext, ServerSettings, serve};
pub(crate) use stream::Lease;
pub use stream::Stream;

/// Where a pod's node accepts tunnels for it.
pub const HBONE_PORT: u16 = 15008;

/// Ports of a pod that mesh implementations keep for themselves: no tunnel leads to them.
pub const RESERVED_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];

/// What a stream may hold unread, in bytes. 256 KiB fill 2 Gbit/s at a round trip of 1 ms.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Larger than all streams' windows together, so that no reader who stops can take another's share.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// The largest DATA frame accepted: four TLS records.
const FRAME_MAX: u32 = 64 * 1024;
/// What a stream may have written and not yet sent, in bytes.
const SEND_BUFFER: usize = 128 * 1024;
/// What small DATA frames that nobody reads may cost, in bytes as h2 counts them (256 less the payload each): two windows
/// full of one-byte segments, some 75 MB of memory. A tunnel that needs more is closed. Without this bound the connection
/// window would be the bound.
const FRAME_BUDGET: usize = 128 << 20;
/// The header list announced and accepted, in bytes.
const HEADER_LIST_MAX: u32 = 64 * 1024;

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
    fn opened(&self, _side: Side) {}
    /// A tunnel that was up is gone.
    fn closed(&self, _side: Side, _reason: Option<&TunnelError>) {}
    /// A tunnel this node dialled did not come about, although TCP did.
    fn failed(&self, _to: SocketAddr, _error: &TunnelError) {}
    /// A tunnel or a request on one was turned away by this end.
    fn rejected(&self, _rejection: &Rejection) {}
}

impl Events for () {}

/// How a dead peer is noticed.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Pause between two PINGs.
    pub every: Duration,
    /// How long a PING may stay unanswered.
    pub timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { every: Duration::from_secs(5), timeout: Duration::from_secs(5) }
    }
}
