//! How the pods of this node stand: what the agent publishes about them, in a directory or on the Pods themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::kubernetes::Marks;
use super::publish::{self, StatusError};

/// How a pod that was asked into the mesh stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Its connections are captured and its tunnel port is served.
    Enrolled,
    /// It is not served yet.
    Pending {
        /// Why not.
        reason: String,
        /// Since when it has been waiting.
        since: Instant,
    },
    /// As [`Self::Enrolled`], but peers cannot reach its tunnel port, and why.
    Unreachable(String),
    /// It is captured, but peers are not to be sent to its tunnel port, and why.
    Withheld(String),
    /// It cannot be enrolled, and why.
    Refused(String),
}

impl Standing {
    /// What is written on an enrolled pod. Peers take a pod for live by this word and by no other.
    pub const ENROLLED: &str = "enrolled";

    /// Whether it is served, so that peers are to reach it by mTLS.
    #[must_use]
    pub fn is_served(&self) -> bool {
        matches!(self, Self::Enrolled | Self::Unreachable(_))
    }
}

/// Pods of this node that were asked into the mesh, by UID.
pub type Standings = BTreeMap<Arc<str>, Standing>;

/// Where the agent publishes how its pods stand.
#[derive(Debug)]
pub enum Publisher {
    /// In a file of this directory, read by agents that share it.
    Directory(PathBuf),
    /// On the Pods, by way of the API server.
    Cluster {
        /// How they stand; `None` until the agent has looked at all of them once.
        standings: watch::Sender<Option<Standings>>,
        /// What is written on them.
        marks: Marks,
    },
}

impl Publisher {
    /// Waits until a pod is no longer published as enrolled: from then on peers stop dialling its tunnel port. With the
    /// API server away that is when it is back.
    pub async fn withdrawn(&self, uid: &str) {
        match self {
            // Written before it is asked.
            Self::Directory(_) => {}
            Self::Cluster { marks, .. } => marks.gone(uid).await,
        }
    }

    /// Publishes how the pods of `node` stand.
    ///
    /// # Errors
    /// [`StatusError`]; what was published before then still stands.
    pub fn publish(&self, node: &str, standings: Standings) -> Result<(), StatusError> {
        match self {
            Self::Directory(directory) => {
                let enrolled = standings.into_iter().filter(|(_, standing)| standing.is_served());
                let live: BTreeSet<_> = enrolled.map(|(uid, _)| uid).collect();
                publish::publish(directory, node, &live)
            }
            Self::Cluster { standings: sender, .. } => {
                sender.send_replace(Some(standings));
                Ok(())
            }
        }
    }
}
