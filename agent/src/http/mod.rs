//! Connections that carry HTTP: each request is picked an endpoint for, and travels in a connection of its own protocol that
//! the pod's other requests to that endpoint share.
//!
//! `serve` speaks with the app, `exchange` carries one request, `upstream` keeps connections to endpoints. Nothing is
//! buffered: a body moves as fast as the slower side lets it. Where requests go is decided by [`weft_core`]; who may connect
//! is decided at the server's node, as for every connection. Version for version: what came as HTTP/1 goes as HTTP/1.

mod ahead;
mod answer;
mod awaited;
mod body;
mod bounds;
mod claim;
mod detect;
mod endpoint;
mod ends;
mod exchange;
pub mod framing;
mod going;
mod heads;
mod held;
mod hop;
mod limits;
mod mirror;
mod near;
mod record;
mod replay;
mod retries;
mod room;
mod routing;
mod sent;
mod serve;
mod session;
mod stop;
mod unsent;
mod upgrade;
mod upload;
mod upstream;
mod wire;

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use weft_core::balance::Balancers;
use weft_core::route::ServicePortKey;
use weft_core::snapshot::Snapshot;
use weft_core::traffic::Ledgers;

use crate::dial::Dialer;
use crate::drain::Drain;
use crate::health::Checks;
use crate::pod::{Pod, Snapshots};
use crate::relay::Flow;
use crate::telemetry::Metrics;
use mirror::Copies;
use upstream::Upstreams;

/// Carries requests for all pods of the node.
pub struct Http {
    snapshots: Snapshots,
    balancers: Arc<Balancers>,
    dialer: Arc<Dialer>,
    metrics: Metrics,
    drain: Drain,
    upstreams: Arc<Upstreams>,
    copies: Arc<Copies>,
    ledgers: Ledgers,
    checks: Arc<Checks>,
    /// How long a head may be unfinished.
    patience: Duration,
}

/// An app's connection that is to be carried request by request.
pub struct Client {
    /// Whose it is.
    pub pod: Arc<Pod>,
    /// The app's end.
    pub address: SocketAddr,
    /// What the app dialled.
    pub destination: SocketAddr,
    /// The service port that is.
    pub service: ServicePortKey,
    /// Its bytes.
    pub flow: Arc<Flow>,
    /// Cancelled when the connection must end.
    pub kill: CancellationToken,
    /// What is held for it until the last of its requests, and what that may have switched to, has ended.
    pub kept: Box<dyn Any + Send + Sync>,
}

impl Http {
    /// For `workers` threads, numbered as [`crate::workers`] does. The head of a request over HTTP/1 must be complete within
    /// `patience`.
    #[must_use]
    pub fn new(
        snapshots: Snapshots,
        balancers: Arc<Balancers>,
        dialer: Arc<Dialer>,
        metrics: Metrics,
        drain: Drain,
        checks: Arc<Checks>,
        (workers, patience): (usize, Duration),
    ) -> Arc<Self> {
        Arc::new(Self {
            snapshots,
            balancers,
            dialer,
            metrics,
            drain,
            upstreams: Upstreams::new(workers),
            copies: Arc::default(),
            ledgers: Ledgers::default(),
            checks,
            patience,
        })
    }

    /// Carries the requests of one connection, to its end.
    pub async fn serve(self: &Arc<Self>, client: Client, app: TcpStream) {
        serve::serve(Arc::clone(self), client, app).await;
    }

    /// A pod leaves: connections made in its network are closed after their last request.
    pub fn leave(&self, network: u64) {
        self.upstreams.leave(network);
    }

    /// Forgets the service ports that `snapshot` no longer has.
    pub fn sync(&self, snapshot: &Snapshot) {
        self.ledgers.sync(snapshot);
        self.dialer.gates.sync(snapshot);
    }

    /// Lets every idle connection to an endpoint go.
    pub fn close(&self) {
        self.upstreams.close();
    }
}
