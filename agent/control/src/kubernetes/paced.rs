//! A connection to the API server that is read a few times a hundred milliseconds, however often something comes.
//!
//! In a big cluster hundreds of changes a second come, each by itself, and to be woken for each costs as much as to read it. So
//! after what has come is read, the kernel is asked to report nothing more (`SO_RCVLOWAT`, socket(7)) until there is much, or
//! [`PAUSE`] has passed. Who waits for an answer is not kept waiting: there is no pause meanwhile.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response, Uri};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};
use tower::Service;

/// The longest pause.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// So many bytes end it. As much comes in half a millisecond where a whole cluster is read.
const MUCH: usize = 128 << 10;

/// How many requests have no answer yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Asked(Arc<AtomicUsize>);

/// A request that has no answer yet.
struct Asking(Asked);

impl Asked {
    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }

    fn begin(&self) -> Asking {
        self.0.fetch_add(1, Ordering::Relaxed);
        Asking(self.clone())
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Counts the requests of a client.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    asked: Asked,
}

impl<S> Counted<S> {
    pub(super) fn new(inner: S, asked: Asked) -> Self {
        Self { inner, asked }
    }
}

impl<S, B, R> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let asking = self.asked.begin();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let _asking = asking;
            answer.await
        })
    }
}

/// Makes such connections.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector,
    asked: Asked,
}

impl Connector {
    pub(super) fn new(tcp: HttpConnector, asked: Asked) -> Self {
        Self { tcp, asked }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Paced>;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.tcp.poll_ready(cx)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let (connecting, asked) = (self.tcp.call(to), self.asked.clone());
        Box::pin(async move { Ok(TokioIo::new(Paced::new(connecting.await?.into_inner(), asked))) })
    }
}

/// See the module.
pub(super) struct Paced {
    tcp: TcpStream,
    asked: Asked,
    /// Something was read since the last pause.
    read: bool,
    paused: bool,
    end: Pin<Box<Sleep>>,
}

impl Paced {
    fn new(tcp: TcpStream, asked: Asked) -> Self {
        Self { tcp, asked, read: false, paused: false, end: Box::pin(tokio::time::sleep(Duration::ZERO)) }
    }

    /// Nothing is there: pauses, if something was a moment ago and nobody waits. A kernel that refuses costs wake-ups.
    fn pause(&mut self, cx: &mut Context<'_>) {
        if !self.paused && self.read && !self.asked.any() && report_at(&self.tcp, MUCH).is_ok() {
            (self.read, self.paused) = (false, true);
            self.end.as_mut().reset(Instant::now() + PAUSE);
        }
        if self.paused && self.end.as_mut().poll(cx).is_ready() {
            self.go_on();
        }
    }

    /// The kernel reports whatever there is, at once if there is something.
    fn go_on(&mut self) {
        self.paused = false;
        // It took the one size: it takes the other.
        let _ = report_at(&self.tcp, 1);
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.paused && this.asked.any() {
            this.go_on();
        }
        match Pin::new(&mut this.tcp).poll_read(cx, buf) {
            Poll::Pending => {
                this.pause(cx);
                Poll::Pending
            }
            read => {
                if this.paused {
                    this.go_on();
                }
                this.read = true;
                read
            }
        }
    }
}

impl AsyncWrite for Paced {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, pieces))?;
        if self.paused && self.asked.any() {
            self.go_on();
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl Connection for Paced {
    fn connected(&self) -> Connected {
        self.tcp.connected()
    }
}

/// Has the kernel report the socket as readable only with so many bytes, or at its end.
#[allow(unsafe_code)]
fn report_at(tcp: &TcpStream, bytes: usize) -> io::Result<()> {
    let value = libc::c_int::try_from(bytes).map_err(io::Error::other)?;
    let (pointer, size) = (&raw const value, size_of_val(&value) as libc::socklen_t);
    // SAFETY: the descriptor is the stream's, which outlives the call; the kernel reads `size` bytes at `pointer`, a live
    // integer of that size.
    let result =
        unsafe { libc::setsockopt(tcp.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, pointer.cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
#[path = "paced/tests.rs"]
mod tests;
