//! The node's own addresses, from which kubelet probes its pods: told to the kernel, and again when they change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::steer::Steering;
use crate::sys::link::Changes;

/// The addresses of the node's network namespace.
pub(super) struct NodeAddresses {
    changes: Changes,
    own: BTreeSet<IpAddr>,
}

impl NodeAddresses {
    /// Reads them, and tells the kernel.
    pub(super) async fn new(steering: &Steering) -> std::io::Result<Self> {
        let changes = steering.address_changes()?;
        let mut addresses = Self { changes, own: BTreeSet::new() };
        addresses.read(steering).await;
        Ok(addresses)
    }

    /// As they were read last.
    pub(super) fn own(&self) -> &BTreeSet<IpAddr> {
        &self.own
    }

    /// Waits until some have come or gone; [`Self::read`] then reads them.
    pub(super) async fn changed(&mut self) {
        self.changes.next().await;
    }

    /// Reads them, and tells the kernel.
    pub(super) async fn read(&mut self, steering: &Steering) {
        match steering.node_addresses().await {
            Ok(own) => self.own = own,
            Err(error) => {
                return tracing::warn!(%error, "the node's addresses cannot be read: kubelet's probes may be refused");
            }
        }
        if let Err(error) = steering.set_node_addresses(&self.own) {
            tracing::error!(%error, "the kernel cannot be told the node's addresses: kubelet's probes may be refused");
        }
    }
}
