//! The app's end of a connection, as hyper reads and writes it: with what was read to tell the version, counted, and cut off
//! where requests cannot be read.
//!
//! Of HTTP/1 hyper sees whole lines that were found good, and never one that was not. In the place of that one it reads the
//! end of a head, by which [`super::exchange`] is asked for the answer, as it is for every request.
//!
//! An app may finish sending and still wait for its answer (`nc -N`). hyper takes the end of what it reads for the end of the
//! app, so it is told only when nothing is being answered.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::HeaderMap;
use http::header::HeaderName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep};

use super::detect::{Opening, Version};
use super::framing::{Framing, Place, Unreadable};
use crate::relay::Flow;
use crate::sys::socket;

/// Marks the head that ends where a line was at fault. An app that sends it itself gains nothing: it is looked for only
/// once there is a fault.
const MARK: HeaderName = HeaderName::from_static("weft-unreadable");
/// What hyper reads instead of what is at fault: a request, the rest of one, or what no body can hold.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nweft-unreadable: 1\r\n\r\n";
const REST: &[u8] = b"weft-unreadable: 1\r\n\r\n";
const NO_BODY: &[u8] = b"\0\r\n\r\n";
/// How long an app may go on sending what is not read any more, and how much: closed with something unread, the connection
/// would be reset, and the answer lost on its way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX: usize = 1 << 20;

/// Why an app's requests are not read on, once that is so.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<OnceLock<Unreadable>>);

impl Fault {
    /// What was at fault, if this request's head ends there.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<Unreadable> {
        self.any().filter(|_| headers.contains_key(MARK))
    }

    /// What was at fault anywhere.
    pub(super) fn any(&self) -> Option<Unreadable> {
        self.0.get().copied()
    }
}

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
    /// The beginning of a line, after `ready` bytes that may go on.
    held: BytesMut,
    ready: usize,
    fault: Fault,
    /// What is left of what stands for the fault.
    stand_in: Option<&'static [u8]>,
    flow: Arc<Flow>,
    ends: Arc<Ends>,
    linger: Option<Pin<Box<Sleep>>>,
    discarded: usize,
}

impl Near {
    pub(super) fn new(
        tcp: TcpStream,
        (version, opening): (Version, Opening),
        flow: Arc<Flow>,
        ends: Arc<Ends>,
        fault: Fault,
    ) -> Self {
        flow.traffic.count_sent(opening.bytes().len());
        let framing = (version == Version::Http1).then(Framing::default);
        let (held, linger) = (BytesMut::new(), None);
        Self {
            tcp,
            opening,
            given: 0,
            framing,
            held,
            ready: 0,
            fault,
            stand_in: None,
            flow,
            ends,
            linger,
            discarded: 0,
        }
    }

    /// The next bytes of the app; none at the end.
    fn poll_app(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &self.opening.bytes()[self.given..];
        if rest.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.tcp).poll_read(cx, buf))?;
            self.flow.traffic.count_sent(buf.filled().len() - before);
        } else {
            let size = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..size]);
            self.given += size;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what has come into `buf` behind `before`, and leaves there what may go on now.
    fn judge(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Some(framing) = &mut self.framing else { return };
        let came = &buf.filled()[before..];
        if self.held.is_empty() {
            let good = framing.read(came);
            let size = good.unwrap_or_else(|(size, _)| size);
            if good.is_ok() && size < came.len() {
                self.held.extend_from_slice(&came[size..]);
            }
            buf.set_filled(before + size);
            self.note(good);
        } else {
            self.held.extend_from_slice(came);
            buf.set_filled(before);
            let good = framing.read(&self.held);
            self.ready = good.unwrap_or_else(|(size, _)| size);
            self.note(good);
        }
    }

    fn note(&mut self, good: Result<usize, (usize, Unreadable)>) {
        let (Err((_, fault)), Some(framing)) = (good, &self.framing) else { return };
        tracing::debug!(%fault, "an app's request is refused");
        self.held.truncate(self.ready);
        let _ = self.fault.0.set(fault);
        self.stand_in = Some(match framing.place() {
            Place::Between => REQUEST,
            Place::Head => REST,
            Place::Body => NO_BODY,
        });
    }

    /// Gives what is ready to be given, if anything is. After what stands for a fault nothing more comes, and no end either:
    /// that would be taken for an app that has gone and wants no answer.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        if self.ready > 0 {
            let size = self.ready.min(buf.remaining());
            buf.put_slice(&self.held[..size]);
            self.held.advance(size);
            self.ready -= size;
            return Some(Poll::Ready(Ok(())));
        }
        let stand_in = self.stand_in.as_mut()?;
        if stand_in.is_empty() {
            return Some(Poll::Pending);
        }
        let size = stand_in.len().min(buf.remaining());
        buf.put_slice(&stand_in[..size]);
        *stand_in = &stand_in[size..];
        Some(Poll::Ready(Ok(())))
    }

    /// The app has finished sending.
    fn poll_end(&self) -> Poll<io::Result<()>> {
        let between = self.framing.as_ref().is_some_and(|framing| framing.place() == Place::Between);
        if between && self.held.is_empty() && self.ends.is_answering() {
            // hyper reads again when it has answered.
            self.ends.finished.notify_one();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads, and forgets, what an app still sends after a fault: ready when it has finished, or has had its time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut waste = [0; 4096];
        while timer.as_mut().poll(cx).is_pending() && self.discarded < LINGER_MAX {
            let mut buf = ReadBuf::new(&mut waste);
            match ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => self.discarded += buf.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Near {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (&mut *self, buf.filled().len());
        loop {
            if let Some(given) = this.give(buf) {
                return given;
            }
            ready!(this.poll_app(cx, buf))?;
            if buf.filled().len() == before {
                return this.poll_end();
            }
            this.judge(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl AsyncWrite for Near {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, data))?;
        self.flow.traffic.count_received(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.tcp).poll_write_vectored(cx, pieces))?;
        self.flow.traffic.count_received(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
        }
        if self.stand_in.is_some() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Near {
    fn drop(&mut self) {
        if self.ends.reset.load(Ordering::Relaxed) {
            let _ = socket::reset_on_close(&self.tcp);
        }
    }
}
