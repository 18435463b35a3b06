//! The agent's side of the holder's protocol. Each call opens a connection of its own, so a holder that was restarted
//! is found again without anybody noticing that it was gone.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::sys::{
    socket::{UnixAddr, connect, setsockopt, sockopt},
    time::TimeVal,
};
use weft_abi::ListenerKey;

use super::{
    server::seqpacket,
    wire::{Operation, Packet, receive, send},
};

/// A holder does nothing but answer; one that is silent this long is broken.
const PATIENCE: TimeVal = TimeVal::new(5, 0);

/// Speaks to the holder at a path.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

/// A connection to one holder, whoever is reached by its path meanwhile.
pub(super) struct Session(OwnedFd);

impl Client {
    /// A client of the holder at `path`, whether or not one answers there yet.
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// A client of the holder at `path`; fails if none answers there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let client = Self::at(path);
        client.count()?;
        Ok(client)
    }

    /// Has the holder keep a duplicate of a listening socket, instead of any it kept under that key.
    pub fn put(&self, key: ListenerKey, listener: BorrowedFd<'_>) -> io::Result<()> {
        self.ask(Packet::about(Operation::Put, key), Some(listener), |_, _| {}).map(drop)
    }

    /// Duplicates of every listener the holder keeps; it keeps them still.
    pub fn take_all(&self) -> io::Result<Vec<(ListenerKey, OwnedFd)>> {
        Session::open(&self.path)?.take_all()
    }

    /// Has the holder close the listeners of a pod.
    pub fn drop(&self, cookie: u64) -> io::Result<()> {
        self.ask(Packet { operation: Operation::Drop, role: 0, cookie }, None, |_, _| {}).map(drop)
    }

    /// How many listeners the holder keeps.
    pub fn count(&self) -> io::Result<usize> {
        let done = self.ask(Packet::plain(Operation::Count), None, |_, _| {})?;
        usize::try_from(done.cookie).map_err(io::Error::other)
    }

    fn ask(
        &self,
        request: Packet,
        listener: Option<BorrowedFd<'_>>,
        each: impl FnMut(ListenerKey, OwnedFd),
    ) -> io::Result<Packet> {
        Session::open(&self.path)?.ask(request, listener, each)
    }
}

impl Session {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let socket = seqpacket()?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &PATIENCE)?;
        setsockopt(&socket, sockopt::SendTimeout, &PATIENCE)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(socket))
    }

    /// As [`Client::take_all`].
    pub(super) fn take_all(&self) -> io::Result<Vec<(ListenerKey, OwnedFd)>> {
        let mut taken = Vec::new();
        self.ask(Packet::plain(Operation::TakeAll), None, |key, listener| taken.push((key, listener)))?;
        Ok(taken)
    }

    fn ask(
        &self,
        request: Packet,
        listener: Option<BorrowedFd<'_>>,
        mut each: impl FnMut(ListenerKey, OwnedFd),
    ) -> io::Result<Packet> {
        send(self.0.as_fd(), request, listener)?;
        loop {
            let Some((packet, listener)) = receive(self.0.as_fd())? else {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the holder hung up"));
            };
            match (packet.operation, packet.key(), listener) {
                (Operation::Done, ..) => return Ok(packet),
                (Operation::Item, Some(key), Some(listener)) => each(key, listener),
                (Operation::Refused, ..) => {
                    return Err(io::Error::from_raw_os_error(i32::try_from(packet.role).unwrap_or(libc::EINVAL)));
                }
                _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the holder gave no answer we know")),
            }
        }
    }
}
