//! The client's half of a connection: accepted from the app, planned, dialled, relayed.
//!
//! The destination the app wrote is the accepted socket's local address; there is nothing to look up. What to do with it
//! is [`weft_core::route::plan`]'s decision, and which endpoint gets it [`weft_core::balance`]'s. Nothing of the app's
//! bytes is read before an endpoint is connected, so that another can be tried without the app noticing.

mod dial;
mod refused;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use weft_core::balance::Balancers;
use weft_core::model::{Identity, Workload};
use weft_core::route::{Target, Transport};

use crate::drain::Drain;
use crate::live::{Connection, Direction, Live};
use crate::pod::{Pod, Snapshots};
use crate::relay::{self, Traffic};
use crate::sys::socket;
use crate::telemetry::Telemetry;
use crate::tunnel::Pool;

use dial::{Dial, Dialled, Upstream};
pub use refused::Refused;
pub(crate) use refused::connect_label;

/// How long and how often an app's connection is tried before it is refused.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Endpoints tried at most.
    pub attempts: usize,
    /// Time each of them has.
    pub each: Duration,
}

/// The outbound half; one for all pods of the node.
pub struct Outbound {
    /// The current snapshot.
    pub snapshots: Snapshots,
    /// Balancing state of every service port.
    pub balancers: Arc<Balancers>,
    /// Tunnels to other pods.
    pub pool: Pool,
    /// Metrics and the access log.
    pub telemetry: Arc<Telemetry>,
    /// Open connections.
    pub live: Arc<Live>,
    /// The agent's stopping state.
    pub drain: Drain,
    /// The connect budget.
    pub budget: Budget,
}
