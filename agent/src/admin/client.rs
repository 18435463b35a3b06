//! The command line's end of the admin socket, and a successor's.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::views::Refusal;

/// How long an answer may take; the server gives up sooner.
const TIMEOUT: Duration = Duration::from_secs(65);
/// The largest answer read, in bytes: a dump of a large mesh.
const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody serves the socket.
    #[error("no agent answers on {path} ({cause}); is it running, and is --admin-socket the same for both?")]
    Absent {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// It is not for this user.
    #[error("the agent answers root only, on {path}; run this as root")]
    NotRoot {
        /// The socket.
        path: PathBuf,
    },
    /// The agent refused.
    #[error("the agent refused: {0}")]
    Refused(String),
    /// The conversation broke off.
    #[error("the agent broke off its answer: {0}; its log may say why")]
    Broken(String),
}

impl ClientError {
    /// Whether there is no agent: a successor need not ask for anything.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent { .. })
    }
}

/// Asks one agent.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// The agent that serves the socket at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Asks a question.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await
    }

    /// Gives an order.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::POST, path, Bytes::new()).await
    }

    /// Sets something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, value: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(value).map_err(broken)?;
        self.call(Method::PUT, path, body.into()).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let called = tokio::time::timeout(TIMEOUT, self.exchange(method, path, body));
        let (ok, body) = called.await.map_err(|_| broken("it took too long"))??;
        if ok {
            return serde_json::from_slice(&body).map_err(broken);
        }
        Err(match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => ClientError::Refused(refusal.error),
            Err(error) => broken(error),
        })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(bool, Bytes), ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotRoot { path: self.path.clone() },
            _ => ClientError::Absent { path: self.path.clone(), cause },
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::builder().method(method).uri(path).header(header::HOST, "weft").body(Full::new(body));
        let request = request.map_err(broken)?;
        let conversation = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let ok = response.status().is_success();
            let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await.map_err(broken)?;
            Ok((ok, body.to_bytes()))
        };
        tokio::pin!(conversation);
        tokio::select! {
            answer = &mut conversation => answer,
            // The connection may end just as the answer is complete.
            _ = connection => conversation.await,
        }
    }
}

fn broken(error: impl ToString) -> ClientError {
    ClientError::Broken(error.to_string())
}
