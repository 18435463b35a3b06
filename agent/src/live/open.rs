//! A connection from the moment both of its sides are connected, to its end.
//!
//! Making a connection takes kilobytes of state, carrying it a few hundred bytes: whoever makes one does so in a box of its
//! own, which is gone when this begins.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::Registered;
use crate::observe::{Observed, Opened};
use crate::relay::{self, Far, Outcome};

/// A connection both of whose sides are connected. `K` is kept until its end.
pub struct Open<K> {
    relay: BoxFuture<'static, Outcome>,
    held: Box<Held<K>>,
}

struct Held<K> {
    seen: Opened,
    registered: Registered,
    kept: K,
}

impl<K> Open<K> {
    /// Joins `near` to `far` once it runs; `kill` ends it.
    #[must_use]
    pub fn new(
        near: TcpStream,
        far: Far,
        seen: Observed,
        (registered, kill): (Registered, CancellationToken),
        kept: K,
    ) -> Self {
        let relay = relay::join(near, far, Arc::clone(&seen.meter.traffic), kill);
        Self { relay, held: Box::new(Held { seen: seen.opened(), registered, kept }) }
    }

    /// Carries it to its end.
    pub async fn run(self) {
        let Self { relay, held } = self;
        let outcome = relay.await;
        let Held { seen, registered, kept } = *held;
        drop(kept);
        seen.ended(&outcome);
        drop(registered);
    }
}
