//! Configuration from a cluster's API server: one watch for each kind, merged into the deltas that manifests lead to.
//!
//! Past this module nothing knows which of the two it was. What is known stays in force while the API server is away, and
//! goes only when a complete answer lacks it. Beside reading, the agent writes here what it has made of its own node's
//! Pods: an annotation, and an Event when one cannot be enrolled.

mod client;
mod end;
mod health;
mod known;
mod lines;
mod live;
mod merge;
mod read;
mod trim;
mod watch;
mod write;

use std::sync::Arc;

use kube::Client;
use tokio::sync::{mpsc, watch as cell};
use tokio_util::sync::CancellationToken;

use super::resource::Kind;
use super::source::Source;
use super::standing::Publisher;
use merge::{Merge, State};
use watch::Watch;
use write::Writer;

pub use client::{ClientError, connect};
pub use health::{Health, WatchHealth, WatchState};
pub use live::Marks;

/// The kinds an agent watches.
const KINDS: [Kind; 9] = [
    Kind::Namespace,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::TcpRoute,
    Kind::ReferenceGrant,
    Kind::AuthorizationPolicy,
    Kind::PeerAuthentication,
    Kind::TrafficPolicy,
];
/// News the watches may be ahead of the merge.
const NEWS: usize = 256;

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

/// Begins to follow the cluster that `client` reaches, for the agent of `node`.
#[must_use]
pub fn follow(client: &Client, node: &str) -> Cluster {
    let node: Arc<str> = node.into();
    let health = Health::new(KINDS);
    let stop = CancellationToken::new();
    let (send_news, news) = mpsc::channel(NEWS);
    let (send_deltas, deltas) = mpsc::channel(1);
    let (send_problems, problems) = cell::channel(Arc::default());
    let (standings, stands) = cell::channel(None);
    let (send_here, here) = cell::channel(Arc::default());
    for kind in KINDS {
        let watch = Watch::new(client.clone(), kind, health.clone(), send_news.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch.run()));
    }
    let merge = Merge {
        state: State::new(node.clone(), &KINDS),
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
    let source = Source { deltas, problems, _stop: Box::new(stop.drop_guard()) };
    Cluster { source, health, publisher: Publisher::Cluster { standings, marks } }
}

#[cfg(test)]
mod tests;
