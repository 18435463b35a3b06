//! Against an authority that answers as Istiod does: what it is shown, what is made of its answers, and of its silence.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::server::{Grpc as Server, UnaryService};
use weft_ca::{Request, Signer, make_root, pem_of};
use weft_core::model::{Identity, TrustDomain};

use super::super::Credentials;
use super::super::key::FreshKey;
use super::*;

/// What the authority was shown: the token, the cluster, and who was asked for.
type Shown = Arc<Mutex<Vec<(String, String, String)>>>;

#[derive(Clone)]
struct Istiod {
    signer: Arc<Signer>,
    shown: Shown,
}

impl UnaryService<protocol::CertificateRequest> for Istiod {
    type Response = CertificateResponse;
    type Future = BoxFuture<'static, Result<tonic::Response<CertificateResponse>, Status>>;

    fn call(&mut self, request: tonic::Request<protocol::CertificateRequest>) -> Self::Future {
        let header = |name: &str| request.metadata().get(name).unwrap().to_str().unwrap().to_owned();
        let (token, cluster) = (header("authorization"), header("clusterid"));
        let asked = request.get_ref().clone();
        self.shown.lock().unwrap().push((token.clone(), cluster, asked.impersonated().unwrap().to_owned()));
        let answer = if token == "Bearer good" {
            let csr = CertificateSigningRequestDer::from_pem_slice(asked.csr.as_bytes()).unwrap();
            let lifetime = Duration::from_secs(asked.validity_duration.unsigned_abs());
            let leaf = self.signer.sign(&Request::read(&csr).unwrap(), lifetime).unwrap();
            // In one text what others put into two.
            let root = self.signer.certificate().clone();
            Ok(CertificateResponse { cert_chain: vec![pem_of(&[leaf.certificate]), pem_of(&[root])] })
        } else {
            Err(Status::unauthenticated("who are you"))
        };
        async move { answer.map(tonic::Response::new) }.boxed()
    }
}

fn root() -> Arc<Signer> {
    let domain = TrustDomain::new("cluster.local").unwrap();
    let made = make_root(&domain).unwrap();
    Arc::new(Signer::read(&certificates(&made.certificate).unwrap()[0], &made.key, &domain).unwrap())
}

/// Serves as `istiod.istio-system.svc`; yields its address and what it is shown.
async fn istiod(signer: &Arc<Signer>) -> (String, Shown) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let leaf = signer.sign_server(&["istiod.istio-system.svc".to_owned()], &key, Duration::from_secs(60)).unwrap();
    let mut tls = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.certificate], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let authority = Istiod { signer: Arc::clone(signer), shown: Shown::default() };
    let (shown, acceptor) = (Arc::clone(&authority.shown), tokio_rustls::TlsAcceptor::from(Arc::new(tls)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let authority = authority.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let authority = authority.clone();
                async move {
                    assert_eq!(request.uri().path(), protocol::PATH);
                    let codec: ProstCodec<CertificateResponse, protocol::CertificateRequest> = ProstCodec::default();
                    Ok::<_, Infallible>(Server::new(codec).unary(authority, request).await)
                }
            });
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, shown)
}

fn asking(dir: &TempDir, address: &str) -> RemoteCa {
    RemoteCa::new(RemoteSettings {
        address: address.to_owned(),
        name: Some("istiod.istio-system.svc".to_owned()),
        root_file: dir.path().join("roots.pem"),
        token_file: dir.path().join("token"),
        cluster: "east".to_owned(),
    })
}

fn cart() -> (FreshKey, CertificateRequest) {
    let identity: Identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
    let key = FreshKey::generate(&identity).unwrap();
    let request = CertificateRequest { csr: key.csr.clone(), identity, lifetime: Duration::from_secs(600) };
    (key, request)
}

fn mount(dir: &TempDir, name: &str, text: &str) {
    std::fs::write(dir.path().join(name), text).unwrap();
}

#[tokio::test]
async fn a_certificate_is_asked_for_as_istio_s_agents_ask() {
    let (dir, root) = (TempDir::new().unwrap(), root());
    let (address, shown) = istiod(&root).await;
    let ca = asking(&dir, &address);
    let (key, request) = cart();
    let early = ca.sign(request.clone()).await.unwrap_err().to_string();
    assert!(early.contains("--ca-root-file") && early.contains("published"), "{early}");
    mount(&dir, "roots.pem", &pem_of(&[root.certificate().clone()]));
    let early = ca.sign(request.clone()).await.unwrap_err().to_string();
    assert!(early.contains("--ca-token-file"), "{early}");
    mount(&dir, "token", "good\n");
    let issued = ca.sign(request.clone()).await.unwrap();
    Credentials::new(&request.identity, key.signing, issued.chain, issued.anchors).unwrap();
    // kubelet renews it; this one is the authority's to refuse.
    mount(&dir, "token", "old");
    let refused = ca.sign(request.clone()).await.unwrap_err();
    assert!(matches!(&refused, AuthorityError::Refused { reason, .. } if reason == "who are you"), "{refused}");
    let shown = shown.lock().unwrap();
    let identity = request.identity.to_string();
    assert_eq!(shown[0], ("Bearer good".to_owned(), "east".to_owned(), identity));
    assert_eq!(shown.len(), 2);
}

#[tokio::test]
async fn an_authority_of_other_roots_is_shown_nothing() {
    let (dir, root, other) = (TempDir::new().unwrap(), root(), self::root());
    let (address, shown) = istiod(&root).await;
    let ca = asking(&dir, &address);
    mount(&dir, "token", "good");
    mount(&dir, "roots.pem", &pem_of(&[other.certificate().clone()]));
    let error = ca.sign(cart().1).await.unwrap_err();
    assert!(matches!(error, AuthorityError::Unreachable(_)), "{error}");
    assert!(shown.lock().unwrap().is_empty());
    // The bundle is mended, and nobody restarts.
    mount(&dir, "roots.pem", &pem_of(&[other.certificate().clone(), root.certificate().clone()]));
    let issued = ca.sign(cart().1).await.unwrap();
    assert_eq!(issued.anchors.len(), 2);
    // What only the authority has said counts until the bundle is newer.
    mount(&dir, "roots.pem", &pem_of(&[root.certificate().clone()]));
    assert_eq!(ca.anchors().await.unwrap(), [root.certificate().clone()]);
}

#[tokio::test]
async fn an_authority_that_is_away_is_named() {
    let (dir, root) = (TempDir::new().unwrap(), root());
    mount(&dir, "token", "good");
    mount(&dir, "roots.pem", &pem_of(&[root.certificate().clone()]));
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let error = asking(&dir, &nobody).sign(cart().1).await.unwrap_err().to_string();
    assert!(error.contains(&nobody) && error.contains("refused"), "{error}");
    assert_eq!(asking(&dir, &nobody).anchors().await.unwrap().len(), 1, "the bundle is known all the same");
}
