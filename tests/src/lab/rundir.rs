//! The run directory of one lab, and the removal of what labs left whose process was killed.
//!
//! Everything a lab makes hangs from two places: `/run/weft-lab/<unique>` and `<cgroup2>/weft-lab/<unique>`. The owner
//! holds a lock on the directory for as long as it lives, so a directory whose lock is free belongs to nobody.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::geteuid;

use super::{cgroup, netns};

const BASE: &str = "/run/weft-lab";
const CGROUP: &str = "weft-lab";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A lab's directory and cgroup.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    cgroup: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Makes the directories and the lab's own BPF file system, after clearing what dead labs left.
    ///
    /// # Errors
    /// Without root, cgroup2 or bpffs: each with its remedy.
    pub(super) fn create(name: &str) -> Result<Self> {
        if !geteuid().is_root() {
            bail!("the lab makes network namespaces, cgroups and BPF programs: run it as root");
        }
        clear_dead_labs();
        let unique = format!("{}-{}-{name}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(BASE).join(&unique);
        create_below_shared(&path).with_context(|| format!("making {}", path.display()))?;
        let lock = try_lock(&path)?.context("another process holds the lock of a new run directory")?;
        let cgroup = cgroup::mount_point()?.join(CGROUP).join(&unique);
        create_below_shared(&cgroup).with_context(|| {
            format!("making the cgroup {}: is cgroup2 writable, and are you root?", cgroup.display())
        })?;
        for sub in ["netns", "bpf", "manifests", "status"] {
            fs::create_dir(path.join(sub))?;
        }
        mount(Some("bpf"), &path.join("bpf"), Some("bpf"), MsFlags::empty(), Some("mode=0700"))
            .context("mounting a BPF file system: the kernel needs CONFIG_BPF_SYSCALL, and you root")?;
        Ok(Self { path, cgroup, _lock: lock })
    }

    /// The directory.
    #[must_use]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The cgroup all of the lab's processes live below.
    #[must_use]
    pub(super) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Removes everything, killing what still runs in the lab's cgroup.
    ///
    /// # Errors
    /// When something would not go.
    pub(super) fn remove(&self) -> Result<()> {
        remove(&self.path, &self.cgroup)
    }
}

/// Makes a directory whose parent all labs share. The parent goes with the last lab (see [`remove`]), which may be between
/// our making it and our making a child of it: then it is made again. An attempt is lost only to a lab that ended in that
/// very moment, so that as many as this in a row are no race but a fault.
fn create_below_shared(path: &Path) -> io::Result<()> {
    const ATTEMPTS: usize = 100;
    let mut made = fs::create_dir_all(path);
    for _ in 1..ATTEMPTS {
        match &made {
            Err(problem) if is_race(problem) => made = fs::create_dir_all(path),
            _ => break,
        }
    }
    made
}

/// What making a directory says whose parent went meanwhile: gone at the child's turn, or there when it was to be made and
/// gone when `create_dir_all` looked.
fn is_race(problem: &io::Error) -> bool {
    matches!(problem.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
}

fn try_lock(dir: &Path) -> Result<Option<Flock<File>>> {
    let file = File::create(dir.join("lock")).with_context(|| format!("creating the lock in {}", dir.display()))?;
    Ok(Flock::lock(file, FlockArg::LockExclusiveNonblock).ok())
}

/// Clears run directories whose owner is dead. What cannot be cleared stays for the next run and is reported, since a
/// half-made directory of a lab starting at this moment looks the same for an instant.
fn clear_dead_labs() {
    let Ok(cgroups) = cgroup::mount_point().map(|mount| mount.join(CGROUP)) else { return };
    let Ok(entries) = fs::read_dir(BASE) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.split('-').next()).and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
            continue;
        }
        let Ok(Some(_lock)) = try_lock(&entry.path()) else { continue };
        if let Err(problem) = remove(&entry.path(), &cgroups.join(&name)) {
            eprintln!("lab: could not clear {}: {problem:#}", entry.path().display());
        }
    }
}

fn remove(path: &Path, cgroup: &Path) -> Result<()> {
    let killed = cgroup::remove(cgroup);
    let _ = umount2(&path.join("bpf"), MntFlags::MNT_DETACH);
    if let Ok(names) = fs::read_dir(path.join("netns")) {
        for name in names.flatten() {
            netns::remove_name(&name.path());
        }
    }
    let removed = fs::remove_dir_all(path).with_context(|| format!("removing {}", path.display()));
    // Gone only when this was the last lab: both are shared.
    let _ = fs::remove_dir(BASE);
    if let Some(parent) = cgroup.parent() {
        let _ = fs::remove_dir(parent);
    }
    killed.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_while_its_parent_comes_and_goes() {
        let temporary = tempfile::tempdir().expect("a directory");
        let shared = temporary.path().join("shared");
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let shared = &shared;
                scope.spawn(move || {
                    for turn in 0..2_000 {
                        let own = shared.join(format!("{worker}-{turn}"));
                        create_below_shared(&own).expect("made, whatever the others remove");
                        fs::remove_dir(&own).expect("removed");
                        let _ = fs::remove_dir(shared);
                    }
                });
            }
        });
    }
}
