//! Where a pod's network namespace is: by the annotation of its manifest, or among the processes of its cgroups.
//!
//! It finds and changes nothing. What it finds is a path to be opened, and it stays the pod's for as long as a process of
//! the pod is in that namespace; a pod none of whose processes run just now (between two starts of its only container,
//! where the runtime keeps no sandbox process) has not been replaced by that.

mod cgroup;
mod processes;

use std::path::{Path, PathBuf};
use std::time::Instant;

use weft_core::model::Workload;

use crate::sys::NetNs;
pub use processes::Processes;

/// A pod's network namespace is not known.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct Unfound {
    /// What to do about it, in a sentence.
    pub reason: &'static str,
    /// Nobody has looked since the pod was asked for: it is too soon after the last look, and this is when to ask again.
    pub again: Option<Instant>,
}

/// How network namespaces are found.
#[derive(Debug)]
pub enum Finder {
    /// Manifests name them (`weft.dev/netns`).
    Annotation,
    /// The pods' processes are in them.
    Processes(Processes),
}

impl Finder {
    /// The path of the pod's network namespace.
    ///
    /// # Errors
    /// [`Unfound`], while it is not known.
    pub fn path(&self, workload: &Workload) -> Result<PathBuf, Unfound> {
        match self {
            Self::Annotation => workload.netns.clone().ok_or(Unfound {
                reason: "no network namespace is known: annotate the Pod with weft.dev/netns: /run/netns/NAME",
                again: None,
            }),
            Self::Processes(processes) => processes.find(&workload.uid).map_err(|again| Unfound {
                reason: "no process of the pod is found in a network namespace of its own: does the agent share the \
                         host's PID namespace (hostPID), and has the pod's sandbox started?",
                again,
            }),
        }
    }

    /// Whether the pod is served at another place than `path`, by its manifest's word.
    #[must_use]
    pub fn moved(&self, workload: &Workload, path: &Path) -> bool {
        matches!(self, Self::Annotation) && workload.netns.as_deref() != Some(path)
    }

    /// Whether the pod that was enrolled at `path` in this network namespace has another one now. Asked of every pod every
    /// second: mostly answered by one look at `path`.
    #[must_use]
    pub fn replaced(&self, uid: &str, path: &Path, netns: &NetNs) -> bool {
        match self {
            _ if netns.is_at(path) => false,
            Self::Annotation => true,
            Self::Processes(processes) => processes.path(uid).is_some_and(|now| !netns.is_at(&now)),
        }
    }

    /// Whether nothing of the pod runs in the network namespace it was enrolled in.
    #[must_use]
    pub fn deserted(&self, uid: &str, path: &Path, netns: &NetNs) -> bool {
        match self {
            Self::Annotation => !netns.is_at(path),
            Self::Processes(processes) => processes.path(uid).is_none_or(|now| !netns.is_at(&now)),
        }
    }
}

/// Whether another network namespace, or none, is at `path`.
#[must_use]
pub fn is_other(path: &Path, cookie: u64) -> bool {
    NetNs::open(path).map_or(true, |now| now.cookie() != cookie)
}
