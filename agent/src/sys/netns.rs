//! Network namespaces: entering one for the length of a closure, and the cookie that tells one from every other the
//! kernel ever had.

use std::{
    cell::RefCell,
    fmt,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    process,
    sync::Arc,
};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;
use socket2::{Domain, Socket, Type};

/// A network namespace, kept alive by this handle. Drop it as soon as its pod is gone, or the namespace stays.
pub struct NetNs {
    file: OwnedFd,
    cookie: u64,
}

impl NetNs {
    /// From a path such as `/proc/1234/ns/net` or `/run/netns/name`.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        Self::from_file(File::open(path)?.into())
    }

    /// The one this thread is in.
    pub fn current() -> io::Result<Arc<Self>> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// A new one, which nobody else is in.
    pub fn fresh() -> io::Result<Arc<Self>> {
        // A thread of its own, which takes the namespace it leaves for with it.
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| Self::current())
        });
        made.join().unwrap_or_else(|_| Err(io::Error::other("a thread died")))
    }

    /// Where this process finds it, as long as this handle lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// The one a socket was made in: how a namespace is found again when nothing but a held listener is left of it.
    pub fn of_socket(socket: BorrowedFd<'_>) -> io::Result<Arc<Self>> {
        const SIOCGSKNS: libc::Ioctl = 0x894C;
        // SAFETY: the request takes no argument and returns a new descriptor or -1.
        let file = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
        Self::from_file(unsafe { OwnedFd::from_raw_fd(file) })
    }

    fn from_file(file: OwnedFd) -> io::Result<Arc<Self>> {
        let mut namespace = Self { file, cookie: 0 };
        namespace.cookie = namespace.run(|| {
            let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            super::socket::netns_cookie(probe.as_fd())
        })??;
        Ok(Arc::new(namespace))
    }

    /// Never reused while the machine runs, unlike inode numbers and pod addresses.
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Whether it is what is at `path`. While this handle holds it, nothing else has its inode number.
    pub fn is_at(&self, path: &Path) -> bool {
        let own = fstat(&self.file).map(|own| (own.st_dev, own.st_ino));
        let there = std::fs::metadata(path).map(|there| (there.dev(), there.ino()));
        matches!((own, there), (Ok(own), Ok(there)) if own == there)
    }

    /// Runs `work` with this thread inside the namespace. Sockets made there stay there; `work` must not await.
    pub fn run<R>(&self, work: impl FnOnce() -> R) -> io::Result<R> {
        let home = Home::leave()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let result = work();
        drop(home);
        Ok(result)
    }
}

thread_local! {
    /// Where a settled thread is at home; taken while it is away.
    static SETTLED: RefCell<Option<OwnedFd>> = const { RefCell::new(None) };
}

/// Promises that this thread never leaves its namespace but by [`NetNs::run`], which then need not look each time where it is:
/// that takes a sixth of what delivering a connection takes.
///
/// # Errors
/// When the system gives no descriptor.
pub fn settle() -> io::Result<()> {
    let here = File::open("/proc/thread-self/ns/net")?.into();
    SETTLED.set(Some(here));
    Ok(())
}

/// Brings the thread back, also out of a panic.
struct Home {
    file: Option<OwnedFd>,
    settled: bool,
}

impl Home {
    fn leave() -> io::Result<Self> {
        match SETTLED.take() {
            Some(file) => Ok(Self { file: Some(file), settled: true }),
            // Not settled, or away already: then this is not home.
            None => Ok(Self { file: Some(File::open("/proc/thread-self/ns/net")?.into()), settled: false }),
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let Some(file) = self.file.take() else { return };
        let back = setns(&file, CloneFlags::CLONE_NEWNET);
        if self.settled {
            SETTLED.set(Some(file));
        }
        if let Err(error) = back {
            // A runtime's thread that stays in one pod's namespace would do the next pod's work there.
            eprintln!("weft: a thread cannot leave a pod's network namespace ({error}); giving up");
            process::abort();
        }
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for NetNs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "NetNs({})", self.cookie)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_told_from_what_is_elsewhere() {
        let here = NetNs::current().unwrap();
        assert!(here.is_at(Path::new("/proc/thread-self/ns/net")));
        assert!(!here.is_at(Path::new("/proc/thread-self/ns/mnt")) && !here.is_at(Path::new("/proc/0/ns/net")));
    }
}
