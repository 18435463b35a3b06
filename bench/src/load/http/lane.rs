//! One request at a time, sent and answered in full.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, TE, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::pacer::Queue;
use super::{At, Speaks};

/// What a gRPC call carries each way, in bytes.
pub(super) const MESSAGE: usize = 64;
/// The header the routes of every subject match.
const TENANT: (&str, &str) = ("x-tenant", "blue");

/// A connection of HTTP/1, or a place in one of HTTP/2.
pub(super) struct Lane {
    sender: Sender,
    speaks: Speaks,
    host: String,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Many(http2::SendRequest<Full<Bytes>>),
}

impl Lane {
    /// Opens all connections, and has a request answered by each lane.
    ///
    /// # Errors
    /// When one of them is not.
    pub(super) async fn open(at: At, streams: usize) -> io::Result<Vec<Self>> {
        let mut lanes = Vec::new();
        for _ in 0..at.connections.max(1) {
            let tcp = TcpStream::connect(at.to).await?;
            tcp.set_nodelay(true)?;
            let (io, speaks, host) = (TokioIo::new(tcp), at.speaks, at.to.to_string());
            if speaks == Speaks::Http1 {
                let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                lanes.push(Self { sender: Sender::One(sender), speaks, host });
            } else {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                let lane = || Self { sender: Sender::Many(sender.clone()), speaks, host: host.clone() };
                lanes.extend((0..streams.max(1)).map(|_| lane()));
            }
        }
        for lane in &mut lanes {
            lane.ask().await.map_err(io::Error::other)?;
        }
        Ok(lanes)
    }

    /// Carries requests until none is left, or one fails in a way that leaves no connection.
    pub(super) async fn carry(mut self, number: usize, queue: Rc<Queue>) {
        while queue.next(number).await.is_some() {
            match self.ask().await {
                Ok(()) => queue.answered(number),
                Err(reason) => {
                    queue.failed(number, reason);
                    if self.is_closed() {
                        break;
                    }
                }
            }
        }
        queue.left();
    }

    fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::One(sender) => sender.is_closed(),
            Sender::Many(sender) => sender.is_closed(),
        }
    }

    /// One request, and all of its answer.
    async fn ask(&mut self) -> Result<(), String> {
        let request = self.request();
        let answer = match &mut self.sender {
            Sender::One(sender) => {
                sender.ready().await.map_err(said)?;
                sender.send_request(request).await
            }
            Sender::Many(sender) => sender.send_request(request).await,
        };
        complete(answer.map_err(said)?, self.speaks).await
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let (name, value) = TENANT;
        let request = Request::builder().header(USER_AGENT, "weft-load").header(name, value);
        let request = match self.speaks {
            Speaks::Http1 => request.uri("/items/42").header(HOST, &self.host).header(ACCEPT, "*/*"),
            Speaks::Http2 => {
                request.version(Version::HTTP_2).uri(format!("http://{}/items/42", self.host)).header(ACCEPT, "*/*")
            }
            Speaks::Grpc => request
                .version(Version::HTTP_2)
                .method(Method::POST)
                .uri(format!("http://{}/bench.Items/Get", self.host))
                .header(CONTENT_TYPE, "application/grpc")
                .header(TE, "trailers"),
        };
        let body = if self.speaks == Speaks::Grpc { message() } else { Bytes::new() };
        request.body(Full::new(body)).expect("all parts are valid")
    }
}

/// A gRPC message: not compressed, its length, and it.
pub(super) fn message() -> Bytes {
    let mut framed = vec![0, 0, 0, 0, MESSAGE as u8];
    framed.resize(5 + MESSAGE, b'.');
    framed.into()
}

async fn complete(response: Response<Incoming>, speaks: Speaks) -> Result<(), String> {
    let status = response.status();
    if status != StatusCode::OK {
        let error = response
            .headers()
            .get("weft-error")
            .map(|error| format!(", {}", String::from_utf8_lossy(error.as_bytes())));
        return Err(format!("status {}{}", status.as_u16(), error.unwrap_or_default()));
    }
    let mut body = response.into_body();
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        if let Ok(fields) = frame.map_err(said)?.into_trailers() {
            trailers = Some(fields);
        }
    }
    let told = trailers.as_ref().and_then(|fields| fields.get("grpc-status")).map(http::HeaderValue::as_bytes);
    match (speaks, told) {
        (Speaks::Grpc, Some(b"0")) | (Speaks::Http1 | Speaks::Http2, _) => Ok(()),
        (Speaks::Grpc, other) => Err(format!("grpc-status {:?}", other.map(String::from_utf8_lossy))),
    }
}

/// An error and what led to it.
fn said(error: hyper::Error) -> String {
    match std::error::Error::source(&error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
