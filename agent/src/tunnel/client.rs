//! One dialled tunnel: its handshake, the task that drives it, and opening a stream in it.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connect::ConnectRequest;
use super::keepalive::Pinger;
use super::pool::PoolSettings;
use super::request;
use super::stream::{Lease, Shared, Stream};
use super::watched::Watched;
use super::{
    CONNECTION_WINDOW, Events, FRAME_BUDGET, FRAME_MAX, HEADER_LIST_MAX, SEND_BUFFER, STREAM_WINDOW, Side, TunnelError,
};
use crate::identity::{Credentials, PeerCertificate};

/// A peer that was silent for this long is probed together with the next CONNECT.
const FRESH: Duration = Duration::from_secs(1);
/// How long a closing tunnel gets to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// A tunnel this node dialled.
pub(super) struct Tunnel {
    sender: SendRequest<Bytes>,
    to: SocketAddr,
    pub(super) shared: Arc<Shared>,
    /// What it was dialled with: with newer ones it takes no more streams.
    pub(super) credentials: Arc<Credentials>,
    peer: Arc<PeerCertificate>,
}

/// A tunnel and the connection somebody must drive.
pub(super) struct Dialled {
    pub(super) tunnel: Tunnel,
    pub(super) connection: Connection<Watched<TlsStream<TcpStream>>>,
}

impl Tunnel {
    /// TLS and HTTP/2 over a fresh TCP connection.
    pub(super) async fn establish(
        tcp: TcpStream,
        credentials: Arc<Credentials>,
        request: &ConnectRequest,
        to: SocketAddr,
    ) -> Result<Dialled, TunnelError> {
        let _ = tcp.set_nodelay(true);
        let config = credentials.client_config(&request.server)?;
        let name = ServerName::IpAddress(to.ip().into());
        let tls =
            TlsConnector::from(config).connect(name, tcp).await.map_err(|error| TunnelError::from_handshake(&error))?;
        if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(TunnelError::Alpn);
        }
        let peer = Arc::new(credentials.read_peer(tls.get_ref().1.peer_certificates())?);
        let shared = Shared::new();
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_frame_size(FRAME_MAX)
            .data_frame_budget(FRAME_BUDGET)
            .max_header_list_size(HEADER_LIST_MAX)
            .max_send_buffer_size(SEND_BUFFER)
            .enable_push(false)
            .handshake(Watched::new(tls, Arc::clone(&shared)))
            .await
            .map_err(|error| shared.explain(&error))?;
        Ok(Dialled { tunnel: Self { sender, to, shared, credentials, peer }, connection })
    }

    /// Takes a place in this tunnel, if one more stream may join. Call under the pool's lock.
    pub(super) fn join(&self, limit: usize) -> Option<Lease> {
        let limit = limit.min(self.sender.current_max_send_streams());
        let welcome =
            self.is_open() && self.shared.streams() < limit && !self.shared.has_stalled() && !self.shared.is_suspect();
        welcome.then(|| self.shared.lease())
    }

    /// Whether it may ever take a stream again.
    pub(super) fn is_open(&self) -> bool {
        self.shared.failure().is_none()
    }

    /// Sends the CONNECT and waits for its answer.
    pub(super) async fn open(
        &self,
        lease: Lease,
        request: &ConnectRequest,
        patience: Duration,
    ) -> Result<Stream, TunnelError> {
        let refused = |error: h2::Error| {
            // Whatever keeps this stream out keeps out the next.
            let error = self.shared.explain(&error);
            self.shared.fail(error.clone());
            if error.blames_tunnel() { error } else { TunnelError::Closed(error.to_string()) }
        };
        let head = request::connect(request.authority, &request.forwarded(), request.baggage.as_deref())
            .map_err(|error| TunnelError::Protocol(error.to_string()))?;
        let mut sender = self.sender.clone().ready().await.map_err(refused)?;
        let (response, send) = sender.send_request(head, false).map_err(refused)?;
        drop(sender);
        let mut response = pin!(response);
        if self.shared.silence() > FRESH {
            self.shared.probe();
            let asked = Instant::now();
            let silent = timeout(patience, &mut response).await;
            if let Ok(answer) = silent {
                return self.answered(answer, send, lease);
            }
            if self.shared.silence() >= asked.elapsed() {
                self.shared.distrust();
                return Err(TunnelError::Silent(self.to));
            }
        }
        self.answered(response.await, send, lease)
    }

    fn answered(
        &self,
        answer: Result<http::Response<h2::RecvStream>, h2::Error>,
        send: h2::SendStream<Bytes>,
        lease: Lease,
    ) -> Result<Stream, TunnelError> {
        let response = answer.map_err(|error| self.shared.explain(&error))?;
        if response.status() != http::StatusCode::OK {
            return Err(TunnelError::Refused { status: response.status().as_u16() });
        }
        let claims = request::read_claims(response.headers());
        Ok(Stream { send, recv: response.into_body(), lease, peer: Arc::clone(&self.peer), claims })
    }
}

/// Drives a tunnel until it ends: moves its frames, PINGs, and asks `retire` once it has been idle for long.
///
/// `retire` returns whether it has removed the tunnel from the pool, so that no stream can join any more.
pub(super) async fn drive(
    mut connection: Connection<Watched<TlsStream<TcpStream>>>,
    shared: Arc<Shared>,
    settings: PoolSettings,
    events: Arc<dyn Events>,
    retire: impl Fn() -> bool,
) {
    let mut pinger = Pinger::new(connection.ping_pong(), settings.keepalive, Arc::clone(&shared));
    let mut connection = pin!(connection);
    events.opened(Side::Client);
    let cause = loop {
        let idle_left = shared.idle().map_or(settings.idle, |idle| settings.idle.saturating_sub(idle));
        tokio::select! {
            ended = &mut connection => {
                break ended.err().map(|error| shared.explain(&error));
            }
            alive = pinger.run() => if alive.is_err() {
                break Some(TunnelError::Closed("the peer does not answer any more".to_owned()));
            },
            () = shared.wake.notified() => if shared.take_probe() { pinger.hurry() },
            () = tokio::time::sleep(idle_left.max(Duration::from_millis(10))) => {
                if shared.idle().is_some_and(|idle| idle >= settings.idle) && retire() {
                    let _ = timeout(FAREWELL, &mut connection).await;
                    break None;
                }
            }
        }
    };
    shared.fail(cause.clone().unwrap_or_else(|| TunnelError::Closed("in order".to_owned())));
    retire();
    events.closed(Side::Client, cause.as_ref());
}
