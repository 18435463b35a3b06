//! Which files of a directory are manifests, and whether they have changed.
//!
//! `.yaml`, `.yml` and `.json`, in subdirectories too. Names that begin with a dot are left out (a mounted ConfigMap
//! keeps its generations in `..data` and links to them), and so are editors' leftovers. Files may be symbolic links,
//! directories below the first may not, so that no link leads round in a circle or out of the tree unseen.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How deep subdirectories are read.
const MAX_DEPTH: usize = 8;
/// How many files one directory tree may have.
const MAX_FILES: usize = 10_000;
/// A file written more recently than this may be written again within the same tick of the clock, unnoticed.
const SETTLED: Duration = Duration::from_millis(100);

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// The fingerprint of what `metadata` describes.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Whether a file is old enough that a later write must show in its times.
pub(super) fn settled(metadata: &Metadata) -> bool {
    let age = metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
    age.is_some_and(|age| age > SETTLED)
}

/// What a look at a directory tree found.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The manifests, in the order of their paths.
    pub files: Vec<PathBuf>,
    /// Directories that could not be read, and why; what is below them is unknown.
    pub unreadable: Vec<(PathBuf, io::Error)>,
    /// Whether there were more files than are read.
    pub truncated: bool,
}

/// Lists the manifests below `root`.
pub(super) fn list(root: &Path) -> Listing {
    let mut listing = Listing::default();
    walk(root, 0, &mut listing);
    listing.files.sort();
    listing
}

fn walk(directory: &Path, depth: usize, listing: &mut Listing) {
    let entries = fs::read_dir(directory).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let mut entries = match entries {
        Ok(entries) => entries,
        Err(error) => return listing.unreadable.push((directory.to_owned(), error)),
    };
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if depth < MAX_DEPTH && !hidden(&path) {
                walk(&path, depth + 1, listing);
            }
        } else if is_manifest(&path) {
            if listing.files.len() == MAX_FILES {
                listing.truncated = true;
                return;
            }
            listing.files.push(path);
        }
    }
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    // Emacs locks `.#x.yaml`, saves `#x.yaml#` and keeps `x.yaml~`; vim writes `.x.yaml.swp` and a file named 4913.
    !hidden(path)
        && matches!(extension, Some("yaml" | "yml" | "json"))
        && !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"#"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_manifests_and_leaves_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("sub/deeper")).unwrap();
        fs::create_dir_all(root.join("..2026_11_21")).unwrap();
        for name in [
            "b.yaml",
            "a.yml",
            "c.json",
            "sub/deeper/d.yaml", // taken
            ".hidden.yaml",
            "#e.yaml#",
            ".#f.yaml",
            "g.yaml~",
            ".h.yaml.swp",
            "4913",
            "README.md",
            "..2026_11_21/i.yaml",
        ] {
            fs::write(root.join(name), "").unwrap();
        }
        std::os::unix::fs::symlink("..2026_11_21", root.join("..data")).unwrap();
        std::os::unix::fs::symlink("..data/i.yaml", root.join("i.yaml")).unwrap();
        std::os::unix::fs::symlink(root, root.join("sub/circle")).unwrap();
        let listing = list(root);
        let names: Vec<_> = listing.files.iter().map(|p| p.strip_prefix(root).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.yml", "b.yaml", "c.json", "i.yaml", "sub/deeper/d.yaml"]);
        assert!(listing.unreadable.is_empty() && !listing.truncated);
    }

    #[test]
    fn a_missing_directory_is_unreadable_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let listing = list(&dir.path().join("missing"));
        assert_eq!(listing.unreadable.len(), 1);
    }
}
