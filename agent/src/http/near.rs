//! The app's end of a connection, as hyper reads and writes it: with what was read to tell the version, counted, and cut off
//! where requests cannot be read.
//!
//! Of HTTP/1 hyper sees whole lines that were found good, and never one that was not: what it reads instead [`super::stop`]
//! says. A head that stays unfinished, or for which its pod has no room, ends in the same way ([`super::heads`]).
//!
//! An app may finish sending and still wait for its answer (`nc -N`). hyper takes the end of what it reads for the end of the
//! app, so it is told only when nothing is being answered.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::ahead::{Ahead, poll_read};
use super::detect::{Opening, Version};
use super::ends::Ends;
use super::framing::{Framing, Place};
use super::heads::Heads;
use super::sent::Frames;
use super::stop::{Stop, Stopped};
use crate::relay::Flow;
use crate::sys::socket;

/// What is read of heads at a time, in bytes: more than hyper's first buffer, and little to be read ahead of an answer.
const READ_MAX: usize = 16 * 1024;
/// How long an app may go on sending what is not read any more, and how much: closed with something unread, the connection
/// would be reset, and the answer lost on its way.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX: usize = 1 << 20;

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
    heads: Heads,
    ahead: Ahead,
    stopped: Stopped,
    /// Of HTTP/2.
    frames: Frames,
    /// What is left of what is read in the place of what is not.
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
        (heads, ahead): (Heads, Ahead),
        (ends, stopped): (Arc<Ends>, Stopped),
    ) -> Self {
        flow.traffic.count_sent(opening.bytes().len());
        let framing = (version == Version::Http1).then(Framing::default);
        let (held, stand_in, linger) = (BytesMut::new(), None, None);
        let (given, ready, discarded) = (0, 0, 0);
        Self {
            tcp,
            opening,
            given,
            framing,
            held,
            ready,
            heads,
            ahead,
            stopped,
            frames: Frames::default(),
            stand_in,
            flow,
            ends,
            linger,
            discarded,
        }
    }

    /// The next bytes of the app; none at the end.
    fn poll_app(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let rest = &self.opening.bytes()[self.given..];
        if rest.is_empty() {
            let most = match self.place() {
                None => usize::MAX,
                Some(Place::Body) => self.ahead.size(),
                Some(Place::Between | Place::Head) => READ_MAX,
            };
            let read = ready!(poll_read(&mut self.tcp, cx, buf, most))?;
            if self.place() == Some(Place::Body) {
                self.ahead.read(read);
            }
            self.flow.traffic.count_sent(read);
        } else {
            let size = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..size]);
            self.given += size;
        }
        Poll::Ready(Ok(()))
    }

    fn place(&self) -> Option<Place> {
        self.framing.as_ref().map(Framing::place)
    }

    /// Reads what has come into `buf` behind `before`, and leaves there what may go on now.
    fn judge(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let Some(framing) = &mut self.framing else { return };
        let came = &buf.filled()[before..];
        let size = came.len();
        let good = if self.held.is_empty() {
            let good = framing.read(came);
            let fit = good.unwrap_or_else(|(fit, _)| fit);
            if good.is_ok() && fit < size {
                self.held.extend_from_slice(&came[fit..]);
            }
            buf.set_filled(before + fit);
            good
        } else {
            // As much room as is charged, and not twice that.
            self.held.reserve((self.held.len() + size).next_power_of_two() - self.held.len());
            self.held.extend_from_slice(came);
            buf.set_filled(before);
            let good = framing.read(&self.held);
            self.ready = good.unwrap_or_else(|(fit, _)| fit);
            good
        };
        let begun = framing.begun() + self.held.len() - self.ready;
        match good {
            Err((_, fault)) => self.stop(Stop::Unreadable(fault)),
            Ok(_) if !self.heads.hold(size, begun) => self.stop(Stop::Budget),
            Ok(_) if self.heads.is_in_the_way() => self.ends.last(),
            Ok(_) => {}
        }
    }

    /// Nothing more is read.
    fn stop(&mut self, stop: Stop) {
        let Some(place) = self.place() else { return };
        tracing::debug!(?stop, "an app's request is refused");
        self.held.truncate(self.ready);
        self.tidy();
        self.heads.close();
        self.stand_in = Some(self.stopped.at(place, stop));
    }

    /// Lets go what a long line took.
    fn tidy(&mut self) {
        if self.held.is_empty() && self.held.capacity() > READ_MAX {
            self.held = BytesMut::new();
        }
    }

    /// Nothing has come: a head that is begun has its time.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = match self.place() {
            Some(Place::Head) => true,
            Some(Place::Between) => !self.held.is_empty(),
            Some(Place::Body) | None => false,
        };
        if !begun {
            return Poll::Pending;
        }
        let patience = ready!(self.heads.poll_late(cx));
        self.stop(Stop::Late(patience));
        Poll::Ready(())
    }

    /// Gives what is ready to be given, if anything is. After what stands for a fault nothing more comes, and no end either:
    /// that would be taken for an app that has gone and wants no answer.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> Option<Poll<io::Result<()>>> {
        if self.ready > 0 {
            let size = self.ready.min(buf.remaining());
            buf.put_slice(&self.held[..size]);
            self.held.advance(size);
            self.ready -= size;
            self.tidy();
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
        let between = self.place() == Some(Place::Between);
        if between && self.held.is_empty() && self.ends.is_answering() {
            // hyper reads again when it has answered.
            self.ends.finished.notify_one();
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// What became of writing these.
    fn wrote(&mut self, pieces: &[IoSlice<'_>], written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.ends.full.note(&written);
        if let Poll::Ready(Ok(written)) = written {
            self.flow.traffic.count_received(written);
            if self.framing.is_none() {
                self.ends.wrote(self.frames.wrote(pieces, written));
            }
        }
        written
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
            if this.heads.has_complete() && this.place() != Some(Place::Body) && !this.ends.is_answering() {
                this.heads.answered();
            }
            let Poll::Ready(came) = this.poll_app(cx, buf) else {
                ready!(this.poll_patience(cx));
                continue;
            };
            came?;
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
        let written = Pin::new(&mut self.tcp).poll_write(cx, data);
        self.wrote(&[IoSlice::new(data)], written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write_vectored(cx, pieces);
        self.wrote(pieces, written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked for when all there was is written.
        if self.framing.is_some() {
            self.ends.written();
        } else if self.ends.has_long() {
            self.ends.flushed();
            // Once more, where that was all that was queued: it is not known before.
            if self.ends.has_long() {
                cx.waker().wake_by_ref();
            }
        }
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
        if self.ends.is_reset() {
            let _ = socket::reset_on_close(&self.tcp);
        }
    }
}
