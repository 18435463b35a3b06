//! The metrics port: `/metrics`, `/readyz`, `/healthz`, and nothing that changes anything.
//!
//! Whoever can reach the node can reach it, so it is bounded: a number of connections, a time for each, and no bodies.

mod names;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::Readiness;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// How long a client has to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection lives. A scrape of 10,000 series takes milliseconds.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an address in use is tried again.
const BIND_PATIENCE: Duration = Duration::from_secs(1);
/// The content type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why the metrics port cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics on {address}: {cause}; is another agent or exporter using the port? \
     Choose another with --metrics-address"
)]
pub struct MetricsServerError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub cause: io::Error,
}

/// Yields all metrics as OpenMetrics text, for one scrape.
pub type Exposition = Arc<dyn Fn() -> Result<String, fmt::Error> + Send + Sync>;

/// The running server; dropping it frees the port.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    _stop: DropGuard,
}

impl MetricsServer {
    /// Binds `address` and serves it in the background.
    ///
    /// # Errors
    /// [`MetricsServerError`] if the address cannot be bound.
    pub async fn start(
        address: SocketAddr,
        metrics: Exposition,
        readiness: Readiness,
    ) -> Result<Self, MetricsServerError> {
        let refused = |cause| MetricsServerError { address, cause };
        let listener = bind(address).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let stop = CancellationToken::new();
        let served = serve(listener, Arc::new((metrics, readiness)), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(served));
        Ok(Self { address, _stop: stop.drop_guard() })
    }

    /// The address it is bound to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Binds, with patience for a predecessor that has just let go: its task closes the socket a moment after.
async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + BIND_PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            done => return done,
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<(Exposition, Readiness)>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the metrics port");
                // Out of descriptors, most likely: accept would fail again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (state, stop) = (state.clone(), stop.clone());
        tokio::spawn(async move {
            let served = tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, state));
            if let Some(Err(_)) = stop.run_until_cancelled(served).await {
                tracing::debug!("a connection to the metrics port took too long");
            }
            drop(slot);
        });
    }
}

async fn connection(stream: TcpStream, state: Arc<(Exposition, Readiness)>) {
    let service = service_fn(move |request| {
        let state = state.clone();
        async move { Ok::<_, Infallible>(respond(&request, &state.0, &state.1)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the metrics port ended early");
    }
}

fn respond(request: &Request<Incoming>, metrics: &Exposition, readiness: &Readiness) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "use GET\n".to_owned());
    }
    match request.uri().path() {
        "/metrics" => match metrics() {
            Ok(body) => {
                let names = names::asked(request.uri().query());
                let body = if names.is_empty() { body } else { names::only(&body, &names) };
                let mut response = text(StatusCode::OK, body);
                response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(OPEN_METRICS));
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/readyz" => {
            let remark = readiness.remarked().map(|remark| remark + "\n").unwrap_or_default();
            match readiness.missing() {
                missing if missing.is_empty() => text(StatusCode::OK, format!("ready\n{remark}")),
                missing => {
                    text(StatusCode::SERVICE_UNAVAILABLE, format!("waiting for: {}\n{remark}", missing.join(", ")))
                }
            }
        }
        _ => text(StatusCode::NOT_FOUND, "there is /metrics, /readyz and /healthz\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

#[cfg(test)]
mod tests;
