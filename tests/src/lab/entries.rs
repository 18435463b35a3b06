//! What an agent's pinned maps still hold of pods that have left the mesh.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap, Map, MapData, SockHash};
use weft_abi::{Address, AdmitSet, Attested, Frontend, FrontendKey, Link, ListenerKey, PodEntry, PortKey, Tuple, map};

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
        let frontends: HashMap<_, FrontendKey, Frontend> = Map::HashMap(open(map::FRONTENDS)?).try_into()?;
        let admits: HashMap<_, PortKey, AdmitSet> = Map::HashMap(open(map::ADMITS)?).try_into()?;
        let attested: HashMap<_, Tuple, Attested> = Map::HashMap(open(map::ATTESTED)?).try_into()?;
        let guarded: HashMap<_, Address, u64> = Map::HashMap(open(map::GUARDED)?).try_into()?;
        let stations: HashMap<_, u64, u64> = Map::HashMap(open(map::STATIONS)?).try_into()?;
        let links: HashMap<_, u32, Link> = Map::HashMap(open(map::LINKS)?).try_into()?;
        for (name, left) in [
            (map::FRONTENDS, frontends.keys().count()),
            (map::ADMITS, admits.keys().count()),
            (map::ATTESTED, attested.keys().count()),
            (map::GUARDED, guarded.keys().count()),
            (map::STATIONS, stations.keys().count()),
            (map::LINKS, links.keys().count()),
        ] {
            if left > 0 {
                bail!("{}: {name} still has {left} entries", directory.display());
            }
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
