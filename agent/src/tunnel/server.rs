//! The receiving end of tunnels, on port 15008 of a pod's address.
//!
//! A peer must finish TLS and the HTTP/2 preface within a deadline, hold a certificate of this mesh, and ask for an
//! address and port of this very pod. Whatever falls short is turned away with a reason that is counted; what remains is
//! an [`Incoming`] for the handler to accept or refuse.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderValue, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::codec::{Claims, Forwarded};
use super::keepalive::Pinger;
use super::request;
use super::stream::{Lease, Shared, Stream};
use super::watched::Watched;
use super::{
    CONNECTION_WINDOW, Events, FRAME_BUDGET, FRAME_MAX, HEADER_LIST_MAX, Keepalive, Refusal, Rejection, SEND_BUFFER,
    STREAM_WINDOW, Side, TunnelError,
};
use crate::identity::{Credentials, PeerCertificate};

/// Handshakes of one pod under way at once: some 80 MB if all of them stop half-way. Who comes later waits for a turn
/// within its own deadline.
pub const HANDSHAKES_MAX: usize = 4096;

/// How tunnels are received.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// From accept to the end of the HTTP/2 preface.
    pub handshake: Duration,
    /// Streams a peer may have open in one tunnel.
    pub streams: u32,
    /// How long a tunnel may be without streams.
    pub idle: Duration,
    /// When a silent peer is dead.
    pub keepalive: Keepalive,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            streams: 200,
            idle: Duration::from_secs(600),
            keepalive: Keepalive::default(),
        }
    }
}

/// What one pod's tunnels have in common.
#[derive(Clone)]
pub struct ServerContext {
    /// The pod's certificate.
    pub credentials: Arc<Credentials>,
    /// The pod's addresses: the only ones a CONNECT may name.
    pub addresses: Arc<[IpAddr]>,
    /// What is said about the pod in answers, from [`super::codec::format_baggage`].
    pub baggage: Option<HeaderValue>,
    /// Limits and deadlines.
    pub settings: ServerSettings,
    /// Turns to shake hands, [`HANDSHAKES_MAX`] of them. Who waits for one holds a socket and little else.
    pub handshakes: Arc<Semaphore>,
    /// Who counts.
    pub events: Arc<dyn Events>,
    /// When cancelled, tunnels take no more streams and close after the last one.
    pub drain: CancellationToken,
}

/// A CONNECT that waits for an answer. Dropping it resets the stream.
pub struct Incoming {
    /// Who asks, from its certificate.
    pub peer: Arc<PeerCertificate>,
    /// The peer's address: the client pod's. The port is the client's own, if the peer told it.
    pub source: SocketAddr,
    /// Where to: one of the pod's addresses.
    pub authority: SocketAddr,
    /// The service the client dialled, as the peer tells it.
    pub host: Option<String>,
    /// What the peer says about its workload; never to be believed.
    pub claims: Option<Box<Claims>>,
    respond: SendResponse<Bytes>,
    recv: RecvStream,
    lease: Lease,
    baggage: Option<HeaderValue>,
}

impl Incoming {
    /// Tells the peer that the app has answered.
    ///
    /// # Errors
    /// [`TunnelError`] when the peer has gone.
    pub fn accept(mut self) -> Result<Stream, TunnelError> {
        let response = request::accepted(self.baggage.as_ref());
        let send = self.respond.send_response(response, false).map_err(|e| self.lease.shared.explain(&e))?;
        Ok(Stream { send, recv: self.recv, lease: self.lease, peer: self.peer, claims: self.claims })
    }

    /// Tells the peer no.
    pub fn refuse(mut self, refusal: Refusal) {
        answer(&mut self.respond, refusal.status());
    }

    /// Waits until the peer gives up, e.g. to stop dialling the app.
    pub async fn given_up(&mut self) {
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

/// Serves one accepted TCP connection until it ends; `handler` runs as its own task for every stream.
///
/// Returns when the last frame has been written. Streams that were accepted live as long as the tunnel.
pub async fn serve<H, F>(tcp: TcpStream, context: ServerContext, handler: H)
where
    H: Fn(Incoming) -> F + Send + Sync,
    F: Future<Output = ()> + Send + 'static,
{
    let (Ok(source), Ok(destination)) = (tcp.peer_addr(), tcp.local_addr()) else { return };
    let (source, destination) = (canonical(source), canonical(destination));
    let shared = Shared::new();
    let limit = context.settings.handshake;
    let established = timeout(limit, handshake(tcp, &context, Arc::clone(&shared)))
        .await
        .unwrap_or(Err(TunnelError::HandshakeTimeout(limit)));
    match established {
        Err(error) => context.events.rejected(&Rejection { source, destination, peer: None, error }),
        Ok((connection, peer)) => {
            let peer = Arc::new(peer);
            Server { context, source, destination, peer, shared }.run(connection, handler).await;
        }
    }
}

type Transport = Watched<TlsStream<TcpStream>>;

async fn handshake(
    tcp: TcpStream,
    context: &ServerContext,
    shared: Arc<Shared>,
) -> Result<(Connection<Transport, Bytes>, PeerCertificate), TunnelError> {
    // Never closed, so it is a turn or the deadline.
    let _turn = context.handshakes.acquire().await;
    let _ = tcp.set_nodelay(true);
    let tls = TlsAcceptor::from(context.credentials.server_config())
        .accept(tcp)
        .await
        .map_err(|error| TunnelError::from_handshake(&error))?;
    let peer = context.credentials.read_peer(tls.get_ref().1.peer_certificates())?;
    let connection = h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .data_frame_budget(FRAME_BUDGET)
        // Decoded up to four times what is accepted, so that too large a list is answered and counted by us; beyond it
        // h2 answers 431 itself.
        .max_header_list_size(4 * HEADER_LIST_MAX)
        .max_concurrent_streams(context.settings.streams)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(Watched::new(tls, Arc::clone(&shared)))
        .await
        .map_err(|error| match shared.explain(&error) {
            TunnelError::Closed(_) => TunnelError::HandshakeAborted,
            other => other,
        })?;
    Ok((connection, peer))
}

struct Server {
    context: ServerContext,
    source: SocketAddr,
    destination: SocketAddr,
    peer: Arc<PeerCertificate>,
    shared: Arc<Shared>,
}

impl Server {
    async fn run<H, F>(self, mut connection: Connection<Transport, Bytes>, handler: H)
    where
        H: Fn(Incoming) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        self.context.events.opened(Side::Server);
        let cause = self.drive(&mut connection, handler).await;
        if let Some(error) = &cause {
            self.shared.fail(error.clone());
        }
        self.context.events.closed(Side::Server, cause.as_ref());
    }

    async fn drive<H, F>(&self, connection: &mut Connection<Transport, Bytes>, handler: H) -> Option<TunnelError>
    where
        H: Fn(Incoming) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let settings = &self.context.settings;
        let mut pinger = Pinger::new(connection.ping_pong(), settings.keepalive, Arc::clone(&self.shared));
        let mut expired = pin!(self.until_expiry());
        let mut closing = false;
        loop {
            let idle_left = self.shared.idle().map_or(settings.idle, |idle| settings.idle.saturating_sub(idle));
            tokio::select! {
                next = connection.accept() => match next {
                    None => return None,
                    Some(Ok((request, respond))) => self.asked(request, respond, &handler),
                    Some(Err(error)) => return self.broken(&error),
                },
                alive = pinger.run() => if alive.is_err() {
                    return Some(TunnelError::Silent(self.source));
                },
                () = self.context.drain.cancelled(), if !closing => {
                    closing = true;
                    connection.graceful_shutdown();
                }
                () = &mut expired, if !closing => {
                    closing = true;
                    connection.graceful_shutdown();
                }
                () = tokio::time::sleep(idle_left.max(Duration::from_millis(10))), if !closing => {
                    if self.shared.idle().is_some_and(|idle| idle >= settings.idle) {
                        closing = true;
                        connection.graceful_shutdown();
                    }
                }
            }
        }
    }

    /// Answers what is wrong, hands on what is right.
    fn asked<H, F>(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, handler: &H)
    where
        H: Fn(Incoming) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let (head, recv) = request.into_parts();
        let asked = match request::read(&Request::from_parts(head, ()), &self.context.addresses) {
            Ok(asked) => asked,
            Err(error) => {
                answer(&mut respond, error.status());
                return self.reject(error.into());
            }
        };
        let incoming = Incoming {
            peer: Arc::clone(&self.peer),
            source: self.client(asked.forwarded.as_ref()),
            authority: asked.authority,
            host: asked.forwarded.and_then(|forwarded| forwarded.host),
            claims: asked.claims,
            respond,
            recv,
            lease: self.shared.lease(),
            baggage: self.context.baggage.clone(),
        };
        tokio::spawn(handler(incoming));
    }

    /// The tunnel's own source address is what the network vouches for; only the port is taken from the peer's word.
    fn client(&self, forwarded: Option<&Forwarded>) -> SocketAddr {
        match forwarded {
            Some(told) if told.client.ip() == self.source.ip() => told.client,
            _ => self.source,
        }
    }

    fn broken(&self, error: &h2::Error) -> Option<TunnelError> {
        match self.shared.explain(error) {
            error @ (TunnelError::Protocol(_) | TunnelError::Tls(_)) => {
                self.reject(error.clone());
                Some(error)
            }
            other => Some(other),
        }
    }

    fn reject(&self, error: TunnelError) {
        let peer = Some(self.peer.identity.clone());
        let (source, destination) = (self.source, self.destination);
        self.context.events.rejected(&Rejection { source, destination, peer, error });
    }

    /// Neither certificate may be used for new streams once it has expired.
    async fn until_expiry(&self) {
        let end = self.peer.not_after.min(self.context.credentials.leaf().not_after);
        // In steps, since a suspended machine's timers stand still while certificates age.
        while let Ok(left) = end.duration_since(SystemTime::now()) {
            tokio::time::sleep(left.min(Duration::from_secs(60))).await;
        }
    }
}

fn answer(respond: &mut SendResponse<Bytes>, status: u16) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if respond.send_response(response, true).is_err() {
        respond.send_reset(Reason::CANCEL);
    }
}

/// A dual-stack listener reports IPv4 peers as mapped addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
