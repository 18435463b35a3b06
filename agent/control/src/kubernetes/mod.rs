//! Configuration from a cluster's API server: one watch for each kind, merged into the deltas that manifests lead to.
//!
//! Past this module nothing knows which of the two it was. What is known stays in force while the API server is away, and
//! goes only when a complete answer lacks it. Beside reading, the agent writes here what it has made of its own node's
//! Pods: an annotation, and an Event when one cannot be enrolled. The controller reads by the same watches ([`observe`]).

mod absence;
mod client;
mod clock;
mod end;
mod health;
mod installation;
mod item;
mod known;
mod lines;
mod live;
mod merge;
mod meta;
mod names;
mod news;
mod paced;
mod peers;
mod read;
mod text;
mod trim;
mod watch;
mod write;

use std::sync::Arc;

pub use kube::Client;
use tokio::sync::{mpsc, watch as cell};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::resource::Kind;
use super::source::Source;
use super::standing::Publisher;
use absence::Absence;
use merge::{Merge, State};
use watch::Watch;
use write::Writer;

pub use client::{ClientError, connect};
pub(crate) use end::causes;
pub use health::{Health, WatchHealth, WatchState};
pub use installation::Installation;
pub use item::{Attached, Facts, Item, PodFacts, SliceFacts};
pub use known::Known;
pub use live::Marks;
pub use names::Names;
pub use news::{Interest, News};

/// The kinds an agent watches: of Pods those of its node, of Nodes that one, of WorkloadSlices the controller's, all
/// of the others.
const KINDS: [Kind; 14] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::WorkloadSlice,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::TcpRoute,
    Kind::HttpRoute,
    Kind::GrpcRoute,
    Kind::ReferenceGrant,
    Kind::AuthorizationPolicy,
    Kind::PeerAuthentication,
    Kind::TrafficPolicy,
    Kind::BackendTrafficPolicy,
];
/// News the watches may be ahead of the merge: a WorkloadSlice is 50 kB of them.
const NEWS: usize = 32;

/// A cluster that is followed.
#[derive(Debug)]
pub struct Cluster {
    /// Its objects.
    pub source: Source,
    /// How fresh they are.
    pub health: Health,
    /// Where the agent says how its pods stand.
    pub publisher: Publisher,
}

/// What watches tell.
#[derive(Debug)]
pub struct Observed {
    /// What they have to tell, as it comes.
    pub news: mpsc::Receiver<(Kind, News)>,
    /// How fresh it is.
    pub health: Health,
    /// Held for its drop, which ends the watches.
    pub stop: DropGuard,
}

/// Begins to watch.
#[must_use]
pub fn observe(client: &Client, interests: impl IntoIterator<Item = Interest>) -> Observed {
    let interests: Vec<_> = interests.into_iter().collect();
    let health = Health::new(interests.iter().map(|interest| interest.kind));
    let stop = CancellationToken::new();
    let (send, news) = mpsc::channel(NEWS);
    let (absence, search) = Absence::of(client);
    tokio::spawn(stop.clone().run_until_cancelled_owned(search.run()));
    for interest in interests {
        let watch = Watch::new(client.clone(), interest, health.clone(), send.clone(), absence.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch.run()));
    }
    Observed { news, health, stop: stop.drop_guard() }
}

/// What the agent of `node` watches, the mesh itself being in `namespace`.
pub fn interests(node: &str, namespace: &str) -> impl Iterator<Item = Interest> {
    KINDS.into_iter().map(move |kind| interest(kind, node, namespace))
}

/// What an agent of `node` watches of a kind, the mesh itself being in `namespace`.
fn interest(kind: Kind, node: &str, namespace: &str) -> Interest {
    match kind {
        Kind::Pod => Interest { fields: Some(format!("spec.nodeName={node}")), ..kind.into() },
        Kind::Node => Interest { fields: Some(format!("metadata.name={node}")), ..kind.into() },
        // Elsewhere whoever may make them there could say anything about anybody's pods.
        Kind::WorkloadSlice => Interest { namespace: Some(namespace.into()), ..kind.into() },
        _ => kind.into(),
    }
}

/// Begins to follow the cluster that `client` reaches, for the agent of `node`. The controller publishes in `namespace`.
#[must_use]
pub fn follow(client: &Client, node: &str, namespace: &str) -> Cluster {
    let Observed { news, health, stop: watches } = observe(client, interests(node, namespace));
    let node: Arc<str> = node.into();
    let stop = CancellationToken::new();
    let (send_deltas, deltas) = mpsc::channel(1);
    let (send_problems, problems) = cell::channel(Arc::default());
    let (standings, stands) = cell::channel(None);
    let (send_here, here) = cell::channel(Arc::default());
    let merge = Merge {
        state: State::new(node.clone(), namespace.into(), &KINDS),
        news,
        standings: stands.clone(),
        deltas: send_deltas,
        problems: send_problems,
        here: send_here,
    };
    tokio::spawn(stop.clone().run_until_cancelled_owned(merge.run()));
    let marks = Marks(here.clone());
    let writer = Writer::new(client.clone(), node, stands, here);
    tokio::spawn(stop.clone().run_until_cancelled_owned(writer.run()));
    let source = Source { deltas, problems, _stop: Box::new((watches, stop.drop_guard())) };
    Cluster { source, health, publisher: Publisher::Cluster { standings, marks } }
}

#[cfg(test)]
mod tests;
