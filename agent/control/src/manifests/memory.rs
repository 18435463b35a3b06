//! What is in force: the objects of every file, and the last good version of those whose file broke.
//!
//! The rules, in one place:
//! 1. A document that is wrong leaves the last good version of its object in force, wherever that came from.
//! 2. While a document of a file cannot even be told to be some object, nothing that stood in that file goes away.
//! 3. A file that cannot be read, has become empty, or lies in a directory that cannot be read keeps all of its objects.
//! 4. An AuthorizationPolicy that is wrong and has no last good version refuses what it selects; an HTTPRoute or GRPCRoute
//!    the requests that no other route takes.
//! 5. Of two documents for one object the first wins, by directory, then path, then line.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use weft_core::snapshot::{Delta, Key, Resource};

use super::file::{MAX_FILE_BYTES, Parsed, ParsedFile, parse};
use super::problem::{ObjectRef, Problem, REFUSING_ROUTE, Severity};
use super::scan::{self, Fingerprint, Listing};

/// An object in force, and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Held {
    pub line: usize,
    pub resource: Option<Resource>,
    /// It is a version that was understood, this one or an earlier one.
    pub good: bool,
}

#[derive(Clone, Default, Debug)]
struct FileState {
    /// `None`: look again the next time.
    fingerprint: Option<Fingerprint>,
    objects: BTreeMap<ObjectRef, Held>,
    problems: Vec<Problem>,
}

/// The state of the directories.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// By the directory's rank and the file's path.
    files: BTreeMap<(usize, PathBuf), FileState>,
    view: HashMap<Key, Resource>,
}

/// What a look at the directories led to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What has changed since the last look.
    pub deltas: Vec<Delta>,
    /// All that is wrong now, sorted by file and line.
    pub problems: Vec<Problem>,
}

impl Memory {
    /// Looks at the directories and compares with what it knows.
    pub(super) fn refresh(&mut self, directories: &[PathBuf]) -> Outcome {
        let mut problems = Vec::new();
        let last_good = self.last_good();
        let mut seen = BTreeMap::new();
        for (rank, directory) in directories.iter().enumerate() {
            let listing = scan::list(directory);
            for path in &listing.files {
                let known = self.files.remove(&(rank, path.clone()));
                seen.insert((rank, path.clone()), read_file(path, known, &last_good));
            }
            self.keep_unseen(rank, &listing, &mut seen);
            problems.extend(directory_problems(directory, &listing));
        }
        self.files = seen;
        let view = self.merge(&mut problems);
        let deltas = difference(&self.view, &view);
        self.view = view;
        problems.sort();
        Outcome { deltas, problems }
    }

    /// Every object in force with its file and line, duplicates left out.
    pub(super) fn objects(&self) -> Vec<(&Path, &ObjectRef, &Held)> {
        let mut taken = BTreeMap::new();
        for ((_, path), file) in &self.files {
            for (object, held) in &file.objects {
                taken.entry(object).or_insert((path.as_path(), object, held));
            }
        }
        taken.into_values().collect()
    }

    fn last_good(&self) -> BTreeMap<ObjectRef, Option<Resource>> {
        let objects = self.objects().into_iter().filter(|(_, _, held)| held.good);
        objects.map(|(_, object, held)| (object.clone(), held.resource.clone())).collect()
    }

    /// Files below a directory that could not be read, or beyond the number that is, are not known to be gone.
    fn keep_unseen(&mut self, rank: usize, listing: &Listing, seen: &mut BTreeMap<(usize, PathBuf), FileState>) {
        let unknown =
            |path: &Path| listing.truncated || listing.unreadable.iter().any(|(dir, _)| path.starts_with(dir));
        let kept = self.files.iter().filter(|((r, path), _)| *r == rank && unknown(path));
        seen.extend(kept.map(|(key, file)| (key.clone(), FileState { fingerprint: None, ..file.clone() })));
    }

    fn merge(&self, problems: &mut Vec<Problem>) -> HashMap<Key, Resource> {
        let mut view: HashMap<Key, Resource> = HashMap::new();
        let mut first: BTreeMap<&ObjectRef, (&Path, usize)> = BTreeMap::new();
        for ((_, path), file) in &self.files {
            problems.extend(file.problems.iter().cloned());
            for (object, held) in &file.objects {
                if let Some((other, line)) = first.get(object) {
                    let reason = format!("is already defined at {}:{line}; that one is in force", other.display());
                    problems.push(error(path, Some(held.line), Some(object.clone()), reason));
                    continue;
                }
                first.insert(object, (path, held.line));
                let Some(resource) = &held.resource else { continue };
                if view.insert(resource.key(), resource.clone()).is_some() {
                    let reason = "says the same thing about the same node as another object".to_owned();
                    problems.push(error(path, Some(held.line), Some(object.clone()), reason));
                }
            }
        }
        view
    }
}

fn difference(old: &HashMap<Key, Resource>, new: &HashMap<Key, Resource>) -> Vec<Delta> {
    let removed = old.keys().filter(|key| !new.contains_key(key)).map(|key| Delta::Remove(key.clone()));
    let put = new.iter().filter(|(key, resource)| old.get(key) != Some(resource));
    removed.chain(put.map(|(_, resource)| Delta::Put(resource.clone()))).collect()
}

fn error(path: &Path, line: Option<usize>, object: Option<ObjectRef>, reason: String) -> Problem {
    Problem { file: path.to_string_lossy().into(), line, severity: Severity::Error, object, reason }
}

fn directory_problems(directory: &Path, listing: &Listing) -> Vec<Problem> {
    let unreadable = listing.unreadable.iter().map(|(path, cause)| {
        error(path, None, None, format!("cannot be read: {cause}; objects last seen there stay in force"))
    });
    let truncated = listing
        .truncated
        .then(|| error(directory, None, None, "holds too many manifest files; the rest is left out".to_owned()));
    unreadable.chain(truncated).collect()
}

/// Reads a file anew unless it is what it was.
fn read_file(path: &Path, known: Option<FileState>, last_good: &BTreeMap<ObjectRef, Option<Resource>>) -> FileState {
    let known = known.unwrap_or_default();
    match contents(path, known.fingerprint) {
        Ok(None) => known,
        Ok(Some((bytes, _))) if bytes.is_empty() && !known.objects.is_empty() => {
            let reason = "has become empty; its objects stay in force until the file is removed or written".to_owned();
            FileState { fingerprint: None, problems: vec![error(path, None, None, reason)], ..known }
        }
        Ok(Some((bytes, fingerprint))) => {
            let parsed = parse(&bytes, &path.to_string_lossy());
            FileState { fingerprint, ..renew(path, parsed, known, last_good) }
        }
        // Removed between the listing and now: the next look will not list it, unless it is being replaced.
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => FileState { fingerprint: None, ..known },
        Err(cause) => {
            let reason = format!("cannot be read: {cause}; its objects stay in force");
            FileState { fingerprint: None, problems: vec![error(path, None, None, reason)], ..known }
        }
    }
}

/// The file's bytes and, once its times can be trusted, its fingerprint; `None` if the fingerprint is the known one.
fn contents(path: &Path, known: Option<Fingerprint>) -> std::io::Result<Option<(Vec<u8>, Option<Fingerprint>)>> {
    // Opening a FIFO would wait for its writer.
    let before = fs::metadata(path)?;
    if !before.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    if known.is_some_and(|known| known == Fingerprint::of(&before)) {
        return Ok(None);
    }
    let file = fs::File::open(path)?;
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(Some((bytes, scan::settled(&metadata).then(|| Fingerprint::of(&metadata)))))
}

/// The file's new state: what was understood, and the last good version of what was not.
fn renew(
    path: &Path,
    parsed: ParsedFile,
    known: FileState,
    last_good: &BTreeMap<ObjectRef, Option<Resource>>,
) -> FileState {
    let ParsedFile { objects: documents, mut problems, complete } = parsed;
    let mut objects: BTreeMap<ObjectRef, Held> = BTreeMap::new();
    let (mut consequences, mut duplicates) = (BTreeMap::new(), Vec::new());
    for Parsed { object, line, resource, valid } in documents {
        if let Some(earlier) = objects.get(&object) {
            let reason = format!("is already defined in line {} of this file; that one is in force", earlier.line);
            duplicates.push(error(path, Some(line), Some(object), reason));
            continue;
        }
        let held = match last_good.get(&object) {
            Some(good) if !valid => Held { line, resource: good.clone(), good: true },
            _ => Held { line, resource, good: valid },
        };
        if !valid {
            consequences.insert(object.clone(), consequence(&object, &held));
        }
        objects.insert(object, held);
    }
    let may_be_hidden = !complete && !known.objects.is_empty();
    for problem in problems.iter_mut().filter(|problem| problem.severity == Severity::Error) {
        let stays = match &problem.object {
            Some(object) => consequences.get(object).copied(),
            None => may_be_hidden.then_some("; what has gone from this file stays in force meanwhile"),
        };
        problem.reason.push_str(stays.unwrap_or_default());
    }
    if may_be_hidden {
        for (object, held) in known.objects {
            objects.entry(object).or_insert(held);
        }
    }
    problems.append(&mut duplicates);
    FileState { fingerprint: None, objects, problems }
}

fn consequence(object: &ObjectRef, held: &Held) -> &'static str {
    use crate::resource::Kind;
    match (held.good, object.kind) {
        (true, _) => "; the last good version stays in force",
        (false, Kind::HttpRoute | Kind::GrpcRoute) if held.resource.is_some() => REFUSING_ROUTE,
        (false, Kind::AuthorizationPolicy) => "; until it is mended, what it selects refuses every connection",
        (false, _) => "; it is left out",
    }
}
