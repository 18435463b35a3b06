//! The client's half of a connection: accepted from the app, planned, dialled, relayed.
//!
//! The destination the app wrote is the accepted socket's local address; there is nothing to look up. What to do with it
//! is [`weft_core::route::plan`]'s decision, and which endpoint gets it [`weft_core::balance`]'s. Nothing of the app's
//! bytes is read before an endpoint is connected, so that another can be tried without the app noticing.

mod detect;
mod dial;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use weft_abi::Marks;
use weft_core::balance::{Balancers, InFlight, Pick};
use weft_core::model::Workload;
use weft_core::route::{Plan, Protocol, ServicePortKey, Transport, plan, protocol};
use weft_core::snapshot::Snapshot;

use crate::dial::{Caller, Dialer, Place, Refused, watch};
use crate::drain::Drain;
use crate::health::Checks;
use crate::http::{Client, Http};
use crate::live::{Live, Open};
use crate::observe::Observed;
use crate::pod::{Pod, Snapshots};
use crate::relay::{Far, Flow};
use crate::sys::socket;
use crate::telemetry::Metrics;
use crate::telemetry::access::{Direction, Path};
use crate::workers::{Load, Workers};

use detect::Found;
use dial::{Dial, Dialled};

pub use detect::Detected;

/// The outbound half; one for all pods of the node.
pub struct Outbound {
    /// The current snapshot.
    pub snapshots: Snapshots,
    /// Balancing state of every service port.
    pub balancers: Arc<Balancers>,
    /// Endpoints the kernel has drawn already for connections that carry its word for that, by service port.
    pub drawn: ArcSwap<HashMap<ServicePortKey, Arc<[SocketAddr]>>>,
    /// Connects to endpoints.
    pub dialer: Arc<Dialer>,
    /// Carries the connections that speak HTTP.
    pub http: Arc<Http>,
    /// What service ports speak, where that is to be found out.
    pub detected: Arc<Detected>,
    /// Asks endpoints how they are.
    pub checks: Arc<Checks>,
    /// Counters.
    pub metrics: Metrics,
    /// Open connections.
    pub live: Arc<Live>,
    /// The agent's stopping state.
    pub drain: Drain,
    /// Who carries connections.
    pub workers: Arc<Workers>,
}

/// What is kept to a connection's end: its endpoint's in-flight count, and its place among those that are open.
type Kept = (Option<InFlight>, Option<Place>);

/// A connection that is ready to be carried.
enum Carried {
    /// Byte by byte, to one endpoint.
    Bytes(Open<Kept>),
    /// Request by request.
    Requests(TcpStream, Box<Client>),
}

impl Carried {
    /// Carries it to its end.
    async fn run(self, outbound: Arc<Outbound>) {
        match self {
            Self::Bytes(open) => {
                drop(outbound);
                open.run().await;
            }
            Self::Requests(app, client) => {
                // In a box: connections carried byte by byte, which are most, need a fraction of it.
                Box::pin(async move { outbound.http.serve(*client, app).await }).await;
            }
        }
    }
}

/// What was found at the other end of an app's connection.
#[expect(clippy::large_enum_variant, reason = "there is one of it for a moment; a box would cost every connection")]
enum Connected {
    /// An endpoint.
    Endpoint(Dialled),
    /// A service port whose requests have an endpoint each.
    Requests(ServicePortKey),
}

impl Outbound {
    /// Carries a connection of `pod` that its listener accepted, in a task of its own on one of the workers.
    pub fn serve(self: &Arc<Self>, pod: &Arc<Pod>, app: TcpStream, client: SocketAddr) {
        let (outbound, pod) = (Arc::clone(self), Arc::clone(pod));
        self.workers.carry(&self.drain, app, Load::Connection, async move |app| {
            outbound.open(&pod, app, socket::canonical(client)).await.map(|carried| carried.run(outbound))
        });
    }

    async fn open(&self, pod: &Arc<Pod>, app: TcpStream, client: SocketAddr) -> Option<Carried> {
        let snapshot = (self.snapshots)();
        let mut seen = Observed::new(&self.metrics, Direction::Outbound, Path::Passthrough, client, false);
        let workload = pod.workload(&snapshot);
        seen.source(workload, Some(&pod.identity));
        // Urgent data cannot be carried as such; in line, at least none of it is lost.
        let _ = socket::set_oob_inline(&app);
        let _ = app.set_nodelay(true);
        match self.connect(pod, workload, &app, client, &snapshot, &mut seen).await {
            Ok(Connected::Endpoint(dialled)) => Some(Carried::Bytes(self.opened(pod, app, dialled, seen))),
            Ok(Connected::Requests(service)) => Some(self.requests(pod, app, client, service, seen)),
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
    ) -> Result<Connected, Refused> {
        let destination = socket::original_destination(app).map_err(|_| Refused::OwnListener)?;
        seen.record.original_destination = Some(destination);
        if destination.ip().is_loopback() {
            return Err(Refused::OwnListener);
        }
        let workload = workload.ok_or(Refused::UnknownPod)?;
        let plan = plan(snapshot, workload, destination);
        let mut silent = None;
        if let Plan::Balanced(service) = &plan {
            let found = match protocol(snapshot, service, Some(&workload.name.namespace)) {
                Protocol::Http(_) => Found::Http,
                Protocol::Opaque(_) => Found::Other,
                Protocol::Detected => {
                    let found = self.detected.look(app, snapshot, service).await;
                    self.metrics.detected(found.label());
                    found
                }
            };
            if found == Found::Http {
                return Ok(Connected::Requests(service.clone()));
            }
            silent = Some(service.clone()).filter(|_| found == Found::Silent);
        }
        let drawn = socket::mark(app).is_ok_and(Marks::is_drawn);
        let dial = Dial { outbound: self, caller: Caller { pod, workload, client }, destination, drawn };
        let dialled = Dialled { silent, ..dial.run(snapshot, plan, seen).await? };
        let identity = match &dialled.target.transport {
            Transport::Hbone { server } => Some(server),
            Transport::Plaintext => None,
        };
        seen.destination(dialled.target.address, dialled.target.workload.as_ref(), identity);
        if let Far::Stream(stream) = &dialled.upstream {
            seen.record.path = Path::Tunnel;
            seen.record.tunnel_protocol = Some(stream.protocol().label());
        } else if dialled.target.workload.is_some() || dialled.pick.is_some() {
            seen.record.path = Path::Plaintext;
        }
        Ok(Connected::Endpoint(dialled))
    }

    /// Has a connection ended on which nothing moves any more, where that is set for its service port.
    fn watch(&self, service: &ServicePortKey, flow: &Arc<Flow>) {
        let snapshot = (self.snapshots)();
        if let Some(idle) = snapshot.traffic(&service.service, service.port).and_then(|traffic| traffic.idle) {
            watch(flow, idle);
        }
    }

    /// Enters it among the live ones. Which endpoints it meets its requests will tell.
    fn requests(
        &self,
        pod: &Arc<Pod>,
        app: TcpStream,
        address: SocketAddr,
        service: ServicePortKey,
        mut seen: Observed,
    ) -> Carried {
        seen.record.path = Path::Requests;
        let registered = self.live.register(seen.connection(&pod.uid));
        let connection = registered.connection();
        let (destination, flow) = (connection.destination(), Arc::clone(&connection.meter.flow));
        self.watch(&service, &flow);
        let kill = flow.kill.token();
        let client =
            Client { pod: Arc::clone(pod), address, destination, service, flow, kill, kept: Box::new(registered) };
        Carried::Requests(app, Box::new(client))
    }

    /// Enters it among the live ones. What is kept to its end is the endpoint's in-flight count.
    fn opened(&self, pod: &Arc<Pod>, app: TcpStream, dialled: Dialled, seen: Observed) -> Open<Kept> {
        let registered = self.live.register(seen.connection(&pod.uid));
        let flow = &registered.connection().meter.flow;
        if let Some(pick) = &dialled.pick {
            self.watch(&pick.backend, flow);
            if pick.is_checked() {
                self.checks.used(&pick.backend, pod);
            }
        }
        if let Some(service) = dialled.silent {
            self.detected.listen(&(self.snapshots)(), service, &flow.traffic);
        }
        Open::new(app, dialled.upstream, seen, registered, (dialled.pick.map(Pick::stand), dialled.place))
    }
}
