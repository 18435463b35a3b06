//! The lab's corner of the cgroup2 hierarchy: found in `/proc/self/mounts`, since its place differs between machines.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// Where cgroup2 is mounted.
///
/// # Errors
/// When it is not mounted at all, with the command that mounts it.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (path, kind) = (words.nth(1)?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    match found {
        Some(path) => Ok(path),
        None => bail!("no cgroup2 file system is mounted: 'mount -t cgroup2 none /sys/fs/cgroup' provides one"),
    }
}

/// Makes a cgroup, and those above it.
///
/// # Errors
/// When the hierarchy is read-only or the caller is not root.
pub fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path)
        .with_context(|| format!("making the cgroup {}: is cgroup2 writable, and are you root?", path.display()))
}

/// Pids in the cgroup and all below it.
#[must_use]
pub fn members(path: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_to_string(path.join("cgroup.procs"))
        .map(|text| text.lines().filter_map(|line| line.parse().ok()).collect())
        .unwrap_or_default();
    for child in children(path) {
        pids.extend(members(&child));
    }
    pids
}

/// Kills everything in the cgroup (which the lab made, so everything in it is the lab's), waits for it to be empty, and
/// removes it with all below it.
///
/// # Errors
/// When a process does not die or the kernel keeps the directory.
pub fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    fs::write(path.join("cgroup.kill"), "1").with_context(|| format!("killing what is left in {}", path.display()))?;
    wait::until("the lab's cgroup to empty and go", Duration::from_secs(10), || remove_tree(path))
}

fn remove_tree(path: &Path) -> Result<()> {
    for child in children(path) {
        remove_tree(&child)?;
    }
    fs::remove_dir(path).with_context(|| format!("{} still holds {:?}", path.display(), members(path)))
}

fn children(path: &Path) -> Vec<PathBuf> {
    fs::read_dir(path)
        .map(|entries| {
            entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
        })
        .unwrap_or_default()
}
