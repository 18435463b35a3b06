//! Connections to endpoints, kept for the next request: for each worker its own, for each pod its own.
//!
//! Requests of one pod to one endpoint share them, and nobody else's: nobody's bytes travel under another's certificate.
//! HTTP/1 connections are lent to one request at a time, the last one used first; an HTTP/2 connection carries many. One
//! that has been idle is let go before the server thinks of it, one that has grown old, or whose tunnel is to close, after
//! its last request.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use weft_core::model::Identity;

use super::body::Upload;
use crate::relay::Far;
use crate::tunnel::Standing;
use crate::workers;

/// How long an HTTP/1 connection may be idle: less than any server in wide use waits (Node.js, 5 s), since a request that
/// meets the server's FIN is lost unless it may be repeated.
const IDLE: Duration = Duration::from_secs(4);
/// The same of HTTP/2, where a server that leaves says which requests it has not seen.
const IDLE_HTTP2: Duration = Duration::from_secs(60);
/// How long a connection is used at most: certificates are replaced and endpoints come, and a pool that never runs dry
/// would notice neither.
const AGE: Duration = Duration::from_secs(600);
/// Idle HTTP/1 connections kept to one endpoint.
const IDLE_MAX: usize = 128;
/// Requests in one HTTP/2 connection; further ones get another.
const STREAMS_MAX: usize = 100;
/// What a stream's reader may leave unread, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
/// More than all streams together may leave: nobody who stops reading takes another's share.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * (STREAMS_MAX as u32 + 1);
/// What a stream may have written and not yet sent, in bytes.
const SEND_BUFFER: usize = 128 * 1024;
/// A response's head at the most, in bytes.
const HEAD_MAX: usize = 64 * 1024;
/// How much of an HTTP/1 body is read ahead, in bytes.
const READ_MAX: usize = 128 * 1024;

/// Who shares connections.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Place {
    /// The network dialled from.
    pub(super) network: u64,
    /// The address dialled from.
    pub(super) source: IpAddr,
    /// The endpoint.
    pub(super) endpoint: SocketAddr,
}

/// A connection lent to one request.
pub(super) enum Lent {
    Http1(Exclusive),
    Http2(Shared),
}

/// An HTTP/1 connection.
pub(super) struct Exclusive {
    sender: http1::SendRequest<Upload>,
    standing: Option<Standing>,
    born: Instant,
    /// Another request has been carried by it.
    pub(super) used: bool,
}

/// A place in an HTTP/2 connection, given back when dropped.
pub(super) struct Shared(Arc<Multiplexed>);

struct Multiplexed {
    sender: http2::SendRequest<Upload>,
    standing: Option<Standing>,
    born: Instant,
    streams: AtomicUsize,
    /// Streams the peer allows.
    room: Arc<AtomicUsize>,
    idle_since: Mutex<Instant>,
}

#[derive(Default)]
struct Shelf {
    /// Who answers there; connections to who answered before are not used again.
    server: Option<Identity>,
    http1: Vec<(Exclusive, Instant)>,
    http2: Vec<Arc<Multiplexed>>,
    dialling: Arc<tokio::sync::Mutex<()>>,
}

/// The connections of one worker, which alone takes its lock but for the moments when pods leave.
#[derive(Default)]
struct Shelves {
    places: HashMap<Place, Shelf>,
    tended: bool,
}

/// All connections to endpoints.
pub(super) struct Upstreams {
    workers: Box<[Mutex<Shelves>]>,
    /// For what looks after idle connections.
    own: Weak<Self>,
}

impl Upstreams {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        let workers = (0..=workers).map(|_| Mutex::default()).collect();
        Arc::new_cyclic(|own| Self { workers, own: own.clone() })
    }

    fn of(&self, worker: usize) -> MutexGuard<'_, Shelves> {
        // A thread that is no worker has number 0, which every instance has.
        let shelves = self.workers.get(worker).unwrap_or(&self.workers[0]);
        shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn here(&self) -> MutexGuard<'_, Shelves> {
        self.of(workers::number())
    }

    /// A connection to `place` that is there already.
    pub(super) fn take(&self, place: &Place, server: Option<&Identity>, http2: bool) -> Option<Lent> {
        let mut shelves = self.here();
        let shelf = shelves.places.get_mut(place)?;
        shelf.answered_by(server);
        if http2 { shelf.share().map(Lent::Http2) } else { shelf.lend().map(Lent::Http1) }
    }

    /// Whose turn it is to make an HTTP/2 connection to `place`: one for all who wait.
    pub(super) fn turn(&self, place: &Place, server: Option<&Identity>) -> Arc<tokio::sync::Mutex<()>> {
        let mut shelves = self.here();
        let shelf = shelves.places.entry(place.clone()).or_default();
        shelf.answered_by(server);
        Arc::clone(&shelf.dialling)
    }

    /// Speaks HTTP/1 over a connection just made, for one request.
    ///
    /// # Errors
    /// When it is gone already.
    pub(super) async fn http1(&self, far: Far) -> hyper::Result<Lent> {
        let mut builder = http1::Builder::new();
        builder.preserve_header_case(true).max_header_size(HEAD_MAX).max_buf_size(READ_MAX);
        let standing = standing(&far);
        let sender = match far {
            Far::Tcp(tcp) => begin_http1(&builder, tcp).await?,
            Far::Stream(stream) => begin_http1(&builder, stream.into_io()).await?,
        };
        Ok(Lent::Http1(Exclusive { sender, standing, born: Instant::now(), used: false }))
    }

    /// Speaks HTTP/2 over a connection just made, from now on for all.
    ///
    /// # Errors
    /// When it is gone already.
    pub(super) async fn http2(&self, place: &Place, server: Option<&Identity>, far: Far) -> hyper::Result<Lent> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(HEAD_MAX as u32)
            .max_send_buf_size(SEND_BUFFER);
        let (standing, room) = (standing(&far), Arc::new(AtomicUsize::new(STREAMS_MAX)));
        let sender = match far {
            Far::Tcp(tcp) => begin_http2(&builder, tcp, &room).await?,
            Far::Stream(stream) => begin_http2(&builder, stream.into_io(), &room).await?,
        };
        let now = Instant::now();
        let (streams, idle_since) = (AtomicUsize::new(1), Mutex::new(now));
        let made = Arc::new(Multiplexed { sender, standing, born: now, streams, room, idle_since });
        let mut shelves = self.here();
        let shelf = shelves.places.entry(place.clone()).or_default();
        shelf.answered_by(server);
        shelf.http2.push(Arc::clone(&made));
        self.tend(&mut shelves);
        Ok(Lent::Http2(Shared(made)))
    }

    /// Keeps an HTTP/1 connection to `server` whose last response is complete for the next request.
    pub(super) fn give_back(&self, place: Place, server: Option<Identity>, mut lent: Exclusive) {
        let now = Instant::now();
        if !lent.is_good(now) {
            return;
        }
        lent.used = true;
        let mut shelves = self.here();
        let shelf = shelves.places.entry(place).or_insert_with(|| Shelf { server: server.clone(), ..Shelf::default() });
        if shelf.server == server && shelf.http1.len() < IDLE_MAX {
            shelf.http1.push((lent, now));
        }
        self.tend(&mut shelves);
    }

    /// Forgets the connections made in a pod's network.
    pub(super) fn leave(&self, network: u64) {
        for worker in 0..self.workers.len() {
            self.of(worker).places.retain(|place, _| place.network != network);
        }
    }

    /// Forgets all connections.
    pub(super) fn close(&self) {
        for worker in 0..self.workers.len() {
            self.of(worker).places.clear();
        }
    }

    /// Has somebody let idle connections go as long as there are any.
    fn tend(&self, shelves: &mut Shelves) {
        if std::mem::replace(&mut shelves.tended, true) {
            return;
        }
        let (own, worker) = (self.own.clone(), workers::number());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(own) = own.upgrade() else { return };
                let mut shelves = own.of(worker);
                shelves.tidy(Instant::now());
                if shelves.places.is_empty() {
                    shelves.tended = false;
                    return;
                }
            }
        });
    }
}

impl Shelves {
    fn tidy(&mut self, now: Instant) {
        self.places.retain(|_, shelf| {
            shelf.http1.retain(|(lent, since)| lent.is_good(now) && now.saturating_duration_since(*since) < IDLE);
            shelf.http2.retain(|shared| shared.is_wanted(now));
            !shelf.http1.is_empty() || !shelf.http2.is_empty() || Arc::strong_count(&shelf.dialling) > 1
        });
    }
}

impl Shelf {
    /// Another pod may have the address now.
    fn answered_by(&mut self, server: Option<&Identity>) {
        if self.server.as_ref() != server {
            self.server = server.cloned();
            self.http1.clear();
            self.http2.clear();
        }
    }

    /// The connection that was used last: those before it get old, and are let go.
    fn lend(&mut self) -> Option<Exclusive> {
        let now = Instant::now();
        let fresh = |(lent, since): &(Exclusive, Instant)| {
            lent.sender.is_ready() && lent.is_good(now) && now.saturating_duration_since(*since) < IDLE
        };
        let at = self.http1.iter().rposition(fresh)?;
        Some(self.http1.remove(at).0)
    }

    fn share(&mut self) -> Option<Shared> {
        let now = Instant::now();
        let open = self.http2.iter().find(|shared| {
            let room = STREAMS_MAX.min(shared.room.load(Ordering::Relaxed));
            shared.is_open(now) && shared.streams.load(Ordering::Relaxed) < room
        })?;
        open.streams.fetch_add(1, Ordering::Relaxed);
        Some(Shared(Arc::clone(open)))
    }
}

impl Exclusive {
    /// Whether it is good for another request.
    fn is_good(&self, now: Instant) -> bool {
        let tunnel = self.standing.as_ref().is_none_or(Standing::is_open);
        tunnel && !self.sender.is_closed() && now.saturating_duration_since(self.born) < AGE
    }
}

impl Multiplexed {
    fn is_open(&self, now: Instant) -> bool {
        let tunnel = self.standing.as_ref().is_none_or(Standing::is_open);
        tunnel && !self.sender.is_closed() && now.saturating_duration_since(self.born) < AGE
    }

    fn is_wanted(&self, now: Instant) -> bool {
        let idle_since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = self.streams.load(Ordering::Relaxed) == 0 && now.saturating_duration_since(idle_since) > IDLE_HTTP2;
        self.is_open(now) && !idle
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

/// A request that could not be sent: itself, if nothing of it has gone.
pub(super) struct Unsent {
    pub(super) request: Option<Box<http::Request<Upload>>>,
    pub(super) error: hyper::Error,
}

impl Lent {
    /// Whether the peer may have forgotten the connection without our knowing.
    pub(super) fn is_used(&self) -> bool {
        match self {
            Self::Http1(lent) => lent.used,
            Self::Http2(_) => true,
        }
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// # Errors
    /// [`Unsent`].
    pub(super) async fn send(
        &mut self,
        request: http::Request<Upload>,
    ) -> Result<http::Response<hyper::body::Incoming>, Unsent> {
        let sent = match self {
            Self::Http1(lent) => lent.sender.try_send_request(request).await,
            Self::Http2(shared) => shared.0.sender.clone().try_send_request(request).await,
        };
        sent.map_err(|mut error| Unsent { request: error.take_message().map(Box::new), error: error.into_error() })
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
