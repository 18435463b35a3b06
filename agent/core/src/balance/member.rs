//! What is known of one endpoint of one service port, for as long as the same pod has the same address.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::checks::Checked;
use super::ewma::{Ewma, Timing};
use super::lock;
use super::outlier::Outlier;
use crate::model::{HealthCheck, SuccessRate};
use crate::route::Target;
use crate::snapshot::Snapshot;

/// State of an endpoint. Its counters are read without a lock: a pick that sees one a moment old is as good.
#[derive(Debug)]
pub(super) struct Member {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// The pod behind the address.
    pub(super) uid: Option<Arc<str>>,
    /// When it appeared, if its service port was in use by then.
    pub(super) joined: Option<Instant>,
    /// Picks that are being connected or stand.
    in_flight: AtomicU32,
    /// The number of its last turn in round robin, of its service port's turns.
    turn: AtomicU64,
    condition: Mutex<Condition>,
    target: Mutex<Option<Dialled>>,
}

/// How it is dialled, as a snapshot of this generation has it.
#[derive(Debug)]
struct Dialled {
    generation: u64,
    target: Target,
}

/// What connections tell of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Condition {
    ewma: Ewma,
    pub(super) outlier: Outlier,
    checked: Checked,
}

impl Member {
    /// Nothing is known yet.
    pub(super) fn new(address: SocketAddr, uid: Option<Arc<str>>, joined: Option<Instant>) -> Self {
        let (in_flight, turn) = (AtomicU32::new(0), AtomicU64::new(0));
        Self { address, uid, joined, in_flight, turn, condition: Mutex::default(), target: Mutex::default() }
    }

    /// How to dial it. Worked out once for a snapshot; where nothing has changed, connections to it share what they hold of
    /// its pod.
    pub(super) fn target(&self, snapshot: &Snapshot) -> Target {
        let mut held = lock(&self.target);
        if let Some(held) = held.as_ref().filter(|held| held.generation == snapshot.generation()) {
            return held.target.clone();
        }
        let mut target = Target::at(snapshot, self.address);
        if let Some(held) = held.take().filter(|held| held.target == target) {
            target = held.target;
        }
        *held = Some(Dialled { generation: snapshot.generation(), target: target.clone() });
        target
    }

    /// Connections in flight.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// One more in flight.
    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// One fewer in flight.
    pub(super) fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its last turn in round robin.
    pub(super) fn turn(&self) -> u64 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Notes its turn.
    pub(super) fn take_turn(&self, number: u64) {
        self.turn.store(number, Ordering::Relaxed);
    }

    /// What its connect times say; `None` if connecting never succeeded.
    pub(super) fn timing(&self, now: Instant) -> Option<Timing> {
        lock(&self.condition).ewma.timing(now)
    }

    /// A connection stood after `took`. Returns whether that readmits the endpoint, and whether it clears it of suspicion.
    pub(super) fn connected(&self, rate: Option<&SuccessRate>, took: Duration, now: Instant) -> (bool, bool) {
        let mut condition = lock(&self.condition);
        condition.ewma.observe(took, now);
        let suspect = condition.outlier.is_suspect();
        (condition.outlier.succeeded(rate, now), suspect)
    }

    /// It was checked. Returns whether that makes it healthy or unhealthy, and whether it readmits it.
    pub(super) fn checked(&self, good: bool, settings: &HealthCheck, now: Instant) -> (bool, bool) {
        let mut condition = lock(&self.condition);
        let changes = condition.checked.note(good, settings);
        let proven = condition.checked.is_proven(settings) && !condition.outlier.serves();
        (changes, proven && condition.outlier.succeeded(None, now))
    }

    /// It is not checked any more. Returns whether it was unhealthy.
    pub(super) fn unchecked(&self) -> bool {
        !std::mem::take(&mut lock(&self.condition).checked).is_healthy()
    }

    /// Whether checks, if there are any, find it well.
    pub(super) fn is_healthy(&self) -> bool {
        lock(&self.condition).checked.is_healthy()
    }

    /// Whether it takes part in balancing.
    pub(super) fn serves(&self) -> bool {
        let condition = lock(&self.condition);
        condition.outlier.serves() && condition.checked.is_healthy()
    }

    /// When a connection is to find out whether it is well again; `None` where checks do that.
    pub(super) fn due(&self) -> Option<Instant> {
        let condition = lock(&self.condition);
        condition.outlier.due().filter(|_| condition.checked.is_healthy())
    }

    /// It was ejected: good checks before that say nothing.
    pub(super) fn ejected(&self) {
        lock(&self.condition).checked.begin_anew();
    }

    /// Reads or drives its ejection.
    pub(super) fn outlier<R>(&self, look: impl FnOnce(&mut Outlier) -> R) -> R {
        look(&mut lock(&self.condition).outlier)
    }
}
