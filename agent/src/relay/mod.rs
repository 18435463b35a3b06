//! The byte pump: joins an app's TCP connection to a tunnel's stream, or to another TCP connection.
//!
//! What one side does, the other sees: a FIN after the last byte becomes a FIN (or END_STREAM), a reset becomes a reset,
//! in both directions and independently. An idle connection holds no buffer. A connection that never runs dry yields to
//! its neighbours. Nothing here decides who may talk; a kill token ends what has been denied since.

mod direct;
mod hbone;
mod kill;
mod socket;
mod traffic;
mod weft;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use crate::tunnel::{Body, Stream};

pub use direct::tcp_to_tcp;
pub use kill::Kill;
pub use traffic::Traffic;

/// After the peer's reset, how long an app may take to read what came before it.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// A connection as others see it while it is relayed: what has moved, and what ends it.
#[derive(Debug, Default)]
pub struct Flow {
    /// The bytes so far.
    pub traffic: Traffic,
    /// Ends it.
    pub kill: Kill,
}

/// The two sides of a relay: near is the first argument, far the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The first argument.
    Near,
    /// The second argument.
    Far,
}

/// How a relayed connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// Both sides closed in order.
    Fin,
    /// This side reset the connection, or was lost.
    Reset(Side),
    /// The kill token was cancelled; both sides were reset.
    Killed,
}

impl End {
    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Fin => "fin",
            Self::Reset(Side::Near) => "reset_near",
            Self::Reset(Side::Far) => "reset_far",
            Self::Killed => "killed",
        }
    }
}

/// What a relay has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Bytes from near to far.
    pub sent: u64,
    /// Bytes from far to near.
    pub received: u64,
    /// How it ended.
    pub end: End,
}

impl Outcome {
    fn new(traffic: &Traffic, end: End) -> Self {
        Self { sent: traffic.sent(), received: traffic.received(), end }
    }
}

/// What an app's connection is joined to.
pub enum Far {
    /// A stream of a tunnel.
    Stream(Stream),
    /// A connection in the clear.
    Tcp(TcpStream),
}

/// Relays between an app's connection and `far`, until both sides have finished, one is reset, or it is killed.
///
/// Boxed, each kind in a box of its size: what a task holds of a connection that may idle for days is a pointer.
#[must_use]
pub fn join(near: TcpStream, far: Far, flow: Arc<Flow>) -> BoxFuture<'static, Outcome> {
    match far {
        Far::Stream(Stream { body: Body::Weft(handle), lease, .. }) => Box::pin(async move {
            let end = weft::relay(near, handle, Arc::clone(&flow)).await;
            drop(lease);
            Outcome::new(&flow.traffic, end)
        }),
        Far::Stream(stream) => Box::pin(async move { tcp_to_stream(near, stream, &flow).await }),
        Far::Tcp(far) => Box::pin(async move { tcp_to_tcp(near, far, &flow).await }),
    }
}

/// Relays between an app's connection and a stream of a tunnel, until both sides have finished, one is reset, or it is
/// killed.
pub async fn tcp_to_stream(near: TcpStream, far: Stream, flow: &Arc<Flow>) -> Outcome {
    let Stream { body, lease, .. } = far;
    let end = match body {
        Body::Hbone(send, recv) => hbone::relay(near, (send, recv), &lease, flow).await,
        Body::Weft(handle) => weft::relay(near, handle, Arc::clone(flow)).await,
    };
    drop(lease);
    Outcome::new(&flow.traffic, end)
}
