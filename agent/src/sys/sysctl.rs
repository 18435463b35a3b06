//! Sysctls of a network namespace. `/proc/sys/net` shows the namespace of the thread that opens the file, wherever it is
//! mounted: in a container `/proc/sys` itself is read-only.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::NetNs;

/// Where the kernel's own mount has them.
pub const PROC_SYS: &str = "/proc/sys";

/// Reads a value, such as that of `net.ipv4.tcp_fwmark_accept`; `None` if the kernel or the namespace lacks the key.
pub fn read(ns: &NetNs, key: &str) -> io::Result<Option<String>> {
    match ns.run(|| fs::read_to_string(path(Path::new(PROC_SYS), key)))? {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a value, by way of `proc_sys`: [`PROC_SYS`] or a mount of it that can be written.
pub fn write(proc_sys: &Path, ns: &NetNs, key: &str, value: &str) -> io::Result<()> {
    ns.run(|| fs::write(path(proc_sys, key), value))?
}

fn path(proc_sys: &Path, key: &str) -> PathBuf {
    proc_sys.join(key.replace('.', "/"))
}
