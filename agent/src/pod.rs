//! An enrolled pod of this node, as the data path sees it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;
use weft_core::model::{Identity, ObjectName, Workload};
use weft_core::snapshot::Snapshot;

use crate::sys::NetNs;
use crate::tunnel::Budget;

/// Gives the current snapshot; each connection asks once and decides by that one.
pub type Snapshots = Arc<dyn Fn() -> Arc<Snapshot> + Send + Sync>;

/// A pod whose connections this agent carries. It does not change while the pod is enrolled.
#[derive(Debug)]
pub struct Pod {
    /// Its UID.
    pub uid: Arc<str>,
    /// Its name.
    pub name: ObjectName,
    /// Who it is.
    pub identity: Identity,
    /// Its network namespace.
    pub netns: Arc<NetNs>,
    /// Its addresses, the primary one first.
    pub addresses: Arc<[IpAddr]>,
    /// What is told to peers about it; they are not to believe it.
    pub baggage: Option<Arc<str>>,
    /// Turns for the handshakes of tunnels that come to it.
    pub handshakes: Arc<Semaphore>,
    /// What its slow readers may cost.
    pub budget: Arc<Budget>,
    /// A peer has reached its tunnel port since somebody last looked.
    pub reached: AtomicBool,
}

impl Pod {
    /// The pod's address of the same family as `other`: what the other side sees as the source.
    #[must_use]
    pub fn address_like(&self, other: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| a.is_ipv4() == other.is_ipv4())
    }

    /// The workload as `snapshot` has it now; labels and weights change while a pod runs.
    #[must_use]
    pub fn workload<'s>(&self, snapshot: &'s Snapshot) -> Option<&'s Arc<Workload>> {
        snapshot.workload(&self.uid)
    }
}
