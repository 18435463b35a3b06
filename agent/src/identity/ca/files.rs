//! The authority's files: locked, written atomically, and refused when others could read the key.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::super::CaError;

/// No file of an authority is larger; a larger one is not ours.
const FILE_MAX: u64 = 1 << 20;

/// The state directory of an authority.
#[derive(Debug, Clone)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// Makes the directory (0700) where there is none, and refuses one that others may write to.
    pub(super) fn open(path: &Path) -> Result<Self, CaError> {
        make_directory(path)?;
        // Who can rename files here can put a root of his own in the place of ours.
        let mode = fs::metadata(path).map_err(failed("examine", path))?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(CaError::DirectoryExposed { path: path.to_owned(), mode });
        }
        Ok(Self(path.to_owned()))
    }

    /// Waits for the lock two agents share; it is released when dropped.
    pub(super) fn lock(&self) -> Result<Flock<File>, CaError> {
        let path = self.0.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed("lock", &path)(e.into()))
    }

    pub(super) fn key_path(&self) -> PathBuf {
        self.0.join("root.key")
    }

    pub(super) fn certificate_path(&self) -> PathBuf {
        self.0.join("root.crt")
    }

    pub(super) fn has_certificate(&self) -> Result<bool, CaError> {
        let path = self.certificate_path();
        path.try_exists().map_err(failed("look for", &path))
    }

    /// The root key's PEM, if there is one and only its owner can read it.
    pub(super) fn read_key(&self) -> Result<Option<Zeroizing<String>>, CaError> {
        let path = self.key_path();
        let Some(file) = open_if_there(&path)? else { return Ok(None) };
        let mode = file.metadata().map_err(failed("examine", &path))?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(CaError::KeyExposed { path, mode });
        }
        read(file, &path).map(Some)
    }

    pub(super) fn write_key(&self, pem: &str) -> Result<(), CaError> {
        write_atomically(&self.key_path(), pem.as_bytes(), 0o600)
    }

    pub(super) fn write_certificate(&self, pem: &str) -> Result<(), CaError> {
        write_atomically(&self.certificate_path(), pem.as_bytes(), 0o644)
    }

    /// The root certificate, then the further anchors of `trust.crt`.
    pub(super) fn read_anchors(&self) -> Result<Vec<CertificateDer<'static>>, CaError> {
        let mut anchors = Vec::new();
        for path in [self.certificate_path(), self.0.join("trust.crt")] {
            let Some(file) = open_if_there(&path)? else { continue };
            let pem = read(file, &path)?;
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                anchors.push(
                    certificate
                        .map_err(|e| CaError::Damaged { path: path.clone(), reason: e.to_string() })?
                        .into_owned(),
                );
            }
        }
        Ok(anchors)
    }
}

/// Makes a directory (0700) and what is missing above it.
pub(in crate::identity) fn make_directory(path: &Path) -> Result<(), CaError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the directory", path))
}

/// Writes beside `path`, syncs and renames: readers see the old content or the new, also after a crash.
pub(in crate::identity) fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), CaError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{:016x}", rand::random::<u64>()));
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    })();
    written.map_err(|e| {
        let _ = fs::remove_file(&beside);
        failed("write", path)(e)
    })
}

fn open_if_there(path: &Path) -> Result<Option<File>, CaError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("open", path)(e)),
    }
}

fn read(file: File, path: &Path) -> Result<Zeroizing<String>, CaError> {
    // Sized in one go: a growing buffer would leave copies of a key behind.
    let mut text = Zeroizing::new(String::with_capacity(64 * 1024));
    file.take(FILE_MAX).read_to_string(&mut text).map_err(failed("read", path))?;
    Ok(text)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::File { action, path, source }
}
