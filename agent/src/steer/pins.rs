//! Where steering survives the agent: one directory of bpffs per instance and ABI version.
//!
//! ```text
//! <bpffs>/weft/<instance>/v<ABI>/maps/<NAME>
//!                               /links/connect4-<cgroup>, connect6-, peername4-, peername6-, flow-
//!                               /links/lookup-<netns cookie>
//!                               /links/guard-<index of the node's device>
//! ```
//! The cgroup and the cookie stand in the name because a link cannot be moved: a pin made for another one is another pin.

use std::{
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use weft_abi::{ABI_VERSION, map};

use super::SteerError;
use crate::sys::{bpf, cgroup};

/// The directories of one instance.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    instance: PathBuf,
    version: PathBuf,
}

impl Pins {
    /// Checks that `bpffs` is one and makes the directories.
    pub(super) fn create(bpffs: &Path, instance: &str) -> Result<Self, SteerError> {
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if instance.is_empty() || !instance.bytes().all(valid) {
            return Err(SteerError::BadInstance { name: instance.to_owned() });
        }
        if !cgroup::is_bpffs(bpffs).map_err(SteerError::file("look at", bpffs))? {
            return Err(SteerError::NotBpffs { path: bpffs.to_owned() });
        }
        let instance = bpffs.join("weft").join(instance);
        let version = instance.join(format!("v{ABI_VERSION}"));
        let pins = Self { instance, version };
        for directory in [pins.maps(), pins.links()] {
            fs::create_dir_all(&directory).map_err(SteerError::file("create", directory))?;
        }
        Ok(pins)
    }

    fn maps(&self) -> PathBuf {
        self.version.join("maps")
    }

    fn links(&self) -> PathBuf {
        self.version.join("links")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The link of a pod's lookup hook.
    pub(super) fn lookup(&self, cookie: u64) -> PathBuf {
        self.links().join(format!("lookup-{cookie}"))
    }

    /// The link of a hook with a cgroup.
    pub(super) fn of_cgroup(&self, hook: &str, cgroup: u64) -> PathBuf {
        self.links().join(format!("{hook}-{cgroup}"))
    }

    /// The link of the guard with a device of the node. One for all it ever leads to: the kernel does not run a program
    /// twice at one place.
    pub(super) fn guard(&self, index: u32) -> PathBuf {
        self.links().join(format!("guard-{index}"))
    }

    /// Whether there is a link that `wanted` names.
    pub(super) fn has_link(&self, wanted: impl Fn(&str) -> bool) -> Result<bool, SteerError> {
        let links = self.links();
        let mut entries = fs::read_dir(&links).map_err(SteerError::file("list", &links))?.flatten();
        Ok(entries.any(|entry| entry.file_name().to_str().is_some_and(&wanted)))
    }

    /// Unpins every link that `stale` names; with no other reference left, the kernel detaches it.
    pub(super) fn remove_links(&self, stale: impl Fn(&str) -> bool) -> Result<(), SteerError> {
        let links = self.links();
        for entry in fs::read_dir(&links).map_err(SteerError::file("list", &links))?.flatten() {
            if entry.file_name().to_str().is_some_and(&stale) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Detaches and unpins what agents of other ABI versions left. Their hooks do not run any more when this returns: they
    /// know nothing of what ours write, and the last hook of a namespace that chooses a socket wins.
    pub(super) fn remove_other_versions(&self) -> Result<(), SteerError> {
        for entry in fs::read_dir(&self.instance).map_err(SteerError::file("list", &self.instance))?.flatten() {
            if entry.path() != self.version {
                for link in fs::read_dir(entry.path().join("links")).into_iter().flatten().flatten() {
                    detach(&link.path())?;
                }
                remove_tree(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Unpins everything and removes the directories, also those shared with other instances if they are empty now.
    pub(super) fn remove_all(&self) -> Result<(), SteerError> {
        for name in map::SHARED {
            remove(&self.map(name))?;
        }
        remove_tree(&self.instance)?;
        if let Some(shared) = self.instance.parent() {
            // Another instance's directory keeps it, rightly.
            let _ = fs::remove_dir(shared);
        }
        Ok(())
    }
}

/// Removes a pin; it is no error if it is gone.
pub(super) fn remove(path: &Path) -> Result<(), SteerError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SteerError::file("unpin", path)(error)),
        _ => Ok(()),
    }
}

/// Detaches a pinned link, so that its program does not run any more when this returns, and removes the pin; it is no
/// error if it is gone.
pub(super) fn detach(path: &Path) -> Result<(), SteerError> {
    match bpf::open_pin(path) {
        Ok(link) => bpf::detach_link(link.as_fd()).map_err(SteerError::file("detach", path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(SteerError::file("open the pin", path)(error)),
    }
    remove(path)
}

fn remove_tree(path: &Path) -> Result<(), SteerError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SteerError::file("remove", path)(error)),
        _ => Ok(()),
    }
}
