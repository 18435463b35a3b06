//! Watches the directories and sends what changes.
//!
//! One thread of its own, because every step blocks: it waits for the kernel to report a change (or for the poll, on
//! file systems that report none), lets writers finish, looks at everything, and sends the difference.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

use super::memory::{Memory, Outcome};
use super::problem::{Problem, report};
use crate::source::{Batch, Source};

/// Batches of changes not yet taken; the source waits when it is full, and then sends the sum of what changed.
const BATCHES: usize = 4;

/// How the directories are watched.
#[derive(Clone, Debug)]
pub struct SourceSettings {
    /// The directories; on duplicates an earlier one wins.
    pub directories: Vec<PathBuf>,
    /// How long nothing must change before a change is looked at.
    pub settle: Duration,
    /// The longest a change waits while others keep coming.
    pub settle_at_most: Duration,
    /// How often to look although nothing was reported.
    pub poll: Duration,
}

impl SourceSettings {
    /// The ordinary settings: 50 ms to settle, half a second at most, a look every 5 s.
    #[must_use]
    pub fn new(directories: Vec<PathBuf>) -> Self {
        Self {
            directories,
            settle: Duration::from_millis(50),
            settle_at_most: Duration::from_millis(500),
            poll: Duration::from_secs(5),
        }
    }
}

/// Why a source cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A directory is missing or is something else.
    #[error("cannot read manifests from {path}: {cause}; give --manifests a directory that exists")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// No thread could be started.
    #[error("cannot start a thread to watch the manifests: {0}")]
    Thread(io::Error),
}

#[derive(Debug)]
struct Stop(Sender<Signal>);

impl Drop for Stop {
    fn drop(&mut self) {
        // A thread that has ended already needs no telling.
        let _ = self.0.send(Signal::Stop);
    }
}

enum Signal {
    Changed,
    Stop,
}

/// Starts watching directories. The first batch is on its way when this returns.
///
/// # Errors
/// [`SourceError`] if a directory is not there to begin with: later it may come and go.
pub fn follow(settings: SourceSettings) -> Result<Source, SourceError> {
    for path in &settings.directories {
        let listed = std::fs::read_dir(path);
        listed.map_err(|cause| SourceError::Directory { path: path.clone(), cause })?;
    }
    let (signal, signals) = channel();
    let (send_deltas, deltas) = mpsc::channel(BATCHES);
    let (send_problems, problems) = watch::channel(Arc::default());
    let runner = Runner {
        memory: Memory::default(),
        watches: Watches::new(signal.clone()),
        settings,
        signals,
        deltas: send_deltas,
        problems: send_problems,
    };
    let thread = thread::Builder::new().name("manifests".to_owned());
    thread.spawn(move || runner.run()).map_err(SourceError::Thread)?;
    Ok(Source { deltas, problems, _stop: Box::new(Stop(signal)) })
}

struct Runner {
    settings: SourceSettings,
    memory: Memory,
    watches: Watches,
    signals: Receiver<Signal>,
    deltas: mpsc::Sender<Batch>,
    problems: watch::Sender<Arc<Vec<Problem>>>,
}

impl Runner {
    fn run(mut self) {
        let mut first = true;
        loop {
            // Watches come before the look, so that no change falls between them.
            self.watches.renew(&self.settings.directories);
            let Outcome { deltas, problems } = self.memory.refresh(&self.settings.directories);
            report(&self.problems, problems);
            let news = first || !deltas.is_empty();
            if news && self.deltas.blocking_send(Batch { deltas, whole: true }).is_err() {
                return;
            }
            first = false;
            if !self.wait() {
                return;
            }
        }
    }

    /// Waits for the next look; `false` when there is to be none.
    fn wait(&self) -> bool {
        match self.signals.recv_timeout(self.settings.poll) {
            Ok(Signal::Changed) => {}
            Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) => return !self.deltas.is_closed(),
        }
        let latest = Instant::now() + self.settings.settle_at_most;
        loop {
            let left = latest.saturating_duration_since(Instant::now());
            match self.signals.recv_timeout(self.settings.settle.min(left)) {
                Ok(Signal::Changed) if !left.is_zero() => {}
                Ok(Signal::Stop) | Err(RecvTimeoutError::Disconnected) => return false,
                Ok(Signal::Changed) | Err(RecvTimeoutError::Timeout) => return true,
            }
        }
    }
}

/// The kernel's watches on the directories. Without them (a file system that has none, no watches left) the poll does.
struct Watches {
    watcher: Option<RecommendedWatcher>,
    /// The directories watched, by what they were when the watch began: a directory put in another's place is another.
    watched: Vec<(PathBuf, (u64, u64))>,
}

impl Watches {
    fn new(signal: Sender<Signal>) -> Self {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| is_change(event.kind)) {
                // The runner has ended: so will this.
                let _ = signal.send(Signal::Changed);
            }
        });
        let report = |error| tracing::warn!(target: "weft::manifests", %error, "no watches to be had: polling instead");
        Self { watcher: watcher.map_err(report).ok(), watched: Vec::new() }
    }

    fn renew(&mut self, directories: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        for directory in directories {
            let now = identity(directory);
            let known = self.watched.iter().position(|(path, _)| path == directory);
            if known.map(|i| self.watched[i].1) == now {
                continue;
            }
            if let Some(i) = known {
                self.watched.swap_remove(i);
                // It may be gone with its directory.
                let _ = watcher.unwatch(directory);
            }
            let Some(now) = now else { continue };
            match watcher.watch(directory, RecursiveMode::Recursive) {
                Ok(()) => self.watched.push((directory.clone(), now)),
                Err(error) => {
                    tracing::debug!(target: "weft::manifests", directory = %directory.display(), %error, "cannot be watched: polling it");
                }
            }
        }
    }
}

fn identity(directory: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(directory).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Reading the files is reported as well; listening to that would never end.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}
