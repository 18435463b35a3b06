//! A stream as bytes to be read and written, whichever protocol its tunnel speaks: for HTTP, which has no socket to join it to.
//!
//! To be used by one task. Dropped before both directions have ended, the stream is reset.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::hbone::HboneIo;
use super::shared::Lease;
use super::weft::{Handle, WeftIo};

/// See the module.
pub struct StreamIo {
    body: Body,
    lease: Lease,
}

enum Body {
    Weft(WeftIo),
    Hbone(HboneIo),
}

impl StreamIo {
    pub(super) fn weft(handle: Handle, lease: Lease) -> Self {
        Self { body: Body::Weft(WeftIo::new(handle)), lease }
    }

    pub(super) fn hbone(send: SendStream<Bytes>, recv: RecvStream, lease: Lease) -> Self {
        Self { body: Body::Hbone(HboneIo::new(send, recv)), lease }
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.body {
            Body::Weft(io) => Pin::new(io).poll_read(cx, buf),
            Body::Hbone(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match &mut this.body {
            Body::Weft(io) => Pin::new(io).poll_write(cx, data),
            Body::Hbone(io) => io.poll_write(cx, data, &this.lease),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.body {
            Body::Weft(io) => Pin::new(io).poll_flush(cx),
            Body::Hbone(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.body {
            Body::Weft(io) => Pin::new(io).poll_shutdown(cx),
            Body::Hbone(io) => Poll::Ready(io.finish()),
        }
    }
}

impl fmt::Debug for StreamIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamIo").finish_non_exhaustive()
    }
}
