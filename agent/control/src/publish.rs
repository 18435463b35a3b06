//! What this node's agent publishes: the pods it serves, as a WorkloadSlice in a file of the status directory.
//!
//! Peers read it through their manifests source. It is written beside its place and renamed over it, so that no reader
//! sees half of it, and only when it says something new. Nobody but the agent of the node writes the node's file.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::core::ObjectMeta;
use weft_core::model::Name;

use super::SYSTEM_NAMESPACE;
use super::crd::{SliceWorkload, WorkloadSlice, WorkloadSliceSpec};

/// Why the status could not be published.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The node's name would make no file name.
    #[error("{0:?} is not a node name: use a-z, 0-9, '-' and '.', as Kubernetes does (--node)")]
    Node(String),
    /// The file could not be written.
    #[error("cannot publish which pods are served, so that peers go on as before: {path}: {cause}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The object could not be written as YAML.
    #[error("cannot publish which pods are served: {0}")]
    Format(#[from] serde_saphyr::SerializeError),
}

/// Publishes that `node` serves the pods with these UIDs.
///
/// # Errors
/// [`StatusError`]; what was published before then still stands.
pub fn publish(directory: &Path, node: &str, live: &BTreeSet<Arc<str>>) -> Result<(), StatusError> {
    let name = Name::new(node).map_err(|_| StatusError::Node(node.to_owned()))?;
    let path = directory.join(format!("{name}.yaml"));
    let yaml = serde_saphyr::to_string(&slice(&name, live))?;
    if fs::read(&path).is_ok_and(|current| current == yaml.as_bytes()) {
        return Ok(());
    }
    replace(&path, yaml.as_bytes()).map_err(|cause| StatusError::Write { path, cause })
}

fn slice(node: &Name, live: &BTreeSet<Arc<str>>) -> WorkloadSlice {
    let workloads = live.iter().map(|uid| SliceWorkload { uid: uid.to_string(), live: true, pod: None }).collect();
    WorkloadSlice {
        metadata: ObjectMeta {
            name: Some(node.to_string()),
            namespace: Some(SYSTEM_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: WorkloadSliceSpec { node: Some(node.to_string()), workloads },
    }
}

/// The name of the temporary file begins with a dot: the source of manifests leaves it out.
fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = directory.join(format!(".{file_name}.{}", std::process::id()));
    let written = File::create(&beside).and_then(|mut file| {
        file.write_all(contents)?;
        file.sync_all()
    });
    let done = written.and_then(|()| fs::rename(&beside, path));
    if done.is_err() {
        // Nothing is left to tell if this fails as well.
        let _ = fs::remove_file(&beside);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifests;
    use weft_core::model::NodeLiveness;
    use weft_core::snapshot::Resource;

    #[test]
    fn what_is_published_is_what_a_peer_reads() {
        let dir = tempfile::tempdir().unwrap();
        let live: BTreeSet<Arc<str>> = ["true", "shop/cart", "0b8f"].into_iter().map(Arc::from).collect();
        publish(dir.path(), "node-1.example", &live).unwrap();
        let bytes = fs::read(dir.path().join("node-1.example.yaml")).unwrap();
        let parsed = manifests::parse(&bytes, "node-1.yaml");
        assert_eq!(parsed.problems, []);
        let expected = Resource::Liveness(NodeLiveness { node: "node-1.example".into(), live });
        assert_eq!(parsed.objects[0].resource, Some(expected));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn the_same_again_is_not_written() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.yaml");
        publish(dir.path(), "n", &BTreeSet::new()).unwrap();
        let first = fs::metadata(&path).unwrap().ino();
        publish(dir.path(), "n", &BTreeSet::new()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), first);
        publish(dir.path(), "n", &BTreeSet::from(["x".into()])).unwrap();
        assert_ne!(fs::metadata(&path).unwrap().ino(), first);
    }

    #[test]
    fn a_node_name_is_no_path() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(publish(dir.path(), "../evil", &BTreeSet::new()), Err(StatusError::Node(_))));
        let missing = dir.path().join("missing");
        assert!(matches!(publish(&missing, "n", &BTreeSet::new()), Err(StatusError::Write { .. })));
    }
}
