//! A stream of an HBONE tunnel as bytes to be read and written, for those who have no socket to join it to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::tunnel::shared::{Lease, Stalled};

/// The most handed to h2 at once, in bytes.
const WRITE_MAX: usize = 16 * 1024;
/// As in [`crate::relay`]: a stream that could not send for this long should get no company.
const STALLED_AFTER: Duration = Duration::from_millis(200);

/// See the module.
pub(in crate::tunnel) struct HboneIo {
    send: SendStream<Bytes>,
    recv: RecvStream,
    /// What has arrived and was not asked for yet.
    rest: Bytes,
    finished: bool,
    waiting: Option<Waiting>,
}

/// A write that waits for the peer's window.
enum Waiting {
    Shortly(Pin<Box<Sleep>>),
    /// Keeps others away from the tunnel as long as it lasts.
    Long {
        _mark: Stalled,
    },
}

impl HboneIo {
    pub(in crate::tunnel) fn new(send: SendStream<Bytes>, recv: RecvStream) -> Self {
        Self { send, recv, rest: Bytes::new(), finished: false, waiting: None }
    }

    pub(in crate::tunnel) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        data: &[u8],
        lease: &Lease,
    ) -> Poll<io::Result<usize>> {
        let size = data.len().min(WRITE_MAX);
        if size == 0 {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(size);
        if self.send.capacity() == 0 {
            match self.send.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(reset())),
                Poll::Pending => {
                    self.wait(cx, lease);
                    return Poll::Pending;
                }
            }
        }
        self.waiting = None;
        let size = size.min(self.send.capacity());
        self.send.send_data(Bytes::copy_from_slice(&data[..size]), false).map_err(|_| reset())?;
        Poll::Ready(Ok(size))
    }

    fn wait(&mut self, cx: &mut Context<'_>, lease: &Lease) {
        let waiting = self.waiting.get_or_insert_with(|| Waiting::Shortly(Box::pin(sleep(STALLED_AFTER))));
        if let Waiting::Shortly(sleep) = waiting
            && sleep.as_mut().poll(cx).is_ready()
        {
            *waiting = Waiting::Long { _mark: lease.stall() };
        }
    }

    pub(in crate::tunnel) fn finish(&mut self) -> io::Result<()> {
        if std::mem::replace(&mut self.finished, true) {
            return Ok(());
        }
        self.send.send_data(Bytes::new(), true).map_err(|_| reset())
    }
}

impl AsyncRead for HboneIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            match ready!(self.recv.poll_data(cx)) {
                Some(Ok(data)) => self.rest = data,
                Some(Err(_)) => return Poll::Ready(Err(reset())),
                None => return Poll::Ready(Ok(())),
            }
        }
        let size = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..size]);
        self.rest.advance(size);
        // The window opens by what has been taken, so a slow reader holds at most one window here.
        let _ = self.recv.flow_control().release_capacity(size);
        Poll::Ready(Ok(()))
    }
}

impl Drop for HboneIo {
    fn drop(&mut self) {
        if !(self.finished && self.recv.is_end_stream()) {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the stream was reset, or its tunnel is gone")
}
