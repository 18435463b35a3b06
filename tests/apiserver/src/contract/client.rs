//! The least of a client: one request, one connection, nothing between the test and the server's bytes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Kubeconfig;
use crate::Server;

/// No answer takes longer: the recording's watches end after 2 s.
const PATIENCE: Duration = Duration::from_secs(60);

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body; a watch's is one event a line.
    pub text: String,
}

impl Reply {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The events of a watch.
    pub fn events(&self) -> Vec<Value> {
        self.text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// A server to talk to.
pub struct Target {
    uri: Uri,
    /// The name in its certificate.
    known_as: String,
    token: Option<String>,
    tls: Option<TlsConnector>,
    double: bool,
}

impl Target {
    /// A server of this process.
    ///
    /// # Errors
    /// When its kubeconfig is not one.
    pub fn of(server: &Server) -> Result<Self> {
        let config = Kubeconfig::parse(&server.kubeconfig(), Path::new("."))?;
        Ok(Self { double: true, ..Self::of_config(config)? })
    }

    /// The current context of a kubeconfig. Plugins that fetch credentials are not run.
    ///
    /// # Errors
    /// When the file cannot be read, or names no server or no usable credentials.
    pub fn from_kubeconfig(path: &Path) -> Result<Self> {
        Self::of_config(Kubeconfig::read(path)?)
    }

    fn of_config(config: Kubeconfig) -> Result<Self> {
        let tls = match (config.server.scheme_str(), &config.authority) {
            (Some("https"), Some(trust)) => Some(connector(trust, config.certificate)?),
            (Some("https"), None) => bail!("the cluster has no certificate-authority"),
            _ => None,
        };
        Ok(Self { uri: config.server, known_as: config.known_as, token: config.token, tls, double: false })
    }

    /// The same server, for whoever has this token; for nobody without one.
    pub fn with_token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// Whether it takes orders and forgets nothing by itself.
    pub(super) fn is_double(&self) -> bool {
        self.double
    }

    /// Gives the double an order; a real server is left alone.
    pub(super) async fn order(&self, what: &str, order: Value) -> Result<()> {
        if self.double {
            self.send(Method::POST, &format!("/test/{what}"), &[], Some(order.to_string())).await?;
        }
        Ok(())
    }

    /// Sends a request and waits for all of its answer.
    ///
    /// # Errors
    /// When there is no answer, or none in time.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Result<Reply> {
        let host = self.uri.host().context("the server's URL has no host")?;
        let port = self.uri.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let mut request = Request::builder().method(method).uri(path).header("host", format!("{host}:{port}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default())))?;
        let bare = host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((bare, port)).await.with_context(|| format!("connecting to {host}:{port}"))?;
        let answer = async {
            match &self.tls {
                None => exchange(stream, request).await,
                Some(tls) => {
                    let name = ServerName::try_from(self.known_as.clone())?;
                    exchange(tls.connect(name, stream).await?, request).await
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.context("no answer in time")?
    }
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    request: Request<Full<Bytes>>,
) -> Result<Reply> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await?;
    let (parts, body) = response.into_parts();
    let text = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
    connection.abort();
    Ok(Reply { status: parts.status.as_u16(), headers: parts.headers, text })
}

fn connector(trust: &[u8], certificate: Option<(Vec<u8>, Vec<u8>)>) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(trust) {
        roots.add(root.context("the certificate authority")?)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
            builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(&key)?)?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
