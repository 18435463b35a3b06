//! The least of a client: one request, one connection, nothing between the test and the server's bytes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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
        Ok(Self { double: true, ..Self::parse(&server.kubeconfig(), Path::new("."))? })
    }

    /// The current context of a kubeconfig. Plugins that fetch credentials are not run.
    ///
    /// # Errors
    /// When the file cannot be read, or names no server or no usable credentials.
    pub fn from_kubeconfig(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text, path.parent().unwrap_or(Path::new(".")))
    }

    fn parse(text: &str, directory: &Path) -> Result<Self> {
        let config: Value = serde_saphyr::from_str(text).context("the kubeconfig")?;
        let named = |list: &str, name: &Value, what: &str| -> Result<Value> {
            let items = config[list].as_array().map_or(&[] as &[Value], Vec::as_slice);
            let found = items.iter().find(|item| &item["name"] == name);
            found.map(|found| found[what].clone()).with_context(|| format!("the kubeconfig has no {what} {name}"))
        };
        let context = named("contexts", &config["current-context"], "context")?;
        let cluster = named("clusters", &context["cluster"], "cluster")?;
        let user = named("users", &context["user"], "user")?;
        if user.get("exec").is_some() {
            bail!("the kubeconfig asks a plugin for credentials: use one with a token or a certificate");
        }
        let pem = |of: &Value, name: &str| -> Result<Option<Vec<u8>>> {
            if let Some(data) = of[format!("{name}-data")].as_str() {
                return Ok(Some(STANDARD.decode(data)?));
            }
            let Some(file) = of[name].as_str() else { return Ok(None) };
            Ok(Some(std::fs::read(directory.join(file)).with_context(|| format!("reading {file}"))?))
        };
        let uri: Uri = cluster["server"].as_str().context("the cluster has no server")?.parse()?;
        let certificate = pem(&user, "client-certificate")?.zip(pem(&user, "client-key")?);
        let tls = match (uri.scheme_str(), pem(&cluster, "certificate-authority")?) {
            (Some("https"), Some(trust)) => Some(connector(&trust, certificate)?),
            (Some("https"), None) => bail!("the cluster has no certificate-authority"),
            _ => None,
        };
        Ok(Self { uri, token: user["token"].as_str().map(str::to_owned), tls, double: false })
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
                    exchange(tls.connect(ServerName::try_from(bare.to_owned())?, stream).await?, request).await
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
