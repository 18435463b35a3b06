//! Defaults that depend on the machine.

use std::fs;
use std::path::{Path, PathBuf};

/// Whether this process runs in a pod that can reach its API server.
pub(super) fn in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty())
}

/// The node's name: as given, or as a DaemonSet's manifest customarily passes it on, or the host's.
pub(super) fn node(given: Option<&str>) -> Result<String, String> {
    let passed = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    match given.map(str::to_owned).or(passed) {
        Some(name) => Ok(name),
        None => fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_lowercase())
            .map_err(|error| format!("the host's name cannot be read ({error}): give one")),
    }
}

/// The cgroup to attach to: as given, or the root of the machine's cgroup2 hierarchy.
///
/// # Errors
/// Why there is none, in words that say what to do.
pub fn cgroup(given: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(given) = given {
        // Where the host's cgroup file systems are mounted as they stand, the unified one may be below.
        let path =
            [given.to_owned(), given.join("unified")].into_iter().find(|path| path.join("cgroup.procs").exists());
        let path = path.as_deref().unwrap_or(given);
        let is_cgroup = path.join("cgroup.procs").exists();
        let reason = || format!("{} is not a cgroup2 directory: it has no cgroup.procs", path.display());
        return is_cgroup.then(|| path.to_owned()).ok_or_else(reason);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| format!("cannot read /proc/self/mounts: {e}"))?;
    cgroup2_mount(&mounts).ok_or_else(|| {
        "no cgroup2 hierarchy is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup) or name it".to_owned()
    })
}

/// The first cgroup2 mount of `/proc/self/mounts`: `/sys/fs/cgroup`, or its `unified` on hybrid machines.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        // The kernel writes a space in a path as \040.
        (kind == "cgroup2").then(|| PathBuf::from(path.replace("\\040", " ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_where_it_is() {
        let unified = "sysfs /sys sysfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("none /a\\040b cgroup2 rw 0 0"), Some("/a b".into()));
        assert_eq!(cgroup2_mount("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0"), None);
    }
}
