//! What is turned away, at which point, and under which name it is counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_core::model::{Identity, TrustDomain};

use super::apps::{echo_app, ping_pong};
use super::rig::{HANDSHAKES, Plan, Rig, identity, until, within};
use crate::identity::Credentials;
use crate::identity::ca::EmbeddedCa;
use crate::tunnel::ServerSettings;

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

pub(super) async fn tls(rig: &Rig, config: Arc<rustls::ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address(rig)).await.unwrap();
    TlsConnector::from(config).connect(ServerName::IpAddress(V4.into()), tcp).await
}

/// In TLS 1.3 a client learns only by reading that its certificate was not accepted.
pub(super) async fn is_turned_away(rig: &Rig, config: Arc<rustls::ClientConfig>, reason: &str) {
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

    // The authority gives out nothing that is not valid; certificates count in whole seconds, the last one included.
    let expired = credentials(&rig.ca, &identity("client"), Duration::from_secs(2), &anchors);
    tokio::time::sleep(Duration::from_millis(3100)).await;
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
    let server = ServerSettings { handshake: Duration::from_secs(5), ..ServerSettings::default() };
    let rig = Rig::with(Plan { server, ..Plan::default() }).await;
    let mut mute = Vec::new();
    for _ in 0..HANDSHAKES {
        mute.push(TcpStream::connect(address(&rig)).await.unwrap());
    }
    // Later than they by enough to have time left when they are cut off.
    tokio::time::sleep(Duration::from_millis(2500)).await;
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
