//! The listening side: accepts, speaks TLS and HTTP, goes away and comes back when told to.

use std::io::ErrorKind;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::controllers;
use crate::counters::Counts;
use crate::engine::{Config, Shared};
use crate::faults::Faults;
use crate::handle;
use crate::restore;
use crate::tls::Identity;

/// Connections that wait to be accepted, at most.
const BACKLOG: i32 = 1024;

/// A running server. It stops when this is dropped.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    identity: Option<Arc<Identity>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on an address (port 0: any free one) and serves.
    ///
    /// # Errors
    /// When the address cannot be listened on, or no key can be made.
    pub async fn start(listen: SocketAddr, config: Config) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(listen).await.with_context(|| format!("listening on {listen}"))?;
        let address = listener.local_addr()?;
        let names = ["localhost".to_owned(), "kubernetes.default.svc".to_owned(), address.ip().to_string()];
        let identity = config.tls.then(|| Identity::new(names.to_vec())).transpose()?.map(Arc::new);
        let shared = Arc::new(Shared::new(config)?);
        for namespace in ["default", "kube-system"] {
            handle::plant_namespace(&shared, namespace);
        }
        let tasks = vec![
            tokio::spawn(accept(shared.clone(), listener, identity.clone())),
            tokio::spawn(controllers::run(shared.clone())),
        ];
        Ok(Self { shared, address, identity, tasks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of the server.
    pub fn url(&self) -> String {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The token that is `system:admin`'s.
    pub fn admin_token(&self) -> &str {
        self.shared.tokens.admin()
    }

    /// A kubeconfig for `system:admin`.
    pub fn kubeconfig(&self) -> String {
        let trust = self.identity.as_ref().map_or_else(String::new, |identity| {
            format!("    certificate-authority-data: {}\n", STANDARD.encode(&identity.pem))
        });
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: weft\nclusters:\n- name: weft\n  cluster:\n    server: {}\n{trust}\
             users:\n- name: admin\n  user:\n    token: {}\n\
             contexts:\n- name: weft\n  context: {{cluster: weft, user: admin, namespace: default}}\n",
            self.url(),
            self.admin_token()
        )
    }

    /// Takes up objects of built-in kinds that were there before, one a line, as they are; yields how many there were.
    ///
    /// # Errors
    /// When a line is no object, or of a kind that is not served.
    pub fn restore(&self, lines: impl std::io::BufRead) -> anyhow::Result<usize> {
        restore::restore(&self.shared, lines)
    }

    /// Faults to order.
    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// What clients asked for so far.
    pub fn counts(&self) -> Counts {
        self.shared.counters.snapshot()
    }

    /// Starts counting anew.
    pub fn reset_counts(&self) {
        self.shared.counters.reset();
    }

    /// Forgets all of the past: reads and watches of older revisions get 410.
    pub fn compact(&self) {
        self.shared.store().compact();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Accepts until the server is dropped; connections end with it, because the set they run in is dropped too.
async fn accept(shared: Arc<Shared>, mut listener: TcpListener, identity: Option<Arc<Identity>>) {
    let mut away = shared.faults.away();
    let mut connections = JoinSet::new();
    loop {
        if *away.borrow_and_update() {
            listener = match stay_away(listener, &mut away).await {
                Ok(back) => back,
                Err(_) => return,
            };
        }
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                if shared.faults.is_refusing() {
                    reset(&stream);
                    continue;
                }
                connections.spawn(serve(shared.clone(), stream, identity.clone()));
            }
            Some(_) = connections.join_next() => (),
            changed = away.changed() => if changed.is_err() { return },
        }
    }
}

/// Refuses connections until told to come back, and keeps the port, which somebody's outgoing connection could take meanwhile:
/// on Linux a listening socket that is shut down for reading stays bound, and may listen again. Nobody polls it meanwhile: what
/// has once been reported as closed, tokio takes for ready ever after.
async fn stay_away(listener: TcpListener, away: &mut watch::Receiver<bool>) -> anyhow::Result<TcpListener> {
    let (address, listener) = (listener.local_addr()?, listener.into_std()?);
    let socket = SockRef::from(&listener);
    socket.shutdown(Shutdown::Read)?;
    match socket.bind(&address.into()) {
        // A port that the kernel chose is not kept, but one that is asked for is, and that is refused as bound already.
        Err(error) if error.kind() != ErrorKind::InvalidInput => return Err(error.into()),
        _ => {}
    }
    away.wait_for(|away| !away).await?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from_std(listener)?)
}

/// Closing with nothing to linger for sends a reset.
fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
}

async fn serve(shared: Arc<Shared>, stream: TcpStream, identity: Option<Arc<Identity>>) {
    let _ = stream.set_nodelay(true);
    match identity {
        None => speak(shared, stream).await,
        Some(identity) => {
            if let Ok(stream) = identity.acceptor.accept(stream).await {
                speak(shared, stream).await;
            }
        }
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(shared: Arc<Shared>, stream: S) {
    let mut closings = shared.faults.closings();
    let service = service_fn(move |request| handle::handle(shared.clone(), request));
    let server = auto::Builder::new(TokioExecutor::new());
    let connection = server.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = connection => (),
        _ = closings.changed() => (),
    }
}
