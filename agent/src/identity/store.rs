//! Keeps a valid certificate for every identity of this node's pods.
//!
//! One task per identity: issue, publish, wait until somewhere between 50 and 80 % of the life (so that a fleet started
//! together does not ask together), issue again. A failure backs off and keeps what is valid; what has expired is not
//! handed out. Running connections never notice.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};
use weft_core::model::Identity;

use super::key::FreshKey;
use super::provider::provider;
use super::{Authority, CertificateRequest, Credentials, CredentialsError, PeerCertificate, Unavailable};
use crate::telemetry::Metrics;

/// How certificates are asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long a certificate shall last.
    pub lifetime: Duration,
    /// The first pause after a failure; it doubles up to `retry_max`.
    pub retry_min: Duration,
    /// The longest pause between attempts.
    pub retry_max: Duration,
    /// How often the trust anchors are compared with the authority's.
    pub anchors_every: Duration,
    /// Where failures are counted.
    pub metrics: Option<Metrics>,
    /// What tunnels are encrypted with.
    pub provider: Arc<CryptoProvider>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(24 * 3600),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(60),
            anchors_every: Duration::from_secs(15),
            metrics: None,
            provider: provider(),
        }
    }
}

/// Requests in flight at once: a node with hundreds of pods must not flood the authority when it starts.
const CONCURRENT_REQUESTS: usize = 8;

/// How an identity is doing, for metrics and `weft status`.
#[derive(Debug, Clone)]
pub struct IdentityState {
    /// Whom this is about.
    pub identity: Identity,
    /// Until when the certificate held is valid; none yet if absent.
    pub not_after: Option<SystemTime>,
    /// The serial number of the certificate held.
    pub serial: Option<String>,
    /// The last failure, until a success clears it.
    pub failure: Option<String>,
}

#[derive(Debug, Clone, Default)]
struct Held {
    credentials: Option<Arc<Credentials>>,
    failure: Option<CredentialsError>,
}

struct Entry {
    held: watch::Receiver<Held>,
    task: AbortHandle,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The certificates of this node's identities, kept fresh.
pub struct Identities {
    authority: Arc<dyn Authority>,
    settings: Settings,
    slots: Arc<Semaphore>,
    entries: Mutex<HashMap<Identity, Entry>>,
}

impl Identities {
    /// An empty store that asks `authority`.
    #[must_use]
    pub fn new(authority: Arc<dyn Authority>, settings: Settings) -> Arc<Self> {
        let slots = Arc::new(Semaphore::new(CONCURRENT_REQUESTS));
        Arc::new(Self { authority, settings, slots, entries: Mutex::default() })
    }

    /// Starts keeping a certificate for `identity`, if it is not kept already. Needs a running tokio runtime.
    pub fn ensure(&self, identity: &Identity) {
        let mut entries = self.entries();
        if entries.contains_key(identity) {
            return;
        }
        let (publish, held) = watch::channel(Held::default());
        let keeper = Keeper {
            identity: identity.clone(),
            authority: Arc::clone(&self.authority),
            settings: self.settings.clone(),
            slots: Arc::clone(&self.slots),
            publish,
        };
        let task = tokio::spawn(keeper.run()).abort_handle();
        entries.insert(identity.clone(), Entry { held, task });
    }

    /// Stops keeping `identity`; its key is gone with the last tunnel that uses it.
    pub fn forget(&self, identity: &Identity) {
        self.entries().remove(identity);
    }

    /// Keeps exactly `identities`: starts what is missing, forgets the rest.
    pub fn keep_only(&self, identities: &BTreeSet<Identity>) {
        self.entries().retain(|identity, _| identities.contains(identity));
        for identity in identities {
            self.ensure(identity);
        }
    }

    /// The certificate of `identity`, if there is a valid one now.
    #[must_use]
    pub fn credentials(&self, identity: &Identity) -> Option<Arc<Credentials>> {
        self.entries().get(identity).and_then(|entry| valid(&entry.held.borrow()))
    }

    /// The certificate of `identity`, waiting until `deadline` for the first one.
    ///
    /// # Errors
    /// [`Unavailable`] says why the last attempt failed.
    pub async fn wait(&self, identity: &Identity, deadline: Instant) -> Result<Arc<Credentials>, Unavailable> {
        let unavailable = |last| Unavailable { identity: identity.clone(), last };
        let Some(mut held) = self.entries().get(identity).map(|entry| entry.held.clone()) else {
            return Err(unavailable(None));
        };
        let arrived = timeout_at(deadline, held.wait_for(|held| valid(held).is_some())).await.is_ok();
        let now = held.borrow();
        arrived.then(|| valid(&now)).flatten().ok_or_else(|| unavailable(now.failure.clone()))
    }

    /// How every identity is doing, in no particular order.
    #[must_use]
    pub fn states(&self) -> Vec<IdentityState> {
        let state = |(identity, entry): (&Identity, &Entry)| {
            let held = entry.held.borrow();
            let leaf = held.credentials.as_ref().map(|credentials| credentials.leaf());
            IdentityState {
                identity: identity.clone(),
                not_after: leaf.map(|leaf| leaf.not_after),
                serial: leaf.map(|leaf| leaf.serial.clone()),
                failure: held.failure.as_ref().map(ToString::to_string),
            }
        };
        self.entries().iter().map(state).collect()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Identity, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn valid(held: &Held) -> Option<Arc<Credentials>> {
    held.credentials.clone().filter(|credentials| credentials.valid_at(SystemTime::now()))
}

/// The task behind one identity.
struct Keeper {
    identity: Identity,
    authority: Arc<dyn Authority>,
    settings: Settings,
    slots: Arc<Semaphore>,
    publish: watch::Sender<Held>,
}

impl Keeper {
    async fn run(self) {
        let mut failures = 0_u32;
        loop {
            match self.issue().await {
                Ok(credentials) => {
                    failures = 0;
                    let due = refresh_at(credentials.leaf().not_after);
                    tracing::debug!(identity = %self.identity, serial = %credentials.leaf().serial, "certificate issued");
                    self.publish.send_replace(Held { credentials: Some(Arc::new(credentials)), failure: None });
                    self.rest_until(due).await;
                }
                Err(error) => {
                    tracing::warn!(identity = %self.identity, %error, "no certificate; trying again");
                    if let Some(metrics) = &self.settings.metrics {
                        metrics.certificate_failed(error.reason());
                    }
                    self.publish.send_modify(|held| held.failure = Some(error));
                    sleep(self.pause(failures)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    async fn issue(&self) -> Result<Credentials, CredentialsError> {
        let _slot = self.slots.acquire().await;
        let key = FreshKey::generate(&self.identity)?;
        let request =
            CertificateRequest { identity: self.identity.clone(), csr: key.csr, lifetime: self.settings.lifetime };
        let issued = self.authority.sign(request).await?;
        let provider = Arc::clone(&self.settings.provider);
        let credentials = Credentials::under(provider, &self.identity, key.signing, issued.chain, issued.anchors)?;
        // What is held serves on, and nobody is shown what peers with the same clock would not believe.
        match out_of_time(credentials.leaf(), SystemTime::now()) {
            None => Ok(credentials),
            Some((early, by)) => Err(CredentialsError::Clock { identity: self.identity.clone(), early, by }),
        }
    }

    /// Waits for the wall clock to pass `due`, adopting changed trust anchors meanwhile.
    ///
    /// In short steps, because a suspended machine's monotonic clock does not see its certificates age.
    async fn rest_until(&self, due: SystemTime) {
        while let Ok(left) = due.duration_since(SystemTime::now()) {
            sleep(left.min(self.settings.anchors_every)).await;
            self.adopt_anchors().await;
        }
    }

    async fn adopt_anchors(&self) {
        let Some(held) = self.publish.borrow().credentials.clone() else { return };
        let Ok(anchors) = self.authority.anchors().await else { return };
        if anchors.is_empty() || anchors == held.anchors() {
            return;
        }
        match held.with_anchors(anchors) {
            Ok(credentials) => {
                tracing::info!(identity = %self.identity, "trust anchors changed");
                self.publish.send_replace(Held { credentials: Some(Arc::new(credentials)), failure: None });
            }
            Err(error) => tracing::warn!(identity = %self.identity, %error, "new trust anchors are not usable"),
        }
    }

    fn pause(&self, failures: u32) -> Duration {
        let full = self.settings.retry_min.saturating_mul(1 << failures.min(16)).min(self.settings.retry_max);
        full.mul_f64(rand::random_range(0.5..=1.0))
    }
}

/// Whether a certificate is not valid yet, or not any more, and for how long.
fn out_of_time(leaf: &PeerCertificate, now: SystemTime) -> Option<(bool, Duration)> {
    let wait = leaf.not_before.duration_since(now).unwrap_or_default();
    if !wait.is_zero() {
        return Some((true, wait));
    }
    now.duration_since(leaf.not_after).ok().map(|over| (false, over))
}

/// A moment between 50 and 80 % of what is left of the certificate's life.
fn refresh_at(not_after: SystemTime) -> SystemTime {
    let now = SystemTime::now();
    let left = not_after.duration_since(now).unwrap_or_default();
    now + left.mul_f64(rand::random_range(0.5..=0.8))
}
