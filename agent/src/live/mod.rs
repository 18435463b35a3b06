//! The open connections of this node, with the facts each was judged by.
//!
//! When the mesh's state changes, connections whose facts the change can concern are judged again by the same evaluator
//! that let them in, and those it now refuses are killed. The registry holds no socket: it kills by a word the relay obeys.

mod kernel;
mod open;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_core::policy::{ConnectionFacts, DenyReason, Verdict, authorize};
use weft_core::snapshot::Snapshot;

use crate::observe::Connection;
use crate::telemetry::access::Direction;

pub use kernel::end;
pub use open::Open;

/// The registry.
#[derive(Default)]
pub struct Live {
    next: AtomicU64,
    closed: AtomicBool,
    open: Mutex<HashMap<u64, Arc<Connection>>>,
}

/// A connection's place in the registry; dropping it takes the connection out.
pub struct Registered {
    live: Arc<Live>,
    id: u64,
    connection: Arc<Connection>,
}

impl Registered {
    /// What is registered.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.live.entries().remove(&self.id);
    }
}

/// A connection that a change of policy ended.
#[derive(Clone, Debug)]
pub struct Killed {
    /// The connection.
    pub connection: Arc<Connection>,
    /// Why the evaluator now refuses it.
    pub reason: DenyReason,
}

impl Live {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Arc<Connection>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection, which is told when it must end.
    #[must_use]
    pub fn register(self: &Arc<Self>, connection: Connection) -> Registered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(connection);
        self.entries().insert(id, Arc::clone(&connection));
        // After it was entered: either this sees the end of all, or that sees this.
        if self.closed.load(Ordering::SeqCst) {
            connection.meter.flow.kill.end();
        }
        Registered { live: Arc::clone(self), id, connection }
    }

    /// Judges every inbound connection for which `concerned` holds again under `snapshot`, and kills those it refuses.
    ///
    /// Authorization is the server's: outbound connections are judged where they arrive.
    pub fn judge_again(&self, snapshot: &Snapshot, concerned: impl Fn(&Connection) -> bool) -> Vec<Killed> {
        let mut killed = Vec::new();
        for connection in self.entries().values() {
            if connection.record.direction != Direction::Inbound || !concerned(connection) {
                continue;
            }
            if let Some(reason) = refusal(snapshot, connection) {
                connection.meter.flow.kill.end();
                killed.push(Killed { connection: Arc::clone(connection), reason });
            }
        }
        killed
    }

    /// Every open connection, with its number.
    #[must_use]
    pub fn list(&self) -> Vec<(u64, Arc<Connection>)> {
        self.entries().iter().map(|(id, connection)| (*id, Arc::clone(connection))).collect()
    }

    /// Tells the metrics what has been carried since they were last told.
    pub fn flush(&self) {
        self.entries().values().for_each(|connection| connection.meter.flush());
    }

    /// How many connections of a pod are open, both directions.
    #[must_use]
    pub fn count(&self, pod: &str) -> usize {
        self.entries().values().filter(|connection| &*connection.pod == pod).count()
    }

    /// Kills every connection of a pod that no longer exists. Returns how many.
    pub fn kill_pod(&self, pod: &str) -> usize {
        let entries = self.entries();
        let of_pod = entries.values().filter(|connection| &*connection.pod == pod);
        of_pod.map(|connection| connection.meter.flow.kill.end()).count()
    }

    /// Kills every connection there is, and those that are entered later.
    pub fn kill_all(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.entries().values().for_each(|connection| connection.meter.flow.kill.end());
    }
}

/// Why `connection` would be refused now; `None` if it would be let in, or its pod is no longer known (un-enrolment
/// leaves open connections alone, and a deleted pod's are ended by `kill_pod`).
fn refusal(snapshot: &Snapshot, connection: &Connection) -> Option<DenyReason> {
    let workload = snapshot.workload(&connection.pod)?;
    let facts = ConnectionFacts {
        destination: workload,
        port: connection.destination().port(),
        peer: connection.peer(),
        source: connection.source().ip(),
    };
    match authorize(snapshot, &facts).verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny { reason, .. } => Some(reason),
    }
}
