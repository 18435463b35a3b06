//! The tunnels this node has open, shared by the connections that may share one.
//!
//! Two connections share a tunnel when source identity, server identity, peer address, source address and source
//! network are the same, so that nobody's bytes travel under another's certificate, and when one worker carries both. A dial is made once for all who wait for it.
//! Nobody joins a tunnel that is full, that holds a stalled stream, whose peer is silent, or whose certificate has been
//! replaced.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::connect::{ConnectRequest, Key};
use super::dialled::Tunnel;
use super::settings::PoolSettings;
use super::shared::{Lease, Shared};
use super::stream::Stream;
use super::{Events, TunnelError};
use crate::identity::{Credentials, Identities};

#[derive(Default)]
struct Slot {
    tunnels: Vec<Arc<Tunnel>>,
    dialling: Arc<tokio::sync::Mutex<LastFailure>>,
}

/// The last dial that failed, for those who waited for it.
type LastFailure = Option<(Instant, TunnelError)>;

/// See the module.
#[derive(Clone)]
pub struct Pool {
    inner: Arc<Inner>,
}

struct Inner {
    identities: Arc<Identities>,
    settings: PoolSettings,
    events: Arc<dyn Events>,
    slots: Mutex<HashMap<Key, Slot>>,
    drivers: TaskTracker,
}

impl Pool {
    /// An empty pool that speaks with the certificates of `identities`.
    #[must_use]
    pub fn new(identities: Arc<Identities>, settings: PoolSettings, events: Arc<dyn Events>) -> Self {
        Self {
            inner: Arc::new(Inner {
                identities,
                settings,
                events,
                slots: Mutex::default(),
                drivers: TaskTracker::new(),
            }),
        }
    }

    /// Opens a stream to `request.authority`, within the budget.
    ///
    /// # Errors
    /// [`TunnelError`]. No byte of the client has been sent then: another endpoint may be tried.
    pub async fn connect(&self, request: &ConnectRequest) -> Result<Stream, TunnelError> {
        let started = Instant::now();
        let deadline = started + self.inner.settings.budget;
        let result = timeout_at(deadline, self.inner.connect(request, started, deadline)).await;
        result.unwrap_or_else(|_| {
            self.inner.probe(&request.key());
            Err(TunnelError::ConnectTimeout { to: self.inner.peer(request), after: self.inner.settings.budget })
        })
    }

    /// A pod leaves: its tunnels take no new streams and close after the last one.
    pub fn leave(&self, network: u64) {
        // A tunnel whose last handle is dropped ends with its last stream.
        self.inner.slots().retain(|key, _| key.network != network);
    }

    /// Lets every tunnel close after its last stream, and waits until their last bytes are on the wire.
    ///
    /// To be awaited after the relays have ended and before the process does: what a relay has handed to a tunnel may
    /// still be under way.
    pub async fn close(&self) {
        self.inner.slots().clear();
        self.inner.drivers.close();
        self.inner.drivers.wait().await;
    }

    /// How many tunnels are open, the retired ones not counted.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.inner.slots().values().map(|slot| slot.tunnels.len()).sum()
    }

    /// How many streams they carry.
    #[cfg(test)]
    pub(super) fn streams(&self) -> usize {
        self.inner.slots().values().flat_map(|slot| &slot.tunnels).map(|tunnel| tunnel.shared.streams()).sum()
    }
}

impl Inner {
    async fn connect(
        self: &Arc<Self>,
        request: &ConnectRequest,
        started: Instant,
        deadline: Instant,
    ) -> Result<Stream, TunnelError> {
        let credentials = self.identities.wait(&request.source, deadline).await?;
        let key = request.key();
        loop {
            let (tunnel, lease, fresh) = self.tunnel(&key, request, &credentials, started).await?;
            match tunnel.open(lease, request, self.settings.budget / 3).await {
                Err(error) if error.blames_tunnel() && !fresh => {
                    tracing::debug!(%error, peer = %request.authority, "a pooled tunnel failed; trying another");
                    // A silent one may speak again; what refuses streams will go on refusing them.
                    if !tunnel.shared.is_suspect() {
                        tunnel.shared.fail(error);
                    }
                }
                result => return result,
            }
        }
    }

    /// A place in a tunnel, and whether the tunnel was dialled for it.
    async fn tunnel(
        self: &Arc<Self>,
        key: &Key,
        request: &ConnectRequest,
        credentials: &Arc<Credentials>,
        started: Instant,
    ) -> Result<(Arc<Tunnel>, Lease, bool), TunnelError> {
        let dialling = match self.join(key, credentials) {
            Ok((tunnel, lease)) => return Ok((tunnel, lease, false)),
            Err(dialling) => dialling,
        };
        let mut last_failure = dialling.lock().await;
        if let Ok((tunnel, lease)) = self.join(key, credentials) {
            return Ok((tunnel, lease, false));
        }
        if let Some((_, error)) = last_failure.as_ref().filter(|(at, _)| *at > started) {
            return Err(error.clone());
        }
        match self.dial(key, request, credentials).await {
            Ok((tunnel, lease)) => Ok((tunnel, lease, true)),
            Err(error) => {
                *last_failure = Some((Instant::now(), error.clone()));
                drop(last_failure);
                self.tidy(key);
                Err(error)
            }
        }
    }

    fn join(
        &self,
        key: &Key,
        credentials: &Arc<Credentials>,
    ) -> Result<(Arc<Tunnel>, Lease), Arc<tokio::sync::Mutex<LastFailure>>> {
        let mut slots = self.slots();
        let slot = slots.entry(key.clone()).or_default();
        // Tunnels with a replaced certificate leave the pool; their streams go on, then they close.
        slot.tunnels.retain(|tunnel| tunnel.is_open() && Arc::ptr_eq(&tunnel.credentials, credentials));
        for tunnel in &slot.tunnels {
            if let Some(lease) = tunnel.join(&self.settings) {
                return Ok((Arc::clone(tunnel), lease));
            }
        }
        Err(Arc::clone(&slot.dialling))
    }

    async fn dial(
        self: &Arc<Self>,
        key: &Key,
        request: &ConnectRequest,
        credentials: &Arc<Credentials>,
    ) -> Result<(Arc<Tunnel>, Lease), TunnelError> {
        let to = self.peer(request);
        let tcp = request
            .dial
            .dial(request.source_address, to)
            .await
            .map_err(|source| TunnelError::Dial { to, source: Arc::new(source) })?;
        let (tunnel, running) = Tunnel::establish(tcp, Arc::clone(credentials), request, to, &self.settings)
            .await
            .inspect_err(|error| self.events.failed(to, error))?;
        let tunnel = Arc::new(tunnel);
        let lease = tunnel.shared.lease();
        self.slots().entry(key.clone()).or_default().tunnels.push(Arc::clone(&tunnel));
        let (pool, key, shared) = (Arc::downgrade(self), key.clone(), Arc::clone(&tunnel.shared));
        let retire = move || Weak::upgrade(&pool).is_none_or(|pool| pool.retire(&key, &shared));
        let shared = Arc::clone(&tunnel.shared);
        self.drivers.spawn(running.drive(shared, self.settings.clone(), Arc::clone(&self.events), retire));
        Ok((tunnel, lease))
    }

    /// Takes an idle or failed tunnel out of the pool; `false` while a stream is in an open one.
    fn retire(&self, key: &Key, shared: &Arc<Shared>) -> bool {
        if shared.failure().is_none() && shared.streams() > 0 {
            return false;
        }
        if let Some(slot) = self.slots().get_mut(key) {
            slot.tunnels.retain(|tunnel| !Arc::ptr_eq(&tunnel.shared, shared));
        }
        self.tidy(key);
        true
    }

    /// Forgets a key nobody uses.
    fn tidy(&self, key: &Key) {
        let mut slots = self.slots();
        if slots.get(key).is_some_and(|slot| slot.tunnels.is_empty() && Arc::strong_count(&slot.dialling) == 1) {
            slots.remove(key);
        }
    }

    /// After a timeout: is anybody there?
    fn probe(&self, key: &Key) {
        if let Some(slot) = self.slots().get(key) {
            slot.tunnels.iter().for_each(|tunnel| tunnel.shared.probe());
        }
    }

    fn peer(&self, request: &ConnectRequest) -> SocketAddr {
        SocketAddr::new(request.authority.ip(), self.settings.port)
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
