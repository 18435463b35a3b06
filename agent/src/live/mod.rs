//! The open connections of this node, with the facts each was judged by.
//!
//! When the mesh's state changes, connections whose facts the change can concern are judged again by the same evaluator
//! that let them in, and those it now refuses are killed. The registry holds no socket: it kills by a token the relay obeys.

mod kernel;
mod open;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use weft_core::model::{Identity, ObjectName};
use weft_core::policy::{ConnectionFacts, DenyReason, Verdict, authorize};
use weft_core::snapshot::Snapshot;

use crate::observe::Meter;
use crate::telemetry::access::{Direction, Path};

pub use kernel::end;
pub use open::Open;

/// What is known of an open connection.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Which half carries it.
    pub direction: Direction,
    /// How it travels.
    pub path: Path,
    /// UID of the pod of this node it belongs to.
    pub pod: Arc<str>,
    /// That pod's name.
    pub pod_name: ObjectName,
    /// The peer's identity, from its certificate (inbound) or as demanded of it (outbound); `None` in plaintext.
    pub peer: Option<Identity>,
    /// The client's address.
    pub source: SocketAddr,
    /// The address the client dialled (outbound) or the app listens on (inbound).
    pub destination: SocketAddr,
    /// The endpoint an outbound connection was given to.
    pub endpoint: Option<SocketAddr>,
    /// When it was opened.
    pub opened: Instant,
    /// Its bytes.
    pub meter: Arc<Meter>,
}

/// In a box, since a table of many keeps room for more.
struct Entry {
    connection: Connection,
    kill: CancellationToken,
}

/// The registry.
#[derive(Default)]
pub struct Live {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Box<Entry>>>,
}

/// A connection's place in the registry; dropping it takes the connection out.
pub struct Registered {
    live: Arc<Live>,
    id: u64,
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
    pub connection: Connection,
    /// Why the evaluator now refuses it.
    pub reason: DenyReason,
}

impl Live {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<u64, Box<Entry>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a connection; `kill` is cancelled when it must end.
    #[must_use]
    pub fn register(self: &Arc<Self>, connection: Connection, kill: CancellationToken) -> Registered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.entries().insert(id, Box::new(Entry { connection, kill }));
        Registered { live: Arc::clone(self), id }
    }

    /// Judges every inbound connection for which `concerned` holds again under `snapshot`, and kills those it refuses.
    ///
    /// Authorization is the server's: outbound connections are judged where they arrive.
    pub fn judge_again(&self, snapshot: &Snapshot, concerned: impl Fn(&Connection) -> bool) -> Vec<Killed> {
        let mut killed = Vec::new();
        for entry in self.entries().values() {
            let connection = &entry.connection;
            if connection.direction != Direction::Inbound || !concerned(connection) {
                continue;
            }
            if let Some(reason) = refusal(snapshot, connection) {
                entry.kill.cancel();
                killed.push(Killed { connection: connection.clone(), reason });
            }
        }
        killed
    }

    /// Every open connection, with its number.
    #[must_use]
    pub fn list(&self) -> Vec<(u64, Connection)> {
        self.entries().iter().map(|(id, e)| (*id, e.connection.clone())).collect()
    }

    /// Tells the metrics what has been carried since they were last told.
    pub fn flush(&self) {
        self.entries().values().for_each(|e| e.connection.meter.flush());
    }

    /// How many connections of a pod are open, both directions.
    #[must_use]
    pub fn count(&self, pod: &str) -> usize {
        self.entries().values().filter(|e| &*e.connection.pod == pod).count()
    }

    /// Kills every connection of a pod that no longer exists. Returns how many.
    pub fn kill_pod(&self, pod: &str) -> usize {
        let entries = self.entries();
        let of_pod = entries.values().filter(|e| &*e.connection.pod == pod);
        of_pod.map(|e| e.kill.cancel()).count()
    }
}

/// Why `connection` would be refused now; `None` if it would be let in, or its pod is no longer known (un-enrolment
/// leaves open connections alone, and a deleted pod's are ended by `kill_pod`).
fn refusal(snapshot: &Snapshot, connection: &Connection) -> Option<DenyReason> {
    let workload = snapshot.workload(&connection.pod)?;
    let facts = ConnectionFacts {
        destination: workload,
        port: connection.destination.port(),
        peer: connection.peer.as_ref(),
        source: connection.source.ip(),
    };
    match authorize(snapshot, &facts).verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny { reason, .. } => Some(reason),
    }
}
