//! How agent and controller reach the API server: one HTTP/2 connection for all watches, watched over by pings.
//!
//! Credentials, trust and their renewal are kube's. Its ready-made stack speaks HTTP/1.1 only and so opens a connection
//! for every watch, and a server that has silently gone shows only when a watch times out, after minutes.

use std::path::Path;
use std::time::Duration;

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use kube::client::{Body, ClientBuilder, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tower::ServiceExt as _;

use super::paced::{Asked, Connector, Counted};

/// Time to reach the API server.
const CONNECT: Duration = Duration::from_secs(5);
/// How much the server may send ahead, in bytes: on one watch, and on all. hyper's own 2 and 5 MB would lie in memory while a big
/// cluster is read.
const WINDOWS: (u32, u32) = (512 << 10, 1 << 20);
/// Pause between pings of a silent connection, and the patience for their answers: a server that is gone is noticed in
/// the sum of the two.
const PING: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(10));

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be used.
    #[error("--kubeconfig: cannot use {path}: {cause}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: kube::config::KubeconfigError,
    },
    /// Not in a pod, or its service account's token is not mounted.
    #[error(
        "--kubernetes: this is no pod with a service account ({0}): give --kubeconfig FILE, or --manifests DIR to run \
         without a cluster"
    )]
    InCluster(#[from] kube::config::InClusterError),
    /// Certificates, keys or tokens are unusable.
    #[error("cannot speak to the API server: {0}")]
    Credentials(Box<kube::Error>),
}

/// Makes a client from a kubeconfig's current context or, without one, from the pod's service account. Nothing is sent.
///
/// `user_agent` is who asks, in the API server's audit log.
///
/// # Errors
/// [`ClientError`], in words that say what to do.
pub async fn connect(kubeconfig: Option<&Path>, user_agent: &'static str) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        None => Config::incluster()?,
        Some(path) => {
            let wrong = |cause| ClientError::Kubeconfig { path: path.display().to_string(), cause };
            let file = Kubeconfig::read_from(path).map_err(wrong)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)?
        }
    };
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(user_agent)));
    client(&config).map_err(|error| ClientError::Credentials(Box::new(error)))
}

fn client(config: &Config) -> Result<Client, kube::Error> {
    // Whoever comes first decides; all of this process use the same one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let mut tls = HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = config.tls_server_name.as_deref().and_then(|name| name.to_owned().try_into().ok()) {
        tls = tls.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let asked = Asked::default();
    let connector = tls.enable_http1().enable_http2().wrap_connector(Connector::new(tcp, asked.clone()));
    let service = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING.0)
        .http2_keep_alive_timeout(PING.1)
        .http2_initial_stream_window_size(WINDOWS.0)
        .http2_initial_connection_window_size(WINDOWS.1)
        .build::<_, Body>(connector)
        .map_err(tower::BoxError::from);
    let service = Counted::new(service, asked);
    let builder = ClientBuilder::new(service, config.default_namespace.clone())
        .with_layer(&config.base_uri_layer())
        .with_layer(&config.extra_headers_layer()?);
    Ok(match config.auth_layer()? {
        Some(auth) => builder.with_layer(&auth).build(),
        None => builder.build(),
    })
}
