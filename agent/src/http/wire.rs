//! One connection to an endpoint, and what a request may do with it. [`super::upstream`] keeps them.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::ahead::{self, Full, Paced};
use super::awaited::Awaited;
use super::claim;
use super::upload::Upload;
use crate::relay::Far;
use crate::tunnel::{Budget, Standing};

/// How long a connection is used at most: certificates are replaced and endpoints come, and a pool that never runs dry
/// would notice neither.
const AGE: Duration = Duration::from_secs(600);
/// Requests in one HTTP/2 connection; further ones get another.
const STREAMS_MAX: usize = 100;
/// More than all streams together may leave: nobody who stops reading takes another's share.
const CONNECTION_WINDOW: u32 = claim::WINDOW * (STREAMS_MAX as u32 + 1);
/// What a stream may have written and not yet sent, in bytes.
const SEND_BUFFER: usize = 128 * 1024;
/// A response's head at the most, in bytes.
const HEAD_MAX: usize = 64 * 1024;

/// A connection lent to one request.
pub(super) enum Lent {
    Http1(Exclusive),
    Http2(Shared),
}

/// An HTTP/1 connection.
pub(super) struct Exclusive {
    sender: http1::SendRequest<Upload>,
    full: Full,
    awaited: Awaited,
    standing: Option<Standing>,
    born: Instant,
    /// Another request has been carried by it.
    pub(super) used: bool,
}

/// A place in an HTTP/2 connection, given back when dropped.
pub(super) struct Shared(Arc<Multiplexed>);

/// An HTTP/2 connection.
pub(super) struct Multiplexed {
    sender: http2::SendRequest<Upload>,
    standing: Option<Standing>,
    born: Instant,
    streams: AtomicUsize,
    /// Streams the peer allows.
    room: Arc<AtomicUsize>,
    idle_since: Mutex<Instant>,
}

/// A request that could not be sent: itself, if nothing of it has gone.
pub(super) struct Unsent {
    pub(super) request: Option<Box<Request<Upload>>>,
    pub(super) error: hyper::Error,
}

/// Speaks HTTP/1 over a connection just made, for the pod whose budget this is.
///
/// # Errors
/// When it is gone already.
pub(super) async fn speak_http1(far: Far, budget: &Arc<Budget>) -> hyper::Result<Exclusive> {
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true).max_header_size(HEAD_MAX).max_buf_size(ahead::MOST);
    let (standing, full, awaited) = (standing(&far), Full::default(), Awaited::default());
    let shared = (full.clone(), awaited.clone());
    let sender = match far {
        Far::Tcp(tcp) => begin_http1(&builder, Paced::new(tcp, budget, shared)).await?,
        Far::Stream(stream) => begin_http1(&builder, Paced::new(stream.into_io(), budget, shared)).await?,
    };
    Ok(Exclusive { sender, full, awaited, standing, born: Instant::now(), used: false })
}

/// Speaks HTTP/2 over a connection just made.
///
/// # Errors
/// When it is gone already.
pub(super) async fn speak_http2(far: Far) -> hyper::Result<Arc<Multiplexed>> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(claim::WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_MAX as u32)
        .max_send_buf_size(SEND_BUFFER);
    let (standing, room) = (standing(&far), Arc::new(AtomicUsize::new(STREAMS_MAX)));
    let sender = match far {
        Far::Tcp(tcp) => begin_http2(&builder, tcp, &room).await?,
        Far::Stream(stream) => begin_http2(&builder, stream.into_io(), &room).await?,
    };
    let (streams, born) = (AtomicUsize::new(0), Instant::now());
    Ok(Arc::new(Multiplexed { sender, standing, born, streams, room, idle_since: Mutex::new(born) }))
}

impl Lent {
    /// Whether the peer may have forgotten the connection without our knowing.
    pub(super) fn is_used(&self) -> bool {
        match self {
            Self::Http1(lent) => lent.used,
            Self::Http2(_) => true,
        }
    }

    /// Whether a response was not read on because its pod has no room for its head.
    pub(super) fn is_over_budget(&self) -> bool {
        matches!(self, Self::Http1(lent) if lent.awaited.is_over())
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// # Errors
    /// [`Unsent`].
    pub(super) async fn send(&mut self, mut request: Request<Upload>) -> Result<Response<Incoming>, Unsent> {
        let sent = match self {
            Self::Http1(lent) => {
                if !request.body().is_end_stream() {
                    request.body_mut().paced(&lent.full);
                }
                lent.awaited.asked();
                lent.sender.try_send_request(request).await
            }
            Self::Http2(shared) => shared.0.sender.clone().try_send_request(request).await,
        };
        sent.map_err(|mut error| Unsent { request: error.take_message().map(Box::new), error: error.into_error() })
    }
}

impl Exclusive {
    /// Whether it is good for another request, as soon as the last one is over.
    pub(super) fn is_good(&self, now: Instant) -> bool {
        let tunnel = self.standing.as_ref().is_none_or(Standing::is_open);
        tunnel && !self.sender.is_closed() && !self.awaited.is_last() && now.saturating_duration_since(self.born) < AGE
    }

    /// Whether that is so now.
    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.sender.is_ready() && self.is_good(now)
    }
}

impl Multiplexed {
    /// Whether it takes further requests.
    fn is_open(&self, now: Instant) -> bool {
        let tunnel = self.standing.as_ref().is_none_or(Standing::is_open);
        tunnel && !self.sender.is_closed() && now.saturating_duration_since(self.born) < AGE
    }

    /// A place in it, if there is one.
    pub(super) fn share(self: &Arc<Self>, now: Instant) -> Option<Shared> {
        let room = STREAMS_MAX.min(self.room.load(Ordering::Relaxed));
        let open = self.is_open(now) && self.streams.load(Ordering::Relaxed) < room;
        open.then(|| {
            self.streams.fetch_add(1, Ordering::Relaxed);
            Shared(Arc::clone(self))
        })
    }

    /// Whether it is to be kept, though it may have been without a request for nearly `idle`.
    pub(super) fn is_wanted(&self, now: Instant, idle: Duration) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        let unused = self.streams.load(Ordering::Relaxed) == 0 && now.saturating_duration_since(since) > idle;
        self.is_open(now) && !unused
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

fn standing(far: &Far) -> Option<Standing> {
    match far {
        Far::Stream(stream) => Some(stream.standing()),
        Far::Tcp(_) => None,
    }
}

async fn begin_http1<T>(builder: &http1::Builder, io: T) -> hyper::Result<http1::SendRequest<Upload>>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to an endpoint ended");
        }
    });
    Ok(sender)
}

async fn begin_http2<T>(
    builder: &http2::Builder<TokioExecutor>,
    io: T,
    room: &Arc<AtomicUsize>,
) -> hyper::Result<http2::SendRequest<Upload>>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, mut connection) = builder.handshake(TokioIo::new(io)).await?;
    let room = Arc::clone(room);
    tokio::spawn(async move {
        let driven = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            room.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled
        });
        if let Err(error) = driven.await {
            tracing::debug!(%error, "a connection to an endpoint ended");
        }
    });
    Ok(sender)
}
