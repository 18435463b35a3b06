//! Where cgroup2 and bpffs are mounted, and which cgroup this process lives in.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Where the unified hierarchy is mounted: `/sys/fs/cgroup`, or below it on hybrid systems. Never assumed.
pub fn mount() -> io::Result<PathBuf> {
    let first = mounts(&fs::read_to_string("/proc/self/mountinfo")?).into_iter().next();
    first.map(|mount| mount.target).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, NO_CGROUP2))
}

const NO_CGROUP2: &str = "no cgroup2 file system is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup) or boot with \
                          systemd.unified_cgroup_hierarchy=1";

/// The id of the cgroup this process lives in, as the programs see it.
///
/// In a container with a cgroup namespace of its own the path in `/proc/self/cgroup` begins at that namespace's root, which
/// is the root of none of the host's mounts. So a path is believed only if the directory lists this process; where none
/// does, the directory that does is looked for.
pub fn own_id() -> io::Result<u64> {
    let missing = |what: &str| io::Error::new(io::ErrorKind::NotFound, what.to_owned());
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let path =
        unified_path(&membership).ok_or_else(|| missing("this process is in no cgroup of the unified hierarchy"))?;
    let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo")?);
    if mounts.is_empty() {
        return Err(missing(NO_CGROUP2));
    }
    let named = mounts.iter().filter_map(|mount| mount.directory(path)).find(|directory| lists_us(directory));
    let found = named.or_else(|| mounts.iter().find_map(|mount| search(&mount.target)));
    let directory = found.ok_or_else(|| {
        missing("this process's cgroup is below no cgroup2 mount it can see: mount the host's into its container")
    })?;
    id(&directory)
}

/// Whether this process is in the cgroup of a directory. A threaded one cannot be read, and no agent lives in one.
fn lists_us(directory: &Path) -> bool {
    let own = std::process::id().to_string();
    fs::read_to_string(directory.join("cgroup.procs")).is_ok_and(|listed| listed.lines().any(|pid| pid == own))
}

fn search(directory: &Path) -> Option<PathBuf> {
    if lists_us(directory) {
        return Some(directory.to_owned());
    }
    let below = fs::read_dir(directory).ok()?.flatten();
    below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).find_map(|entry| search(&entry.path()))
}

/// The id of a cgroup: the inode number of its directory.
pub fn id(directory: &Path) -> io::Result<u64> {
    Ok(fs::metadata(directory)?.ino())
}

/// Whether a path lies on a BPF file system, the only kind that can hold pins.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(nix::sys::statfs::statfs(path)?.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

/// A mounted part of the unified hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// What of the hierarchy is there, seen from the root of this process's cgroup namespace.
    root: String,
    target: PathBuf,
}

impl Mount {
    /// Where a cgroup of `/proc/self/cgroup` is in this mount.
    fn directory(&self, path: &str) -> Option<PathBuf> {
        let below = Path::new(path).strip_prefix(&self.root).ok()?;
        Some(self.target.join(below))
    }
}

/// The cgroup2 mounts of a mountinfo.
fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        // 36 35 98:0 /root /mount/point options optional… - type source options
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, target) = (fields.next()?, fields.next()?);
        let unified = after.split(' ').next() == Some("cgroup2");
        unified.then(|| Mount { root: unescape(root), target: unescape(target).into() })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The kernel writes blanks and backslashes in paths as three octal digits.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&part[3..]);
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

fn unified_path(membership: &str) -> Option<&str> {
    membership.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_wherever_it_is() {
        let hybrid = "25 30 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755\n\
                      26 25 0:23 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n\
                      27 25 0:24 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n";
        let expected = Mount { root: "/".into(), target: "/sys/fs/cgroup/unified".into() };
        assert_eq!(mounts(hybrid), [expected]);
        assert_eq!(
            mounts("1 2 0:1 / /mnt/my\\040groups rw - cgroup2 none rw\n")[0].target,
            Path::new("/mnt/my groups")
        );
        assert_eq!(mounts("1 2 0:1 / /tmp rw - tmpfs tmpfs rw\n"), []);
    }

    #[test]
    fn a_path_leads_into_the_mounts_that_hold_it() {
        let mount = |root: &str| Mount { root: root.into(), target: "/host/cgroup".into() };
        let at = |root: &str, path| mount(root).directory(path).map(|found| found.display().to_string());
        assert_eq!(at("/", "/kubepods/pod1/c").as_deref(), Some("/host/cgroup/kubepods/pod1/c"));
        assert_eq!(at("/kubepods", "/kubepods/pod1").as_deref(), Some("/host/cgroup/pod1"));
        assert_eq!(at("/system.slice", "/kubepods/pod1"), None);
        // The host's hierarchy seen from a cgroup namespace: where this process is in it, its path does not say.
        assert_eq!(at("/../..", "/"), None);
    }

    #[test]
    fn the_own_cgroup_lists_this_process() {
        let own = own_id().unwrap();
        let mounts = mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap());
        let found = mounts.iter().find_map(|mount| search(&mount.target)).unwrap();
        assert_eq!(id(&found).unwrap(), own);
    }

    #[test]
    fn only_the_unified_line_of_a_membership_counts() {
        assert_eq!(unified_path("3:cpu:/a\n0::/b\n"), Some("/b"));
        assert_eq!(unified_path("3:cpu:/a\n"), None);
    }
}
