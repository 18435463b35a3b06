//! The dialling end of an HBONE tunnel.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use tokio::time::timeout;

use super::keepalive::Pinger;
use super::request;
use super::watched::Watched;
use super::{CONNECTION_WINDOW, FRAME_BUDGET, FRAME_MAX, HEADER_LIST_MAX, SEND_BUFFER, STREAM_WINDOW};
use crate::tunnel::TunnelError;
use crate::tunnel::codec::Claims;
use crate::tunnel::connect::ConnectRequest;
use crate::tunnel::settings::PoolSettings;
use crate::tunnel::shared::Shared;
use crate::tunnel::stream::Body;
use crate::tunnel::tls::{Established, TlsIo};

/// How long a closing tunnel gets to say goodbye.
const FAREWELL: Duration = Duration::from_secs(1);

/// A tunnel this node dialled. Dropped, it closes behind its last stream.
pub(in crate::tunnel) struct Client {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

/// The other half: what must be driven.
pub(in crate::tunnel) struct Running {
    connection: Connection<Watched<TlsIo>>,
    shared: Arc<Shared>,
}

/// HTTP/2 over a connection that agreed on it.
pub(in crate::tunnel) async fn establish(
    established: Established,
    shared: Arc<Shared>,
) -> Result<(Client, Running), TunnelError> {
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .data_frame_budget(FRAME_BUDGET)
        .max_header_list_size(HEADER_LIST_MAX)
        .max_send_buffer_size(SEND_BUFFER)
        .enable_push(false)
        .handshake(Watched::new(TlsIo::new(established), Arc::clone(&shared)))
        .await
        .map_err(|error| shared.explain(&error))?;
    Ok((Client { sender, shared: Arc::clone(&shared) }, Running { connection, shared }))
}

impl Client {
    /// Whether one more stream may be opened beside `streams`. With windows shared, the next to join one who has stalled
    /// might hang with it.
    pub(in crate::tunnel) fn has_room(&self, limit: usize) -> bool {
        let limit = limit.min(self.sender.current_max_send_streams());
        self.shared.streams() < limit && !self.shared.has_stalled()
    }

    /// Sends the CONNECT and waits for its answer.
    pub(in crate::tunnel) async fn open(
        &self,
        request: &ConnectRequest,
    ) -> Result<(Body, Option<Arc<Claims>>), TunnelError> {
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
        let response = response.await.map_err(|error| self.shared.explain(&error))?;
        if response.status() != http::StatusCode::OK {
            return Err(TunnelError::Refused { status: response.status().as_u16() });
        }
        let claims = request::read_claims(response.headers());
        Ok((Body::Hbone(send, response.into_body()), claims))
    }
}

impl Running {
    /// Drives the tunnel until it ends: moves its frames and PINGs. `retire` is asked once it has been idle for long, and
    /// answers whether it has removed the tunnel from the pool, so that no stream can join any more.
    pub(in crate::tunnel) async fn drive(
        self,
        settings: &PoolSettings,
        retire: &(impl Fn() -> bool + Sync),
    ) -> Option<TunnelError> {
        let Self { mut connection, shared } = self;
        let mut pinger = Pinger::new(connection.ping_pong(), settings.keepalive, Arc::clone(&shared));
        let mut connection = pin!(connection);
        loop {
            let idle_left = shared.idle().map_or(settings.idle, |idle| settings.idle.saturating_sub(idle));
            tokio::select! {
                ended = &mut connection => return ended.err().map(|error| shared.explain(&error)),
                alive = pinger.run() => if alive.is_err() {
                    return Some(TunnelError::Closed("the peer does not answer any more".to_owned()));
                },
                () = shared.wake.notified() => if shared.take_probe() { pinger.hurry() },
                () = tokio::time::sleep(idle_left.max(Duration::from_millis(10))) => {
                    if shared.idle().is_some_and(|idle| idle >= settings.idle) && retire() {
                        let _ = timeout(FAREWELL, &mut connection).await;
                        return None;
                    }
                }
            }
        }
    }
}
