//! The server's half of a connection: authenticated, judged, delivered to the app.
//!
//! Two kinds arrive at a pod's inbound listener: tunnels, on port 15008, and plaintext that the kernel did not pass or
//! drop by itself. Both end in one judgement by [`weft_core::policy::authorize`] and one dial, made inside the pod's network
//! with the client's address as source. The identity judged is the certificate's; nothing a peer says in headers counts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use weft_core::model::{Identity, Workload};
use weft_core::policy::{ConnectionFacts, DenyReason, Verdict, authorize};
use weft_core::snapshot::Snapshot;

use crate::drain::Drain;
use crate::identity::Identities;
use crate::live::{Live, Open, Registered};
use crate::observe::{Observed, connect_label};
use crate::pod::{Pod, Snapshots};
use crate::relay::Far;
use crate::sys::{self, socket};
use crate::telemetry::Metrics;
use crate::telemetry::access::{Direction, Path};
use crate::tunnel::{self, Events, HBONE_PORT, Incoming, Refusal, ServerContext, ServerSettings};
use crate::workers::{Load, Workers};

/// The inbound half; one for all pods of the node.
pub struct Inbound {
    /// The current snapshot.
    pub snapshots: Snapshots,
    /// The pods' certificates.
    pub identities: Arc<Identities>,
    /// Counters.
    pub metrics: Metrics,
    /// Open connections.
    pub live: Arc<Live>,
    /// The agent's stopping state.
    pub drain: Drain,
    /// Limits and deadlines of tunnels.
    pub tunnels: ServerSettings,
    /// Who counts tunnels.
    pub events: Arc<dyn Events>,
    /// How long an app may take to accept.
    pub connect_timeout: Duration,
    /// Who carries connections.
    pub workers: Arc<Workers>,
}

/// Why a connection was not delivered.
enum Undelivered {
    Denied(DenyReason),
    UnknownPod,
    App(std::io::Error),
}

impl Undelivered {
    fn label(&self) -> &'static str {
        match self {
            Self::Denied(reason) => reason.label(),
            Self::UnknownPod => "unknown_pod",
            Self::App(error) => connect_label(error.kind()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Denied(reason) => reason.to_string(),
            Self::UnknownPod => "the pod is no longer among the manifests".into(),
            Self::App(error) => format!("the app does not accept: {error}; does it listen on the pod's address?"),
        }
    }

    fn refusal(&self) -> Refusal {
        match self {
            Self::Denied(_) => Refusal::Denied,
            Self::UnknownPod | Self::App(_) => Refusal::Unreachable,
        }
    }
}

/// A connection that was let in and whose app has accepted.
struct Delivered {
    app: TcpStream,
    registered: Registered,
}

/// Who asks for what.
struct Asked<'a> {
    pod: &'a Pod,
    peer: Option<&'a Identity>,
    source: SocketAddr,
    destination: SocketAddr,
}

impl Inbound {
    /// Serves a connection that `pod`'s inbound listener accepted, in a task of its own on one of the workers; `leaving` is cancelled when the
    /// pod leaves the mesh and its tunnels are to take no more connections.
    pub fn serve(self: &Arc<Self>, pod: &Arc<Pod>, tcp: TcpStream, source: SocketAddr, leaving: &CancellationToken) {
        let (inbound, pod, leaving) = (Arc::clone(self), Arc::clone(pod), leaving.clone());
        let to = socket::original_destination(&tcp);
        let tunnel = to.as_ref().is_ok_and(|to| to.port() == HBONE_PORT);
        let load = if tunnel { Load::Tunnel } else { Load::Connection };
        self.workers.carry(&self.drain, tcp, load, async move |tcp| match to {
            Ok(_) if tunnel => Some(async move { inbound.tunnel(&pod, tcp, leaving).await }.boxed()),
            Ok(to) if !to.ip().is_loopback() => {
                let source = socket::canonical(source);
                inbound.plaintext(&pod, tcp, source, to).await.map(|open| open.run().boxed())
            }
            // Dialled from inside the pod, at the listener's own address: nobody's traffic.
            _ => {
                inbound.metrics.inbound_rejected("own_listener");
                None
            }
        });
    }

    async fn tunnel(self: &Arc<Self>, pod: &Arc<Pod>, tcp: TcpStream, leaving: CancellationToken) {
        let Some(credentials) = self.identities.credentials(&pod.identity) else {
            self.metrics.inbound_rejected("no_certificate");
            tracing::warn!(pod = %pod.name, identity = %pod.identity, "a tunnel was refused: no valid certificate");
            let _ = socket::reset_on_close(&tcp);
            return;
        };
        let context = ServerContext {
            credentials,
            addresses: Arc::clone(&pod.addresses),
            baggage: pod.baggage.as_ref().and_then(|b| http::HeaderValue::from_str(b).ok()),
            settings: self.tunnels.clone(),
            handshakes: Arc::clone(&pod.handshakes),
            budget: Arc::clone(&pod.budget),
            events: Arc::clone(&self.events),
            drain: leaving,
        };
        let handler = |incoming: Incoming| {
            let (inbound, pod) = (Arc::clone(self), Arc::clone(pod));
            // What admits it is in a box that goes before it is carried, which takes a fraction of its memory and may last for days.
            let admitted = Box::pin(async move { inbound.stream(&pod, incoming).await });
            async move {
                let open = admitted.await;
                if let Some(open) = open {
                    open.run().await;
                }
            }
        };
        tunnel::serve(tcp, context, handler).await;
    }

    /// One connection of a tunnel, let in or answered.
    async fn stream(&self, pod: &Pod, mut incoming: Incoming) -> Option<Open<()>> {
        if !pod.reached.load(Ordering::Relaxed) {
            pod.reached.store(true, Ordering::Relaxed);
        }
        let peer = Arc::clone(&incoming.peer);
        let (source, destination) = (incoming.source, incoming.authority);
        let mut seen = Observed::new(&self.metrics, Direction::Inbound, Path::Tunnel, source, true);
        seen.record.tunnel_protocol = Some(incoming.protocol().label());
        let asked = Asked { pod, peer: Some(&peer.identity), source, destination };
        let delivered = tokio::select! {
            delivered = self.deliver(&asked, &mut seen) => delivered,
            () = incoming.given_up() => {
                seen.failed("given_up", "the client gave up".into());
                return None;
            }
        };
        match delivered {
            Err(why) => {
                incoming.refuse(why.refusal());
                seen.failed(why.label(), why.text());
                None
            }
            Ok(Delivered { app, registered }) => match incoming.accept() {
                Err(error) => {
                    seen.failed(error.reason(), error.to_string());
                    None
                }
                Ok(stream) => Some(Open::new(app, Far::Stream(stream), seen, registered, ())),
            },
        }
    }

    /// Plaintext that the kernel left to be judged.
    async fn plaintext(
        &self,
        pod: &Pod,
        client: TcpStream,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<Open<()>> {
        let mut seen = Observed::new(&self.metrics, Direction::Inbound, Path::Plaintext, source, false);
        let _ = socket::set_oob_inline(&client);
        let _ = client.set_nodelay(true);
        let asked = Asked { pod, peer: None, source, destination };
        match self.deliver(&asked, &mut seen).await {
            Err(why) => {
                let _ = socket::reset_on_close(&client);
                drop(client);
                seen.failed(why.label(), why.text());
                None
            }
            Ok(Delivered { app, registered }) => Some(Open::new(client, Far::Tcp(app), seen, registered, ())),
        }
    }

    /// Judges, dials the app, and enters the connection among the live ones.
    async fn deliver(&self, asked: &Asked<'_>, seen: &mut Observed) -> Result<Delivered, Undelivered> {
        let mut snapshot = (self.snapshots)();
        let workload = asked.pod.workload(&snapshot).ok_or(Undelivered::UnknownPod)?;
        seen.record.original_destination = Some(asked.destination);
        seen.destination(asked.destination, Some(workload), Some(&asked.pod.identity));
        seen.source(proven_workload(&snapshot, asked).as_ref(), asked.peer);
        self.judge(&snapshot, workload, asked, seen)?;
        let netns = &asked.pod.netns;
        let app = sys::dial::deliver(netns, asked.source.ip(), asked.destination, self.connect_timeout).await;
        let app = app.map_err(Undelivered::App)?;
        loop {
            let registered = self.live.register(seen.connection(&asked.pod.uid));
            // Registered first, then looked again: a policy that changed while the app was dialled is either seen here or
            // sees the registration.
            let now = (self.snapshots)();
            if now.generation() == snapshot.generation() {
                return Ok(Delivered { app, registered });
            }
            let workload = asked.pod.workload(&now).ok_or(Undelivered::UnknownPod)?;
            self.judge(&now, workload, asked, seen)?;
            snapshot = now;
        }
    }

    fn judge(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        asked: &Asked<'_>,
        seen: &mut Observed,
    ) -> Result<(), Undelivered> {
        let facts = ConnectionFacts {
            destination: workload,
            port: asked.destination.port(),
            peer: asked.peer,
            source: asked.source.ip(),
        };
        let decision = authorize(snapshot, &facts);
        for policy in &decision.audited {
            tracing::info!(target: "weft::audit", %policy, source = %asked.source, destination = %asked.destination,
                peer = asked.peer.map(tracing::field::display), "would have been refused");
        }
        match decision.verdict {
            Verdict::Allow { policy } => {
                seen.record.policy = policy;
                Ok(())
            }
            Verdict::Deny { reason, policy } => {
                seen.record.policy = policy;
                self.metrics.policy_denied(reason.label(), &seen.destination);
                Err(Undelivered::Denied(reason))
            }
        }
    }
}

/// The workload at the peer's address, if the peer has proved to be it; in plaintext the address is all there is.
fn proven_workload(snapshot: &Snapshot, asked: &Asked<'_>) -> Option<Arc<Workload>> {
    let workload = snapshot.workload_at(asked.source.ip())?;
    asked.peer.is_none_or(|peer| *peer == snapshot.identity_of(&workload)).then_some(workload)
}
