//! What enrolment changed in each pod, written before it is changed: the way back, for this agent or the one after it.
//!
//! One JSON file per namespace, named by its cookie: addresses and paths are reused, cookies are not.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use weft_abi::{Address, PodIdentity};

use super::SteerError;

/// One enrolment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The pod's UID, or whatever names it to whoever enrolled it.
    pub uid: String,
    /// Cookie of its network namespace.
    pub cookie: u64,
    /// Where the namespace was found.
    pub netns: PathBuf,
    /// The addresses that were routed.
    pub addresses: Vec<IpAddr>,
    /// Sysctls as they were before.
    pub sysctls: BTreeMap<String, String>,
}

impl Entry {
    /// The constant of the pod's lookup program.
    pub(super) fn identity(&self) -> PodIdentity {
        PodIdentity { cookie: self.cookie, own: self.own() }
    }

    pub(super) fn own(&self) -> [Address; 2] {
        let mut own = [Address::UNSPECIFIED; 2];
        for (slot, ip) in own.iter_mut().zip(&self.addresses) {
            *slot = (*ip).into();
        }
        own
    }
}

/// The directory of entries.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    directory: PathBuf,
}

impl Journal {
    pub(super) fn open(state: &Path) -> Result<Self, SteerError> {
        let directory = state.join("enrolments");
        fs::create_dir_all(&directory).map_err(SteerError::file("create", &directory))?;
        Ok(Self { directory })
    }

    fn path(&self, cookie: u64) -> PathBuf {
        self.directory.join(format!("{cookie}.json"))
    }

    /// Writes an entry so that a crash leaves the old one or the new one.
    pub(super) fn write(&self, entry: &Entry) -> Result<(), SteerError> {
        let path = self.path(entry.cookie);
        let aside = path.with_extension("new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&aside)?;
            file.write_all(&serde_json::to_vec_pretty(entry)?)?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        write().map_err(SteerError::file("write", path))
    }

    pub(super) fn read(&self, cookie: u64) -> Result<Option<Entry>, SteerError> {
        let path = self.path(cookie);
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).map_err(|error| SteerError::file("read", path)(error.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(SteerError::file("read", path)(error)),
        }
    }

    pub(super) fn remove(&self, cookie: u64) -> Result<(), SteerError> {
        super::pins::remove(&self.path(cookie))
    }

    /// Every entry that can be read. One that cannot is reported and left for a person to look at: guessing what it said
    /// could leave a pod with a changed sysctl for ever.
    pub(super) fn all(&self) -> Result<Vec<Entry>, SteerError> {
        let listing = fs::read_dir(&self.directory).map_err(SteerError::file("list", &self.directory))?;
        let cookies =
            listing.flatten().filter_map(|file| file.file_name().to_str()?.strip_suffix(".json")?.parse().ok());
        let mut entries = Vec::new();
        for cookie in cookies {
            match self.read(cookie) {
                Ok(entry) => entries.extend(entry),
                Err(error) => {
                    tracing::error!(%error, "an enrolment's journal is unreadable; its pod keeps what it says")
                }
            }
        }
        Ok(entries)
    }

    /// Removes the directory, which must be empty by now.
    pub(super) fn close(&self) -> Result<(), SteerError> {
        fs::remove_dir(&self.directory).map_err(SteerError::file("remove", &self.directory))
    }
}
