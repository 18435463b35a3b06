//! The issuer's port: TLS 1.3, HTTP/2, one gRPC method. Bounded, for everything in the cluster can dial it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::server::{Grpc, UnaryService};
use tonic::{Response, Status};
use tonic_prost::ProstCodec;
use weft_ca::protocol::{self, CertificateRequest, CertificateResponse};

use super::answer::Answers;
use super::roots::Authority;

/// Connections at once; more wait in the kernel's queue. An agent keeps one, for as long as it has something to ask.
const CONNECTIONS: usize = 4096;
/// Requests at once on one connection.
const STREAMS: u32 = 32;
/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection lasts before it is asked to go: replicas that come back get their share of agents again.
const AGE: Duration = Duration::from_secs(600);
/// Pause between pings of a silent connection, and the patience for their answers.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// Whatever the authority serves TLS with at the moment.
struct Current(Arc<Authority>);

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.now().map(|state| Arc::clone(&state.serving))
    }
}

/// Serves until told to stop; requests that are under way are answered.
pub(super) async fn run(
    listener: TcpListener,
    authority: Arc<Authority>,
    answers: Arc<Answers>,
    shutdown: CancellationToken,
) {
    let Some(tls) = tls(authority) else { return };
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let Some(Ok(slot)) = shutdown.run_until_cancelled(slots.clone().acquire_owned()).await else { break };
        let stream = match shutdown.run_until_cancelled(listener.accept()).await {
            None => break,
            Some(Ok((stream, _))) => stream,
            Some(Err(error)) => {
                tracing::warn!(%error, "cannot accept on the issuer's port");
                // Out of descriptors, most likely: accept would fail again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, answers, shutdown) = (tls.clone(), Arc::clone(&answers), shutdown.clone());
        connections.spawn(async move {
            connection(stream, tls, answers, shutdown).await;
            drop(slot);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

fn tls(authority: Arc<Authority>) -> Option<TlsAcceptor> {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .inspect_err(|error| tracing::error!(%error, "no TLS"))
        .ok()?;
    let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(Current(authority)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A ticket would let a connection go on by a root that is trusted no more.
    config.send_tls13_tickets = 0;
    Some(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, answers: Arc<Answers>, shutdown: CancellationToken) {
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake with the issuer failed"),
        Err(_) => return tracing::debug!("a handshake with the issuer took too long"),
    };
    let service = service_fn(move |request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(respond(request, answers).await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(32 << 10)
        .serve_connection(TokioIo::new(stream), service);
    let until = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(AGE) => {}
        }
    };
    let (mut served, mut until) = (std::pin::pin!(served), std::pin::pin!(until));
    let mut leaving = false;
    let ended = loop {
        tokio::select! {
            ended = served.as_mut() => break ended,
            () = until.as_mut(), if !leaving => {
                // Answers what is under way, takes nothing more, and closes.
                served.as_mut().graceful_shutdown();
                leaving = true;
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the issuer ended early");
    }
}

async fn respond(request: http::Request<Incoming>, answers: Arc<Answers>) -> http::Response<tonic::body::Body> {
    if request.uri().path() != protocol::PATH {
        return Status::unimplemented("there is istio.v1.auth.IstioCertificateService/CreateCertificate").into_http();
    }
    let codec: ProstCodec<CertificateResponse, CertificateRequest> = ProstCodec::default();
    Grpc::new(codec).max_decoding_message_size(protocol::MESSAGE_MAX).unary(Create(answers), request).await
}

/// The method.
struct Create(Arc<Answers>);

impl UnaryService<CertificateRequest> for Create {
    type Response = CertificateResponse;
    type Future = BoxFuture<'static, Result<Response<CertificateResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<CertificateRequest>) -> Self::Future {
        let answers = Arc::clone(&self.0);
        async move { answers.create(request).await.map(Response::new) }.boxed()
    }
}
