//! Where cgroup2 and bpffs are mounted, and which cgroup this process lives in.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Where the unified hierarchy is mounted: `/sys/fs/cgroup`, or below it on hybrid systems. Never assumed.
pub fn mount() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    find_mount(&mounts, "cgroup2").ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup2 file system is mounted; mount one (mount -t cgroup2 none /sys/fs/cgroup) or boot with systemd.unified_cgroup_hierarchy=1",
        )
    })
}

/// The id of the cgroup this process lives in, as the programs see it.
pub fn own_id() -> io::Result<u64> {
    let membership = fs::read_to_string("/proc/self/cgroup")?;
    let path = unified_path(&membership).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "this process is in no cgroup of the unified hierarchy")
    })?;
    id(&mount()?.join(path.trim_start_matches('/')))
}

/// The id of a cgroup: the inode number of its directory.
pub fn id(directory: &Path) -> io::Result<u64> {
    Ok(fs::metadata(directory)?.ino())
}

/// Whether a path lies on a BPF file system, the only kind that can hold pins.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(nix::sys::statfs::statfs(path)?.filesystem_type() == nix::sys::statfs::BPF_FS_MAGIC)
}

fn find_mount(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, target, found) = (fields.next()?, fields.next()?, fields.next()?);
        (found == kind).then(|| PathBuf::from(unescape(target)))
    })
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
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let odd = "none /mnt/my\\040groups cgroup2 rw 0 0\n";
        assert_eq!(find_mount(hybrid, "cgroup2"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(find_mount(odd, "cgroup2"), Some("/mnt/my groups".into()));
        assert_eq!(find_mount("tmpfs /tmp tmpfs rw 0 0\n", "cgroup2"), None);
    }

    #[test]
    fn only_the_unified_line_of_a_membership_counts() {
        assert_eq!(unified_path("3:cpu:/a\n0::/b\n"), Some("/b"));
        assert_eq!(unified_path("3:cpu:/a\n"), None);
    }
}
