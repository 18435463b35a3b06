//! One agent at a time writes steering state: an advisory lock on a file of the state directory, which the kernel takes
//! back when its owner dies.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::Path,
};

use super::SteerError;

/// Proof of ownership; dropping it gives the state up.
#[derive(Debug)]
pub(super) struct Owner {
    _lock: File,
}

impl Owner {
    pub(super) fn acquire(state: &Path) -> Result<Self, SteerError> {
        let path = state.join("owner.lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(SteerError::file("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(SteerError::Owned { path, pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(SteerError::file("lock", path)(error)),
        }
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(SteerError::file("write", path))?;
        Ok(Self { _lock: file })
    }
}
