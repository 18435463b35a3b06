//! Which endpoints are near: by the hints of their slices and where the connections begin, as kube-proxy has it.
//!
//! If every ready endpoint of a service port is hinted for nodes and one of them for this node, those hinted for it are
//! near. Else, if every one is hinted for zones and one of them for this zone, those hinted for that. Else all are alike.
//! Whose turn it is when the near ones are not well is not decided here.

use std::sync::Arc;

use super::Snapshot;
use crate::model::{EndpointAddress, Preference};

/// Where the connections begin for which a snapshot decides: on the agent's node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Here {
    /// The node's name; empty is nowhere.
    pub node: Arc<str>,
    /// Its zone, where that does not come from the Node object.
    pub zone: Option<Arc<str>>,
}

/// How near an endpoint is, as far as its service cares; the nearest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Proximity {
    /// Meant for this node.
    Node,
    /// Meant for this zone.
    Zone,
    /// As far as any other.
    Anywhere,
}

impl Proximity {
    /// How many there are.
    pub(crate) const LEVELS: usize = 3;

    /// In a word, for a person; nothing to say of what is as far as any other.
    #[must_use]
    pub const fn label(self) -> Option<&'static str> {
        match self {
            Self::Node => Some("node"),
            Self::Zone => Some("zone"),
            Self::Anywhere => None,
        }
    }
}

/// An endpoint and what its place depends on.
pub(super) struct Placed<'a> {
    pub(super) endpoint: &'a EndpointAddress,
    /// The node it is on, if that is known.
    pub(super) node: Option<&'a Arc<str>>,
    pub(super) ready: bool,
}

/// What a hint says of this node or zone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    Absent,
    Elsewhere,
    Here,
}

impl Hint {
    fn of(meant: bool) -> Self {
        if meant { Self::Here } else { Self::Elsewhere }
    }
}

/// The proximity of each of `all`, in their order.
pub(super) fn proximities(snapshot: &Snapshot, prefers: Preference, all: &[Placed<'_>]) -> Vec<Proximity> {
    if prefers == Preference::None && all.iter().all(|placed| placed.endpoint.place.hints.is_none()) {
        return vec![Proximity::Anywhere; all.len()];
    }
    let hints = Hints { snapshot, prefers, zone: snapshot.zone() };
    let seen: Vec<(bool, Hint, Hint)> =
        all.iter().map(|placed| (placed.ready, hints.node(placed), hints.zone(placed))).collect();
    let ready = || seen.iter().filter(|(ready, ..)| *ready);
    let by_node = ready().all(|(_, node, _)| *node != Hint::Absent) && ready().any(|(_, node, _)| *node == Hint::Here);
    let by_zone = ready().all(|(.., zone)| *zone != Hint::Absent) && ready().any(|(.., zone)| *zone == Hint::Here);
    let proximity = |(_, node, zone): &(bool, Hint, Hint)| match (node, zone) {
        (Hint::Here, _) if by_node => Proximity::Node,
        (_, Hint::Here) if by_zone => Proximity::Zone,
        _ => Proximity::Anywhere,
    };
    seen.iter().map(proximity).collect()
}

/// How hints are read.
struct Hints<'a> {
    snapshot: &'a Snapshot,
    prefers: Preference,
    zone: Option<&'a Arc<str>>,
}

impl Hints<'_> {
    /// Where a slice gives no hints, those Kubernetes would write for its Service's `trafficDistribution`. Kubernetes hints
    /// ready endpoints only: where the others belong follows from where they are.
    fn node(&self, placed: &Placed<'_>) -> Hint {
        let here = &self.snapshot.here().node;
        match &placed.endpoint.place.hints {
            Some(hints) if !hints.nodes.is_empty() => Hint::of(hints.nodes.contains(here)),
            None if self.prefers == Preference::SameNode || !placed.ready => {
                placed.node.map_or(Hint::Absent, |node| Hint::of(node == here))
            }
            _ => Hint::Absent,
        }
    }

    fn zone(&self, placed: &Placed<'_>) -> Hint {
        let is_here = |zone: &Arc<str>| Some(zone) == self.zone;
        match &placed.endpoint.place.hints {
            Some(hints) if !hints.zones.is_empty() => Hint::of(hints.zones.iter().any(is_here)),
            None if self.prefers != Preference::None || !placed.ready => {
                let of_node = || self.snapshot.zone_of(placed.node?);
                let zone = placed.endpoint.place.zone.as_ref().or_else(of_node);
                zone.map_or(Hint::Absent, |zone| Hint::of(is_here(zone)))
            }
            _ => Hint::Absent,
        }
    }
}

#[cfg(test)]
mod tests;
