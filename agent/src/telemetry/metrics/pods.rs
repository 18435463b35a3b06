//! How the pods of the node stand.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Pods of this node that were asked into the mesh.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PodCounts {
    /// Published as enrolled.
    pub enrolled: usize,
    /// Not yet.
    pub pending: usize,
    /// Of those pending: peers cannot reach their tunnel port, and reach them in plaintext.
    pub unreachable_plaintext: usize,
    /// Of those enrolled: peers cannot reach their tunnel port, and fail.
    pub unreachable_closed: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Connections {
    connections: &'static str,
}

#[derive(Debug, Default)]
pub(super) struct Pods {
    enrolled: Gauge,
    pending: Gauge,
    unreachable: Family<Connections, Gauge>,
}

impl Pods {
    pub(super) fn set(&self, counts: &PodCounts) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.enrolled.set(number(counts.enrolled));
        self.pending.set(number(counts.pending));
        for (connections, count) in [("plaintext", counts.unreachable_plaintext), ("closed", counts.unreachable_closed)]
        {
            self.unreachable.get_or_create(&Connections { connections }).set(number(count));
        }
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("enrolled_pods", "Pods of this node that are enrolled", self.enrolled.clone());
        let help = "Pods of this node that are asked into the mesh and not enrolled yet";
        registry.register("pending_pods", help, self.pending.clone());
        let help = "Pods of this node whose tunnel port peers cannot reach, by what becomes of connections to them";
        registry.register("unreachable_pods", help, self.unreachable.clone());
    }
}
