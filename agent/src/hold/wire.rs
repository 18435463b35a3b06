//! The holder's protocol: packets of 24 bytes on a SOCK_SEQPACKET socket, a descriptor riding along where the operation
//! says so. It must stay readable for every release that may meet a holder started by an older one.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use weft_abi::{ListenerKey, ListenerRole};

use crate::sys::rights;

/// Bytes of a packet.
pub(super) const LENGTH: usize = 24;

/// What a packet asks or answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Keep this listener; a descriptor rides along.
    Put = 1,
    /// Send all you keep.
    TakeAll = 2,
    /// Close all listeners of this pod.
    Drop = 3,
    /// How many do you keep?
    Count = 4,
    /// Answer: done. To `Count`, the cookie field is the number.
    Done = 100,
    /// Answer: one listener; a descriptor rides along.
    Item = 101,
    /// Answer: no; the role field is an errno.
    Refused = 102,
}

/// A packet without its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) operation: Operation,
    pub(super) role: u64,
    pub(super) cookie: u64,
}

impl Packet {
    pub(super) const fn plain(operation: Operation) -> Self {
        Self { operation, role: 0, cookie: 0 }
    }

    pub(super) const fn about(operation: Operation, key: ListenerKey) -> Self {
        Self { operation, role: key.role, cookie: key.cookie }
    }

    /// Which listener it is about.
    pub(super) fn key(&self) -> Option<ListenerKey> {
        ListenerRole::from_raw(self.role)?;
        Some(ListenerKey { cookie: self.cookie, role: self.role })
    }

    pub(super) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&(self.operation as u64).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.role.to_le_bytes());
        bytes[16..].copy_from_slice(&self.cookie.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let operation = match word(0)? {
            1 => Operation::Put,
            2 => Operation::TakeAll,
            3 => Operation::Drop,
            4 => Operation::Count,
            100 => Operation::Done,
            101 => Operation::Item,
            102 => Operation::Refused,
            _ => return None,
        };
        Some(Self { operation, role: word(8)?, cookie: word(16)? })
    }
}

/// Sends a packet, and a descriptor if there is one.
pub(super) fn send(socket: BorrowedFd<'_>, packet: Packet, listener: Option<BorrowedFd<'_>>) -> io::Result<()> {
    rights::send(socket, &packet.encode(), listener)
}

/// Receives a packet; `None` when the other side is gone. Descriptors nobody asked for are closed.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<(Packet, Option<OwnedFd>)>> {
    let mut bytes = [0; LENGTH + 1];
    let (length, mut descriptors) = rights::receive(socket, &mut bytes)?;
    if length == 0 {
        return Ok(None);
    }
    let packet = Packet::decode(&bytes[..length])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a packet of the holder's protocol"))?;
    Ok(Some((packet, descriptors.pop())))
}
