//! An HTTP server as any other: both versions on one port, an answer that says what the request looked like, and paths that
//! behave.
//!
//! `/well` and `grpc.health.v1` answer as the last `/be/503` had it, well at first. `/status/503`, `/wait/200` (ms), `/bytes/1000000`,
//! `/head/1000` (a field of that length), `/break` (half a body, then nothing), `/trailers`; whom `x-bad` names
//! answers 500; calls of
//! `application/grpc` are echoed, or fail as their fields ask: `x-fail` at once, `x-fail-late` after a message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use weft_tests::app::http::Saw;
use weft_tests::app::{Payload, Sum};

const PREFACE: &[u8] = b"PRI * HTTP/2.0";

type Frames = BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>;
type Answer = Response<StreamBody<Frames>>;

/// Who answers, in which connection.
#[derive(Clone)]
pub(crate) struct Here {
    pub(crate) name: Arc<str>,
    pub(crate) connection: u64,
    pub(crate) peer: SocketAddr,
    /// Counts requests.
    pub(crate) requests: Arc<AtomicU64>,
    /// Counts the bytes of their bodies.
    pub(crate) body_bytes: Arc<AtomicU64>,
    /// Counts requests that were given up.
    pub(crate) cancelled: Arc<AtomicU64>,
    /// The status by which it says how it is.
    pub(crate) well: Arc<AtomicU64>,
}

/// Work on a request; dropped before it is done, it was for nothing.
struct Work(Option<Arc<AtomicU64>>);

impl Drop for Work {
    fn drop(&mut self) {
        if let Some(cancelled) = &self.0 {
            cancelled.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(here: Here, stream: TcpStream) -> Result<()> {
    let service = service_fn(move |request| {
        let here = here.clone();
        async move {
            here.requests.fetch_add(1, Ordering::Relaxed);
            let mut work = Work(Some(Arc::clone(&here.cancelled)));
            let answer = answer(here, request).await;
            work.0 = None;
            answer
        }
    });
    let mut first = [0; PREFACE.len()];
    let mut seen = 0;
    while PREFACE.starts_with(&first[..seen]) && seen < PREFACE.len() {
        stream.readable().await?;
        match stream.peek(&mut first).await? {
            0 => break,
            more => seen = more,
        }
    }
    let io = TokioIo::new(stream);
    if first[..seen] == *PREFACE {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(1000);
        builder.serve_connection(io, service).await?;
    } else {
        http1::Builder::new().half_close(true).serve_connection(io, service).with_upgrades().await?;
    }
    Ok(())
}

async fn answer(here: Here, request: Request<Incoming>) -> http::Result<Answer> {
    let (head, body) = request.into_parts();
    let grpc = head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let path = head.uri.path().to_owned();
    let mut words = path.trim_start_matches('/').split('/');
    let (word, number) =
        (words.next().unwrap_or_default(), words.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0));
    let (message, sum, trailers) = read(body).await;
    here.body_bytes.fetch_add(sum.length, Ordering::Relaxed);
    if word == "wait" {
        tokio::time::sleep(Duration::from_millis(number)).await;
    }
    let saw = Saw {
        name: here.name.to_string(),
        connection: here.connection,
        peer: here.peer,
        version: format!("{:?}", head.version),
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: fields(&head.headers),
        body: sum,
        trailers: fields(&trailers),
    };
    if word == "be" {
        here.well.store(number, Ordering::Relaxed);
    }
    let well = here.well.load(Ordering::Relaxed);
    let text = Bytes::from(serde_json::to_string(&saw).unwrap_or_default());
    if path == "/grpc.health.v1.Health/Check" {
        return call(&here, vec![0, 0, 0, 0, 2, 8, if well == 200 { 1 } else { 2 }], &head.headers, &text);
    }
    if grpc {
        return call(&here, message, &head.headers, &text);
    }
    let mut response = Response::builder().header("x-name", &*here.name).header("content-type", "application/json");
    if head.headers.get("x-bad").is_some_and(|bad| bad.as_bytes() == here.name.as_bytes()) {
        response = response.status(500);
    } else if word == "status" || word == "well" {
        let number = if word == "well" { well } else { number };
        response = response.status(u16::try_from(number).unwrap_or(500));
    }
    if word == "head" {
        response = response.header("x-long", "y".repeat(usize::try_from(number).unwrap_or(usize::MAX)));
    }
    let frames: Frames = match word {
        "bytes" => noise(number),
        "break" => broken(text),
        "trailers" => {
            response = response.header("trailer", "x-after");
            let mut after = HeaderMap::new();
            after.insert("x-after", HeaderValue::from_static("all of it"));
            stream::iter([Ok(Frame::data(text)), Ok(Frame::trailers(after))]).boxed()
        }
        _ => {
            response = response.header("content-length", text.len());
            stream::iter([Ok(Frame::data(text))]).boxed()
        }
    };
    response.body(StreamBody::new(frames))
}

/// The bytes of [`Payload::Noise`] with the seed 1.
fn noise(length: u64) -> Frames {
    let block = Bytes::from(Payload::Noise { seed: 1, length }.block());
    let pieces = stream::unfold((block, length), |(block, left)| async move {
        if left == 0 {
            return None;
        }
        let size = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        Some((Ok(Frame::data(block.slice(..size))), (block, left - size as u64)))
    });
    pieces.boxed()
}

/// Half an answer, and then a connection that is gone.
fn broken(text: Bytes) -> Frames {
    let half = text.slice(..text.len() / 2);
    let frames = stream::iter([Ok(Frame::data(half)), Err(std::io::Error::other("broken off"))]);
    frames
        .then(|frame| async move {
            if frame.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            frame
        })
        .boxed()
}

/// The same message, the endpoint's name in the head, and the status where gRPC has it.
fn call(here: &Here, message: Vec<u8>, fields: &HeaderMap, saw: &[u8]) -> http::Result<Answer> {
    let response = Response::builder().header("content-type", "application/grpc").header("x-name", &*here.name);
    let response = response.header("x-saw", saw);
    if let Some(status) = fields.get("x-fail") {
        return response.header("grpc-status", status).body(StreamBody::new(stream::empty().boxed()));
    }
    let mut after = HeaderMap::new();
    let late = fields.get("x-fail-late").cloned();
    after.insert("grpc-status", late.unwrap_or(HeaderValue::from_static("0")));
    let frames = stream::iter([Ok(Frame::data(Bytes::from(message))), Ok(Frame::trailers(after))]).boxed();
    response.body(StreamBody::new(frames))
}

async fn read(mut body: Incoming) -> (Vec<u8>, Sum, HeaderMap) {
    let (mut kept, mut sum, mut trailers) = (Vec::new(), Sum::default(), HeaderMap::new());
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => {
                sum.add(&data);
                kept.extend_from_slice(&data[..data.len().min(65_536 - kept.len().min(65_536))]);
            }
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    (kept, sum, trailers)
}

/// Fields as text.
pub(crate) fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(text).collect()
}
