//! The holder's side: one thread per agent that talks to it, of which there are two at most times.

use std::{
    collections::BTreeMap,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, socket,
        sockopt::PeerCredentials,
    },
    unistd::geteuid,
};
use weft_abi::{ListenerKey, capacity};

use super::{
    HoldError,
    client::Session,
    wire::{Operation, Packet, receive, send},
};
use crate::sys::{rights, socket::is_listening};

/// Agents that may wait to be answered.
const BACKLOG: i32 = 8;
/// Between attempts to accept while descriptors have run out.
const BREATH: Duration = Duration::from_millis(100);

type Kept = Arc<Mutex<BTreeMap<ListenerKey, OwnedFd>>>;

/// A holder that listens; [`Holder::run`] makes it serve.
pub struct Holder {
    socket: OwnedFd,
    path: PathBuf,
    kept: Kept,
}

impl Holder {
    /// Listens at `path`, which only root and this user can open.
    ///
    /// A holder that answers there already is succeeded: this one keeps what that one keeps, and whoever connects from
    /// now on reaches this one. The other goes on for those connected to it, and may be ended once this returns.
    pub fn bind(path: &Path) -> Result<Self, HoldError> {
        let failed = |source: io::Error| HoldError::Bind { path: path.to_owned(), source };
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory).map_err(failed)?;
        }
        // Connected before the path leads here: a path is all by which the other can be found.
        let predecessor = Session::open(path).ok();
        let socket = listen_at(path).map_err(failed)?;
        // Agents that ask from now on wait in this socket's queue until run() answers, by when everything is here. What
        // the other is just being asked may be missed: a listener too few is given again within a second.
        let kept = match predecessor.map(|other| other.take_all()) {
            None => BTreeMap::new(),
            Some(Ok(taken)) => {
                tracing::info!(listeners = taken.len(), "took over from the holder that was running");
                taken.into_iter().collect()
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "a holder was running and gave nothing; agents will give their listeners again");
                BTreeMap::new()
            }
        };
        Ok(Self { socket, path: path.to_owned(), kept: Arc::new(Mutex::new(kept)) })
    }

    /// Serves until accepting fails for good.
    pub fn run(self) -> Result<(), HoldError> {
        tracing::info!(socket = %self.path.display(), "holding listeners");
        loop {
            let agent = match rights::accept(self.socket.as_fd()) {
                Ok(agent) => agent,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::ECONNABORTED) => continue,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM) => {
                        tracing::error!(%error, "cannot accept an agent; raise the limit of open files");
                        thread::sleep(BREATH);
                        continue;
                    }
                    _ => return Err(HoldError::Accept(error)),
                },
            };
            let kept = Arc::clone(&self.kept);
            let serving = thread::Builder::new().name("hold".into()).spawn(move || serve(&agent, &kept));
            if let Err(error) = serving {
                tracing::error!(%error, "cannot serve an agent");
            }
        }
    }
}

/// Binds beside the path and moves the socket there: at no moment is there none, and at no moment can others open it.
pub(super) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
    let beside = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = seqpacket()?;
    // Before bind: the file inherits the socket's mode.
    chmod(&socket)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(&beside)?)?;
    let moved = listen(&socket, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN))
        .map_err(io::Error::from)
        .and_then(|()| std::fs::rename(&beside, path));
    if moved.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    moved.map(|()| socket)
}

pub(super) fn seqpacket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

fn chmod(socket: &OwnedFd) -> io::Result<()> {
    let file = std::fs::File::from(socket.try_clone()?);
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

fn serve(agent: &OwnedFd, kept: &Kept) {
    match getsockopt(agent, PeerCredentials) {
        Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => {}
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "turned away a process that is neither root nor of this user");
            return;
        }
        Err(errno) => {
            tracing::warn!(%errno, "turned away a process without credentials");
            return;
        }
    }
    loop {
        let answered = match receive(agent.as_fd()) {
            Ok(Some((packet, listener))) => answer(agent, kept, packet, listener),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = answered {
            tracing::warn!(%error, "an agent's request failed");
            return;
        }
    }
}

fn answer(agent: &OwnedFd, kept: &Kept, packet: Packet, listener: Option<OwnedFd>) -> io::Result<()> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let refused = |errno: Errno| Packet { operation: Operation::Refused, role: errno as u64, cookie: 0 };
    let reply = match (packet.operation, packet.key(), listener) {
        (Operation::Put, Some(key), Some(listener)) => {
            if !is_listening(&listener)? {
                refused(Errno::EINVAL)
            } else if kept.len() >= capacity::LISTENERS as usize && !kept.contains_key(&key) {
                refused(Errno::ENOSPC)
            } else {
                kept.insert(key, listener);
                Packet::plain(Operation::Done)
            }
        }
        (Operation::TakeAll, ..) => {
            for (key, listener) in kept.iter() {
                send(agent.as_fd(), Packet::about(Operation::Item, *key), Some(listener.as_fd()))?;
            }
            Packet::plain(Operation::Done)
        }
        (Operation::Drop, ..) => {
            kept.retain(|key, _| key.cookie != packet.cookie);
            Packet::plain(Operation::Done)
        }
        (Operation::Count, ..) => Packet { operation: Operation::Done, role: 0, cookie: kept.len() as u64 },
        _ => refused(Errno::EINVAL),
    };
    send(agent.as_fd(), reply, None)
}
