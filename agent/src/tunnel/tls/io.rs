//! An established TLS connection as an ordinary stream of bytes: what HTTP/2 runs on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::handshake::{Established, invalid};
use super::session::Tls;
use crate::tunnel::buffer::Buffer;

/// The size of a read, in bytes: four TLS records.
const READ: usize = 4 * 17 * 1024;
/// Sealed bytes beyond which nothing is added before some have been written.
const OUT_MAX: usize = 64 * 1024;

/// See the module.
pub(in crate::tunnel) struct TlsIo {
    tcp: TcpStream,
    tls: Tls,
    opened: BytesMut,
    out: Buffer,
    closing: bool,
}

impl TlsIo {
    pub(in crate::tunnel) fn new(established: Established) -> Self {
        let Established { tcp, tls, opened } = established;
        Self { tcp, tls, opened: BytesMut::from(&opened[..]), out: Buffer::default(), closing: false }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            ready!(self.tcp.poll_write_ready(cx))?;
            match self.tcp.try_write(self.out.bytes()) {
                Ok(size) => self.out.consume(size),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.out.rest();
        Poll::Ready(Ok(()))
    }

    /// Opens what has been read. An answer of TLS itself (to a KeyUpdate) goes out with what is written next, or now.
    fn open(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let opened = &mut self.opened;
        let received = self.tls.receive(&mut self.out, |record| opened.extend_from_slice(record));
        if let Poll::Ready(Err(error)) = self.poll_out(cx) {
            received.map_err(invalid)?;
            return Err(error);
        }
        received.map_err(invalid)
    }
}

impl AsyncRead for TlsIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.opened.is_empty() {
                let size = self.opened.len().min(into.remaining());
                into.put_slice(&self.opened[..size]);
                self.opened.advance(size);
                if self.opened.is_empty() {
                    self.opened = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if self.tls.peer_closed() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.tcp.poll_read_ready(cx))?;
            let this = &mut *self;
            match this.tcp.try_read(&mut this.tls.incoming().room(READ)[..READ]) {
                Ok(0) => {
                    let text = "peer closed connection without sending TLS close_notify";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
                }
                Ok(size) => {
                    this.tls.incoming().filled(size);
                    this.open(cx)?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => this.tls.incoming().rest(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TlsIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        while self.out.len() > OUT_MAX {
            ready!(self.poll_out(cx))?;
        }
        let size = bytes.len().min(OUT_MAX);
        let this = &mut *self;
        this.tls.seal(&bytes[..size], &mut this.out).map_err(invalid)?;
        // Whether it could be written or not, it is taken; the waker is registered for the rest.
        if let Poll::Ready(Err(error)) = this.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(size))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_out(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !std::mem::replace(&mut this.closing, true) {
            let _ = this.tls.close(&mut this.out);
        }
        ready!(this.poll_out(cx))?;
        Poll::Ready(socket2::SockRef::from(&this.tcp).shutdown(std::net::Shutdown::Write))
    }
}
