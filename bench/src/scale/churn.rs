//! Endpoint changes, written as the EndpointSlice controller writes them: a whole object each, at an even rate, whatever
//! becomes of those before; and the changes of one Service whose way into the data path is timed.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use weft_control::kubernetes::{Client, connect};

use super::objects::{Size, slice_name};
use super::probe::{answers, monotonic};

/// Writes under way at once; more are not begun, and are late.
const UNDER_WAY: usize = 64;
/// Time a change gets to be seen before the run is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of the writes.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Written {
    /// Those accepted.
    pub accepted: u64,
    /// Those refused or not answered.
    pub failed: u64,
    /// Seconds it took.
    pub seconds: f64,
}

impl Written {
    /// Changes a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.accepted as f64 / self.seconds.max(f64::MIN_POSITIVE)
    }
}

/// Endpoint changes of all Services.
pub(super) struct Churn {
    client: Client,
    size: Size,
    /// Which endpoints are not ready, by Service.
    unready: Vec<AtomicU32>,
    accepted: AtomicU64,
    failed: AtomicU64,
    seed: AtomicU64,
}

impl Churn {
    /// Of the cluster a kubeconfig names.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub(super) async fn new(kubeconfig: &Path, size: Size) -> Result<Arc<Self>> {
        let client = connect(Some(kubeconfig), "weft-scale").await?;
        let unready = (0..size.services).map(|_| AtomicU32::new(0)).collect();
        let zero = AtomicU64::default;
        Ok(Arc::new(Self { client, size, unready, accepted: zero(), failed: zero(), seed: AtomicU64::new(1) }))
    }

    /// Makes `rate` changes a second for as long as `meanwhile` runs.
    ///
    /// # Errors
    /// Those of `meanwhile`.
    pub(super) async fn during<T>(
        self: &Arc<Self>,
        rate: u32,
        meanwhile: impl Future<Output = Result<T>>,
    ) -> Result<(T, Written)> {
        let before = (self.accepted.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        let began = Instant::now();
        let done = tokio::select! {
            done = meanwhile => done?,
            () = self.run(rate) => bail!("the changes ended by themselves"),
        };
        let seconds = began.elapsed().as_secs_f64();
        let written = Written {
            accepted: self.accepted.load(Ordering::Relaxed) - before.0,
            failed: self.failed.load(Ordering::Relaxed) - before.1,
            seconds,
        };
        Ok((done, written))
    }

    async fn run(self: &Arc<Self>, rate: u32) {
        let mut tick = tokio::time::interval(Duration::from_secs(1) / rate);
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let room = Arc::new(Semaphore::new(UNDER_WAY));
        loop {
            tick.tick().await;
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            let this = self.clone();
            tokio::spawn(async move {
                let outcome = this.change_one().await;
                let counter = if outcome.is_ok() { &this.accepted } else { &this.failed };
                counter.fetch_add(1, Ordering::Relaxed);
                drop(permit);
            });
        }
    }

    /// One endpoint of a random Service becomes ready, or ceases to be.
    async fn change_one(&self) -> Result<()> {
        let drawn = self.seed.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16;
        let service = drawn as usize % self.size.services;
        let endpoint = (drawn >> 24) as usize % self.size.replicas;
        let unready = self.unready[service].fetch_xor(1 << endpoint, Ordering::Relaxed) ^ 1 << endpoint;
        let slice = self.size.slice(service, unready, drawn & 0xffff);
        let namespace = self.size.namespace_of(service);
        write_slice(&self.client, &namespace, &slice_name(service), &slice).await
    }

    /// Makes `count` changes of one Service's only endpoint, and waits for each to be seen by the client whose log it is.
    /// Yields for each the milliseconds from when it was sent, and from when its acceptance was known, to the beginning of
    /// the first connection that reached the new endpoint.
    ///
    /// # Errors
    /// When one is not seen in time.
    pub(super) async fn time_changes(&self, probe: &Probe, count: usize) -> Result<Vec<(f64, f64)>> {
        let mut times = Vec::with_capacity(count);
        for change in 0..count {
            let (name, slice) = &probe.states[(change + 1) % probe.states.len()];
            let seen = answers(&probe.log()).len();
            let sent = monotonic()?;
            write_slice(&self.client, &probe.namespace, &probe.slice, slice).await?;
            let accepted = monotonic()?;
            let reached = self.reached(probe, name, seen).await?;
            let since = |from: u64| (reached as f64 - from as f64).max(0.0) / 1e6;
            times.push((since(sent), since(accepted)));
            // Not in step with anything that ticks.
            tokio::time::sleep(Duration::from_micros(40_000 + change as u64 * 7_919 % 50_000)).await;
        }
        Ok(times)
    }

    async fn reached(&self, probe: &Probe, name: &str, seen: usize) -> Result<u64> {
        let began = Instant::now();
        loop {
            let log = probe.log();
            let news = answers(&log).split_off(seen);
            if let Some((_, failure)) = news.iter().find(|(_, who)| who.starts_with('!')) {
                bail!("a connection failed while an endpoint changed: {failure}");
            }
            if let Some((time, _)) = news.iter().find(|(_, who)| *who == name) {
                return Ok(*time);
            }
            ensure!(began.elapsed() < PATIENCE, "no connection reached {name}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A Service whose only endpoint changes.
pub(super) struct Probe {
    /// Its namespace.
    pub(super) namespace: String,
    /// The name of its EndpointSlice.
    pub(super) slice: String,
    /// Who answers, and the slice that says so, in turns; the first holds at the beginning.
    pub(super) states: Vec<(String, Value)>,
    /// Reads what the client has printed.
    pub(super) read: Box<dyn Fn() -> String + Send + Sync>,
}

impl Probe {
    fn log(&self) -> String {
        (self.read)()
    }
}

async fn write_slice(client: &Client, namespace: &str, name: &str, slice: &Value) -> Result<()> {
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices/{name}");
    let request =
        http::Request::put(path).header("content-type", "application/json").body(slice.to_string().into_bytes())?;
    client.request_text(request).await.with_context(|| format!("writing {namespace}/{name}")).map(drop)
}
