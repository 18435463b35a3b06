//! What is turned away, at which point, and under which name it is counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_core::model::{Identity, TrustDomain};

use super::rig::{HANDSHAKES, Plan, Rig, echo_app, identity, ping_pong, until, within};
use crate::identity::Credentials;
use crate::identity::ca::EmbeddedCa;
use crate::tunnel::{Pool, PoolSettings, RESERVED_PORTS, ServerSettings};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn address(rig: &Rig) -> SocketAddr {
    (V4, rig.port).into()
}

/// Credentials from any authority, for whoever one wants to pretend to be.
fn credentials(
    ca: &EmbeddedCa,
    identity: &Identity,
    lifetime: Duration,
    anchors: &[CertificateDer<'static>],
) -> Credentials {
    let bundle = ca.mint(identity, lifetime).unwrap();
    let key = PrivateKeyDer::from_pem_slice(bundle.key.as_bytes()).unwrap();
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key).unwrap();
    let chain = CertificateDer::pem_slice_iter(bundle.chain.as_bytes()).map(Result::unwrap).collect();
    Credentials::new(identity, key, chain, anchors.to_vec()).unwrap()
}

fn authority(dir: &TempDir, domain: &str) -> EmbeddedCa {
    EmbeddedCa::open(dir.path(), &TrustDomain::new(domain).unwrap()).unwrap()
}

async fn tls(rig: &Rig, config: Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address(rig)).await.unwrap();
    TlsConnector::from(config).connect(ServerName::IpAddress(V4.into()), tcp).await
}

/// In TLS 1.3 a client learns only by reading that its certificate was not accepted.
async fn is_turned_away(rig: &Rig, config: Arc<rustls::ClientConfig>, reason: &str) {
    let before = rig.server_seen.rejections().len();
    if let Ok(mut tls) = tls(rig, config).await {
        let mut rest = Vec::new();
        let _ = within("the server's alert", tls.read_to_end(&mut rest)).await;
    }
    until(reason, || rig.server_seen.rejections().len() > before).await;
    assert_eq!(rig.server_seen.rejections()[before], reason);
}

#[tokio::test]
async fn strangers_are_turned_away_in_the_handshake() {
    let rig = Rig::new().await;
    let anchors = rig.credentials("client").anchors().to_vec();
    let dir = TempDir::new().unwrap();
    let same_name = authority(&dir, "cluster.local");
    let hour = Duration::from_secs(3600);
    let server = identity("server");

    let forged = credentials(&same_name, &identity("client"), hour, &anchors);
    is_turned_away(&rig, forged.client_config(&server).unwrap(), "certificate_unknown_issuer").await;

    let expired = credentials(&rig.ca, &identity("client"), Duration::ZERO, &anchors);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    is_turned_away(&rig, expired.client_config(&server).unwrap(), "certificate_expired").await;
    assert_eq!(rig.pool.tunnels(), 0);
}

#[tokio::test]
async fn a_root_trusted_by_two_meshes_does_not_join_them() {
    let (dir, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (ours, theirs) = (authority(&dir, "cluster.local"), authority(&other, "other.mesh"));
    let hour = Duration::from_secs(3600);
    let both: Vec<_> = [&ours, &theirs]
        .map(|ca| CertificateDer::from_pem_slice(&std::fs::read(ca.root_certificate()).unwrap()).unwrap())
        .into();
    let server = credentials(&ours, &identity("server"), hour, &both);
    let client = credentials(&theirs, &"spiffe://other.mesh/ns/shop/sa/client".parse().unwrap(), hour, &both);
    let config = client.client_config(&identity("server")).unwrap();
    let (near, far) = tokio::io::duplex(1 << 16);
    let accept = tokio_rustls::TlsAcceptor::from(server.server_config()).accept(far);
    let connect = TlsConnector::from(config).connect(ServerName::IpAddress(V4.into()), near);
    let (accepted, _) = tokio::join!(accept, async {
        if let Ok(mut tls) = connect.await {
            let _ = tls.read_u8().await;
        }
    });
    let error = crate::tunnel::TunnelError::from_handshake(&accepted.err().unwrap());
    assert_eq!(error.reason(), "other_trust_domain", "{error}");
}

#[tokio::test]
async fn clients_without_certificate_or_with_another_protocol_are_turned_away() {
    let rig = Rig::new().await;
    let config = rig.credentials("client").client_config(&identity("server")).unwrap();
    let mut http1 = (*config).clone();
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    is_turned_away(&rig, Arc::new(http1), "wrong_alpn").await;

    let mut anonymous = (*config).clone();
    anonymous.client_auth_cert_resolver = Arc::new(NoCertificate);
    is_turned_away(&rig, Arc::new(anonymous), "no_client_certificate").await;

    let mut silent = (*config).clone();
    silent.alpn_protocols.clear();
    let tls = tls(&rig, Arc::new(silent)).await.unwrap();
    let (_, connection) = h2::client::handshake(tls).await.unwrap();
    tokio::spawn(connection);
    until("a tunnel without ALPN", || rig.server_seen.opened.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
}

#[derive(Debug)]
struct NoCertificate;

impl rustls::client::ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn bytes_that_are_no_tls_are_turned_away() {
    let rig = Rig::new().await;
    for plaintext in [&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0xff; 4096]] {
        let before = rig.server_seen.rejections().len();
        let mut tcp = TcpStream::connect(address(&rig)).await.unwrap();
        tcp.write_all(plaintext).await.unwrap();
        let mut rest = Vec::new();
        let _ = within("the close", tcp.read_to_end(&mut rest)).await;
        until("a rejection", || rig.server_seen.rejections().len() > before).await;
        assert_eq!(rig.server_seen.rejections()[before], "not_tls");
    }
}

#[tokio::test]
async fn slow_handshakes_end_at_the_deadline() {
    let server = ServerSettings { handshake: Duration::from_millis(400), ..ServerSettings::default() };
    let rig = Rig::with(Plan { server, ..Plan::default() }).await;
    let started = Instant::now();

    let mut dripping = TcpStream::connect(address(&rig)).await.unwrap();
    let drip = async {
        // The first bytes of a ClientHello, one at a time.
        for byte in [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3].into_iter().chain(std::iter::repeat(0)) {
            if dripping.write_u8(byte).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within("the end of the drip", drip).await;
    assert_eq!(rig.server_seen.rejections(), ["handshake_timeout"]);

    let config = rig.credentials("client").client_config(&identity("server")).unwrap();
    let mut no_preface = tls(&rig, config).await.unwrap();
    let mut rest = Vec::new();
    let _ = within("the close", no_preface.read_to_end(&mut rest)).await;
    assert_eq!(rig.server_seen.rejections(), ["handshake_timeout"; 2]);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn half_made_handshakes_are_bounded_and_the_next_gets_its_turn() {
    let server = ServerSettings { handshake: Duration::from_secs(2), ..ServerSettings::default() };
    let rig = Rig::with(Plan { server, ..Plan::default() }).await;
    let mut mute = Vec::new();
    for _ in 0..HANDSHAKES {
        mute.push(TcpStream::connect(address(&rig)).await.unwrap());
    }
    // Later than they by enough to have time left when they are cut off.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let started = Instant::now();
    ping_pong(&mut rig.connect(echo_app(V4).await).await, 1).await;
    assert!(started.elapsed() > Duration::from_millis(400), "more handshakes than turns");
    assert_eq!(rig.server_seen.rejections(), ["handshake_timeout"; HANDSHAKES]);
}

#[tokio::test]
async fn slow_headers_do_not_hold_a_tunnel() {
    let keepalive = crate::tunnel::Keepalive { every: Duration::from_millis(100), timeout: Duration::from_millis(200) };
    let rig =
        Rig::with(Plan { server: ServerSettings { keepalive, ..ServerSettings::default() }, ..Plan::default() }).await;
    let config = rig.credentials("client").client_config(&identity("server")).unwrap();
    let mut tls = tls(&rig, config).await.unwrap();
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // Empty SETTINGS, then HEADERS of stream 1 without END_HEADERS, then nothing but an endless CONTINUATION.
    tls.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    tls.write_all(&[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82]).await.unwrap();
    let drip = async {
        loop {
            if tls.write_all(&[0, 0, 1, 9, 0, 0, 0, 0, 1, 0x82]).await.is_err() || tls.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let read = until("the tunnel closed", || rig.server_seen.closed.load(std::sync::atomic::Ordering::SeqCst) == 1);
    tokio::select! {
        () = read => {}
        () = async { drip.await; std::future::pending().await } => {}
    }
}

/// One request on a fresh tunnel of an honest client; answers its status.
async fn ask(rig: &Rig, request: Request<()>) -> Result<u16, h2::Error> {
    let config = rig.credentials("client").client_config(&identity("server")).unwrap();
    let tls = tls(rig, config).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(tls).await?;
    tokio::spawn(connection);
    let (response, _send) = sender.send_request(request, false)?;
    Ok(within("an answer", response).await?.status().as_u16())
}

fn connect(authority: &str) -> Request<()> {
    Request::builder().method(Method::CONNECT).uri(authority).body(()).unwrap()
}

#[tokio::test]
async fn requests_for_anything_else_are_answered_and_counted() {
    let rig = Rig::new().await;
    let echo = echo_app(V4).await;
    let get = Request::builder().uri("https://127.0.0.1/").body(()).unwrap();
    let large = |bytes: usize| {
        let mut request = connect(&echo.to_string());
        for index in 0..bytes / 1000 {
            let name = http::HeaderName::from_bytes(format!("x-{index}").as_bytes()).unwrap();
            request.headers_mut().insert(name, "y".repeat(1000).parse().unwrap());
        }
        request
    };
    let mut cases = vec![
        (get, 400, "not_connect"),
        (connect("echo.shop:80"), 400, "bad_authority"),
        (connect("127.0.0.1:0"), 400, "bad_authority"),
        (connect("10.9.9.9:80"), 400, "not_this_pod"),
        (connect("[fd00::1]:80"), 400, "not_this_pod"),
        (large(70_000), 431, "headers_too_large"),
        (large(90_000), 431, "headers_too_large"),
    ];
    for port in RESERVED_PORTS {
        cases.push((connect(&format!("127.0.0.1:{port}")), 503, "reserved_port"));
    }
    for (request, status, reason) in cases {
        let before = rig.server_seen.rejections().len();
        assert_eq!(ask(&rig, request).await.unwrap(), status, "{reason}");
        assert_eq!(rig.server_seen.rejections()[before..], [reason]);
    }
    assert!(ask(&rig, large(10_000)).await.unwrap() == 200, "64 KiB of headers are allowed");
    assert!(ask(&rig, large(500_000)).await.is_err(), "far beyond that the peer is cut off");
    until("its count", || rig.server_seen.rejections().last() == Some(&"protocol_error")).await;
}

#[tokio::test]
async fn baggage_and_forwarded_are_claims_only() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let rig = Rig::new().await;
    let listener = tokio::net::TcpListener::bind((V4, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let context = crate::tunnel::ServerContext {
        credentials: rig.credentials("server"),
        addresses: Arc::from([V4]),
        baggage: None,
        settings: ServerSettings::default(),
        handshakes: Arc::new(tokio::sync::Semaphore::new(1)),
        events: Arc::new(()),
        drain: tokio_util::sync::CancellationToken::new(),
    };
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        crate::tunnel::serve(tcp, context, move |incoming| {
            tell.send((incoming.peer.identity.clone(), incoming.source, incoming.claims.clone())).unwrap();
            async move { incoming.refuse(crate::tunnel::Refusal::Denied) }
        })
        .await;
    });
    let settings = PoolSettings { port, budget: Duration::from_secs(10), ..PoolSettings::default() };
    let pool = Pool::new(Arc::clone(&rig.store), settings, Arc::new(()));
    let mut request = rig.request((V4, 80).into());
    request.baggage = Some("k8s.namespace.name=kube-system,service.name=admin".into());
    request.client = "8.8.8.8:53".parse().unwrap();
    let error = pool.connect(&request).await.unwrap_err();
    assert_eq!(error.reason(), "refused_by_policy");
    let (peer, source, claims) = told.recv().await.unwrap();
    assert_eq!(peer, identity("client"));
    assert_eq!(source.ip(), V4, "an address that is not the tunnel's own is not believed");
    assert_eq!(claims.unwrap().namespace.as_deref(), Some("kube-system"));
}

#[tokio::test]
async fn servers_that_are_somebody_else_get_nothing() {
    let rig = Rig::new().await;
    let mut request = rig.request((V4, 80).into());
    request.server = identity("vault");
    let error = rig.pool.connect(&request).await.unwrap_err();
    assert_eq!(error.reason(), "wrong_identity", "{error}");
    assert!(error.to_string().contains("sa/server") && error.to_string().contains("sa/vault"), "{error}");
    assert_eq!(rig.client_seen.rejections(), ["wrong_identity"]);
    until("the server's rejection", || rig.server_seen.rejections().len() == 1).await;
    assert_eq!(rig.server_seen.rejections(), ["rejected_by_peer"]);
    ping_pong(&mut rig.connect(echo_app(V4).await).await, 1).await;
}
