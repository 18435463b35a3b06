//! The parts of the controller: begun together, told to stop together, and none goes on without another.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_control::kubernetes::{self, ClientError};

use crate::lease::{self, Term};
use crate::telemetry::PARTS;
use crate::{Settings, Telemetry, issuer, slices, status};

/// Who asks, in the API server's audit log.
const USER_AGENT: &str = concat!("weft-controller/", env!("CARGO_PKG_VERSION"));
/// Pause before an API server that has never answered is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long parts may take to finish what they are at when told to stop.
const FAREWELL: Duration = Duration::from_secs(10);

/// Why the controller cannot run, or runs no longer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The API server cannot be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A part ended, though nobody had asked it to.
    #[error("{part} has ended: {reason}")]
    Part {
        /// Which one.
        part: &'static str,
        /// Why.
        reason: String,
    },
}

/// What every part works with. Clones share it.
#[derive(Clone)]
pub(crate) struct Common {
    /// The API server.
    pub(crate) client: Client,
    pub(crate) settings: Arc<Settings>,
    pub(crate) telemetry: Telemetry,
    /// Cancelled when it is time to stop: a part finishes what it is at, and returns.
    pub(crate) shutdown: CancellationToken,
}

/// Runs the controller until `shutdown` is cancelled.
///
/// # Errors
/// [`RunError`] when the API server cannot be asked at all, or a part cannot do its work. What passes by itself (an API
/// server that is away, a lost lease) is a part's own to wait for.
pub async fn run(settings: Settings, telemetry: Telemetry, shutdown: CancellationToken) -> Result<(), RunError> {
    let client = kubernetes::connect(settings.kubeconfig.as_deref(), USER_AGENT).await?;
    let common = Common { client, settings: Arc::new(settings), telemetry, shutdown };
    let mut parts = Parts::new(common.shutdown.clone());
    tracing::info!(name = common.settings.name, namespace = common.settings.namespace, "the controller begins");
    let readiness = &common.telemetry.readiness;
    for condition in ["kubernetes", "slices"] {
        readiness.set(condition, false);
    }
    if common.settings.issuer.is_some() {
        readiness.set("root", false);
    }
    readiness.set(PARTS, true);
    parts.begin("reach", reach(common.clone()));
    parts.begin("issuer", issuer::run(common.clone()));
    let (term, terms) = watch::channel(Term::default());
    parts.begin("lease", lease::run(common.clone(), term));
    parts.begin("slices", slices::run(common.clone(), terms.clone()));
    parts.begin("status", status::run(common.clone(), terms));
    parts.end().await
}

/// Finds out once whether the API server can be reached; before that a replica should not be counted on.
async fn reach(common: Common) -> Result<(), String> {
    let Common { client, telemetry, shutdown, .. } = common;
    let ask = async {
        while let Err(error) = client.apiserver_version().await {
            tracing::warn!(%error, "the API server does not answer; asking again");
            tokio::time::sleep(ASK_AGAIN).await;
        }
        telemetry.readiness.set("kubernetes", true);
    };
    shutdown.run_until_cancelled(ask).await;
    shutdown.cancelled().await;
    Ok(())
}

/// Running parts, by name.
struct Parts {
    running: JoinSet<Ended>,
    shutdown: CancellationToken,
}

impl Parts {
    fn new(shutdown: CancellationToken) -> Self {
        Self { running: JoinSet::new(), shutdown }
    }

    /// Begins a part, which ends when [`Common::shutdown`] is cancelled and not before.
    fn begin<E>(&mut self, part: &'static str, work: impl Future<Output = Result<(), E>> + Send + 'static)
    where
        E: ToString + Send,
    {
        self.running.spawn(async move { (part, work.await.map_err(|error| error.to_string())) });
    }

    /// Waits for the word to stop, or for a part that ends without it; then for all.
    async fn end(mut self) -> Result<(), RunError> {
        let told = self.shutdown.clone();
        let mut first = tokio::select! {
            biased;
            () = told.cancelled() => None,
            ended = self.running.join_next() => ended.map(|ended| match judge(ended) {
                (part, Ok(())) => RunError::Part { part, reason: "it had nothing left to do".into() },
                (part, Err(reason)) => RunError::Part { part, reason },
            }),
        };
        self.shutdown.cancel();
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                if let (part, Err(reason)) = judge(ended) {
                    first.get_or_insert(RunError::Part { part, reason });
                }
            }
        };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            tracing::warn!("not everything was finished within {FAREWELL:?}");
        }
        tracing::info!("the controller has stopped");
        first.map_or(Ok(()), Err)
    }
}

type Ended = (&'static str, Result<(), String>);

/// A part that panicked has failed like any other.
fn judge(ended: Result<Ended, tokio::task::JoinError>) -> Ended {
    ended.unwrap_or_else(|error| ("a part", Err(error.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn parts_end_together_when_told() {
        let shutdown = CancellationToken::new();
        let mut parts = Parts::new(shutdown.clone());
        let told = shutdown.clone();
        parts.begin("one", async move {
            told.cancelled().await;
            Ok::<_, String>(())
        });
        shutdown.cancel();
        assert!(parts.end().await.is_ok());
    }

    #[tokio::test]
    async fn a_part_that_fails_ends_all_and_is_named() {
        let shutdown = CancellationToken::new();
        let mut parts = Parts::new(shutdown.clone());
        parts.begin("issuer", async { Err("no port") });
        let error = parts.end().await.unwrap_err().to_string();
        assert_eq!(error, "issuer has ended: no port");
        assert!(shutdown.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_does_not_end_is_left() {
        let shutdown = CancellationToken::new();
        let mut parts = Parts::new(shutdown.clone());
        parts.begin("deaf", std::future::pending::<Result<(), String>>());
        shutdown.cancel();
        assert!(parts.end().await.is_ok());
    }
}
