//! Two nodes and an app on loopback: everything between two ordinary sockets is the real thing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use rustls::crypto::CryptoProvider;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use weft_core::model::{Identity, TrustDomain};

use super::apps::socket_pair;
use crate::identity::ca::EmbeddedCa;
use crate::identity::{Credentials, Identities, Settings};
use crate::relay::{Flow, Outcome, tcp_to_stream};
use crate::tunnel::*;

pub(super) fn identity(name: &str) -> Identity {
    format!("spiffe://cluster.local/ns/shop/sa/{name}").parse().unwrap()
}

/// Handshakes a server of the rig makes at once.
pub(super) const HANDSHAKES: usize = 4;

pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = soon();
    while !condition() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Fails a test that hangs instead of letting it hang.
pub(super) async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout_at(soon(), work).await.unwrap_or_else(|_| panic!("did not finish: {what}"))
}

/// Counts what a node reports.
#[derive(Default)]
pub(super) struct Seen {
    rejected: Mutex<Vec<(&'static str, Option<Identity>)>>,
    pub(super) protocols: Mutex<Vec<Protocol>>,
    pub(super) opened: AtomicUsize,
    pub(super) closed: AtomicUsize,
    closings: Mutex<Vec<&'static str>>,
}

impl Seen {
    pub(super) fn rejections(&self) -> Vec<&'static str> {
        self.rejected.lock().unwrap().iter().map(|(reason, _)| *reason).collect()
    }

    /// Why tunnels were closed, the latest last.
    pub(super) fn closings(&self) -> Vec<&'static str> {
        self.closings.lock().unwrap().clone()
    }
}

impl Events for Seen {
    fn opened(&self, _side: Side, protocol: Protocol) {
        self.protocols.lock().unwrap().push(protocol);
        self.opened.fetch_add(1, Ordering::SeqCst);
    }

    fn closed(&self, _side: Side, _protocol: Protocol, reason: Option<&TunnelError>) {
        self.closings.lock().unwrap().push(reason.map_or("done", TunnelError::reason));
        self.closed.fetch_add(1, Ordering::SeqCst);
    }

    fn failed(&self, _to: SocketAddr, error: &TunnelError) {
        self.rejected.lock().unwrap().push((error.reason(), None));
    }

    fn rejected(&self, rejection: &Rejection) {
        self.rejected.lock().unwrap().push((rejection.error.reason(), rejection.peer.clone()));
    }
}

struct Loopback;

impl Dial for Loopback {
    fn network(&self) -> u64 {
        1
    }

    fn dial(&self, _source: IpAddr, to: SocketAddr) -> BoxFuture<'_, std::io::Result<TcpStream>> {
        TcpStream::connect(to).boxed()
    }
}

/// Both nodes. The server's `store` and the client's are separate, as on two machines; the authority is shared.
pub(super) struct Rig {
    pub(super) _state: TempDir,
    pub(super) ca: EmbeddedCa,
    pub(super) store: Arc<Identities>,
    pub(super) pool: Pool,
    pub(super) port: u16,
    pub(super) client_seen: Arc<Seen>,
    pub(super) server_seen: Arc<Seen>,
    pub(super) drain: Arc<Mutex<CancellationToken>>,
    pub(super) flows: Flows,
    pub(super) outcomes: Arc<Mutex<Vec<Outcome>>>,
    /// Of the server's pod.
    pub(super) budget: Arc<Budget>,
}

/// What differs between tests.
pub(super) struct Plan {
    pub(super) ip: IpAddr,
    pub(super) lifetime: Duration,
    /// What both nodes encrypt with; the mesh's own if `None`.
    pub(super) provider: Option<Arc<CryptoProvider>>,
    pub(super) pool: PoolSettings,
    pub(super) server: ServerSettings,
    /// Bytes the server's pod may hold for slow readers.
    pub(super) budget: usize,
    /// Dial here instead of the server's own port.
    pub(super) via: Option<u16>,
    /// What the client offers.
    pub(super) protocols: Protocols,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            ip: Ipv4Addr::LOCALHOST.into(),
            lifetime: Duration::from_secs(3600),
            provider: None,
            // Generous, because the machine that runs the tests may be busy with others.
            pool: PoolSettings { budget: Duration::from_secs(15), ..PoolSettings::default() },
            server: ServerSettings::default(),
            budget: Budget::DEFAULT,
            via: None,
            protocols: Protocols::Both,
        }
    }
}

impl Plan {
    pub(super) fn speaking(protocol: Protocol) -> Self {
        Self { protocols: Protocols::Only(protocol), ..Self::default() }
    }
}

impl Rig {
    pub(super) async fn speaking(protocol: Protocol) -> Self {
        Self::with(Plan::speaking(protocol)).await
    }

    pub(super) async fn new() -> Self {
        Self::with(Plan::default()).await
    }

    pub(super) async fn with(plan: Plan) -> Self {
        let listener = TcpListener::bind((plan.ip, 0)).await.unwrap();
        Self::on(plan, listener).await
    }

    pub(super) async fn on(plan: Plan, listener: TcpListener) -> Self {
        let state = TempDir::new().unwrap();
        let ca = EmbeddedCa::open(state.path(), &TrustDomain::new("cluster.local").unwrap()).unwrap();
        let mut settings = Settings { lifetime: plan.lifetime, ..Settings::default() };
        settings.provider = plan.provider.unwrap_or(settings.provider);
        let store = Identities::new(Arc::new(ca.clone()), settings);
        for name in ["client", "server"] {
            store.ensure(&identity(name));
            store.wait(&identity(name), soon()).await.unwrap();
        }
        let (client_seen, server_seen) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
        let port = listener.local_addr().unwrap().port();
        let pool = PoolSettings { port: plan.via.unwrap_or(port), protocols: plan.protocols, ..plan.pool };
        let pool = Pool::new(Arc::clone(&store), pool, Arc::clone(&client_seen) as Arc<dyn Events>);
        let rig = Self {
            _state: state,
            ca,
            store,
            pool,
            port,
            client_seen,
            server_seen,
            drain: Arc::default(),
            flows: Flows::default(),
            outcomes: Arc::default(),
            budget: Arc::new(Budget::new(plan.budget)),
        };
        rig.accept(listener, plan.server);
        rig
    }

    /// The server node: one task per tunnel, apps dialled on loopback.
    pub(super) fn accept(&self, listener: TcpListener, settings: ServerSettings) {
        let (flows, outcomes) = (self.flows.clone(), Arc::clone(&self.outcomes));
        self.accept_for(listener, settings, move |incoming| deliver(incoming, flows.another(), Arc::clone(&outcomes)));
    }

    /// The same with apps of another kind.
    pub(super) fn accept_for<H, F>(&self, listener: TcpListener, settings: ServerSettings, handler: H)
    where
        H: Fn(Incoming) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let (store, seen, drain) = (Arc::clone(&self.store), Arc::clone(&self.server_seen), Arc::clone(&self.drain));
        let handshakes = Arc::new(tokio::sync::Semaphore::new(HANDSHAKES));
        let budget = Arc::clone(&self.budget);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let context = ServerContext {
                    credentials: store.credentials(&identity("server")).unwrap(),
                    addresses: Arc::from([IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()]),
                    baggage: None,
                    settings: settings.clone(),
                    handshakes: Arc::clone(&handshakes),
                    budget: Arc::clone(&budget),
                    events: Arc::clone(&seen) as Arc<dyn Events>,
                    drain: drain.lock().unwrap().clone(),
                };
                tokio::spawn(serve(tcp, context, handler.clone()));
            }
        });
    }

    pub(super) fn credentials(&self, name: &str) -> Arc<Credentials> {
        self.store.credentials(&identity(name)).unwrap()
    }

    pub(super) fn request(&self, authority: SocketAddr) -> ConnectRequest {
        ConnectRequest {
            source: identity("client"),
            dial: Arc::new(Loopback),
            source_address: authority.ip(),
            authority,
            server: identity("server"),
            client: SocketAddr::new(authority.ip(), 4711),
            host: None,
            baggage: None,
            budget: Arc::default(),
        }
    }

    pub(super) async fn stream(&self, authority: SocketAddr) -> Result<Stream, TunnelError> {
        within("connect", self.pool.connect(&self.request(authority))).await
    }

    /// An ordinary socket whose other end is the app at `authority`, through the tunnel.
    pub(super) async fn connect(&self, authority: SocketAddr) -> TcpStream {
        self.relay(self.stream(authority).await.unwrap()).await
    }

    /// The same of a stream there is.
    pub(super) async fn relay(&self, stream: Stream) -> TcpStream {
        let (app, near) = socket_pair(Ipv4Addr::LOCALHOST.into()).await;
        let flow = self.flows.another();
        tokio::spawn(async move { tcp_to_stream(near, stream, &flow).await });
        app
    }
}

/// What is relayed, of both ends.
#[derive(Clone, Default)]
pub(super) struct Flows(Arc<Mutex<Vec<Arc<Flow>>>>);

impl Flows {
    fn another(&self) -> Arc<Flow> {
        let flow = Arc::<Flow>::default();
        self.0.lock().unwrap().push(Arc::clone(&flow));
        flow
    }

    pub(super) fn kill(&self) {
        self.0.lock().unwrap().iter().for_each(|flow| flow.kill.end());
    }
}

async fn deliver(incoming: Incoming, flow: Arc<Flow>, outcomes: Arc<Mutex<Vec<Outcome>>>) {
    let Ok(app) = TcpStream::connect(incoming.authority).await else {
        return incoming.refuse(Refusal::Unreachable);
    };
    let Ok(stream) = incoming.accept() else { return };
    let outcome = tcp_to_stream(app, stream, &flow).await;
    outcomes.lock().unwrap().push(outcome);
}

/// Runs each test over either protocol.
macro_rules! over_both {
    ($($name:ident),* $(,)?) => {
        mod weft {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::tunnel::Protocol::Weft).await;
            })*
        }
        mod hbone {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::tunnel::Protocol::Hbone).await;
            })*
        }
    };
}
pub(super) use over_both;
