//! What the kernel holds for a process's eBPF: in the maps it has open, and in programs.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Result;
use aya::programs::loaded_programs;

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

/// Bytes of kernel memory in all programs that are loaded now, whoever loaded them.
///
/// # Errors
/// When the kernel does not list them.
pub(super) fn programs() -> Result<u64> {
    let mut bytes = 0;
    for program in loaded_programs() {
        // One that has been unloaded meanwhile has none.
        bytes += program?.memory_locked().map_or(0, u64::from);
    }
    Ok(bytes)
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
