//! The app's side: which version it speaks, its requests one after another or side by side, and how it ends.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::ahead::{self, Ahead};
use super::body::Download;
use super::claim;
use super::detect::{self, Version};
use super::ends::{Answering, Ends};
use super::exchange::Session;
use super::framing;
use super::heads::Heads;
use super::near::Near;
use super::stop::Stopped;
use super::{Client, Http};
use crate::sys::{diag, socket};

/// A head of HTTP/1 at the most, in bytes: more than [`framing`] lets through, so that it is never hyper who refuses one.
const HEAD_MAX: usize = framing::HEAD_MAX + 1024;
/// The fields of an HTTP/2 request at the most. Those beyond [`super::hop::FIELDS_MAX`] are refused there; what is beyond this
/// the protocol itself answers, with a bare 431, and a client that goes on to four times as much is told to go away.
const FIELD_LIST_MAX: u32 = 2 * framing::HEAD_MAX as u32;
/// Requests an app may have open in one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// More than all streams together may leave: an endpoint that does not read holds up its own request only.
const CONNECTION_WINDOW: u32 = claim::WINDOW * (STREAMS_MAX + 1);
/// What a stream may have written and not yet sent, in bytes.
const SEND_BUFFER: usize = 128 * 1024;
/// Streams an app has reset and that were not looked at yet, beyond which it means harm (CVE-2023-44487).
const RESETS_MAX: usize = 64;
/// Once the agent drains, how long an HTTP/1 connection may wait for a next request to which it can be said that it is
/// the last. Closed at once, it would meet a request on its way.
const QUIET: Duration = Duration::from_secs(3);

/// How often it is looked whether an app that has finished sending still waits for its answer.
const LOOK: Duration = Duration::from_millis(250);

/// Carries the requests of one connection, to its end.
pub(super) async fn serve(http: Arc<Http>, client: Client, app: TcpStream) {
    let opening = tokio::select! {
        biased;
        () = client.kill.cancelled() => {
            let _ = socket::reset_on_close(&app);
            return;
        }
        opening = detect::read(&app, http.patience) => opening,
    };
    let Ok(Some((version, opening, late))) = opening else { return };
    let budget = &client.pod.budget;
    let (ends, stopped) = (Arc::new(Ends::new(budget)), Stopped::default());
    let held = (Heads::new(budget, http.patience, late), Ahead::new(budget));
    let told = (Arc::clone(&ends), stopped.clone());
    let near = Near::new(app, (version, opening), Arc::clone(&client.flow), held, told);
    let session = Arc::new(Session::new(http, client, (Arc::clone(&ends), stopped)));
    match version {
        Version::Http1 => serve_http1(&session, near, &ends).await,
        Version::Http2 => serve_http2(&session, near, &ends).await,
    }
}

/// Ends when the connection must: it is killed, or its app has gone without waiting for an answer.
async fn cut(session: &Session, ends: &Ends) {
    let client = &session.client;
    let abandoned = async {
        loop {
            ends.finished.notified().await;
            while ends.is_answering() {
                tokio::time::sleep(LOOK).await;
                // Only the kernel can tell an app that waits from one that is gone: both have sent a FIN.
                if matches!(diag::is_held(&client.pod.netns, client.address, client.destination), Ok(false)) {
                    return;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = client.kill.cancelled() => {}
        () = abandoned => {}
    }
}

async fn serve_http1(session: &Arc<Session>, near: Near, ends: &Arc<Ends>) {
    let service = service_fn(|request| answer(session, request, Some(ends.answer())));
    let mut cut = pin!(cut(session, ends));
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true).max_header_size(HEAD_MAX).max_buf_size(ahead::MOST);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(near), service).with_upgrades());
    let draining = session.http.drain.draining();
    tokio::select! {
        biased;
        () = cut.as_mut() => return ends.reset(),
        ended = connection.as_mut() => return note(ended),
        () = draining.cancelled() => session.last(),
    }
    let quiet = tokio::time::sleep(QUIET);
    tokio::select! {
        biased;
        () = cut.as_mut() => return ends.reset(),
        ended = connection.as_mut() => return note(ended),
        () = quiet => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        () = cut.as_mut() => ends.reset(),
        ended = connection.as_mut() => note(ended),
    }
}

async fn serve_http2(session: &Arc<Session>, near: Near, ends: &Ends) {
    let service = service_fn(|request| answer(session, request, None));
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(claim::WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(FIELD_LIST_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .auto_date_header(true);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(near), service));
    let draining = session.http.drain.draining();
    tokio::select! {
        biased;
        () = session.client.kill.cancelled() => return ends.reset(),
        ended = connection.as_mut() => return note(ended),
        () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        biased;
        () = session.client.kill.cancelled() => ends.reset(),
        ended = connection.as_mut() => note(ended),
    }
}

/// In a box: hyper moves what answers a request several times before it begins, and this is kilobytes.
fn answer(
    session: &Arc<Session>,
    request: Request<Incoming>,
    answering: Option<Answering>,
) -> BoxFuture<'static, hyper::Result<Response<Download>>> {
    Box::pin(Arc::clone(session).answer(request, answering))
}

fn note(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "an app's connection ended");
    }
}
