//! What an agent's pinned maps still hold of pods that have left the mesh.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData, SockHash};
use weft_abi::{ListenerKey, PodEntry, PortKey, map};

use super::Lab;

impl Lab {
    /// The directories in which agents of this lab have their maps pinned: one an agent and ABI version.
    #[must_use]
    pub fn pinned_maps(&self) -> Vec<PathBuf> {
        generations(&self.run.path().join("bpf"))
    }
}

/// Fails if a map in `directories` has an entry that only an enrolled pod may have: a listener, a port's mode, or the
/// pod's own with the flag that takes its connects. What says that a pod is known and not meshed stays while it lives.
pub(super) fn all_gone(directories: &[PathBuf]) -> Result<()> {
    for directory in directories {
        let open = |name: &str| {
            let pin = directory.join(name);
            MapData::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))
        };
        let listeners: SockHash<_, ListenerKey> = Map::SockHash(open(map::LISTENERS)?).try_into()?;
        if let Some(key) = listeners.keys().next() {
            bail!("{}: {} still has {:?}", directory.display(), map::LISTENERS, key?);
        }
        let modes: HashMap<_, PortKey, u32> = Map::HashMap(open(map::INBOUND_MODES)?).try_into()?;
        if let Some(key) = modes.keys().next() {
            bail!("{}: {} still has {:?}", directory.display(), map::INBOUND_MODES, key?);
        }
        let pods: HashMap<_, u64, PodEntry> = Map::HashMap(open(map::PODS)?).try_into()?;
        for entry in pods.iter() {
            let (cookie, pod) = entry?;
            if pod.flags & PodEntry::ENROLLED != 0 {
                bail!("{}: {} still steers namespace {cookie}: {pod:?}", directory.display(), map::PODS);
            }
        }
    }
    Ok(())
}

fn generations(directory: &Path) -> Vec<PathBuf> {
    if directory.join(map::PODS).exists() {
        return vec![directory.to_path_buf()];
    }
    let below = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    below.filter(|path| path.is_dir()).flat_map(|path| generations(&path)).collect()
}
