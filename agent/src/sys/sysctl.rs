//! Sysctls of a network namespace. `/proc/sys/net` shows the namespace of the thread that opens the file.

use std::{fs, io, path::PathBuf};

use super::NetNs;

/// Reads a value, such as that of `net.ipv4.tcp_fwmark_accept`; `None` if the kernel or the namespace lacks the key.
pub fn read(ns: &NetNs, key: &str) -> io::Result<Option<String>> {
    match ns.run(|| fs::read_to_string(path(key)))? {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a value.
pub fn write(ns: &NetNs, key: &str, value: &str) -> io::Result<()> {
    ns.run(|| fs::write(path(key), value))?
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key.replace('.', "/"))
}
