//! The app's end of a connection, as hyper reads and writes it: with what was read to tell the version, counted, and cut off
//! where requests become ambiguous.
//!
//! An app may finish sending and still wait for its answer (`nc -N`). hyper takes the end of what it reads for the end of the
//! app, so it is told only when nothing is being answered.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::detect::{Opening, Version};
use super::framing::Framing;
use crate::relay::Traffic;
use crate::sys::socket;

/// What hyper reads in the place of a line that is at fault: no request line and no field can hold it, so that it answers
/// as servers answer what they cannot read.
const FAULT: &[u8] = b"\0\r\n\r\n";

/// What the app's end of a connection and those who carry its requests tell each other.
#[derive(Debug, Default)]
pub(super) struct Ends {
    reset: AtomicBool,
    answering: AtomicUsize,
    /// The app has finished sending, and waits for an answer.
    pub(super) finished: Notify,
}

/// A request that is not answered in full.
#[derive(Debug)]
pub(super) struct Answering(Arc<Ends>);

impl Ends {
    /// Closing the connection is to reset it.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::Relaxed);
    }

    /// A request has come.
    pub(super) fn answer(self: &Arc<Self>) -> Answering {
        self.answering.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// Whether a request is not answered in full.
    pub(super) fn is_answering(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See the module.
pub(super) struct Near {
    tcp: TcpStream,
    opening: Opening,
    given: usize,
    /// Of HTTP/1.
    framing: Option<Framing>,
    /// What is read from now on is this.
    fault: Option<&'static [u8]>,
    traffic: Arc<Traffic>,
    ends: Arc<Ends>,
}

impl Near {
    pub(super) fn new(
        tcp: TcpStream,
        (version, opening): (Version, Opening),
        traffic: Arc<Traffic>,
        ends: Arc<Ends>,
    ) -> Self {
        traffic.count_sent(opening.bytes().len());
        let framing = (version == Version::Http1).then(Framing::default);
        Self { tcp, opening, given: 0, framing, fault: None, traffic, ends }
    }

    /// Reads along from `before`, and takes back what comes after a fault.
    fn judge(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Some(framing) = &mut self.framing else { return };
        if let Err((good, fault)) = framing.read(&buf.filled()[before..]) {
            tracing::debug!(%fault, "an app's request is refused");
            buf.set_filled(before + good);
            self.fault = Some(FAULT);
            self.give_fault(buf);
        }
    }

    fn give_fault(&mut self, buf: &mut ReadBuf<'_>) {
        if let Some(fault) = &mut self.fault {
            let size = fault.len().min(buf.remaining());
            buf.put_slice(&fault[..size]);
            *fault = &fault[size..];
        }
    }
}

impl AsyncRead for Near {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (&mut *self, buf.filled().len());
        if this.fault.is_some() {
            this.give_fault(buf);
            return Poll::Ready(Ok(()));
        }
        let rest = &this.opening.bytes()[this.given..];
        if rest.is_empty() {
            ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
            let read = buf.filled().len() - before;
            if read == 0 && this.ends.is_answering() && this.framing.as_ref().is_some_and(Framing::is_between) {
                // hyper reads again when it has answered.
                this.ends.finished.notify_one();
                return Poll::Pending;
            }
            this.traffic.count_sent(read);
        } else {
            let size = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..size]);
            this.given += size;
        }
        this.judge(buf, before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Near {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, data))?;
        self.traffic.count_received(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, pieces))?;
        self.traffic.count_received(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        if self.ends.reset.load(Ordering::Relaxed) {
            let _ = socket::reset_on_close(&self.tcp);
        }
    }
}
