//! An HTTP client as any other: connections that are kept open, requests one after another or side by side. It repeats
//! nothing; only a connection that was closed in order between two requests is replaced, as every client does, and a request
//! goes again of which the server's GOAWAY says that it has not looked at it (RFC 9113, 6.8): it may have been on its way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Either, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use tokio::task::JoinSet;
use tokio::time::timeout;
use weft_tests::app::http::{Answers, Ask, Http, Reply, Requests};
use weft_tests::app::{Options, Sum};

use crate::conn::{connect, reason};
use crate::http_server::fields;
use crate::table::{Table, lock};

/// One that has none says so with the end of its head, as clients do.
type Body = Either<Empty<Bytes>, StreamBody<BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>>;

pub(crate) enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Sender {
    async fn open(to: SocketAddr, http: Http) -> Result<Self> {
        let stream = connect(to, &Options::default()).await.map_err(|e| anyhow!("connect: {}", reason(&e)))?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(stream);
        Ok(match http {
            Http::One => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection.with_upgrades());
                Self::One(sender)
            }
            Http::Two => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Self::Two(sender)
            }
        })
    }

    /// Whether the peer has closed it, as far as is known: what is on its way is given a moment.
    async fn is_closed(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_err(),
            Self::Two(sender) => sender.ready().await.is_err(),
        }
    }

    /// Sends it; the error says whether nothing of it has gone.
    async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, (bool, hyper::Error)> {
        let sent = match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Two(sender) => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| {
            let kept = error.take_message().is_some();
            let error = error.into_error();
            (kept || is_left_out(&error), error)
        })
    }

    fn share(&self) -> Option<Self> {
        match self {
            Self::One(_) => None,
            Self::Two(sender) => Some(Self::Two(sender.clone())),
        }
    }
}

fn request(ask: &Ask, to: SocketAddr, http: Http) -> Result<Request<Body>> {
    let own = ask.headers.iter().find(|(name, _)| name == "host").map(|(_, host)| host.clone());
    let host = own.unwrap_or_else(|| to.to_string());
    let target = match http {
        Http::Two if ask.target.starts_with('/') => format!("http://{host}{}", ask.target),
        _ => ask.target.clone(),
    };
    let mut request = Request::builder().method(ask.method.as_str()).uri(target);
    if http == Http::One {
        request = request.header("host", host);
    }
    for (name, value) in ask.headers.iter().filter(|(name, _)| name != "host") {
        request = request.header(name, value);
    }
    let mut frames: Vec<Result<Frame<Bytes>, std::io::Error>> = Vec::new();
    if let Some(body) = &ask.body {
        let (block, mut left) = (Bytes::from(body.block()), body.length());
        if ask.trailers.is_empty() {
            request = request.header("content-length", left);
        }
        while left > 0 {
            let size = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            frames.push(Ok(Frame::data(block.slice(..size))));
            left -= size as u64;
        }
    }
    if !ask.trailers.is_empty() {
        let mut after = HeaderMap::new();
        for (name, value) in &ask.trailers {
            request = request.header("trailer", name);
            after.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        frames.push(Ok(Frame::trailers(after)));
    } else if ask.body.is_none() {
        // Nothing that could be taken for a body of unknown length.
        request = request.version(http::Version::HTTP_11);
    }
    let body = if frames.is_empty() {
        Either::Left(Empty::new())
    } else {
        Either::Right(StreamBody::new(stream::iter(frames).boxed()))
    };
    Ok(request.body(body)?)
}

/// One request, in a connection of its own.
pub(crate) async fn fetch(to: SocketAddr, http: Http, ask: &Ask, deadline_ms: u64) -> Result<Reply> {
    let whole = async {
        let mut sender = Sender::open(to, http).await?;
        let response = sender.send(request(ask, to, http)?).await.map_err(|(_, e)| anyhow!("{}", told(&e)))?;
        reply(response).await
    };
    timeout(Duration::from_millis(deadline_ms), whole).await.context("TimedOut")?
}

/// One request after another, in one connection.
pub(crate) async fn row(to: SocketAddr, http: Http, ask: &Ask, count: u64, deadline_ms: u64) -> Result<Vec<Reply>> {
    let all = async {
        let (mut sender, mut replies) = (Sender::open(to, http).await?, Vec::new());
        for _ in 0..count {
            let response = sender.send(request(ask, to, http)?).await.map_err(|(_, e)| anyhow!("{}", told(&e)))?;
            replies.push(reply(response).await?);
        }
        Ok(replies)
    };
    timeout(Duration::from_millis(deadline_ms), all).await.context("TimedOut")?
}

async fn reply(response: Response<Incoming>) -> Result<Reply> {
    let (head, mut body) = response.into_parts();
    let (mut sum, mut text, mut trailers) = (Sum::default(), Vec::new(), HeaderMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map_err(|e| anyhow!("body: {}", told(&e)))?.into_data() {
            Ok(data) => {
                sum.add(&data);
                text.extend_from_slice(&data[..data.len().min(65_536 - text.len().min(65_536))]);
            }
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok(Reply {
        status: head.status.as_u16(),
        version: format!("{:?}", head.version),
        headers: fields(&head.headers),
        text: String::from_utf8_lossy(&text).into_owned(),
        sum,
        trailers: fields(&trailers),
    })
}

/// Whether the server's GOAWAY says that it has not looked at the request: h2 tells that to nobody else.
fn is_left_out(error: &hyper::Error) -> bool {
    let http2 = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    http2.is_some_and(|error| error.is_go_away() && error.is_remote())
}

/// An error with its causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Requests that go on, or went.
pub(crate) struct Asking {
    requests: Requests,
    answers: Mutex<(Answers, Vec<f32>)>,
    left: AtomicU64,
    stop: AtomicBool,
}

impl Asking {
    fn new(requests: Requests) -> Arc<Self> {
        let left = if requests.count == 0 { u64::MAX } else { requests.count };
        Arc::new(Self { requests, answers: Mutex::default(), left: AtomicU64::new(left), stop: AtomicBool::new(false) })
    }

    fn next(&self) -> bool {
        let more = |left: u64| left.checked_sub(1);
        !self.stop.load(Ordering::Relaxed) && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// What has come so far.
    pub(crate) fn answers(&self) -> Answers {
        let (mut answers, mut times) = lock(&self.answers).clone();
        times.sort_unstable_by(f32::total_cmp);
        answers.median_ms = times.get(times.len() / 2).copied().unwrap_or_default().into();
        answers
    }

    fn count(&self, outcome: Result<Reply>, took: Duration) {
        let (answers, times) = &mut *lock(&self.answers);
        match outcome {
            Ok(reply) => {
                *answers.statuses.entry(reply.status).or_default() += 1;
                if let Some(status) = reply.trailer("grpc-status").or_else(|| reply.header("grpc-status")) {
                    *answers.grpc.entry(status.to_owned()).or_default() += 1;
                }
                if let Some(name) = reply.header("x-name") {
                    *answers.names.entry(name.to_owned()).or_default() += 1;
                }
                times.push(took.as_secs_f32() * 1000.0);
            }
            Err(error) => *answers.errors.entry(format!("{error:#}")).or_default() += 1,
        }
    }

    async fn open(&self) -> Result<Sender> {
        lock(&self.answers).0.connections += 1;
        Sender::open(self.requests.to, self.requests.http).await
    }

    /// One stream's requests, in a connection it may share.
    async fn stream(self: Arc<Self>, mut sender: Option<Sender>) {
        let requests = &self.requests;
        while self.next() {
            let start = Instant::now();
            let one = async {
                if let Some(open) = &mut sender
                    && open.is_closed().await
                {
                    sender = None;
                }
                if sender.is_none() {
                    sender = Some(self.open().await?);
                }
                let ask = || request(&requests.ask, requests.to, requests.http);
                let response = match sender.as_mut().context("no connection")?.send(ask()?).await {
                    // It has not gone: the connection was closed in order just then.
                    Err((true, _)) => sender.insert(self.open().await?).send(ask()?).await,
                    sent => sent,
                };
                reply(response.map_err(|(_, e)| anyhow!("{}", told(&e)))?).await
            };
            let outcome = timeout(Duration::from_millis(requests.deadline_ms), one).await;
            let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("TimedOut")));
            if outcome.is_err() && requests.http == Http::One {
                sender = None;
            }
            self.count(outcome, start.elapsed());
            if requests.pause_ms > 0 {
                tokio::time::sleep(Duration::from_millis(requests.pause_ms)).await;
            }
        }
    }

    async fn connection(self: Arc<Self>) {
        let first = if self.requests.http == Http::Two { self.open().await.ok() } else { None };
        let streams = if self.requests.http == Http::Two { self.requests.streams } else { 1 };
        let mut side_by_side = JoinSet::new();
        for _ in 0..streams {
            side_by_side.spawn(Arc::clone(&self).stream(first.as_ref().and_then(Sender::share)));
        }
        side_by_side.join_all().await;
    }

    async fn run(self: Arc<Self>) {
        let mut connections = JoinSet::new();
        for _ in 0..self.requests.connections {
            connections.spawn(Arc::clone(&self).connection());
        }
        connections.join_all().await;
    }
}

/// Makes the requests and waits for all.
pub(crate) async fn ask(requests: Requests) -> Answers {
    let asking = Asking::new(requests);
    Arc::clone(&asking).run().await;
    asking.answers()
}

/// Begins requests that go on until told to stop; yields their number.
pub(crate) fn start(table: &Table, requests: Requests) -> u64 {
    let asking = Asking::new(requests);
    let done = tokio::spawn(Arc::clone(&asking).run());
    table.add_asking((asking, done))
}

/// Ends them once those under way are done.
pub(crate) async fn stop(table: &Table, number: u64) -> Result<Answers> {
    let (asking, done) = table.take_asking(number)?;
    asking.stop.store(true, Ordering::Relaxed);
    done.await?;
    Ok(asking.answers())
}

/// A response of which nothing but the head has been read, and its connection.
pub(crate) type Unread = (Sender, Response<Incoming>);

/// Asks, and leaves the responses where they are.
pub(crate) async fn unread(table: &Table, requests: &Requests) -> Result<u64> {
    let mut kept = Vec::new();
    for _ in 0..requests.connections {
        let first = Sender::open(requests.to, requests.http).await?;
        for _ in 0..requests.streams {
            let mut sender = first.share().context("only HTTP/2 has several at once")?;
            let response = sender.send(request(&requests.ask, requests.to, requests.http)?).await;
            kept.push((sender, response.map_err(|(_, e)| anyhow!("{}", told(&e)))?));
        }
    }
    Ok(table.add_unread(kept))
}

/// How long the rest of a response takes at most that nobody has read: there are megabytes of it.
const REST: Duration = Duration::from_secs(60);

/// Reads them to their ends.
pub(crate) async fn read(table: &Table, number: u64) -> Result<u64> {
    let mut bytes = 0;
    for (_, response) in table.take_unread(number)? {
        bytes += timeout(REST, reply(response)).await.context("TimedOut")??.sum.length;
    }
    Ok(bytes)
}
