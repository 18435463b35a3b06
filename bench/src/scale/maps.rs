//! What the kernel holds in the maps a process has open.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;

/// Bytes of kernel memory in the eBPF maps that a process has open, each counted once: `memlock` of the descriptors, which is
/// what is allocated now, and not what the maps might grow to.
///
/// # Errors
/// When the process has ended.
pub(super) fn held(pid: i32) -> Result<u64> {
    let mut maps = BTreeMap::new();
    for descriptor in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // One that has been closed meanwhile.
        let Ok(text) = fs::read_to_string(descriptor?.path()) else { continue };
        maps.extend(read(&text));
    }
    Ok(maps.values().sum())
}

/// Id and size of the map that a descriptor is of, if it is of one.
fn read(fdinfo: &str) -> Option<(u64, u64)> {
    let field = |name: &str| fdinfo.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some((field("map_id:")?, field("memlock:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_maps_and_of_nothing_else() {
        let map = "pos:\t0\nflags:\t02000002\nmap_type:\t1\nmemlock:\t4196160\nmap_id:\t378149\nfrozen:\t0\n";
        assert_eq!(read(map), Some((378_149, 4_196_160)));
        assert_eq!(read("pos:\t0\nflags:\t02\nprog_id:\t3\nmemlock:\t4096\n"), None);
    }
}
