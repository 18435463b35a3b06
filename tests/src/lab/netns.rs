//! Network namespaces with a name in the lab's run directory.
//!
//! A namespace is made by a helper thread that unshares itself and is bind-mounted on a file, so that it lives without a
//! process; code runs inside one on a thread of its own, so that no other thread of the test ever changes namespace.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Device and inode.
pub(super) type NsId = (u64, u64);

/// A named network namespace. Dropping the handle leaves it: the run directory's teardown removes it.
#[derive(Clone, Debug)]
pub struct NetNs {
    path: PathBuf,
    id: NsId,
}

impl NetNs {
    /// Makes a namespace bind-mounted at `path`, with its loopback up.
    ///
    /// # Errors
    /// When the kernel refuses (root is needed) or the path is taken.
    pub fn create(path: &Path) -> Result<Self> {
        File::create_new(path).with_context(|| format!("making {}", path.display()))?;
        let target = path.to_owned();
        on_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET): the lab needs root")?;
            mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .with_context(|| format!("binding the namespace to {}", target.display()))
        })?;
        let metadata = std::fs::metadata(path)?;
        let ns = Self { path: path.to_owned(), id: (metadata.dev(), metadata.ino()) };
        ns.ip(&["link set lo up".to_owned()])?;
        Ok(ns)
    }

    /// The file the namespace is mounted on.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What `stat` says of any descriptor or link to it.
    pub(super) fn id(&self) -> NsId {
        self.id
    }

    /// Whether a descriptor or link leads to it.
    pub(super) fn is(&self, link: &Path) -> bool {
        std::fs::metadata(link).is_ok_and(|found| (found.dev(), found.ino()) == self.id)
    }

    /// Runs `work` on a fresh thread inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or `work` fails.
    pub fn run<R: Send + 'static>(&self, work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
        let path = self.path.clone();
        on_thread(move || {
            let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))?;
            drop(file);
            work()
        })
    }

    /// Runs a batch of `ip` commands inside, one a line (`link set lo up`).
    ///
    /// # Errors
    /// When `ip` is missing or refuses a line.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        self.feed(&["ip", "-batch", "-"], &(lines.join("\n") + "\n")).map(drop)
    }

    /// Runs a short command inside and returns its standard output.
    ///
    /// # Errors
    /// When it cannot start or exits non-zero.
    pub fn output(&self, command: &[&str]) -> Result<String> {
        self.feed(command, "")
    }

    /// Runs a short command inside with `input` on its standard input.
    ///
    /// # Errors
    /// When it cannot start or exits non-zero.
    pub fn feed(&self, command: &[&str], input: &str) -> Result<String> {
        let command: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        let input = input.to_owned();
        self.run(move || super::run_command(&command, &input))
    }

    /// Writes a sysctl (`net/ipv4/ip_forward`) of this namespace.
    ///
    /// # Errors
    /// When the kernel has no such setting or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let (path, value) = (Path::new("/proc/sys").join(name), value.to_owned());
        self.run(move || std::fs::write(&path, value).with_context(|| format!("writing {}", path.display())))
    }

    /// Unmounts the name. The namespace itself goes when nothing else holds it.
    pub fn remove(&self) {
        remove_name(&self.path);
    }
}

/// Unmounts and unlinks a namespace's file; harmless when it is gone.
pub(super) fn remove_name(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = std::fs::remove_file(path);
}

/// Runs `work` on its own thread and hands its panic on.
fn on_thread<R: Send + 'static>(work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    thread::Builder::new()
        .name("in-netns".into())
        .spawn(work)
        .context("starting a thread")?
        .join()
        .map_err(|_| anyhow!("the thread inside the namespace panicked"))?
}
