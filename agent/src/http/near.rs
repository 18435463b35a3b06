//! The app's end of a connection, as hyper reads and writes it: with what was read to tell the version, counted, and cut off
//! where requests become ambiguous.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::detect::{Opening, Version};
use super::framing::Framing;
use crate::relay::Traffic;
use crate::sys::socket;

/// What hyper reads in the place of a line that is at fault: no request line and no field can hold it, so that it answers
/// as servers answer what they cannot read.
const FAULT: &[u8] = b"\0\r\n\r\n";

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
    /// Set, closing it resets it.
    reset: Arc<AtomicBool>,
}

impl Near {
    pub(super) fn new(
        tcp: TcpStream,
        (version, opening): (Version, Opening),
        traffic: Arc<Traffic>,
        reset: Arc<AtomicBool>,
    ) -> Self {
        traffic.count_sent(opening.bytes().len());
        let framing = (version == Version::Http1).then(Framing::default);
        Self { tcp, opening, given: 0, framing, fault: None, traffic, reset }
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
            this.traffic.count_sent(buf.filled().len() - before);
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
        if self.reset.load(Ordering::Relaxed) {
            let _ = socket::reset_on_close(&self.tcp);
        }
    }
}
