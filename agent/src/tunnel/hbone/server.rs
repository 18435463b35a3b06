//! The accepting end of an HBONE tunnel.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::{HeaderValue, Request, Response, StatusCode};

use super::keepalive::Pinger;
use super::request;
use super::watched::Watched;
use super::{CONNECTION_WINDOW, FRAME_BUDGET, FRAME_MAX, HEADER_LIST_MAX, SEND_BUFFER, STREAM_WINDOW};
use crate::tunnel::server::Door;
use crate::tunnel::settings::ServerSettings;
use crate::tunnel::shared::Shared;
use crate::tunnel::stream::Body;
use crate::tunnel::tls::{Established, TlsIo};
use crate::tunnel::{Incoming, TunnelError};

/// A tunnel whose HTTP/2 preface has been exchanged.
pub(in crate::tunnel) type Accepted = Connection<Watched<TlsIo>, Bytes>;

/// What answers a CONNECT.
pub(in crate::tunnel) struct Answer {
    respond: SendResponse<Bytes>,
    recv: RecvStream,
    baggage: Option<HeaderValue>,
}

impl Answer {
    pub(in crate::tunnel) fn accept(mut self) -> Result<Body, h2::Error> {
        let response = request::accepted(self.baggage.as_ref());
        Ok(Body::Hbone(self.respond.send_response(response, false)?, self.recv))
    }

    pub(in crate::tunnel) fn refuse(mut self, status: u16) {
        answer(&mut self.respond, status);
    }

    /// Waits until the peer gives up.
    pub(in crate::tunnel) async fn given_up(&mut self) {
        let _ = std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await;
    }
}

/// Exchanges the preface over a connection that agreed on `h2`, or on nothing.
pub(in crate::tunnel) async fn accept(
    established: Established,
    settings: &ServerSettings,
    shared: Arc<Shared>,
) -> Result<Accepted, TunnelError> {
    h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_MAX)
        .data_frame_budget(FRAME_BUDGET)
        // Decoded up to four times what is accepted, so that too large a list is answered and counted by us; beyond it
        // h2 answers 431 itself.
        .max_header_list_size(4 * HEADER_LIST_MAX)
        .max_concurrent_streams(settings.streams)
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(Watched::new(TlsIo::new(established), Arc::clone(&shared)))
        .await
        .map_err(|error| match shared.explain(&error) {
            TunnelError::Closed(_) => TunnelError::HandshakeAborted,
            other => other,
        })
}

/// Serves a tunnel until it ends; `handler` runs as its own task for every stream.
pub(in crate::tunnel) async fn run<H, F>(mut connection: Accepted, door: &Door, handler: &H) -> Option<TunnelError>
where
    H: Fn(Incoming) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (settings, shared) = (&door.context.settings, &door.shared);
    let mut pinger = Pinger::new(connection.ping_pong(), settings.keepalive, Arc::clone(shared));
    let mut expired = pin!(door.until_expiry());
    let mut closing = false;
    loop {
        let idle_left = shared.idle().map_or(settings.idle, |idle| settings.idle.saturating_sub(idle));
        let leave = tokio::select! {
            next = connection.accept() => match next {
                None => return None,
                Some(Ok((request, respond))) => {
                    asked(door, request, respond, handler);
                    false
                }
                Some(Err(error)) => return Some(broken(door, &error)),
            },
            alive = pinger.run() => match alive {
                Ok(()) => false,
                Err(_) => return Some(TunnelError::Silent(door.source)),
            },
            () = door.context.drain.cancelled(), if !closing => true,
            () = &mut expired, if !closing => true,
            () = tokio::time::sleep(idle_left.max(Duration::from_millis(10))), if !closing => {
                shared.idle().is_some_and(|idle| idle >= settings.idle)
            }
        };
        if leave {
            closing = true;
            connection.graceful_shutdown();
        }
    }
}

/// Answers what is wrong, hands on what is right.
fn asked<H, F>(door: &Door, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, handler: &H)
where
    H: Fn(Incoming) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let (head, recv) = request.into_parts();
    match request::read(&Request::from_parts(head, ()), &door.context.addresses) {
        Ok(asked) => {
            let answer = Answer { respond, recv, baggage: door.context.baggage.clone() };
            tokio::spawn(handler(door.incoming(asked, answer.into())));
        }
        Err(error) => {
            answer(&mut respond, error.status());
            door.reject(error.into());
        }
    }
}

fn broken(door: &Door, error: &h2::Error) -> TunnelError {
    let error = door.shared.explain(error);
    if matches!(error, TunnelError::Protocol(_) | TunnelError::Tls(_)) {
        door.reject(error.clone());
    }
    error
}

fn answer(respond: &mut SendResponse<Bytes>, status: u16) {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if respond.send_response(response, true).is_err() {
        respond.send_reset(Reason::CANCEL);
    }
}
