//! A connection whose small reads keep a distance.
//!
//! In a big cluster something changes a few hundred times a second, and every change alone would wake the connection, the
//! watch it is for, and whoever follows: most of what it costs. Changes of 20 ms become one snapshot anyway, so a
//! connection that has been read empty is left alone for [`PAUSE`]. Lists, which fill what is read into, are not held up.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// The distance: what a change can be late by.
const PAUSE: Duration = Duration::from_millis(5);

/// A stream that is read at most once in [`PAUSE`] while there is little to read.
pub(super) struct Paced<S> {
    inner: S,
    pause: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    pub(super) fn new(inner: S) -> Self {
        Self { inner, pause: Box::pin(sleep(Duration::ZERO)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.pause.is_elapsed() {
            ready!(this.pause.as_mut().poll(cx));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.inner).poll_read(cx, buffer))?;
        if buffer.filled().len() > before && buffer.remaining() > 0 {
            this.pause.as_mut().reset(Instant::now() + PAUSE);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

impl<S: Connection> Connection for Paced<S> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_little_by_little_is_read_together() {
        let (mut server, client) = duplex(1 << 16);
        let mut client = Paced::new(client);
        let mut buffer = [0; 64];
        let start = Instant::now();
        server.write_all(b"one").await.unwrap();
        assert_eq!(client.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(start.elapsed(), Duration::ZERO, "the first waits for nothing");
        server.write_all(b"two").await.unwrap();
        let writing = tokio::spawn(async move {
            tokio::time::sleep(PAUSE / 2).await;
            server.write_all(b"three").await.unwrap();
            server
        });
        assert_eq!(client.read(&mut buffer).await.unwrap(), 8);
        assert!(start.elapsed() >= PAUSE);
        drop(writing.await.unwrap());
        assert_eq!(client.read(&mut buffer).await.unwrap(), 0, "the end is told");
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_at_once_is_not_held_up() {
        let (mut server, client) = duplex(1 << 16);
        let mut client = Paced::new(client);
        server.write_all(&[7; 256]).await.unwrap();
        let (start, mut buffer) = (Instant::now(), [0; 64]);
        for _ in 0..4 {
            client.read_exact(&mut buffer).await.unwrap();
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
