//! The mesh's certificate authority in a cluster, asked by agents in Istio's protocol over TLS.
//!
//! `roots` keeps the root and what is trusted, in two objects that all replicas share; `serve` accepts connections, `answer`
//! turns a request into a certificate or a refusal, `caller` finds out who asks and which pods run on its node. Every
//! replica issues: there is nothing to agree upon but the root, and the API server is what they agree by. It keeps no list
//! of what it has signed, and revokes nothing: certificates are short.

mod answer;
mod bundle;
mod caller;
mod metrics;
mod roots;
mod serve;
mod serving;
mod trust;

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::parts::Common;
use answer::Answers;
use metrics::Metrics;
use roots::{Authority, Roots};

/// Why the issuer cannot work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IssuerError {
    /// Its port is taken.
    #[error(
        "cannot listen on {address}: {cause}; is another replica using the port? Choose another with --issuer-address"
    )]
    Bind {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        cause: std::io::Error,
    },
}

/// Runs until told to stop.
pub(crate) async fn run(common: Common) -> Result<(), IssuerError> {
    let Some(settings) = common.settings.issuer.clone().map(Arc::new) else {
        common.shutdown.cancelled().await;
        return Ok(());
    };
    let address = settings.address;
    let listener = TcpListener::bind(address).await.map_err(|cause| IssuerError::Bind { address, cause })?;
    let metrics = Metrics::new(&common.telemetry);
    let authority = Arc::new(Authority::default());
    let roots = Roots::new(&common, Arc::clone(&settings), Arc::clone(&authority), metrics.clone());
    let answers = Arc::new(Answers {
        client: common.client.clone(),
        trust_domain: common.settings.trust_domain.clone(),
        settings,
        authority: Arc::clone(&authority),
        metrics,
    });
    tokio::join!(
        common.shutdown.run_until_cancelled(roots.run()),
        serve::run(listener, authority, answers, common.shutdown.clone())
    );
    Ok(())
}
