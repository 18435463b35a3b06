//! How much of a body over HTTP/1 is read ahead of who takes it: little for nothing, more where the pod's budget has it.
//!
//! A side of a connection that always fills what it may is read in larger pieces, and what those may come to is charged as long as
//! it lives: hyper keeps its buffers. Where there is no room it goes on in small pieces. Nobody is refused for it, and what
//! flows in small ones is not even counted. Of what cannot be written nothing more is taken: a reader who has stopped is
//! waited for with no more than a few pieces.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::awaited::{Awaited, Coming};
use super::room::FREE;
use crate::tunnel::Budget;

/// The largest piece, in bytes.
pub(super) const MOST: usize = 128 * 1024;
/// Pieces there may be of a body at once: one on its way between the two connections, one to be written.
const PIECES: usize = 2;

/// How large the pieces of a body are.
#[derive(Debug)]
pub(super) struct Ahead {
    budget: Arc<Budget>,
    size: usize,
}

impl Ahead {
    pub(super) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), size: FREE }
    }

    /// A piece at the most, in bytes.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// So much has come at once.
    pub(super) fn read(&mut self, bytes: usize) {
        if bytes >= self.size && self.size < MOST && self.budget.claim_spare(PIECES * self.size) {
            self.size *= 2;
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if self.size > FREE {
            self.budget.disclaim(PIECES * (self.size - FREE));
        }
    }
}

/// Whether a connection takes no more for now. Who sees that it does not waits to be asked again: it is asked when it does.
#[derive(Clone, Debug, Default)]
pub(super) struct Full(Arc<AtomicBool>);

impl Full {
    pub(super) fn is(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// What came of a write.
    pub(super) fn note<T>(&self, written: &Poll<T>) {
        if self.is() != written.is_pending() {
            self.0.store(written.is_pending(), Ordering::Relaxed);
        }
    }
}

/// Reads no more than `most`; answers how much that was.
pub(super) fn poll_read<T: AsyncRead + Unpin>(
    from: &mut T,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
    most: usize,
) -> Poll<io::Result<usize>> {
    let before = buf.filled().len();
    if buf.remaining() <= most {
        ready!(Pin::new(from).poll_read(cx, buf))?;
        return Poll::Ready(Ok(buf.filled().len() - before));
    }
    let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
    ready!(Pin::new(from).poll_read(cx, &mut part))?;
    let read = part.filled().len();
    buf.advance(read);
    Poll::Ready(Ok(read))
}

/// A connection to an endpoint, read in such pieces, and not on where its pod has no room for a head.
#[derive(Debug)]
pub(super) struct Paced<T> {
    io: T,
    ahead: Ahead,
    full: Full,
    coming: Coming,
}

impl<T> Paced<T> {
    /// Of the pod whose budget this is.
    pub(super) fn new(io: T, budget: &Arc<Budget>, (full, awaited): (Full, Awaited)) -> Self {
        Self { io, ahead: Ahead::new(budget), full, coming: Coming::new(budget, awaited) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Paced<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = ready!(poll_read(&mut this.io, cx, buf, this.ahead.size()))?;
        this.ahead.read(read);
        let fits = this.coming.read(&buf.filled()[before..]);
        Poll::Ready(if fits { Ok(()) } else { Err(io::Error::other("its pod has no room for the response's head")) })
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Paced<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, data);
        self.full.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, pieces);
        self.full.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn pieces_grow_where_they_are_full_and_there_is_room_to_spare() {
        // A sixteenth of it may be spared: what one connection takes, and half of another.
        let all = PIECES * (MOST - FREE);
        let budget = Arc::new(Budget::new(16 * (all + all / 2)));
        let grown = |ahead: &mut Ahead| {
            for _ in 0..10 {
                ahead.read(ahead.size());
            }
            ahead.size()
        };
        let (mut first, mut second) = (Ahead::new(&budget), Ahead::new(&budget));
        first.read(FREE - 1);
        assert_eq!((first.size(), budget.claimed()), (FREE, 0), "what is not full costs nothing");
        assert_eq!((grown(&mut first), grown(&mut second)), (MOST, MOST / 2));
        assert!(budget.claim(all), "others have their half");
        budget.disclaim(all);
        drop((first, second));
        assert_eq!(budget.claimed(), 0);
    }

    #[tokio::test]
    async fn what_is_full_is_known_until_it_is_not() {
        let (near, mut far) = duplex(10);
        let (budget, full) = (Arc::new(Budget::default()), Full::default());
        let mut paced = Paced::new(near, &budget, (full.clone(), Awaited::default()));
        paced.write_all(&[7; 10]).await.unwrap();
        assert!(!full.is());
        let more = tokio::time::timeout(std::time::Duration::from_millis(1), paced.write_all(b"x")).await;
        assert!(more.is_err() && full.is());
        far.read_exact(&mut [0; 10]).await.unwrap();
        paced.write_all(b"x").await.unwrap();
        assert!(!full.is());
    }

    #[tokio::test]
    async fn no_more_is_read_than_a_piece() {
        let (near, mut far) = duplex(4 * FREE);
        let budget = Arc::new(Budget::new(0));
        let mut paced = Paced::new(near, &budget, Default::default());
        far.write_all(&vec![7; 4 * FREE]).await.unwrap();
        let mut bytes = vec![0; 4 * FREE];
        for _ in 0..4 {
            assert_eq!(paced.read(&mut bytes).await.unwrap(), FREE);
        }
        assert_eq!(bytes[..FREE], vec![7; FREE]);
    }
}
