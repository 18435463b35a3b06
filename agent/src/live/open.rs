//! A connection from the moment both of its sides are connected, to its end.
//!
//! Making a connection takes kilobytes of state, carrying it a few hundred bytes: whoever makes one does so in a box of its
//! own, which is gone when this begins.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use super::Registered;
use crate::observe::Observed;
use crate::relay::{self, Far, Outcome};

/// A connection both of whose sides are connected. `K` is kept until its end.
pub struct Open<K> {
    relay: BoxFuture<'static, Outcome>,
    registered: Registered,
    kept: K,
}

impl<K> Open<K> {
    /// Joins `near` to `far` once it runs.
    #[must_use]
    pub fn new(near: TcpStream, far: Far, seen: Observed, registered: Registered, kept: K) -> Self {
        let relay = relay::join(near, far, Arc::clone(&registered.connection().meter.flow));
        seen.opened(registered.connection());
        Self { relay, registered, kept }
    }

    /// Carries it to its end.
    pub async fn run(self) {
        let Self { relay, registered, kept } = self;
        let outcome = relay.await;
        drop(kept);
        registered.connection().ended(outcome.end);
        drop(registered);
    }
}
