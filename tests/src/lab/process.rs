//! Processes of the lab: started inside a namespace and cgroup, ended by pid, their standard error kept in a file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::netns::NetNs;
use crate::wait;

/// A process the lab started.
#[derive(Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    pid: i32,
    /// The process that matters, where the one started only waits for it.
    within: OnceLock<i32>,
    child: Mutex<Child>,
    log: PathBuf,
}

/// Where and under what name to start a process.
pub(super) struct Place<'a> {
    pub(super) name: String,
    pub(super) netns: &'a NetNs,
    pub(super) cgroup: &'a Path,
    pub(super) log: PathBuf,
}

/// A built binary by name, from the directory of the running test or of the program that embeds the lab.
///
/// # Errors
/// When it is not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let executable = std::env::current_exe().context("finding the running executable")?;
    let mut directory = executable.parent().context("an executable without a directory")?;
    if directory.ends_with("deps") {
        directory = directory.parent().unwrap_or(directory);
    }
    let path = directory.join(name);
    if !path.exists() {
        bail!("{} is not built: `cargo xtask build` makes it", path.display());
    }
    Ok(path)
}

impl Process {
    /// Starts a command whose output goes to the log.
    pub(super) fn start(place: Place<'_>, command: &[String]) -> Result<Self> {
        let log = open_log(&place.log)?;
        let child = enter(&place, command)?.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        Ok(Self::adopt(place.name, child.with_context(|| format!("starting {command:?}"))?, place.log))
    }

    /// Starts a command that is talked to; only its standard error goes to the log.
    pub(super) fn start_piped(place: Place<'_>, command: &[String]) -> Result<(Self, ChildStdin, ChildStdout)> {
        let log = open_log(&place.log)?;
        let mut child = enter(&place, command)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {command:?}"))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = child.stdout.take().context("no standard output")?;
        Ok((Self::adopt(place.name, child, place.log), input, output))
    }

    fn adopt(name: String, child: Child, log: PathBuf) -> Self {
        let pid = i32::try_from(child.id()).unwrap_or_default();
        Self { inner: Arc::new(Inner { name, pid, within: OnceLock::new(), child: Mutex::new(child), log }) }
    }

    /// The name it has in logs and failures.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.inner.within.get().copied().unwrap_or(self.inner.pid)
    }

    /// Says that the process that was started (a container runtime) only waits for this one.
    pub(super) fn waits_for(&self, pid: i32) {
        let _ = self.inner.within.set(pid);
    }

    /// What it wrote to its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.inner.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// Its exit status, once it has one.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        self.inner.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten()
    }

    /// Sends a signal, unless it has ended (its pid may be another's by then).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.exited().is_none() {
            kill(Pid::from_raw(self.pid()), signal)
                .with_context(|| format!("sending {signal} to {}", self.inner.name))?;
        }
        Ok(())
    }

    /// Waits for it to end.
    ///
    /// # Errors
    /// When it does not within the deadline.
    pub fn wait(&self, deadline: Duration) -> Result<ExitStatus> {
        wait::until(&format!("{} to exit", self.inner.name), deadline, || {
            self.exited().ok_or_else(|| anyhow!("it runs"))
        })
    }

    /// SIGTERM, then waits for it to end.
    ///
    /// # Errors
    /// When it does not within the deadline.
    pub fn terminate(&self, deadline: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(deadline)
    }

    /// SIGKILL, and waits for it to be gone.
    ///
    /// # Errors
    /// When the kernel does not end it.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// The memory it holds, in bytes: resident pages that are no file's. Those of its program's file come and go as it runs, and
    /// an agent unmaps them every 15 s: they say nothing of what it was made to keep.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory_bytes(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("it has ended")?;
        let kilobytes: u64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kilobytes * 1024)
    }

    /// What its descriptors point at.
    ///
    /// # Errors
    /// When it has ended.
    pub fn descriptors(&self) -> Result<Vec<String>> {
        let directory = format!("/proc/{}/fd", self.pid());
        let mut kinds = Vec::new();
        for entry in std::fs::read_dir(&directory).with_context(|| format!("reading {directory}"))? {
            // A descriptor may close between the listing and the look.
            let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
            kinds.push(target.to_string_lossy().into_owned());
        }
        kinds.sort_unstable();
        Ok(kinds)
    }
}

fn open_log(path: &Path) -> Result<File> {
    File::options().create(true).append(true).open(path).with_context(|| format!("opening {}", path.display()))
}

fn enter(place: &Place<'_>, command: &[String]) -> Result<Command> {
    let mut enter = Command::new(binary("lab-app")?);
    enter.arg("enter").arg("--netns").arg(place.netns.path()).arg("--cgroup").arg(place.cgroup);
    enter.arg("--").args(command).env("RUST_BACKTRACE", "1");
    Ok(enter)
}
