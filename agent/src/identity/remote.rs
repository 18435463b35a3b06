//! An authority over the network, asked in Istio's protocol: `weft controller`, Istiod, or cert-manager's istio-csr.
//!
//! It is shown the agent's service account token and told whom the certificate is for; whether the agent may have it is
//! its to decide. The roots it is verified by, and the token, are files that kubelet renews: both are read again whenever
//! they have changed. What has been learned of the trust anchors stays in force while the authority is away.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use http::uri::PathAndQuery;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;
use weft_ca::certificates;
use weft_ca::protocol::{self, CertificateResponse};

use super::provider::provider;
use super::{Authority, AuthorityError, CertificateRequest, Issued, PeerError, peer_error};

/// Time to reach the authority.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for an answer, everything included.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a connection without requests is kept: certificates are asked for in bursts.
const IDLE: Duration = Duration::from_secs(10);

/// Where an authority is, and what it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteSettings {
    /// Host and port.
    pub address: String,
    /// The name its certificate must carry; the host of `address` if absent.
    pub name: Option<String>,
    /// PEM: the roots its certificate is verified by, which are the mesh's too.
    pub root_file: PathBuf,
    /// The service account token; its audience is what the authority wants.
    pub token_file: PathBuf,
    /// The cluster's name, for authorities that serve several.
    pub cluster: String,
}

type Channel = Client<HttpsConnector<HttpConnector>, tonic::body::Body>;

/// An authority over the network.
pub struct RemoteCa {
    settings: RemoteSettings,
    known: Mutex<Known>,
}

/// What was last read and learned.
#[derive(Default)]
struct Known {
    /// The root file's text, and what was made of it.
    roots: Option<(String, Vec<CertificateDer<'static>>, Channel)>,
    /// Anchors of the newest answer. They count until the root file changes: from then on it is newer.
    told: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for RemoteCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteCa").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl RemoteCa {
    /// An authority that is not asked anything yet: neither file need be there.
    #[must_use]
    pub fn new(settings: RemoteSettings) -> Self {
        Self { settings, known: Mutex::default() }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the root file, and makes a new channel if it has changed. Connections under way keep the roots they began with.
    async fn channel(&self) -> Result<Channel, AuthorityError> {
        let path = &self.settings.root_file;
        let unusable = |why: String| {
            AuthorityError::Unreachable(format!(
                "--ca-root-file: {}: {why}; is the bundle published there?",
                path.display()
            ))
        };
        let text = tokio::fs::read_to_string(path).await.map_err(|e| unusable(e.to_string()))?;
        if let Some((_, _, channel)) = self.known().roots.as_ref().filter(|(known, ..)| *known == text) {
            return Ok(channel.clone());
        }
        let anchors = certificates(&text).map_err(unusable)?;
        if anchors.is_empty() {
            return Err(unusable("it holds no certificate".into()));
        }
        let channel = self.connect(&anchors).map_err(unusable)?;
        let mut known = self.known();
        known.roots = Some((text, anchors, channel.clone()));
        known.told.clear();
        Ok(channel)
    }

    fn connect(&self, anchors: &[CertificateDer<'static>]) -> Result<Channel, String> {
        let mut roots = RootCertStore::empty();
        for anchor in anchors {
            roots.add(anchor.clone()).map_err(|e| e.to_string())?;
        }
        let tls = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|e| e.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let mut https = HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
        if let Some(name) = &self.settings.name {
            let name = ServerName::try_from(name.clone()).map_err(|e| e.to_string())?;
            https = https.with_server_name_resolver(FixedServerNameResolver::new(name));
        }
        let mut builder = Client::builder(TokioExecutor::new());
        builder.http2_only(true).timer(TokioTimer::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
        Ok(builder.build(https.enable_http2().wrap_connector(tcp)))
    }

    async fn ask(&self, request: &CertificateRequest) -> Result<Issued, AuthorityError> {
        let away = |why: String| AuthorityError::Unreachable(why);
        let channel = self.channel().await?;
        let path = &self.settings.token_file;
        let token = tokio::fs::read_to_string(path)
            .await
            .map_err(|e| away(format!("--ca-token-file: {}: {e}; is the token mounted there?", path.display())))?;
        let origin = format!("https://{}", self.settings.address).parse().map_err(|e| away(format!("{e}")))?;
        let mut grpc = Grpc::with_origin(channel, origin).max_decoding_message_size(protocol::MESSAGE_MAX);
        grpc.ready().await.map_err(|e| away(e.to_string()))?;
        let csr = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", request.csr.as_ref()));
        let seconds = i64::try_from(request.lifetime.as_secs()).unwrap_or(i64::MAX);
        let message = protocol::CertificateRequest::new(csr, seconds, request.identity.to_string());
        let mut asked = tonic::Request::new(message);
        self.introduce(asked.metadata_mut(), token.trim()).map_err(away)?;
        let codec: ProstCodec<protocol::CertificateRequest, CertificateResponse> = ProstCodec::default();
        let answer = grpc.unary(asked, PathAndQuery::from_static(protocol::PATH), codec).await;
        let answer = answer.map_err(|status| self.failed(request, &status))?.into_inner();
        let chain = answer.read().map_err(|why| away(format!("its answer makes no sense: {why}")))?;
        let mut known = self.known();
        known.told = chain.anchors;
        Ok(Issued { chain: chain.chain, anchors: known.anchors() })
    }

    fn introduce(&self, metadata: &mut MetadataMap, token: &str) -> Result<(), String> {
        let mut bearer: AsciiMetadataValue =
            format!("Bearer {token}").parse().map_err(|_| "the token is no text".to_owned())?;
        bearer.set_sensitive(true);
        metadata.insert("authorization", bearer);
        let cluster = self.settings.cluster.parse().map_err(|_| "the cluster's name is no text".to_owned())?;
        metadata.insert("clusterid", cluster);
        Ok(())
    }

    /// Words that stay the same as the clocks go on.
    fn apart(&self) -> String {
        let address = &self.settings.address;
        format!(
            "{address}: by this node's clock its certificate is not valid now: is this node's clock right, and the authority's?"
        )
    }

    fn failed(&self, request: &CertificateRequest, status: &Status) -> AuthorityError {
        match status.code() {
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::FailedPrecondition => {
                AuthorityError::Refused { identity: request.identity.clone(), reason: status.message().to_owned() }
            }
            code => {
                let mut why = format!("{}: {code:?}: {}", self.settings.address, status.message());
                let mut source = std::error::Error::source(status);
                while let Some(cause) = source {
                    why.push_str(&format!(": {cause}"));
                    if out_of_time(cause) {
                        return AuthorityError::Unreachable(self.apart());
                    }
                    source = cause.source();
                }
                AuthorityError::Unreachable(why)
            }
        }
    }
}

/// Whether a failure is that a certificate is not valid at this time.
fn out_of_time(cause: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
        return matches!(peer_error(tls), Some(PeerError::NotYetValid | PeerError::Expired));
    }
    // An I/O error stands for what it holds, which is not among its sources.
    let held = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    held.is_some_and(|held| out_of_time(held))
}

impl Known {
    /// The root file's, and what the authority has said since it was last changed.
    fn anchors(&self) -> Vec<CertificateDer<'static>> {
        let mut anchors = self.roots.as_ref().map(|(_, anchors, _)| anchors.clone()).unwrap_or_default();
        for told in &self.told {
            if !anchors.contains(told) {
                anchors.push(told.clone());
            }
        }
        anchors
    }
}

impl Authority for RemoteCa {
    fn sign(&self, request: CertificateRequest) -> BoxFuture<'_, Result<Issued, AuthorityError>> {
        let late = AuthorityError::Unreachable(format!("{}: no answer within {ANSWER:?}", self.settings.address));
        async move { tokio::time::timeout(ANSWER, self.ask(&request)).await.unwrap_or(Err(late)) }.boxed()
    }

    fn anchors(&self) -> BoxFuture<'_, Result<Vec<CertificateDer<'static>>, AuthorityError>> {
        async move {
            // The file is read again; what cannot be read changes nothing.
            self.channel().await?;
            Ok(self.known().anchors())
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
