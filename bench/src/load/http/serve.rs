//! The HTTP server behind every subject: both versions on one port, a page of 1 KiB, and gRPC calls answered as they came.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use super::super::serve::listen;
use super::super::socket::reason;

/// Bytes of a page.
pub const PAGE: usize = 1024;

/// Serves for ever, on one thread.
///
/// # Errors
/// When the address cannot be bound.
pub fn serve_on(address: SocketAddr) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        serve(listen(address)?).await;
        Ok(())
    })
}

/// Serves whatever comes to a listener.
pub async fn serve(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => drop(tokio::spawn(answer(tcp))),
            Err(error) => {
                eprintln!("accepting: {}", reason(&error));
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
}

/// Tells the version by the first bytes: no method of HTTP/1 begins as HTTP/2's preface does.
async fn answer(tcp: TcpStream) {
    let mut first = [0; 3];
    while tcp.set_nodelay(true).is_ok() {
        match tcp.peek(&mut first).await {
            Ok(0) | Err(_) => return,
            Ok(n) if n == first.len() => break,
            Ok(_) => tokio::task::yield_now().await,
        }
    }
    // The client sees and counts what goes wrong.
    let _ = if &first == b"PRI" {
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tcp), service_fn(reply)).await
    } else {
        http1::Builder::new().serve_connection(TokioIo::new(tcp), service_fn(reply)).await
    };
}

async fn reply(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    static BYTES: [u8; PAGE] = [b'.'; PAGE];
    let grpc = request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/grpc");
    // An incomplete body is the client's failure.
    let Ok(body) = request.into_body().collect().await else {
        return Ok(Response::new(Full::new(Bytes::new()).boxed()));
    };
    if !grpc {
        return Ok(Response::new(Full::new(Bytes::from_static(&BYTES)).boxed()));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response =
        Response::new(Full::new(body.to_bytes()).with_trailers(std::future::ready(Some(Ok(trailers)))).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}
