//! A stream of a Weft tunnel as bytes to be read and written, for those who have no socket to join it to.
//!
//! What arrives waits with the stream, charged to the pod's budget, until it is read. What is written is sealed at once
//! where there is room; otherwise it is kept here until it is the stream's turn. To be used by one task: a stream wakes
//! whoever polled it last.

use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::handle::{App, Handle, reset};
use super::outgoing::Sent;

/// What may wait for the stream's turn, in bytes: two full frames.
const OUTBOX: usize = 32 * 1024;

/// See the module.
pub(in crate::tunnel) struct WeftIo {
    handle: Handle,
    outbox: Arc<Outbox>,
}

/// Bytes that wait for the stream's turn: the tunnel's driver takes them from here.
#[derive(Default)]
struct Outbox(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    taken: usize,
    /// Nothing follows.
    ended: bool,
}

impl Outbox {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.waiting().bytes.is_empty()
    }
}

impl App for Outbox {
    fn read(&self, room: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        let copied = scatter(&waiting.bytes[waiting.taken..], room);
        waiting.taken += copied;
        if waiting.taken == waiting.bytes.len() {
            (waiting.bytes, waiting.taken) = (Vec::new(), 0);
        }
        if copied > 0 || waiting.ended { Ok(copied) } else { Err(io::ErrorKind::WouldBlock.into()) }
    }

    /// Takes nothing: what arrives stays with the stream until it is read.
    fn write(&self, _pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(0)
    }

    fn finish(&self) {}
}

/// Bytes that are there for one call; none is the end.
struct Piece<'a> {
    bytes: &'a [u8],
    taken: AtomicUsize,
}

impl App for Piece<'_> {
    fn read(&self, room: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let copied = scatter(self.bytes, room);
        self.taken.store(copied, Ordering::Relaxed);
        Ok(copied)
    }

    fn write(&self, _pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(0)
    }

    fn finish(&self) {}
}

fn scatter(mut bytes: &[u8], room: &mut [IoSliceMut<'_>]) -> usize {
    let all = bytes.len();
    for piece in room {
        let size = piece.len().min(bytes.len());
        piece[..size].copy_from_slice(&bytes[..size]);
        bytes = &bytes[size..];
    }
    all - bytes.len()
}

impl WeftIo {
    pub(in crate::tunnel) fn new(handle: Handle) -> Self {
        let outbox = Arc::new(Outbox::default());
        handle.attach(Arc::clone(&outbox) as Arc<dyn App>);
        Self { handle, outbox }
    }

    /// Sends `bytes`, none of which is the end, if it can be done now. Answers how many went.
    fn send_now(&self, bytes: &[u8]) -> (Sent, usize) {
        let piece = Piece { bytes, taken: AtomicUsize::new(0) };
        let sent = self.handle.send_now(&piece);
        (sent, piece.taken.load(Ordering::Relaxed))
    }

    /// Waits until nothing is left for the stream's turn.
    fn poll_emptied(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.outbox.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.handle.register(cx.waker());
        match self.handle.send() {
            Sent::Over | Sent::Near | Sent::End => Poll::Ready(Err(reset())),
            _ if self.outbox.is_empty() => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }
}

impl AsyncRead for WeftIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.handle.poll_read(cx, buf)
    }
}

impl AsyncWrite for WeftIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_emptied(cx))?;
        self.handle.register(cx.waker());
        match self.send_now(data) {
            (Sent::Some | Sent::All, taken) => Poll::Ready(Ok(taken)),
            (Sent::NoRoom, _) => {
                let size = data.len().min(OUTBOX);
                self.outbox.waiting().bytes.extend_from_slice(&data[..size]);
                match self.handle.send() {
                    Sent::Over | Sent::Near | Sent::End => Poll::Ready(Err(reset())),
                    _ => Poll::Ready(Ok(size)),
                }
            }
            (Sent::NoCredit | Sent::Nothing, _) => Poll::Pending,
            (Sent::Over | Sent::Near | Sent::End, _) => Poll::Ready(Err(reset())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_emptied(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_emptied(cx))?;
        self.handle.register(cx.waker());
        match self.send_now(&[]).0 {
            // Over by the peer's doing: there is nobody left to be told.
            Sent::End | Sent::Over | Sent::Near => Poll::Ready(Ok(())),
            Sent::NoRoom => {
                self.outbox.waiting().ended = true;
                self.handle.wait_in_line();
                Poll::Pending
            }
            _ => Poll::Pending,
        }
    }
}
