//! The receiving end of tunnels, on port 15008 of a pod's address.
//!
//! A peer must finish TLS, and for HBONE the HTTP/2 preface, within a deadline, hold a certificate of this mesh, and ask
//! for an address and port of this very pod. Whatever falls short is turned away with a reason that is counted; what
//! remains is an [`Incoming`] for the handler to accept or refuse.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::codec::{Claims, Forwarded};
use super::settings::ServerSettings;
use super::shared::{Lease, Shared};
use super::stream::{Body, Stream};
use super::{
    Budget, Events, Protocol, RESERVED_PORTS, Refusal, Rejection, RequestError, Side, TunnelError, hbone, tls, weft,
};
use crate::identity::{Credentials, PeerCertificate};
use crate::sys::socket;

/// Handshakes of one pod under way at once: some 80 MB if all of them stop half-way. Who comes later waits for a turn
/// within its own deadline.
pub const HANDSHAKES_MAX: usize = 4096;

/// What one pod's tunnels have in common.
#[derive(Clone)]
pub struct ServerContext {
    /// The pod's certificate.
    pub credentials: Arc<Credentials>,
    /// The pod's addresses: the only ones a stream may lead to.
    pub addresses: Arc<[IpAddr]>,
    /// What is said about the pod in answers, from [`super::codec::format_baggage`].
    pub baggage: Option<HeaderValue>,
    /// Limits and deadlines.
    pub settings: ServerSettings,
    /// Turns to shake hands, [`HANDSHAKES_MAX`] of them. Who waits for one holds a socket and little else.
    pub handshakes: Arc<Semaphore>,
    /// What the pod's slow readers may cost.
    pub budget: Arc<Budget>,
    /// Who counts.
    pub events: Arc<dyn Events>,
    /// When cancelled, tunnels take no more streams and close after the last one.
    pub drain: CancellationToken,
}

/// What a well-formed request asks for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) authority: SocketAddr,
    pub(super) forwarded: Option<Forwarded>,
    pub(super) claims: Option<Arc<Claims>>,
}

/// What answers a request, in the words of its tunnel's protocol.
pub(super) enum Respond {
    Hbone(hbone::Answer),
    Weft(weft::Answer),
}

impl From<hbone::Answer> for Respond {
    fn from(answer: hbone::Answer) -> Self {
        Self::Hbone(answer)
    }
}

impl From<weft::Answer> for Respond {
    fn from(answer: weft::Answer) -> Self {
        Self::Weft(answer)
    }
}

/// A connection that waits for an answer. Dropping it resets the stream.
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
    pub claims: Option<Arc<Claims>>,
    respond: Respond,
    lease: Lease,
}

impl Incoming {
    /// Which protocol the tunnel speaks.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        match self.respond {
            Respond::Hbone(_) => Protocol::Hbone,
            Respond::Weft(_) => Protocol::Weft,
        }
    }

    /// Tells the peer that the app has answered.
    ///
    /// # Errors
    /// [`TunnelError`] when the peer has gone.
    pub fn accept(self) -> Result<Stream, TunnelError> {
        let body = match self.respond {
            Respond::Hbone(answer) => answer.accept().map_err(|error| self.lease.shared.explain(&error))?,
            Respond::Weft(answer) => Body::Weft(answer.accept()?),
        };
        Ok(Stream { body, lease: self.lease, peer: self.peer, claims: self.claims })
    }

    /// Tells the peer no.
    pub fn refuse(self, refusal: Refusal) {
        match self.respond {
            Respond::Hbone(answer) => answer.refuse(refusal.status()),
            Respond::Weft(answer) => answer.refuse(refusal),
        }
    }

    /// Waits until the peer gives up, e.g. to stop dialling the app.
    pub async fn given_up(&mut self) {
        match &mut self.respond {
            Respond::Hbone(answer) => answer.given_up().await,
            Respond::Weft(answer) => answer.given_up().await,
        }
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
    let (transport, peer) = match established {
        Ok(established) => established,
        Err(error) => return context.events.rejected(&Rejection { source, destination, peer: None, error }),
    };
    let door = Door { context, source, destination, peer: Arc::new(peer), shared };
    let protocol = transport.protocol();
    door.context.events.opened(Side::Server, protocol);
    let cause = match transport {
        Transport::Hbone(connection) => hbone::run(*connection, &door, &handler).await,
        Transport::Weft(established) => weft::run(*established, &door, &handler).await,
    };
    if let Some(error) = &cause {
        door.shared.fail(error.clone());
    }
    door.context.events.closed(Side::Server, protocol, cause.as_ref());
}

enum Transport {
    Hbone(Box<hbone::Accepted>),
    Weft(Box<tls::Established>),
}

impl Transport {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Hbone(_) => Protocol::Hbone,
            Self::Weft(_) => Protocol::Weft,
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    context: &ServerContext,
    shared: Arc<Shared>,
) -> Result<(Transport, PeerCertificate), TunnelError> {
    // Never closed, so it is a turn or the deadline.
    let _turn = context.handshakes.acquire().await;
    let _ = socket::for_tunnel(&tcp);
    let protocols = context.settings.protocols;
    let config = context.credentials.server_config_for(&protocols.alpn());
    let established = tls::accept(tcp, config).await.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionAborted => TunnelError::NothingSaid,
        _ => TunnelError::from_handshake(&error),
    })?;
    let peer = context.credentials.read_peer(established.tls.peer_certificates())?;
    let transport = match protocols.agreed(established.tls.alpn()) {
        Some(Protocol::Weft) => Transport::Weft(Box::new(established)),
        Some(Protocol::Hbone) => {
            Transport::Hbone(Box::new(hbone::accept(established, &context.settings, shared).await?))
        }
        None => return Err(TunnelError::Alpn),
    };
    Ok((transport, peer))
}

/// Who has come to which pod, and what may be asked there: the same for both protocols.
pub(super) struct Door {
    pub(super) context: ServerContext,
    pub(super) source: SocketAddr,
    destination: SocketAddr,
    peer: Arc<PeerCertificate>,
    pub(super) shared: Arc<Shared>,
}

impl Door {
    /// Whether a stream may lead there at all.
    pub(super) fn admits(&self, authority: SocketAddr) -> Result<(), RequestError> {
        admits(authority, &self.context.addresses)
    }

    /// A request that may be answered.
    pub(super) fn incoming(&self, asked: Asked, respond: Respond) -> Incoming {
        Incoming {
            peer: Arc::clone(&self.peer),
            source: self.client(asked.forwarded.as_ref()),
            authority: asked.authority,
            host: asked.forwarded.and_then(|forwarded| forwarded.host),
            claims: asked.claims,
            respond,
            lease: self.shared.lease(),
        }
    }

    /// The tunnel's own source address is what the network vouches for; only the port is taken from the peer's word.
    fn client(&self, forwarded: Option<&Forwarded>) -> SocketAddr {
        match forwarded {
            Some(told) if told.client.ip() == self.source.ip() => told.client,
            _ => self.source,
        }
    }

    /// Counts something the peer asked for in vain, or did wrong.
    pub(super) fn reject(&self, error: TunnelError) {
        let peer = Some(self.peer.identity.clone());
        let (source, destination) = (self.source, self.destination);
        self.context.events.rejected(&Rejection { source, destination, peer, error });
    }

    /// Neither certificate may be used for new streams once it has expired.
    pub(super) async fn until_expiry(&self) {
        let end = self.peer.not_after.min(self.context.credentials.leaf().not_after);
        // In steps, since a suspended machine's timers stand still while certificates age.
        while let Ok(left) = end.duration_since(SystemTime::now()) {
            tokio::time::sleep(left.min(Duration::from_secs(60))).await;
        }
    }
}

/// Whether a stream may lead to `authority` in a tunnel to a pod with these `addresses`.
pub(super) fn admits(authority: SocketAddr, addresses: &[IpAddr]) -> Result<(), RequestError> {
    if RESERVED_PORTS.contains(&authority.port()) {
        return Err(RequestError::ReservedPort(authority.port()));
    }
    if !addresses.contains(&authority.ip()) {
        return Err(RequestError::NotThisPod(authority));
    }
    Ok(())
}

/// A dual-stack listener reports IPv4 peers as mapped addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
