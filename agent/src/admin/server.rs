//! The agent's end of the admin socket.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{Text, json};
use super::views::{LogLevel, Refusal};
use super::{AdminRequest, Reply};
use crate::telemetry::logging::LevelHandle;

/// Connections served at once.
const CONNECTIONS: usize = 32;
/// How long a client has to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take: taking every pod of a node out of the mesh is the slowest.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long answers in flight may take once the server is told to close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// The largest body of a request, in bytes.
const BODY_MAX: usize = 16 * 1024;

/// Where the socket is and whom it serves.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The socket's path.
    pub path: PathBuf,
    /// The only user that is answered: 0.
    pub user: u32,
}

impl ServerSettings {
    /// The socket at `path`, for root.
    #[must_use]
    pub fn for_root(path: PathBuf) -> Self {
        Self { path, user: 0 }
    }
}

/// Why the admin socket cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the admin socket {path}: {cause}; choose another place with --admin-socket")]
pub struct ServerError {
    /// The socket.
    pub path: PathBuf,
    /// What the system said.
    pub cause: io::Error,
}

/// The running server. Dropping it removes the socket and stops at once; [`Self::close`] lets answers out first.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    inode: u64,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    /// Takes the socket's place, whoever held it before, and serves it in the background: who starts a server owns
    /// the instance's lock, so what is there belongs to an agent that is gone or has handed over.
    ///
    /// # Errors
    /// [`ServerError`] if the socket cannot be made.
    pub fn start(
        settings: &ServerSettings,
        requests: mpsc::Sender<AdminRequest>,
        levels: LevelHandle,
    ) -> Result<Self, ServerError> {
        let path = settings.path.clone();
        let (listener, inode) = bind(&path).map_err(|cause| ServerError { path: path.clone(), cause })?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let handler = Arc::new(Handler { requests, levels });
        let accepting = accept(listener, settings.user, handler, tasks.clone(), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self { path, inode, stop, tasks })
    }

    /// Frees the socket and waits for answers in flight, a second at most.
    pub async fn close(self) {
        self.free();
        self.tasks.close();
        // What takes longer is cut off.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.tasks.wait()).await;
    }

    /// A successor may have put its own socket there.
    fn free(&self) {
        self.stop.cancel();
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.free();
    }
}

/// Binds beside the place, narrows the permissions, and only then moves the socket there: at no moment can anybody
/// else connect, and at no moment is there no socket.
fn bind(path: &Path) -> io::Result<(UnixListener, u64)> {
    let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let beside = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&beside)?;
    let moved = fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::symlink_metadata(&beside))
        .and_then(|metadata| fs::rename(&beside, path).map(|()| metadata.ino()));
    if moved.is_err() {
        let _ = fs::remove_file(&beside);
    }
    Ok((listener, moved?))
}

async fn accept(listener: UnixListener, user: u32, handler: Arc<Handler>, tasks: TaskTracker, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the admin socket");
                // Out of descriptors, most likely: accept would fail again at once.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == user => {
                let (handler, stop) = (handler.clone(), stop.clone());
                tasks.spawn(async move {
                    connection(stream, handler, stop).await;
                    drop(slot);
                });
            }
            Ok(peer) => tracing::warn!(uid = peer.uid(), pid = peer.pid(), "refused on the admin socket: not root"),
            Err(error) => tracing::warn!(%error, "refused on the admin socket: the kernel does not say who it is"),
        }
    }
}

async fn connection(stream: UnixStream, handler: Arc<Handler>, stop: CancellationToken) {
    let service = service_fn(move |request| {
        let handler = handler.clone();
        async move { Ok::<_, Infallible>(handler.respond(request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the admin socket ended early");
    }
}

type Answer = Response<Text>;

struct Handler {
    requests: mpsc::Sender<AdminRequest>,
    levels: LevelHandle,
}

impl Handler {
    async fn respond(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        match (head.method, head.uri.path()) {
            (Method::GET, "/status") => self.ask(AdminRequest::Status).await,
            (Method::GET, "/workloads") => self.ask(AdminRequest::Workloads).await,
            (Method::GET, "/services") => self.ask(AdminRequest::Services).await,
            (Method::GET, "/connections") => self.ask(AdminRequest::Connections).await,
            (Method::GET, "/dump") => self.ask(AdminRequest::Dump).await,
            (Method::POST, "/handover") => self.ask(AdminRequest::Handover).await,
            (Method::POST, "/disable") => self.ask(AdminRequest::Disable).await,
            (Method::POST, "/enable") => self.ask(AdminRequest::Enable).await,
            (Method::GET, "/log-level") => level(self.levels.current()),
            (Method::PUT, "/log-level") => self.set_level(body).await,
            (_, path) => refuse(StatusCode::NOT_FOUND, format!("nothing is served at {path} by this method")),
        }
    }

    async fn ask<T: Serialize + Send + 'static>(&self, request: impl FnOnce(Reply<T>) -> AdminRequest) -> Answer {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.requests.send(request(reply)).await.map_err(|_| "the agent is stopping".to_owned())?;
            answer.await.map_err(|_| "the agent is stopping".to_owned())?
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(value)) => json(StatusCode::OK, value),
            Ok(Err(reason)) => refuse(StatusCode::CONFLICT, reason),
            Err(_) => {
                let reason = format!("no answer within {} s: see the agent's log", ANSWER_TIMEOUT.as_secs());
                refuse(StatusCode::GATEWAY_TIMEOUT, reason)
            }
        }
    }

    async fn set_level(&self, body: Incoming) -> Answer {
        let body = tokio::time::timeout(HEAD_TIMEOUT, Limited::new(body, BODY_MAX).collect()).await;
        let Ok(Ok(body)) = body else {
            return refuse(StatusCode::BAD_REQUEST, "the body is too large, too slow or cut off".to_owned());
        };
        match serde_json::from_slice::<LogLevel>(&body.to_bytes()) {
            Ok(wanted) => {
                let set = self.levels.set(&wanted.filter);
                if let Ok(filter) = &set {
                    tracing::info!(filter, "the log filter was changed");
                }
                level(set)
            }
            Err(error) => refuse(StatusCode::BAD_REQUEST, format!("expected {{\"filter\": \"...\"}}: {error}")),
        }
    }
}

fn level(filter: Result<String, crate::telemetry::logging::LevelError>) -> Answer {
    match filter {
        Ok(filter) => json(StatusCode::OK, LogLevel { filter }),
        Err(error) => refuse(StatusCode::BAD_REQUEST, error.to_string()),
    }
}

fn refuse(status: StatusCode, error: String) -> Answer {
    json(status, Refusal { error })
}

#[cfg(test)]
mod tests;
