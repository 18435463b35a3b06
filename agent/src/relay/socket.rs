//! What both pumps need of a TCP socket: reads sized to the traffic, fair turns, endings that say what happened.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::time::Duration;

use bytes::BytesMut;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The smallest buffer for a read, in bytes: one message of a chatty protocol.
const READ_MIN: usize = 4 * 1024;
/// The largest, in bytes: four TLS records.
const READ_MAX: usize = 64 * 1024;
/// Reads in a row before others get a turn: `readable` and `try_read` never yield by themselves, and four flows sharing
/// a thread then differ by a factor of ten.
const TURN: u32 = 8;

/// Sizes the next read by the last ones, and counts turns.
#[derive(Debug)]
pub(super) struct Pace {
    size: usize,
    turns: Turns,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { size: READ_MIN, turns: Turns::default() }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn buffer(&self, limit: usize) -> BytesMut {
        BytesMut::with_capacity(self.size.min(limit))
    }

    /// After a read of `filled` bytes: adapts, and gives up the thread now and then.
    pub(super) async fn step(&mut self, filled: usize) {
        if filled >= self.size {
            self.size = (self.size * 4).min(READ_MAX);
        } else if filled < self.size / 8 {
            self.size = (self.size / 4).max(READ_MIN);
        }
        self.turns.step().await;
    }
}

/// Gives up the thread now and then.
#[derive(Debug, Default)]
pub(super) struct Turns(u32);

impl Turns {
    pub(super) async fn step(&mut self) {
        self.0 = self.0.wrapping_add(1);
        if self.0.is_multiple_of(TURN) {
            tokio::task::yield_now().await;
        }
    }
}

/// Waits until the connection has failed, even when nobody reads or writes: the peer's reset, or SOCK_DESTROY.
///
/// The error is taken with it. Only for moments in which nothing is left to read that could still be delivered.
pub(super) async fn broken(tcp: &TcpStream) {
    // The readiness of a failed socket never goes away again.
    let _ = tcp.ready(Interest::ERROR).await;
}

/// Writes what fits without waiting.
pub(super) fn write_some(tcp: &TcpStream, data: &[u8]) -> io::Result<usize> {
    match tcp.try_write(data) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// The same, of several pieces.
pub(super) fn write_some_vectored(tcp: &TcpStream, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    match tcp.try_write_vectored(pieces) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

/// Sends a FIN after what has been written.
pub(super) fn finish(tcp: &TcpStream) {
    // ENOTCONN: a reset has overtaken us and shows up elsewhere.
    let _ = SockRef::from(tcp).shutdown(Shutdown::Write);
}

/// Closes with a reset.
pub(super) fn reset(tcp: TcpStream) {
    reset_on_close(&tcp);
    drop(tcp);
}

/// Whoever closes it last resets it.
pub(super) fn reset_on_close(tcp: &TcpStream) {
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}
