//! What can go wrong with steering, in words that say what to do about it.

use std::{io, path::PathBuf};

/// Why steering could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SteerError {
    /// The crate was compiled before the eBPF programs were.
    #[error("this binary was built without its eBPF programs: run `cargo xtask build-ebpf`, then build it again")]
    NoPrograms,
    /// Pins need a BPF file system.
    #[error(
        "{path} is not on a BPF file system; mount one there (mount -t bpf bpf {path}), or name another with --bpffs"
    )]
    NotBpffs {
        /// The directory that was to hold the pins.
        path: PathBuf,
    },
    /// Instances name directories of bpffs, which forbids dots.
    #[error("{name:?} cannot name an instance: use letters, digits, - and _")]
    BadInstance {
        /// The name.
        name: String,
    },
    /// Another agent owns the state directory.
    #[error("another agent (process {pid}) owns {path}; ask it to hand over, or stop it")]
    Owned {
        /// The lock.
        path: PathBuf,
        /// Its owner, as far as it said.
        pid: String,
    },
    /// This agent has handed its steering to a successor.
    #[error("steering was handed to a successor; this agent may only drain")]
    Released,
    /// A file or directory.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel would not take the programs or maps.
    #[error(
        "the kernel refuses the eBPF programs ({0}); they need Linux 5.19 or newer, CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A map could not be read or written.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What aya said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A pod's namespace could not be prepared.
    #[error("pod {uid}: cannot {action}: {source}")]
    Pod {
        /// The pod.
        uid: String,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pod shares the node's own namespace.
    #[error("pod {uid} lives in the node's own network namespace (hostNetwork), where nothing can be steered")]
    HostNetwork {
        /// The pod.
        uid: String,
    },
    /// The pod brought no address to route from.
    #[error("pod {uid} has no address yet, or two of one family; enrol it when the CNI plugin has finished")]
    Addresses {
        /// The pod.
        uid: String,
    },
    /// Nobody knows the namespace.
    #[error("no pod with netns cookie {cookie} was enrolled here")]
    UnknownPod {
        /// The cookie.
        cookie: u64,
    },
}

impl SteerError {
    pub(super) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }

    pub(super) fn pod(uid: &str, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let uid = uid.to_owned();
        move |source| Self::Pod { uid, action, source }
    }

    pub(super) fn map(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { map, source: source.into() }
    }

    pub(super) fn load(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Load(error.into())
    }
}
