//! What every request works on: the state, the kinds, the faults in force, the counts.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::auth::Tokens;
use crate::counters::Counters;
use crate::faults::Faults;
use crate::kinds::{Registry, Resource};
use crate::store::Store;

/// How a server behaves. The default is an ordinary cluster that trusts everybody.
#[derive(Debug, Clone)]
pub struct Config {
    /// Serve TLS with a certificate made for the occasion.
    pub tls: bool,
    /// Ask who calls, and let RBAC objects decide what they may do. Without it everybody is `system:admin`.
    pub rbac: bool,
    /// Changes remembered for each kind; readers of older revisions get 410.
    pub history: usize,
    /// Whether watches may ask for what there is first (the feature gate WatchList, on from 1.34).
    pub streaming_lists: bool,
    /// Time between the bookmarks of a watch. Kubernetes: about a minute.
    pub bookmarks: Duration,
    /// How long a read waits for a revision that is not there yet. Kubernetes: 3 s.
    pub freshness: Duration,
    /// ConfigMaps (name and key) that this distribution mounts into pods beside the cluster's CA. Kubernetes: none.
    pub token_sources: Vec<(String, String)>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            tls: false,
            rbac: false,
            history: 20_000,
            streaming_lists: true,
            bookmarks: Duration::from_secs(60),
            freshness: Duration::from_secs(3),
            token_sources: Vec::new(),
        }
    }
}

/// One API server's insides.
pub(crate) struct Shared {
    pub(crate) config: Config,
    store: Mutex<Store>,
    pub(crate) registry: RwLock<Registry>,
    pub(crate) faults: Faults,
    pub(crate) counters: Counters,
    pub(crate) tokens: Tokens,
}

impl Shared {
    pub(crate) fn new(config: Config) -> anyhow::Result<Self> {
        Ok(Self {
            store: Mutex::new(Store::new(config.history)),
            registry: RwLock::new(Registry::new()),
            faults: Faults::default(),
            counters: Counters::default(),
            tokens: Tokens::new()?,
            config,
        })
    }

    /// The state, for as long as one request needs it; never held across an await.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<std::sync::Arc<Resource>> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).find(group, version, plural)
    }
}

/// Now, as the API writes it: RFC 3339 with whole seconds.
pub(crate) fn now() -> String {
    timestamp(OffsetDateTime::now_utc())
}

/// A time as the API writes it.
pub(crate) fn timestamp(time: OffsetDateTime) -> String {
    time.replace_nanosecond(0).ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

/// What the server appends to a `generateName`: five characters that read as no word.
pub(crate) fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let random = uuid::Uuid::new_v4().into_bytes();
    random.iter().take(5).map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()] as char).collect()
}
