//! The client's half of a connection: accepted from the app, planned, dialled, relayed.
//!
//! The destination the app wrote is the accepted socket's local address; there is nothing to look up. What to do with it
//! is [`weft_core::route::plan`]'s decision, and which endpoint gets it [`weft_core::balance`]'s. Nothing of the app's
//! bytes is read before an endpoint is connected, so that another can be tried without the app noticing.

mod dial;
mod refused;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use weft_abi::Marks;
use weft_core::balance::{Balancers, Pick};
use weft_core::model::Workload;
use weft_core::route::{ServicePortKey, Transport};
use weft_core::snapshot::Snapshot;

use crate::drain::Drain;
use crate::live::{Connection, Live, Open};
use crate::observe::Observed;
use crate::pod::{Pod, Snapshots};
use crate::relay::Far;
use crate::sys::socket;
use crate::telemetry::Metrics;
use crate::telemetry::access::{Direction, Path};
use crate::tunnel::Pool;
use crate::workers::{Load, Workers};

use dial::{Dial, Dialled};
pub use refused::Refused;

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
    /// Endpoints the kernel has drawn already for connections that carry its word for that, by service port.
    pub drawn: ArcSwap<HashMap<ServicePortKey, Arc<[SocketAddr]>>>,
    /// Tunnels to other pods.
    pub pool: Pool,
    /// Counters.
    pub metrics: Metrics,
    /// Open connections.
    pub live: Arc<Live>,
    /// The agent's stopping state.
    pub drain: Drain,
    /// The connect budget.
    pub budget: Budget,
    /// Who carries connections.
    pub workers: Arc<Workers>,
}

impl Outbound {
    /// Carries a connection of `pod` that its listener accepted, in a task of its own on one of the workers.
    pub fn serve(self: &Arc<Self>, pod: &Arc<Pod>, app: TcpStream, client: SocketAddr) {
        let (outbound, pod) = (Arc::clone(self), Arc::clone(pod));
        self.workers.carry(&self.drain, app, Load::Connection, async move |app| {
            outbound.carry(&pod, app, socket::canonical(client)).await;
        });
    }

    async fn carry(&self, pod: &Pod, app: TcpStream, client: SocketAddr) {
        // In a box, for what follows needs a fraction of it and may last for days.
        if let Some(open) = Box::pin(self.open(pod, app, client)).await {
            open.run().await;
        }
    }

    async fn open(&self, pod: &Pod, app: TcpStream, client: SocketAddr) -> Option<Open<Option<Pick>>> {
        let snapshot = (self.snapshots)();
        let mut seen = Observed::new(&self.metrics, Direction::Outbound, Path::Passthrough, false);
        let workload = pod.workload(&snapshot);
        seen.source(client, workload.map(|w| &**w), Some(&pod.identity));
        // Urgent data cannot be carried as such; in line, at least none of it is lost.
        let _ = socket::set_oob_inline(&app);
        let _ = app.set_nodelay(true);
        match self.connect(pod, workload, &app, client, &snapshot, &mut seen).await {
            Ok(dialled) => Some(self.opened(pod, app, client, dialled, seen)),
            Err(refused) => {
                let _ = socket::reset_on_close(&app);
                drop(app);
                seen.failed(refused.label(), refused.to_string());
                None
            }
        }
    }

    async fn connect(
        &self,
        pod: &Pod,
        workload: Option<&Arc<Workload>>,
        app: &TcpStream,
        client: SocketAddr,
        snapshot: &Snapshot,
        seen: &mut Observed,
    ) -> Result<Dialled, Refused> {
        let destination = socket::original_destination(app).map_err(|_| Refused::OwnListener)?;
        seen.record.original_destination = Some(destination);
        if destination.ip().is_loopback() {
            return Err(Refused::OwnListener);
        }
        let source = workload.ok_or(Refused::UnknownPod)?;
        let drawn = socket::mark(app).is_ok_and(Marks::is_drawn);
        let dial = Dial { outbound: self, pod, source, client, destination, drawn };
        let dialled = dial.run(snapshot, seen).await?;
        let identity = match &dialled.target.transport {
            Transport::Hbone { server } => Some(server),
            Transport::Plaintext => None,
        };
        seen.destination(dialled.target.address, dialled.target.workload.as_deref(), identity);
        if let Far::Stream(stream) = &dialled.upstream {
            seen.record.path = Path::Tunnel;
            seen.record.tunnel_protocol = Some(stream.protocol().label());
        } else if dialled.target.workload.is_some() || dialled.pick.is_some() {
            seen.record.path = Path::Plaintext;
        }
        Ok(dialled)
    }

    /// Enters it among the live ones. What is kept to its end is the endpoint's in-flight count.
    fn opened(
        &self,
        pod: &Pod,
        app: TcpStream,
        client: SocketAddr,
        dialled: Dialled,
        seen: Observed,
    ) -> Open<Option<Pick>> {
        let kill = self.drain.kill_token();
        let peer = match dialled.target.transport {
            Transport::Hbone { server } => Some(server),
            Transport::Plaintext => None,
        };
        let connection = Connection {
            direction: Direction::Outbound,
            path: seen.record.path,
            pod: pod.uid.clone(),
            pod_name: pod.name.clone(),
            peer,
            source: client,
            destination: seen.record.original_destination.unwrap_or(dialled.target.address),
            endpoint: Some(dialled.target.address),
            opened: Instant::now(),
            meter: Arc::clone(&seen.meter),
        };
        let registered = self.live.register(connection, kill.clone());
        Open::new(app, dialled.upstream, seen, (registered, kill), dialled.pick)
    }
}
